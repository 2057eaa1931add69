"""The example applications under the servers people use, killed and reloaded in the middle."""

import pathlib
import sys
import unittest

import gunicorn

from serving import EXAMPLES, Load, ServerTest
from support import eventually

GUNICORN = [
    sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "4",
    "--graceful-timeout", "30", "--timeout", "60", "wsgi_app:application",
]  # fmt: skip
UWSGI = [
    "uwsgi", "--plugin", "python3", "--http-socket", "127.0.0.1:{port}", "--master",
    "--processes", "4", "--threads", "2", "--die-on-term", "--no-orphans",
    "--pythonpath", str(EXAMPLES), "--module", "uwsgi_app",
]  # fmt: skip
UVICORN = [
    sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--workers", "4",
    "--log-level", "warning", "asgi_app:application",
]  # fmt: skip


# Debian 13's resets, with threads, connections that it has accepted and not answered. Debian 12's,
# 20.1, must not.
RESETS_ACCEPTED = gunicorn.version_info >= (21,)


class Gunicorn(ServerTest):
    def check(self, requests_of_a_worker, *flags):
        server = self.serve([*GUNICORN, *flags])
        self.check_errors(server)
        self.check_one_load_over_all_workers(server)
        load = Load(server.port, self.models)
        self.addCleanup(load.stop)
        self.check_worker_killed(server, load, requests_of_a_worker)
        self.check_reload(
            server, load, resets_accepted=RESETS_ACCEPTED and "--threads" in flags
        )
        load.stop()
        self.check_client_that_leaves(server)
        self.check_hung_stream(server)
        self.check_restart(server)
        self.check_limit_and_end(server, load)

    def test_sync(self):
        self.check(1)

    def test_sync_preloaded(self):
        self.check(1, "--preload")

    def test_gthread(self):
        self.check(4, "--threads", "4")

    def test_gthread_preloaded(self):
        self.check(4, "--threads", "4", "--preload")


class Uwsgi(ServerTest):
    def check(self, *flags):
        server = self.serve([*UWSGI, *flags])
        self.check_errors(server)
        self.check_one_load_over_all_workers(server)
        load = Load(server.port, self.models)
        self.addCleanup(load.stop)
        self.check_worker_killed(server, load, requests_of_a_worker=2)
        self.wait_until_up(server, flags)
        self.check_reload(server, load)
        load.stop()
        self.check_client_that_leaves(server)
        self.check_hung_stream(server, "busy_timeout")
        self.wait_until_up(server, flags)
        self.check_restart(server)
        self.wait_until_up(server, flags)
        self.check_limit_and_end(server, load)

    def wait_until_up(self, server, flags):
        """uWSGI's workers hear no signal while they import the application."""
        if "--lazy-apps" not in flags:
            return
        log = pathlib.Path(self.dir, "server.log")

        def all_up():
            return all(f"pid: {pid} (default app)" in log.read_text() for pid in server.workers())

        self.assertTrue(eventually(all_up), self.log())

    def test_processes_and_threads(self):
        self.check()

    def test_lazy_apps(self):
        self.check("--lazy-apps")


class Uvicorn(ServerTest):
    def test_workers(self):
        server = self.serve(UVICORN)
        self.check_errors(server)
        self.check_one_load_over_all_workers(server)
        load = Load(server.port, self.models)
        self.addCleanup(load.stop)
        # Debian's 0.17 starts no other: the survivors serve on.
        self.check_worker_killed(server, load, requests_of_a_worker=8, is_replaced=False)
        load.stop()
        self.check_client_that_leaves(server)
        self.check_hung_stream(server)
        self.check_restart(server)
        self.check_limit_and_end(server, load)


if __name__ == "__main__":
    unittest.main()
