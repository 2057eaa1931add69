"""As many connections as the door takes, and what becomes of those that ask nothing."""

import pathlib
import re
import resource
import signal
import socket
import unittest

from door import PATIENCE_S, DoorTest, descriptors, eventually, read_answer

MAX_CONNECTIONS = 10_000  # the default
BESIDE = 200  # descriptors of this test
# A connection of this test has a port of its own: these addresses have enough of them for all.
SOURCES = [f"127.0.0.{last}" for last in range(2, 6)]
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def resident_bytes(pids):
    """What these processes have for themselves."""
    total = 0
    for pid in pids:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += sum(int(kib) for kib in re.findall(r"^Private_Dirty: +(\d+) kB", text, re.M))
    return total * 1024


def allow_descriptors(test, wanted):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
    except (OSError, ValueError) as error:
        test.skipTest(f"this process may not open {wanted} files: {error}")
    test.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, max(hard, wanted)))


class Idle(DoorTest):
    def connect(self, number=0):
        source = (SOURCES[number % len(SOURCES)], 0)
        talk = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S, source)
        self.addCleanup(talk.close)
        return talk

    def livez(self, talk):
        talk.sendall(LIVEZ)
        self.assertIn(b" 200 ", read_answer(talk)[0])

    def test_ten_thousand_connections_are_held_and_closed_when_their_time_is_over(self):
        allow_descriptors(self, MAX_CONNECTIONS + BESIDE)
        master = self.start(models=self.model("a"), serve='keepalive_timeout = "10m"')
        workers = self.workers()
        limits = pathlib.Path(f"/proc/{workers[0]}/limits").read_text()
        may_open = int(re.search(r"Max open files +(\d+)", limits)[1])
        if may_open < MAX_CONNECTIONS:
            self.skipTest(f"a worker may open only {may_open} files here")
        self.assertEqual(self.post("/m/a/x", "").status, 200)
        files, bytes_before = descriptors(workers), resident_bytes(workers)
        talks = [self.connect(i) for i in range(MAX_CONNECTIONS)]
        self.livez(talks[-1])  # they are taken in their order
        # Beside them there may have been one to the backend, and one that was about to end.
        self.assertGreaterEqual(descriptors(workers), files + MAX_CONNECTIONS - 2)
        each = (resident_bytes(workers) - bytes_before) / MAX_CONNECTIONS
        print(f"{MAX_CONNECTIONS} idle connections: {each:.0f} bytes each in the workers' memory")
        self.assertLess(each, 16 * 1024)
        # Both workers have their part, and answer.
        parts = [descriptors([pid]) for pid in workers]
        self.assertLess(max(parts), min(parts) * 1.5, parts)
        body = b'{"model":"a"}'
        for talk in talks[:: MAX_CONNECTIONS // 20]:
            self.livez(talk)
            talk.sendall(b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
                         % (len(body), body))
            self.assertIn(b" 200 ", read_answer(talk)[0])
        # One more waits, until another has gone.
        more = self.connect()
        more.sendall(LIVEZ)
        for talk in talks[:: MAX_CONNECTIONS // 4]:
            # Long for a worker, which looks whether there is room every few ms.
            talk.sendall(b"POST /m/a/wait?0.2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            self.assertIn(b" 200 ", read_answer(talk)[0])
        more.setblocking(False)
        self.assertRaises(BlockingIOError, more.recv, 1)
        more.settimeout(PATIENCE_S)
        talks.pop().close()
        self.assertIn(b" 200 ", read_answer(more)[0])
        talks.append(more)
        self.close_by_their_time(master, talks)
        # Of the kept connections to the backend too.
        self.assertTrue(eventually(lambda: descriptors(workers) <= files), (workers, files))
        self.assertEqual(self.post("/m/a/x", "").status, 200)
        self.assertEqual(self.workers(), workers)

    def close_by_their_time(self, master, talks):
        """A connection follows the config that was in force when its last request came."""
        was_serving = self.said().count("serving pool")
        self.write_config(models=self.model("a"), serve='keepalive_timeout = "1s"')
        master.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: self.said().count("serving pool") > was_serving))
        for talk in talks:
            talk.sendall(LIVEZ)
        for talk in talks:
            self.assertTrue(talk.recv(4096).startswith(b"HTTP/1.1 200 "))
        for talk in talks:
            self.assertEqual(talk.recv(1), b"")


if __name__ == "__main__":
    unittest.main()
