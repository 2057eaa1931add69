"""Workers, masters, coordinators and backends that die: what is cut, what is asked again, what stays
warm."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import unittest

from door import POOLCTL, DoorTest, workers_of, eventually, read_all


def listening(port):
    with contextlib.suppress(OSError):
        return socket.create_server(("127.0.0.1", port))


class Deaths(DoorTest):
    def stream(self, model, chunks, pause):
        talk = self.socket()
        talk.sendall(
            f"POST /m/{model}/stream?{chunks},{pause} HTTP/1.1\r\nHost: localhost\r\n"
            "Connection: close\r\nContent-Length: 0\r\n\r\n".encode()
        )
        return talk

    def loads(self):
        done = subprocess.run([POOLCTL, "--dir", self.dir, "-o", "json", "events"], capture_output=True)
        return sum(json.loads(line)["kind"] == "loaded" for line in done.stdout.splitlines())

    def test_a_worker_that_is_killed_cuts_its_own_streams_and_no_model_gets_cold(self):
        self.start(models=self.model("a"), serve="")
        self.post("/m/a/x", "")
        pid = self.backends()["a"]["pid"]
        talks = [self.stream("a", 40, 0.1) for _ in range(32)]
        self.assertTrue(eventually(lambda: len(self.leases()) == 32))
        workers = self.workers()
        held = [row["leases"] for row in self.ctl("workers") if row["pid"] in workers]
        os.kill(workers[0], signal.SIGKILL)
        whole = [read_all(talk).endswith(b"0\r\n\r\n") for talk in talks]
        cut = whole.count(False)
        self.assertIn(cut, held, f"{cut} of {held}")
        self.assertEqual(self.backends()["a"]["pid"], pid)
        self.assertEqual(self.loads(), 1)
        self.assertTrue(eventually(lambda: len(self.workers()) == 2))
        self.assertEqual(self.post("/m/a/x", "").status, 200)

    def test_the_master_that_is_killed_leaves_its_workers_and_the_next_takes_their_place(self):
        master = self.start(models=self.model("a"))
        self.post("/m/a/x", "")
        pid = self.backends()["a"]["pid"]
        old = set(self.workers())
        talk = self.stream("a", 100, 0.1)
        self.assertTrue(eventually(self.leases))
        refused, stop = [], threading.Event()

        def hammer():
            while not stop.is_set():
                try:
                    if self.get("/livez").status != 200:
                        refused.append("status")
                except OSError as error:
                    refused.append(repr(error))

        thread = threading.Thread(target=hammer)
        thread.start()
        try:
            master.kill()
            master.wait()
            self.assertEqual(self.post("/m/a/x", "").json["pid"], pid)
            second = self.start(keep_config=True)
            self.assertTrue(eventually(lambda: len(workers_of(second.pid)) >= 2))
            self.assertEqual(self.post("/m/a/x", "").json["pid"], pid)
        finally:
            stop.set()
            thread.join()
        self.assertEqual(refused, [])
        self.assertTrue(read_all(talk).endswith(b"0\r\n\r\n"))
        self.assertTrue(
            eventually(lambda: not any(os.path.exists(f"/proc/{one}/exe") for one in old))
        )
        self.assertEqual(self.backends()["a"]["pid"], pid)

    def test_a_coordinator_that_is_killed_comes_back(self):
        self.start(models=self.model("a"))
        self.post("/m/a/x", "")
        first = self.ctl("status")["coordinator"]["pid"]
        talk = self.stream("a", 30, 0.1)
        self.assertTrue(eventually(self.leases))
        os.kill(first, signal.SIGKILL)
        self.assertTrue(
            eventually(
                lambda: (now := self.ctl("status")["coordinator"])["alive"] and now["pid"] != first
            )
        )
        self.assertTrue(read_all(talk).endswith(b"0\r\n\r\n"))
        self.assertEqual(self.post("/m/a/x", "").status, 200)

    def test_what_a_backend_died_of_is_said(self):
        self.start(models=self.model("a"))
        for at in ("now", "head", "body"):
            with self.subTest(at):
                talk = self.socket()
                talk.sendall(
                    f"POST /m/a/die?{at} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()
                )
                answer = read_all(talk) if at != "now" else b""
                if at == "now":
                    answer = self.post("/m/a/die?now", "").body
                    self.assertIn(b"exit status 3", answer)
                    self.assertIn(b"the last line it wrote", answer)
                elif at == "body":
                    self.assertTrue(answer.endswith(b"abc"), answer)

    def test_no_load_leaves_the_name_of_its_socket_behind(self):
        models = self.model("a", where="{socket}") + self.model("b", where="{socket}")
        self.start(models=models, pool='max_backends = 2\nload_cooldown = "off"')
        self.post("/m/b/x", "")
        for _ in range(3):
            self.post("/m/a/x", "")
            os.kill(self.backends()["a"]["pid"], signal.SIGKILL)
            self.assertTrue(eventually(lambda: "a" not in self.backends()))
        for worker in self.workers():  # whoever had the names is gone
            os.kill(worker, signal.SIGKILL)
        self.assertTrue(eventually(lambda: self.post("/m/a/x", "").status == 200))
        self.assertEqual(self.post("/m/b/x", "").status, 200)
        names = {name for name in os.listdir(self.dir) if name.endswith(".sock")}
        used = {os.path.basename(row["address"]) for row in self.backends().values()}
        self.assertEqual(names, used)
        self.assertEqual(len(used), 2)

    def test_a_request_is_repeated_once_where_its_backend_died_without_a_byte(self):
        self.start(models=self.model("a"))
        self.post("/m/a/x", "")
        before = self.backends()["a"]["pid"]
        reply = self.post("/m/a/die?once", "")
        self.assertEqual(reply.status, 200, reply.body)
        self.assertNotEqual(reply.json["pid"], before)
        self.assertEqual(sum("/die?once" in line for line in self.seen()), 2)
        # One that lives and closes is not asked again, unless the connection was an old one.
        for _ in range(2):
            self.assertEqual(self.post("/m/a/die?close", "").status, 502)
        self.assertIn(sum("/die?close" in line for line in self.seen()), (2, 3, 4))

    def test_a_backend_killed_at_any_moment_answers_nobody_twice(self):
        self.start(models=self.model("a"), pool='max_backends = 2\nload_cooldown = "off"')
        self.post("/m/a/x", "")
        for point in range(20):
            backend = eventually(lambda: self.backends().get("a"))
            before = len(self.seen())
            killer = threading.Timer(point * 0.004, os.kill, [backend["pid"], signal.SIGKILL])
            killer.start()
            talk = self.stream("a", 5, 0.01)
            whole = read_all(talk)
            killer.join()
            served = [line for line in self.seen()[before:] if "/stream" in line]
            numbers = [
                json.loads(line[6:])
                for line in whole.splitlines()
                if line.startswith(b"data: {") and b'"error"' not in line
            ]
            self.assertEqual([one["n"] for one in numbers], list(range(len(numbers))))
            self.assertLessEqual(len({one["pid"] for one in numbers}), 1)
            if numbers and not whole.endswith(b"0\r\n\r\n"):
                self.assertEqual(len(served), 1, "repeated after its first byte")
            self.assertEqual(whole.count(b"HTTP/1.1 "), 1)
            # One that is killed while it loads has failed, and cools down.
            self.assertTrue(eventually(lambda: self.post("/m/a/x", "").status == 200))

    def test_a_reload_drains_what_changed_and_nothing_else(self):
        master = self.start(models=self.model("a") + self.model("b"))
        for name in "ab":
            self.post(f"/m/{name}/x", "")
        pids = {name: row["pid"] for name, row in self.backends().items()}
        talk = self.stream("a", 20, 0.1)
        self.assertTrue(eventually(self.leases))
        self.write_config(models=self.model("a") + self.model("b", "--health 404"))
        master.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: self.backends().get("b", {}).get("pid") != pids["b"]))
        self.assertEqual(self.post("/m/b/x", "").status, 200)
        self.assertTrue(read_all(talk).endswith(b"0\r\n\r\n"))
        self.assertEqual(self.backends()["a"]["pid"], pids["a"])
        # A bad file changes nothing.
        with open(self.config, "a", encoding="utf-8") as config:
            config.write("\n[nonsense\n")
        master.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "nonsense" in self.said() or "pool.toml" in self.said()))
        self.assertEqual(self.post("/m/b/x", "").status, 200)

    def test_a_connection_that_becomes_idle_after_sigterm_is_not_waited_for(self):
        master = self.start(models=self.model("a"), serve='shutdown_timeout = "10m"')
        self.post("/m/a/x", "")
        talk = self.socket()
        talk.sendall(b"POST /m/a/stream?20,0.1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertTrue(eventually(self.leases))
        master.send_signal(signal.SIGTERM)
        self.assertTrue(read_all(talk).endswith(b"0\r\n\r\n"))
        self.assertEqual(master.wait(60), 0)

    def test_another_process_at_a_dead_backends_port_is_asked_nothing(self):
        self.start(models=self.model("a"))
        self.post("/m/a/x", "")
        backend = self.backends()["a"]
        judge = self.ctl("status")["coordinator"]["pid"]
        os.kill(judge, signal.SIGSTOP)  # it does not see the end
        try:
            os.kill(backend["pid"], signal.SIGKILL)
            port = int(backend["address"].rsplit(":", 1)[1])
            with eventually(lambda: listening(port)) as intruder:
                for _ in range(2):  # without and with a connection that was kept
                    self.assertEqual(self.post("/m/a/secret", "mine").status, 502)
                intruder.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        asked, _ = intruder.accept()
                        asked.settimeout(5)
                        self.assertEqual(asked.recv(100), b"")
                        asked.close()
        finally:
            os.kill(judge, signal.SIGCONT)

    def test_reloads_while_requests_go_on(self):
        master = self.start(models=self.model("a"))
        self.post("/m/a/x", "")
        talk = self.socket()
        talk.sendall(b"POST /m/a/stream?40,0.1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                     b"Content-Length: 4\r\n\r\nab")
        for limit in ("31s", "32s"):
            self.write_config(models=self.model("a"), serve=f'client_timeout = "{limit}"')
            master.send_signal(signal.SIGHUP)
            self.assertTrue(eventually(lambda: self.post("/m/a/x", "").status == 200))
            if limit == "31s":
                talk.sendall(b"cd")
                self.assertTrue(eventually(self.leases))
        self.assertTrue(read_all(talk).endswith(b"0\r\n\r\n"))

    def test_sigterm_lets_streams_end_and_models_stay(self):
        master = self.start(models=self.model("a"))
        self.post("/m/a/x", "")
        pid = self.backends()["a"]["pid"]
        talk = self.stream("a", 20, 0.1)
        self.assertTrue(eventually(self.leases))
        master.send_signal(signal.SIGTERM)
        self.assertTrue(read_all(talk).endswith(b"0\r\n\r\n"))
        self.assertEqual(master.wait(60), 0)
        self.assertEqual(self.backends()["a"]["pid"], pid)
        self.assertTrue(self.ctl("status")["coordinator"]["alive"])


if __name__ == "__main__":
    unittest.main()
