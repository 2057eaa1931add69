"""Who waits for a place: until when, behind whom, and what those are told who come when too many
wait."""

import signal
import threading
import time
import unittest

from door import DoorTest, eventually, read_answer

ASK = "POST /m/{}/{} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"


class Places(DoorTest):
    def ask(self, model, path):
        talk = self.socket()
        talk.sendall(ASK.format(model, path).encode())
        return talk

    def waiters(self):
        return self.ctl("waiters") or []

    def start_full(self, models="a", **how):
        """One place, and somebody who keeps it until its connection is closed."""
        how.setdefault("pool", 'max_backends = 1\nwhen_busy = "wait"')
        self.start(models="".join(self.model(name) for name in models + "z"), **how)
        holder = self.ask("z", "wait?60")
        self.assertTrue(eventually(self.leases))
        return holder

    def test_the_pool_is_told_until_when(self):
        self.start_full(serve='queue_timeout = "30s"')
        self.ask("a", "x")
        (row,) = eventually(self.waiters)
        self.assertLess(row["left_ms"], 36_000)
        self.assertGreater(row["left_ms"], 10_000)

    def test_who_leaves_hands_the_place_in_line_on_with_the_next_ones_time(self):
        self.start_full(serve='queue_timeout = "30s"', flags=["--workers", "1"])
        first = self.ask("a", "x")
        (before,) = eventually(self.waiters)
        time.sleep(2)  # so that their deadlines differ
        self.ask("a", "x")
        self.assertTrue(eventually(lambda: self.connections() == 3))
        first.close()
        later = lambda: [row for row in self.waiters() if row["left_ms"] + row["waiting_ms"] >
                         before["left_ms"] + before["waiting_ms"] + 1000]
        self.assertTrue(eventually(later))
        self.assertEqual(later()[0]["arrival"], before["arrival"])

    def connections(self):
        """Of clients that have come and not gone."""
        with open("/proc/net/tcp") as table:
            ports = [line.split()[1:4] for line in table]
        return sum(local.endswith(f":{self.port:04X}") and state == "01" for local, _, state in ports)

    def test_the_time_of_a_body_is_not_the_time_of_the_line(self):
        self.start(models=self.model("a"), serve='queue_timeout = "2s"')
        talk = self.socket()
        talk.sendall(b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n{")
        time.sleep(3)
        talk.sendall(b'"model": "a"}')
        head, body = read_answer(talk)
        self.assertIn(b" 200 ", head, body)

    def test_request_timeout_begins_with_the_place(self):
        self.start(models=self.model("a", "--load 3"), serve='request_timeout = "2s"')
        self.assertEqual(self.post("/m/a/x", "").status, 200)

    def start_one_at_a_time(self, max_waiters):
        """A loaded model that serves one request, and one worker."""
        self.start(
            models=self.model("a", more="parallel = 1"),
            pool=f"max_backends = 1\nmax_waiters = {max_waiters}",
            flags=["--workers", "1"],
        )
        self.post("/m/a/x", "")

    def test_too_many_are_told_when_to_come_again(self):
        self.start_one_at_a_time(max_waiters=3)
        talks = [self.ask("a", "wait?1")]
        self.assertTrue(eventually(self.leases))
        talks += [self.ask("a", "wait?1") for _ in range(3)]
        reply = eventually(lambda: (found := self.post("/m/a/x", "")).status == 429 and found)
        self.assertEqual(reply.json["error"]["code"], "queue_full")
        self.assertGreater(int(reply.fields["Retry-After"]), 0)
        for talk in talks:
            self.assertIn(b" 200 ", read_answer(talk)[0])

    def test_who_waited_is_not_refused_for_who_came_later(self):
        self.start(
            models=self.model("a", "--load 2", "parallel = 1") + self.model("b") + self.model("c"),
            pool="max_backends = 1\nmax_waiters = 2",
            flags=["--workers", "1"],
        )
        talks = [self.ask("a", "wait?2")]
        self.assertTrue(eventually(self.backends))
        talks.append(self.ask("a", "x"))
        self.assertTrue(eventually(lambda: self.connections() == 2))
        later = [self.ask(model, "x") for model in "bc"]
        for talk in talks:
            self.assertIn(b" 200 ", read_answer(talk)[0])
        for talk in later:
            self.assertRegex(read_answer(talk)[0], b" (200|429) ")

    def test_what_is_no_model_any_more_is_not_loaded(self):
        holder = self.start_full(flags=["--workers", "1"])
        talk = self.ask("a", "x")
        self.assertTrue(eventually(self.waiters))
        # Its name is another model's now.
        self.write_config(models=self.model("z") + self.model("b", more='aliases = ["a"]'),
                          pool='max_backends = 1\nwhen_busy = "wait"')  # fmt: skip
        self.masters[-1].send_signal(signal.SIGHUP)
        names = lambda: {model["id"] for model in self.get("/v1/models").json["data"]}
        self.assertTrue(eventually(lambda: names() == {"b", "z"}))
        holder.close()
        head, body = read_answer(talk)
        self.assertIn(b" 404 ", head, body)
        self.assertEqual(self.post("/m/a/x", "").json["name"], "b")

    def test_what_too_many_are_told_is_learned(self):
        """Ten of 0.5 s each, one at a time: who comes then is told about 5 s."""
        self.start_one_at_a_time(max_waiters=10)
        stop = threading.Event()

        def keep_asking():
            while not stop.is_set():
                self.post("/m/a/wait?0.5", "")

        clients = [threading.Thread(target=keep_asking) for _ in range(11)]
        for client in clients:
            client.start()
        try:
            told = []

            def are_told():
                reply = self.post("/m/a/x", "", timeout=200)
                if reply.status == 429:
                    told.append(int(reply.fields["Retry-After"]))
                return told and 3 <= told[-1] <= 10

            self.assertTrue(eventually(are_told), told)
        finally:
            stop.set()
            for client in clients:
                client.join()


if __name__ == "__main__":
    unittest.main()
