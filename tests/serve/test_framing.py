"""What two programs may read differently is refused: each line on a socket, with a second request
behind it that stays unanswered and that no backend sees; and a twin that is right and works."""

import unittest

from door import DoorTest, read_all, read_answer

BODY = b'{"model":"a"}'
SECOND = b"POST /m/a/second HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"


def request(line=b"POST /m/a/first HTTP/1.1", fields=(b"Host: localhost",), body=b"", end=b"\r\n"):
    return end.join([line, *fields, b"", b""]) + body


LENGTH = b"Content-Length: 13"
HOST = b"Host: localhost"
CHUNKS = b"d\r\n" + BODY + b"\r\n0\r\n\r\n"

# name: (bad, its right twin or None)
LINES = {
    "te_other": (
        request(fields=(HOST, b"Transfer-Encoding: gzip, chunked"), body=CHUNKS),
        request(fields=(HOST, b"Transfer-Encoding: chunked"), body=CHUNKS),
    ),
    "te_twice": (
        request(fields=(HOST, *[b"Transfer-Encoding: chunked"] * 2), body=CHUNKS),
        request(fields=(HOST, b"Transfer-Encoding: Chunked"), body=CHUNKS),
    ),
    "te_list_of_one_twice": (
        request(fields=(HOST, b"Transfer-Encoding: chunked, chunked"), body=CHUNKS),
        None,
    ),
    "te_identity": (request(fields=(HOST, b"Transfer-Encoding: identity"), body=BODY), None),
    "te_odd_blank": (
        request(fields=(HOST, b"Transfer-Encoding: \x0bchunked"), body=CHUNKS),
        request(fields=(HOST, b"Transfer-Encoding: \tchunked"), body=CHUNKS),
    ),
    "te_in_1_0": (
        request(b"POST /m/a/first HTTP/1.0", (HOST, b"Transfer-Encoding: chunked"), CHUNKS),
        request(b"POST /m/a/first HTTP/1.0", (HOST, LENGTH), BODY),
    ),
    "te_with_length": (
        request(fields=(HOST, b"Transfer-Encoding: chunked", LENGTH), body=CHUNKS),
        None,
    ),
    "length_twice": (request(fields=(HOST, LENGTH, LENGTH), body=BODY), None),
    "length_list": (request(fields=(HOST, b"Content-Length: 13, 13"), body=BODY), None),
    "length_sign": (request(fields=(HOST, b"Content-Length: +13"), body=BODY), None),
    "length_hex": (request(fields=(HOST, b"Content-Length: 0xd"), body=BODY), None),
    "length_overflow": (
        request(fields=(HOST, b"Content-Length: 18446744073709551629"), body=BODY),
        None,
    ),
    "length_empty": (request(fields=(HOST, b"Content-Length:"), body=BODY), None),
    "host_twice": (request(fields=(HOST, HOST)), request()),
    "host_missing": (request(fields=(b"X: y",)), None),
    "fold": (request(fields=(HOST, b"X: a", b" b")), request(fields=(HOST, b"X: a b"))),
    "bare_lf": (request(end=b"\n"), None),
    "bare_cr_in_value": (request(fields=(HOST, b"X: a\rb")), None),
    "nul_in_value": (request(fields=(HOST, b"X: a\0b")), None),
    "control_in_value": (request(fields=(HOST, b"X: a\x01b")), request(fields=(HOST, b"X: a\tb"))),
    "control_in_name": (request(fields=(HOST, b"X\x01: a")), None),
    "blank_before_colon": (request(fields=(HOST, b"Content-Length : 13"), body=BODY), None),
    "no_colon": (request(fields=(HOST, b"Nothing")), None),
    "empty_name": (request(fields=(HOST, b": a")), None),
    "absolute_other_host": (
        request(b"POST http://other/m/a/first HTTP/1.1"),
        request(b"POST http://localhost/m/a/first HTTP/1.1"),
    ),
    "authority_form": (request(b"POST localhost:80 HTTP/1.1"), None),
    "connect": (request(b"CONNECT localhost:80 HTTP/1.1"), None),
    "trace": (request(b"TRACE /m/a/first HTTP/1.1"), None),
    "version": (request(b"POST /m/a/first HTTP/1.2"), None),
    "version_2": (request(b"PRI * HTTP/2.0"), None),
    "no_version": (request(b"POST /m/a/first"), None),
    "two_blanks": (request(b"POST  /m/a/first HTTP/1.1"), None),
    "blank_in_target": (request(b"POST /m/a/fi rst HTTP/1.1"), None),
    "control_in_target": (request(b"POST /m/a/fi\x01rst HTTP/1.1"), None),
    "chunk_size_sign": (
        request(fields=(HOST, b"Transfer-Encoding: chunked"), body=b"+d\r\n" + CHUNKS[3:]),
        None,
    ),
    "chunk_size_overflow": (
        request(
            fields=(HOST, b"Transfer-Encoding: chunked"), body=b"1000000000000000d\r\n" + CHUNKS[3:]
        ),
        None,
    ),
    "chunk_without_end": (
        request(fields=(HOST, b"Transfer-Encoding: chunked"), body=b"d\r\n" + BODY + b"0\r\n\r\n"),
        None,
    ),
    "chunk_bare_lf": (
        request(fields=(HOST, b"Transfer-Encoding: chunked"), body=CHUNKS.replace(b"\r\n", b"\n")),
        None,
    ),
}


class Framing(DoorTest):
    def setUp(self):
        super().setUp()
        self.start()
        self.assertEqual(self.post("/m/a/warm", "").status, 200)

    def test_each_line(self):
        for name, (bad, twin) in LINES.items():
            with self.subTest(name):
                before = len(self.seen())
                talk = self.socket()
                talk.sendall(bad + SECOND)
                answer = read_all(talk)
                self.assertRegex(answer, rb"^HTTP/1.1 (4\d\d|505) ")
                self.assertEqual(answer.count(b"HTTP/1.1 "), 1, answer)
                self.assertIn(b"\r\nConnection: close\r\n", answer)
                self.assertEqual(self.seen()[before:], [])
                if twin is None:
                    continue
                talk = self.socket()
                talk.sendall(twin + SECOND)
                head, _ = read_answer(talk)
                self.assertRegex(head, rb"^HTTP/1.1 200 ")
                if b"HTTP/1.0" not in twin:
                    self.assertRegex(read_answer(talk)[0], rb"^HTTP/1.1 200 ")

    def test_what_is_too_long_or_too_new_has_a_status_of_its_own(self):
        long = b"x" * (33 << 10)
        for bad, status in (
            (request(b"POST /m/a/" + long + b" HTTP/1.1"), b"414"),
            (request(fields=(HOST, b"X: " + long)), b"431"),
            (request(fields=(HOST, *[b"X: y"] * 256)), b"431"),
            (request(b"POST /m/a/first HTTP/2.0"), b"505"),
        ):
            with self.subTest(status, bytes=len(bad)):
                talk = self.socket()
                talk.sendall(bad)
                self.assertRegex(read_all(talk), rb"^HTTP/1.1 " + status + b" ")
        fits = request(fields=(HOST, b"Content-Length: 0", *[b"X: y"] * 254))
        talk = self.socket()
        talk.sendall(fits)
        self.assertRegex(read_answer(talk)[0], rb"^HTTP/1.1 200 ")

    def test_answers_of_backends(self):
        bad = {
            "te and length": b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "two lengths": b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            "fold": b"X: a\r\n b\r\nContent-Length: 3\r\n\r\nabc",
            "control": b"X: a\x01\r\nContent-Length: 3\r\n\r\nabc",
            "other coding": b"Transfer-Encoding: gzip\r\n\r\nabc",
        }
        for name, rest in bad.items():
            with self.subTest(name):
                reply = self.post("/m/a/raw", b"x\0HTTP/1.1 200 OK\r\n" + rest)
                self.assertEqual(reply.status, 502, reply.body)
        good = self.post("/m/a/raw", b"x\0HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
        self.assertEqual((good.status, good.body), (200, b"abc"))

    def test_fields_that_stay_behind(self):
        fields = {
            "Connection": "keep-alive, X-Secret, Host, Content-Length",
            "X-Secret": "1",
            "Keep-Alive": "9",
            "TE": "trailers",
            "Proxy-Authorization": "Basic x",
            "X-Modelpool-Permit": "1",
            "X-Kept": "yes",
        }
        reply = self.post("/m/a/x", b"hello", fields=fields)
        got = reply.json["fields"]
        self.assertEqual(got["x-kept"], "yes")
        self.assertEqual(got["content-length"], "5")
        self.assertTrue(got["host"].startswith("127.0.0.1:"))
        for gone in ("x-secret", "keep-alive", "te", "proxy-authorization", "x-modelpool-permit"):
            self.assertNotIn(gone, got)


if __name__ == "__main__":
    unittest.main()
