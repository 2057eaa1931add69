"""Signs of life, pressure both ways, clients that leave or dawdle, and leases that are cancelled."""

import json
import socket
import time
import unittest

from door import DoorTest, eventually, read_all, read_answer

CHAT = b'{"model":"%s","stream":true,"messages":[],"max_tokens":%d,"pause":%s}'


def chat(model=b"a", words=3, pause=b"0", path=b"/v1/chat/completions", more=b""):
    body = CHAT % (model, words, pause)
    return (
        b"POST %s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n" % (path, more, len(body))
        + body
    )


class Streams(DoorTest):
    def test_signs_of_life_while_a_model_loads(self):
        self.start(models=self.model("a", "--load 2") + self.model("bad", "--load 2 --exit-after 1"))
        talk = self.socket()
        talk.sendall(chat(more=b"Connection: close\r\n"))
        whole = read_all(talk)
        head, _, rest = whole.partition(b"\r\n\r\n")
        self.assertIn(b"Content-Type: text/event-stream", head)
        lines = [line for line in rest.replace(b"\r\n", b"\n").split(b"\n") if line[:1] in b":d" and line]
        self.assertRegex(lines[0], rb"^: loading, \d+ s")
        self.assertEqual(whole.count(b"data: {"), 3)
        self.assertTrue(whole.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"))
        # A plain request waits without.
        self.assertEqual(self.post("/v1/chat/completions", {"model": "a", "messages": []}).status, 200)

    def test_a_failure_behind_a_sign_of_life_is_an_event_and_a_cut(self):
        model = '[models."bad"]\ncommand = ["sh", "-c", "sleep 2; echo no memory; exit 7", "{port}"]\n'
        self.start(models=model)
        talk = self.socket()
        talk.sendall(chat(b"bad"))
        whole = read_all(talk)
        self.assertIn(b"no memory", whole)
        self.assertEqual(whole.count(b'data: {"error":'), 1)
        self.assertFalse(whole.endswith(b"0\r\n\r\n"))

    def test_loading_off_sends_nothing_before_the_answer(self):
        self.start(models=self.model("a", "--load 2"), serve='loading = "off"')
        talk = self.socket()
        talk.sendall(chat(more=b"Connection: close\r\n"))
        self.assertNotIn(b": loading", read_all(talk))

    def test_a_client_that_leaves_ends_its_wait_and_its_request(self):
        self.start(models=self.model("a", "--load 3") + self.model("b"))
        talk = self.socket()
        talk.sendall(chat())
        self.assertTrue(eventually(lambda: self.backends().get("a")))
        talk.close()
        # The load goes on for whoever comes next; no request is begun.
        self.assertTrue(eventually(lambda: self.backends().get("a", {}).get("state") == "ready"))
        self.assertTrue(eventually(lambda: not self.leases()))
        self.assertEqual([line for line in self.seen() if "chat" in line], [])
        talk = self.socket()
        talk.sendall(chat(words=1000, pause=b"0.05"))
        self.assertTrue(talk.recv(4096))
        self.assertTrue(eventually(self.leases))
        talk.close()
        self.assertTrue(eventually(lambda: not self.leases()))
        self.assertEqual(self.backends()["a"]["state"], "ready")

    def test_a_slow_client_is_no_stalled_backend(self):
        self.start(
            models=self.model("a"),
            pool='max_backends = 1\nstall_timeout = "2s"\non_overdue = "kill"',
        )
        self.post("/m/a/x", "")
        pid = self.backends()["a"]["pid"]
        talk = socket.create_connection(("127.0.0.1", self.port))
        self.addCleanup(talk.close)
        talk.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        talk.sendall(b"POST /m/a/big?20000000 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        until = time.monotonic() + 6
        while time.monotonic() < until:
            self.assertTrue(talk.recv(1))
            time.sleep(0.1)
        self.assertEqual(self.backends()["a"]["pid"], pid)
        self.assertEqual(len(self.leases()), 1)

    def test_a_client_that_takes_nothing_is_closed_and_the_backend_lives(self):
        self.start(models=self.model("a"), serve='client_timeout = "1s"')
        self.post("/m/a/x", "")
        pid = self.backends()["a"]["pid"]
        talk = socket.create_connection(("127.0.0.1", self.port))
        self.addCleanup(talk.close)
        talk.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        talk.sendall(b"POST /m/a/big?50000000 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertTrue(eventually(self.leases))
        self.assertTrue(eventually(lambda: not self.leases()))
        self.assertEqual(self.backends()["a"]["pid"], pid)

    def test_a_slow_sender_is_no_stalled_backend(self):
        self.start(
            models=self.model("a"),
            pool='max_backends = 1\nstall_timeout = "2s"\non_overdue = "kill"',
            serve='body_limit = "64KiB"\nbody_memory = "16KiB"',
        )
        self.post("/m/a/x", "")
        pid = self.backends()["a"]["pid"]
        talk = self.socket()
        size = 200_000
        talk.sendall(b"POST /m/a/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
        talk.sendall(b"y" * (size - 1))
        self.assertTrue(eventually(self.leases))
        # More than twice stall_timeout later it is still in flight.
        self.assertTrue(eventually(lambda: (self.leases() or [{"age_ms": 0}])[0]["age_ms"] > 5000))
        talk.sendall(b"y")
        self.assertEqual(json.loads(read_answer(talk)[1])["pid"], pid)

    def test_a_client_that_closes_at_once_leaves_nothing(self):
        self.start(models=self.model("a"))
        self.post("/m/a/x", "")
        for _ in range(40):
            talk = self.socket()
            talk.sendall(b"POST /m/a/wait?30 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            talk.close()
        self.assertTrue(eventually(lambda: not self.leases()))

    def test_slow_heads_and_half_bodies_are_closed(self):
        self.start(models=self.model("a"), serve='header_timeout = "1s"\nclient_timeout = "1s"')
        slow = self.socket()
        slow.sendall(b"POST /m/a/x HTTP/1.1\r\nHost: loc")
        self.assertIn(b" 408 ", read_all(slow))
        half = self.socket()
        half.sendall(b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n{")
        self.assertIn(b" 408 ", read_all(half))
        self.assertEqual(self.seen(), [])

    def stop_sending(self, limit):
        """What one is told whose body does not come while it is passed on."""
        limits = 'body_limit = "1KiB"\nbody_memory = "1KiB"'
        self.start(models=self.model("a"), serve=f'{limits}\n{limit} = "1s"')
        talk = self.socket()
        talk.sendall(
            b"POST /m/a/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000
        )
        told = read_all(talk)
        self.assertTrue(eventually(lambda: not self.leases()))
        return told

    def test_who_stops_sending_is_told(self):
        self.assertIn(b" 408 ", self.stop_sending("client_timeout"))

    def test_who_sends_too_long_is_told(self):
        self.assertIn(b" 504 ", self.stop_sending("request_timeout"))

    def test_a_connection_without_a_first_request_is_closed(self):
        self.start(models=self.model("a"), serve='header_timeout = "1s"')
        self.assertEqual(read_all(self.socket()), b"")

    def test_a_connection_waits_longer_for_the_next_request(self):
        self.start(models=self.model("a"), serve='header_timeout = "1s"\nkeepalive_timeout = "4s"')
        talk = self.socket()
        ask = b"POST /m/a/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        talk.sendall(ask)
        read_answer(talk)
        time.sleep(2)  # longer than a first one may take
        talk.sendall(ask)
        self.assertIn(b" 200 ", read_answer(talk)[0])
        self.assertEqual(read_all(talk), b"")

    def test_a_lease_that_is_asked_to_end_tells_its_client_why(self):
        self.start(
            models=self.model("a"), pool='max_backends = 1\nbusy_timeout = "1s"'
        )
        self.post("/m/a/x", "")
        pid = self.backends()["a"]["pid"]
        reply = self.post("/m/a/wait?60", "")
        self.assertEqual(reply.status, 503)
        self.assertIn("busy_timeout", reply.message)
        talk = self.socket()
        talk.sendall(b"POST /m/a/stream?1000,0.1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        whole = read_all(talk)
        self.assertIn(b"busy_timeout", whole)
        self.assertFalse(whole.endswith(b"0\r\n\r\n"))
        self.assertEqual(self.backends()["a"]["pid"], pid)

    def test_slow_readers_get_their_own_bytes(self):
        self.start(models=self.model("a"))
        self.post("/m/a/x", "")
        talks = {}
        for letter in "abcdef":
            talk = socket.create_connection(("127.0.0.1", self.port), timeout=60)
            self.addCleanup(talk.close)
            talk.sendall(b"POST /m/a/big?9000000,%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                         b"Content-Length: 0\r\n\r\n" % letter.encode())
            talks[letter] = talk
        # Each is behind before any of them reads.
        self.assertTrue(eventually(lambda: len(self.leases()) == 6))
        got = {letter: b"" for letter in talks}
        while not all(len(text) > 9_000_000 for text in got.values()):
            for letter, talk in talks.items():
                got[letter] += talk.recv(200_000)
        for letter, text in got.items():
            body = text.partition(b"\r\n\r\n")[2]
            self.assertEqual((len(body), set(body)), (9_000_000, {ord(letter)}))

    def test_a_client_that_leaves_behind_what_it_sent_ahead_is_noticed(self):
        self.start(models=self.model("a"))
        self.post("/m/a/x", "")
        talk = self.socket()
        talk.sendall(b"POST /m/a/wait?200 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
                     + b"z" * 40_000)
        self.assertTrue(eventually(self.leases))
        talk.close()
        self.assertTrue(eventually(lambda: not self.leases()))

    def test_nothing_is_put_into_half_an_event(self):
        self.start(models=self.model("a"))
        self.post("/m/a/x", "")
        talk = self.socket()
        talk.sendall(b"POST /m/a/die?event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        whole = read_all(talk)
        self.assertIn(b"data: {", whole)
        self.assertNotIn(b"error", whole)

    def test_an_answer_that_the_door_ends_does_not_look_whole(self):
        self.start(models=self.model("a"), serve='request_timeout = "1s"')
        self.post("/m/a/x", "")
        talk = self.socket()
        talk.sendall(b"POST /m/a/endless HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        whole = read_all(talk)
        self.assertIn(b"abc", whole)
        self.assertFalse(whole.endswith(b"0\r\n\r\n"))

    def test_request_timeout(self):
        self.start(models=self.model("a"), serve='request_timeout = "1s"')
        self.post("/m/a/x", "")
        self.assertEqual(self.post("/m/a/wait?60", "").status, 504)
        self.assertTrue(eventually(lambda: not self.leases()))

    def test_many_idle_connections_hold_nobody_up(self):
        self.start(models=self.model("a"))
        idle = [self.socket() for _ in range(500)]
        self.assertEqual(self.post("/v1/x", {"model": "a"}).status, 200)
        for talk in idle[::50]:
            talk.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertIn(b" 200 ", read_answer(talk)[0])

    def test_streams_are_passed_on_as_they_come(self):
        self.start(models=self.model("a"))
        talk = self.socket()
        talk.sendall(b"POST /m/a/stream?3,0.5 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        data, pieces = b"", 0
        while b"[DONE]" not in data:
            data += talk.recv(65536)
            pieces += 1
        self.assertGreaterEqual(pieces, 3)
        self.assertEqual(
            [json.loads(line[6:])["n"] for line in data.splitlines() if line.startswith(b"data: {")],
            [0, 1, 2],
        )


if __name__ == "__main__":
    unittest.main()
