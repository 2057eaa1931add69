"""modelpool.testing: a pool for an application's tests, which leaves nothing behind."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

import modelpool
import modelpool.testing
from support import DEMO_BACKEND, eventually, processes_with


class TestingPool(unittest.TestCase):
    def test_it_needs_no_daemon_and_is_found_by_everybody_meanwhile(self):
        with modelpool.testing.pool(max_backends=2) as pool:
            self.assertFalse(pool.status()["coordinator"]["alive"])
            self.assertEqual(pool.limit, 2)
            modelpool.testing.serve(pool, "llama", "127.0.0.1:4321")
            with modelpool.Pool() as application, application.lease("llama") as lease:
                self.assertEqual(lease.address, "127.0.0.1:4321")
                self.assertEqual([row["model"] for row in pool.leases()], ["llama"])
            script = "import modelpool; print(modelpool.Pool().lease('llama').__enter__().address)"
            done = subprocess.run(
                [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True
            )
            self.assertEqual(done.stdout, "127.0.0.1:4321\n")

    def test_a_real_backend_can_be_loaded_and_ends_with_it(self):
        def load(ticket):
            port = modelpool.free_port()
            ticket.spawn([DEMO_BACKEND, "--port", str(port), "--grandchildren", "2"])
            return ticket.wait_ready(f"127.0.0.1:{port}", "http:/health")

        with modelpool.testing.pool() as pool:
            token = f"MODELPOOL_BACKEND={pool.status()['uuid']}"
            with pool.lease("m", load=load) as lease:
                self.assertGreater(lease.pid, 1)
            self.assertEqual(len(processes_with(token)), 3)
        self.assertEqual(processes_with(token), [])

    def test_what_only_a_coordinator_does_is_refused_soon(self):
        with modelpool.testing.pool(max_backends=1) as pool:
            modelpool.testing.serve(pool, "one")
            with self.assertRaises(modelpool.NoCoordinator):
                pool.acquire("two", timeout=30)

    def test_nothing_is_left_behind_also_when_the_test_fails(self):
        before = {name: os.environ.get(name) for name in ("MODELPOOL_DIR", "MODELPOOL_POOL")}
        self.addCleanup(
            lambda: [os.environ.pop(n, None) if v is None else None for n, v in before.items()]
        )
        os.environ["MODELPOOL_POOL"] = "other"
        with self.assertRaises(ZeroDivisionError):
            with modelpool.testing.pool() as pool:
                directory = pool.dir
                self.assertEqual(os.environ["MODELPOOL_DIR"], directory)
                self.assertNotIn("MODELPOOL_POOL", os.environ)
                1 / 0
        self.assertFalse(pathlib.Path(directory).exists())
        self.assertEqual(os.environ["MODELPOOL_POOL"], "other")
        self.assertEqual(os.environ.get("MODELPOOL_DIR"), before["MODELPOOL_DIR"])

    def test_wrong_settings_are_refused_and_leave_nothing(self):
        made = []
        make = tempfile.mkdtemp

        def remember(*args, **kwargs):
            made.append(make(*args, **kwargs))
            return made[-1]

        with unittest.mock.patch("tempfile.mkdtemp", remember):
            with self.assertRaises(modelpool.Invalid):
                modelpool.testing.pool(max_backend=1).__enter__()
        self.assertTrue(eventually(lambda: not any(map(os.path.exists, made))))


if __name__ == "__main__":
    unittest.main()
