"""Bodies that stop half-way: nobody is asked with half a request, and nothing of it is kept."""

import itertools
import socket
import struct
import unittest

from door import DoorTest, descriptors, eventually, read_all

IN_MEMORY, ON_DISK, AS_IT_COMES = 600_000, 700_000, 1_200_000
MISSING = 20_000
# A worker has room for one in memory and two on disk.
CONFIG = """body_memory = "640KiB"
bodies_memory = "1MiB"
body_limit = "1MiB"
bodies_disk = "2MiB"
client_timeout = "1s"
"""


def closes(talk):
    talk.close()


def shuts_down(talk):
    """It says that no more comes, and would still read."""
    talk.shutdown(socket.SHUT_WR)


def resets(talk):
    talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    talk.close()


def falls_silent(talk):
    pass


class HalfBodies(DoorTest):
    def setUp(self):
        super().setUp()
        self.start(models=self.model("a"), serve=CONFIG)
        self.assertEqual(self.post("/m/a/x", "").status, 200)
        self.pid = self.backends()["a"]["pid"]

    def begin(self, size, is_chunked, ending):
        """A request of which MISSING bytes never come, and then an end of its own."""
        path = f"/m/a/{ending.__name__}" if size == AS_IT_COMES else "/v1/x"
        framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % (size + MISSING)
        body = b'{"model":"a","x":"' + b"y" * size
        if is_chunked:
            body = b"%x\r\n" % (size + MISSING) + body
        talk = self.socket()
        talk.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n%s"
                     % (path.encode(), framing, body))
        if size == AS_IT_COMES:
            self.assertTrue(eventually(self.leases))
        ending(talk)
        return talk

    def test_each_end_of_each_kind(self):
        self.assertTrue(eventually(lambda: not self.leases()))
        files = descriptors(self.workers())
        endings = (closes, shuts_down, resets, falls_silent)
        for size, is_chunked, ending in itertools.product(
            (IN_MEMORY, ON_DISK, AS_IT_COMES), (False, True), endings
        ):
            with self.subTest(size=size, is_chunked=is_chunked, ending=ending.__name__):
                before = len(self.seen())
                talk = self.begin(size, is_chunked, ending)
                if ending is falls_silent and size != AS_IT_COMES:
                    self.assertTrue(read_all(talk).startswith(b"HTTP/1.1 408 "))
                elif ending in (shuts_down, falls_silent):
                    self.assertNotIn(b"HTTP/1.1 200 ", read_all(talk))
                talk.close()
                # Each worker may keep a connection to the backend.
                self.assertTrue(eventually(lambda: descriptors(self.workers()) <= files + 1))
                self.assertTrue(eventually(lambda: not self.leases()))
                # What passes through its backend sees break off: it never had all of it.
                if size != AS_IT_COMES:
                    self.assertEqual(self.seen()[before:], [])
                # All that these bodies took is there again.
                whole = b'{"model":"a","x":"' + b"y" * (size - 20) + b'"}'
                path = "/m/a/x" if size == AS_IT_COMES else "/v1/x"
                self.assertEqual(self.post(path, whole).json["pid"], self.pid)
        self.assertEqual(self.backends()["a"]["pid"], self.pid)


if __name__ == "__main__":
    unittest.main()
