"""A backend that is killed at each point of a request: nobody is answered twice, nothing is asked
again after the first byte of its answer, and a client sees a whole answer or that it is none."""

import itertools
import os
import pathlib
import re
import sys
import unittest

from door import HERE, DoorTest, eventually, read_all, read_answer
from mortal_backend import REQUEST, TAKEN, UNTAKEN, answer_parts

SMALL, ON_DISK, AS_IT_COMES = 300, 200_000, 600_000
CONFIG = 'body_memory = "16KiB"\nbody_limit = "512KiB"'
CHAT = "/v1/chat/completions"


def whole_body(answer):
    """What an answer holds if it is whole, and None if one can see that it is not."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    if length:
        return body if len(body) == int(length[1]) else None
    if b"\r\nTransfer-Encoding: chunked" not in head:
        return None
    text = b""
    while True:
        size, found, body = body.partition(b"\r\n")
        if not found or len(body) < int(size, 16) + 2:
            return None
        text += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
        if size == b"0":
            return text


def pid_in(text):
    return int(re.search(rb'"pid":"(\d+)"', text)[1])


class Points(DoorTest):
    def setUp(self):
        super().setUp()
        command = f"{sys.executable} -IS {HERE}/mortal_backend.py {{port}} {self.log}"
        self.start(models=f'[models.m]\ncommand = "{command}"\n', serve=CONFIG)
        self.points = 0

    def die_at(self, point):
        new = pathlib.Path(self.log + ".new")
        new.write_text(point)
        new.rename(self.log + ".point")

    def ask(self, kind, size, more=""):
        """A request of so many bytes, with a body that is JSON."""
        path = CHAT if kind == "events" else f"/{kind}"
        if size == AS_IT_COMES:
            path = "/m/m" + path
        text = '{"model":"m","stream":true,"x":"'
        text += "x" * (size - len(text) - 2) + '"}'
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{more}Content-Length: {size}\r\n\r\n"
        return (head + text).encode()

    def killed_at(self, point, kind, size, is_kept):
        """(answer, life that was killed, lives that were asked)."""
        talk = self.socket()  # one connection: one worker
        talk.sendall(b"POST /m/m/plain?%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
                     % (b"keep" if is_kept else b"close"))
        head, body = read_answer(talk)
        self.assertIn(b" 200 ", head, body)
        life = pid_in(body)
        before = len(self.seen())
        self.die_at(point)
        talk.sendall(self.ask(kind, size, "Connection: close\r\n"))
        answer = read_all(talk)
        # It may have its whole answer a moment before.
        self.assertTrue(eventually(lambda: not os.path.exists(self.log + ".point")), "not reached")
        self.assertTrue(eventually(lambda: not os.path.exists(f"/proc/{life}/exe")))
        self.assertEqual(answer.count(b"HTTP/1.1 "), 1, answer)
        self.points += 1
        return answer, life, [int(line.split()[0]) for line in self.seen()[before:]]

    def each(self, points, kinds, sizes, check):
        cases = itertools.product((False, True), kinds, sizes, points)
        for is_kept, kind, size, point in cases:
            if is_kept and point in (UNTAKEN, TAKEN):
                continue
            with self.subTest(point=point, kind=kind, size=size, is_kept=is_kept):
                check(point, *self.killed_at(point, kind, size, is_kept))

    def check_that_nothing_is_left(self, at_least):
        self.assertGreaterEqual(self.points, at_least)
        self.assertTrue(eventually(lambda: not self.leases()))
        self.assertEqual(self.ctl("waiters") or [], [])

    def test_before_a_byte_of_the_answer_it_is_asked_again_once(self):
        def check(point, answer, life, asked):
            self.assertTrue(answer.startswith(b"HTTP/1.1 200 "), answer)
            self.assertIsNotNone(whole_body(answer), answer)
            second = pid_in(answer)
            self.assertNotEqual(second, life)
            # A life that had not read all of it is not on the list.
            self.assertEqual(asked, [life, second] if point == "body all" else [second])

        self.each(REQUEST, ["plain"], [SMALL, ON_DISK], check)
        self.check_that_nothing_is_left(40)

    def test_what_passes_through_is_asked_once(self):
        def check(point, answer, life, asked):
            self.assertTrue(answer.startswith(b"HTTP/1.1 502 "), answer)
            self.assertIsNotNone(whole_body(answer), answer)
            self.assertEqual(asked, [life] if point == "body all" else [])

        self.each(REQUEST, ["plain"], [AS_IT_COMES], check)
        self.check_that_nothing_is_left(20)

    def check_after_the_first_byte(self, kind):
        names = [name for name, _ in answer_parts(kind, 0)]
        of_head = names.index("the head")

        def check(point, answer, life, asked):
            self.assertEqual(asked, [life], "asked again after a byte of its answer")
            if names.index(point) < of_head:
                self.assertTrue(answer.startswith(b"HTTP/1.1 502 "), answer)
                self.assertIsNotNone(whole_body(answer), answer)
                return
            self.assertTrue(answer.startswith(b"HTTP/1.1 200 "), answer)
            self.assertEqual(whole_body(answer) is not None, point == names[-1], answer)
            self.check_text(kind, answer, b"".join(part for _, part in answer_parts(kind, life)))

        self.each(names, [kind], [SMALL], check)
        self.check_that_nothing_is_left(2 * len(names))

    def check_text(self, kind, answer, sent):
        """What the client got is the beginning of what that life sent, and one error at most."""
        text = b"".join(re.findall(rb'(?:data: )?\{"(?:pid|model)[^\n]*?\}(?:\n\n)?', answer))
        whole = b"".join(re.findall(rb'(?:data: )?\{"(?:pid|model)[^\n]*?\}(?:\n\n)?', sent))
        self.assertTrue(whole.startswith(text), (text, whole))
        self.assertLessEqual(answer.count(b'data: {"error"'), kind == "events")

    def test_after_the_first_byte_of_a_plain_answer_it_is_not_asked_again(self):
        self.check_after_the_first_byte("plain")

    def test_after_the_first_byte_of_chunks_it_is_not_asked_again(self):
        self.check_after_the_first_byte("chunks")

    def test_after_the_first_byte_of_events_it_is_not_asked_again(self):
        self.check_after_the_first_byte("events")


if __name__ == "__main__":
    unittest.main()
