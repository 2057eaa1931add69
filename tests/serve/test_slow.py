"""Clients that read or send a byte a second, while the pool ends what stalls after one second: they
hold up nobody, and no backend ends because of them."""

import socket
import time
import unittest

from door import PATIENCE_S, DoorTest, descriptors, eventually, read_all, read_answer

# Shorter than what the clients here take for theirs; whoever breaks it is killed, not asked.
STALLS = 'max_backends = 2\nstall_timeout = "1s"\nfirst_byte_timeout = "1s"\non_overdue = "kill"'
SECONDS = 4


class Slow(DoorTest):
    def begin(self, pool=STALLS, **options):
        self.start(models=self.model("a"), pool=pool, **options)
        self.assertEqual(self.post("/m/a/x", "").status, 200)
        self.pid = self.backends()["a"]["pid"]
        # The coordinator tells of the load a moment later.
        self.assertTrue(eventually(lambda: any(one["kind"] == "loaded" for one in self.events())))
        self.before = len(self.events())

    def connect(self, receive_bytes=None):
        talk = socket.socket()
        self.addCleanup(talk.close)
        talk.settimeout(PATIENCE_S)
        if receive_bytes:
            talk.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        talk.connect(("127.0.0.1", self.port))
        return talk

    def ask(self, path, receive_bytes=None):
        talk = self.connect(receive_bytes)
        talk.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        return talk

    def each_second(self, act):
        """act(), and that others of the model are served, for longer than anything may stall."""
        for _ in range(SECONDS):
            act()
            self.assertEqual(self.post("/m/a/x", "").json["pid"], self.pid)
            time.sleep(1)

    def check_that_the_backend_is_left_alone(self):
        self.assertEqual(self.backends()["a"]["pid"], self.pid)
        self.assertEqual(self.events()[self.before :], [])

    def test_a_reader_of_a_small_answer_holds_no_place(self):
        self.begin()
        talk = self.ask("/m/a/x", receive_bytes=1)
        got = []
        self.assertTrue(eventually(lambda: not self.leases()))
        self.each_second(lambda: got.append(talk.recv(1)))
        self.assertEqual(self.leases(), [])
        head, body = read_answer(talk)
        self.assertTrue((b"".join(got) + head).startswith(b"HTTP/1.1 200 "))
        self.assertIn(b'"name": "a"', body)
        self.check_that_the_backend_is_left_alone()

    def test_a_reader_of_a_large_answer_holds_its_place_and_nobody_else_s(self):
        self.begin()
        talk = self.ask("/m/a/big?50000000", receive_bytes=2048)
        self.assertTrue(eventually(self.leases))
        self.each_second(lambda: self.assertEqual(len(talk.recv(1)), 1))
        # More than the kernel holds is still to come; the backend has waited for all that time.
        self.assertEqual(len(self.leases()), 1)
        self.assertGreater(self.leases()[0]["age_ms"], 3000)
        self.check_that_the_backend_is_left_alone()
        talk.close()
        self.assertTrue(eventually(lambda: not self.leases()))
        self.check_that_the_backend_is_left_alone()

    def test_a_reader_that_breaks_busy_timeout_is_cut_and_its_backend_is_not(self):
        self.begin(pool='max_backends = 2\nbusy_timeout = "2s"')
        talk = self.ask("/m/a/stream?1000000,0", receive_bytes=2048)
        self.assertTrue(eventually(self.leases))
        reads = 0
        while self.leases():
            self.assertEqual(len(talk.recv(1)), 1)
            reads += 1
            time.sleep(1)
        self.assertGreater(reads, 1)
        self.assertFalse(read_all(talk).endswith(b"0\r\n\r\n"))
        self.assertEqual(self.backends()["a"]["pid"], self.pid)
        self.assertEqual(self.post("/m/a/x", "").json["pid"], self.pid)
        kinds = {one["kind"] for one in self.events()[self.before :]}
        self.assertEqual(kinds, {"cancel_requested"}, self.events()[self.before :])

    def test_a_sender_of_a_body_holds_no_place(self):
        self.begin(serve='client_timeout = "3s"')  # longer than between two bytes
        text = b'{"model":"a"}'
        talk = self.connect()
        talk.sendall(b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(text))
        sent = []

        def send_a_byte():
            talk.sendall(text[len(sent) : len(sent) + 1])
            sent.append(1)
            self.assertEqual(self.leases(), [])

        self.each_second(send_a_byte)
        talk.sendall(text[len(sent) :])
        self.assertIn(b" 200 ", read_answer(talk)[0])
        self.check_that_the_backend_is_left_alone()

    def test_a_sender_of_a_body_that_passes_through_is_no_stalled_backend(self):
        self.begin(serve='body_limit = "64KiB"\nbody_memory = "16KiB"\nclient_timeout = "3s"')
        size = 200_000
        talk = self.connect()
        talk.sendall(b"POST /m/a/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
        talk.sendall(b"y" * (size - SECONDS // 2))
        self.assertTrue(eventually(self.leases))
        rounds = iter(range(SECONDS))
        # Each two seconds: less often than the pool wants to hear of it.
        self.each_second(lambda: next(rounds) % 2 and talk.sendall(b"y"))
        self.assertIn(b'"body": %d' % size, read_answer(talk)[1])
        self.check_that_the_backend_is_left_alone()

    def test_a_hundred_senders_of_heads_are_closed_and_hold_nobody_up(self):
        self.begin(serve=f'header_timeout = "{SECONDS}s"')
        files = descriptors(self.workers())
        head = b"POST /m/a/never HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 100
        talks = [self.connect() for _ in range(100)]
        at = 0
        closed = set()
        while len(closed) < len(talks):
            for number, talk in enumerate(talks):
                if number in closed:
                    continue
                try:
                    talk.sendall(head[at : at + 1])
                except (BrokenPipeError, ConnectionResetError):
                    closed.add(number)
            self.assertEqual(self.post("/m/a/x", "").json["pid"], self.pid)
            at += 1
            self.assertLess(at, PATIENCE_S, "they are not closed")
            time.sleep(1)
        # Bytes came all the time: the clock of a head does not begin anew with each.
        self.assertGreaterEqual(at, SECONDS)
        self.assertTrue(eventually(lambda: descriptors(self.workers()) <= files))
        self.assertFalse([line for line in self.seen() if "never" in line])
        self.check_that_the_backend_is_left_alone()


if __name__ == "__main__":
    unittest.main()
