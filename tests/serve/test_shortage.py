"""What runs out: descriptors of a worker, and the tables of a pool. Each request that cannot be
served is told so by name, and everything goes on when there is enough again."""

import contextlib
import json
import os
import resource
import select
import signal
import unittest

from door import DoorTest, descriptors, eventually, read_all, read_answer

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Descriptors(DoorTest):
    def setUp(self):
        super().setUp()
        self.start(models=self.model("a") + self.model("b"), serve='body_memory = "64KiB"')
        self.assertEqual(self.post("/m/a/x", "").status, 200)
        self.pid = self.backends()["a"]["pid"]
        self.before = self.workers()
        self.limits = {}
        # Of both workers: neither takes as many.
        self.talks = [self.socket() for _ in range(40)]
        for talk in self.talks:
            talk.sendall(LIVEZ)
            self.assertIn(b" 200 ", read_answer(talk)[0])

    def forbid_more(self):
        """No worker can open a file from now on."""
        for pid in self.workers():
            self.limits[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, self.limits[pid][1]))

    def allow(self):
        for pid, limits in self.limits.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

    def ask(self, path, body=b""):
        """(status, message) of all answers; a connection that the door closes is made anew."""
        for talk in self.talks:
            talk.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
                         % (path.encode(), len(body), body))
        answers = [read_answer(talk) for talk in self.talks]
        return {(int(head.split()[1]), json.loads(text).get("error", {}).get("message", ""))
                for head, text in answers}  # fmt: skip

    def check_all(self, answers, status, words):
        for found, message in answers:
            self.assertIn(found, status, message)
            self.assertRegex(message, words)

    def check_that_all_is_as_before(self):
        self.assertEqual(self.workers(), self.before)
        self.assertTrue(eventually(lambda: not self.leases()))
        self.assertEqual(self.backends()["a"]["pid"], self.pid)

    def test_a_model_cannot_be_asked_or_loaded_for_a_while(self):
        self.forbid_more()
        # A worker may keep one connection to it.
        answers = {one for one in self.ask("/m/a/x") if one[0] != 200}
        self.assertTrue(answers)
        self.check_all(answers, (503,), "Too many open files")
        self.check_all(self.ask("/m/b/x"), (503,), "Too many open files")
        self.assertEqual(self.get_waiting(), b"")
        self.allow()
        # It was nobody's failure but the door's: b does not cool down.
        self.assertEqual(self.ask("/m/a/x"), {(200, "")})
        self.assertEqual(self.ask("/m/b/x"), {(200, "")})
        self.assertIn(b" 200 ", read_answer(self.late)[0])
        self.check_that_all_is_as_before()

    def get_waiting(self):
        """What a connection hears that comes while none can be taken."""
        self.late = self.socket()
        self.late.sendall(LIVEZ)
        for talk in self.talks:  # each worker has looked meanwhile
            talk.sendall(LIVEZ)
            self.assertIn(b" 200 ", read_answer(talk)[0])
        self.late.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            return self.late.recv(100)
        self.late.settimeout(60)
        return b""

    def test_a_body_has_no_file_for_a_while(self):
        self.forbid_more()
        body = b"y" * 100_000
        self.check_all(self.ask("/m/a/x", body), (503,), "Too many open files")
        self.allow()
        self.assertEqual(self.post("/m/a/x", body).status, 200)
        self.check_that_all_is_as_before()

    def test_clients_that_take_all_of_them_make_others_wait(self):
        room = 10
        for pid in self.workers():
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            self.limits[pid] = (soft, hard)
            # The lowest numbers are free first, so that the limit is a count.
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors([pid]) + room, hard))
        waiting = [self.socket() for _ in range(100)]
        for talk in waiting:
            talk.sendall(LIVEZ)
        self.assertTrue(select.select(waiting, [], [], 60)[0])
        self.assertLessEqual(len(select.select(waiting, [], [], 0)[0]), 2 * room)
        while waiting:
            served = select.select(waiting, [], [], 60)[0]
            self.assertTrue(served, f"{len(waiting)} wait for ever")
            for talk in served:
                self.assertIn(b" 200 ", talk.recv(1000))
                talk.close()
                waiting.remove(talk)
        self.allow()
        self.assertEqual(self.ask("/m/a/x"), {(200, "")})
        self.check_that_all_is_as_before()

    def test_a_config_that_a_worker_cannot_take_has_a_new_worker(self):
        self.forbid_more()
        self.write_config(models=self.model("a") + self.model("c"))
        self.masters[0].send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: not set(self.before) & set(self.workers())))
        self.assertTrue(eventually(lambda: len(self.workers()) == 2))
        self.assertEqual(self.post("/m/c/x", "").status, 200)
        self.assertEqual(self.backends()["a"]["pid"], self.pid)


class Tables(DoorTest):
    def begin(self, capacity, pool="max_backends = 3"):
        models = "".join(self.model(name) for name in "abc")
        self.start(models=models, pool=pool, more=f"[capacity]\n{capacity}")
        self.assertEqual(self.post("/m/a/x", "").status, 200)

    def ask_at_once(self, paths):
        """(status, code, message, Retry-After) of each."""
        talks = [self.socket() for _ in paths]
        for talk, path in zip(talks, paths):
            talk.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                         "Content-Length: 0\r\n\r\n".encode())  # fmt: skip
        answers = []
        for talk in talks:
            head, _, body = read_all(talk).partition(b"\r\n\r\n")
            status = int(head.split()[1])
            error = json.loads(body)["error"] if status != 200 else {"code": "", "message": ""}
            answers.append((status, error["code"], error["message"], b"\r\nRetry-After: " in head))
        return answers

    def check_refused(self, answers, words):
        self.assertEqual({status for status, *_ in answers}, {200, 503})
        for status, code, message, has_retry in answers:
            if status == 503:
                self.assertEqual((code, has_retry), ("table_full", True))
                self.assertIn(words, message)
        self.assertTrue(eventually(lambda: not self.leases()))
        self.assertTrue(eventually(lambda: not self.ctl("waiters")))

    def test_leases(self):
        self.begin("leases = 2")
        workers = self.workers()
        answers = self.ask_at_once(["/m/a/stream?10,0.1"] * 40)
        self.check_refused(answers, "this worker's 2 leases are all held")
        served = [status for status, *_ in answers].count(200)
        self.assertLessEqual(2, served)
        self.assertEqual(self.post("/m/a/x", "").status, 200)
        self.assertEqual(self.workers(), workers)

    def test_waiters(self):
        self.begin("waiters = 1", pool='max_backends = 1\nwhen_busy = "wait"')
        workers = self.workers()
        busy = self.socket()
        busy.sendall(b"POST /m/a/wait?2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertTrue(eventually(self.leases))
        answers = self.ask_at_once(["/m/b/x"] * 20 + ["/m/c/x"] * 20)
        self.check_refused(answers, "all 1 waiter rows are taken")
        for name in "abc":
            self.assertEqual(self.post(f"/m/{name}/x", "").status, 200)
        self.assertEqual(self.workers(), workers)

    def test_backends(self):
        self.begin("backends = 1")
        answers = self.ask_at_once(["/m/b/x", "/m/a/x"])
        self.check_refused(answers, "all 1 backend slots are taken")
        self.ctl("evict", "a")
        self.assertTrue(eventually(lambda: "a" not in self.backends()))
        self.assertEqual(self.post("/m/b/x", "").status, 200)

    def test_histories_of_models(self):
        self.begin("models = 1")
        for name in "abcabc":
            self.assertEqual(self.post(f"/m/{name}/x", "").json["name"], name)

    def test_workers_that_find_no_row(self):
        self.write_config(models=self.model("a"), more="[capacity]\nworkers = 1")
        master = self.start(keep_config=True, wait=False)
        self.assertEqual(master.wait(60), 1)
        self.assertIn("all 1 worker rows are taken", self.said())

    def test_workers_that_find_no_row_beside_those_before(self):
        self.begin("workers = 2")
        before = self.workers()
        # The row of one that has died is there for the next.
        os.kill(before[0], signal.SIGKILL)
        self.assertTrue(eventually(lambda: len(self.workers()) == 2 and before[0] not in self.workers()))
        self.assertEqual(self.post("/m/b/x", "").status, 200)
        pids = {name: row["pid"] for name, row in self.backends().items()}
        # New addresses ask for a second generation of workers.
        self.write_config(
            models="".join(self.model(name) for name in "abc"),
            pool="max_backends = 3",
            more="[[serve.listener]]\naddress = \"127.0.0.1:0\"\n[capacity]\nworkers = 2",
        )
        self.masters[0].send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "all 2 worker rows are taken" in self.said()))
        for name in "abc":
            self.assertEqual(self.post(f"/m/{name}/x", "").status, 200)
        self.assertEqual({name: self.backends()[name]["pid"] for name in pids}, pids)


if __name__ == "__main__":
    unittest.main()
