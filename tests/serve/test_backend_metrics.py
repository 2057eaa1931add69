"""/metrics/backends: what model servers tell Prometheus, well or badly, as one text."""

import contextlib
import http.client
import os
import pathlib
import signal
import subprocess
import threading
import time
import unittest

from door import POOLCTL, DoorTest, eventually
from prometheus_client.parser import text_string_to_metric_families
from test_leases import Held

PATH = "/metrics/backends"
KEPT_S = 5
STORM, CONNECTIONS = 3000, 40
TEXT = """# HELP tokens_total Tokens.
# TYPE tokens_total counter
tokens_total{model="org/weights",kind="a \\"b\\" \\\\ \\n"} 3
# HELP load Load.
# TYPE load gauge
load 0.5
"""


class BackendMetrics(DoorTest):
    def tell(self, name, text):
        text = text.encode() if isinstance(text, str) else text
        pathlib.Path(f"{self.log}.{name}.metrics").write_bytes(text)

    def load(self, *names):
        for name in names:
            self.assertEqual(self.get(f"/m/{name}/x").status, 200)

    def scrape(self):
        answer = self.get(PATH)
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.fields["Content-Type"].startswith("text/plain; version=0.0.4"))
        return answer.body.decode()

    @staticmethod
    def up(text):
        """{model: was it told?}"""
        for family in text_string_to_metric_families(text):
            if family.name == "modelpool_backend_metrics_up":
                return {one.labels["model"]: bool(one.value) for one in family.samples}
        return {}

    def asked(self):
        return [line for line in self.seen() if " GET /metrics " in line]

    def test_several_models_are_told_apart(self):
        for name in "ab":
            self.tell(name, TEXT)
        with_socket = self.model("b").replace("{port}", "{socket}")
        self.start(models=self.model("a", more='backend_key = "secret"') + with_socket)
        self.load("a", "b")
        text = self.scrape()
        for head in ("# TYPE tokens_total counter\n", "# HELP tokens_total Tokens.\n"):
            self.assertEqual(text.count(head), 1)
        of_load = [one for family in text_string_to_metric_families(text) for one in family.samples
                   if one.name == "load"]  # fmt: skip
        self.assertEqual([one.labels for one in of_load],
                         [{"model": name, "pool": "default"} for name in "ab"])  # fmt: skip
        self.assertIn('exported_model="org/weights",kind="a \\"b\\" \\\\ \\n",model="a"', text)
        self.assertEqual(self.up(text), {"a": True, "b": True})
        keys = [line.split()[3] for line in self.seen() if " KEY " in line]
        self.assertEqual(sorted(keys), ["Bearer", "none"])

    def test_what_is_not_ready_or_no_model_is_not_asked(self):
        self.start(models="".join(map(self.model, "abc")), pool="max_backends = 5")
        tenant = subprocess.Popen(
            [POOLCTL, "--dir", self.dir, "run", "t", "--memory", "1MiB", "--", "sleep", "300"]
        )
        self.addCleanup(tenant.wait)
        self.addCleanup(tenant.terminate)
        self.assertTrue(eventually(lambda: self.backends().get("t", {}).get("state") == "ready"))
        lease = Held(self.socket(), {"name": "l", "memory": "1MiB"})
        lease.wait()
        self.assertEqual(lease.status, 200)
        self.load("a", "c")
        busy = threading.Thread(target=self.get, args=["/m/c/wait?3"])
        busy.start()
        self.addCleanup(busy.join)
        self.assertTrue(eventually(lambda: "c" in [row["model"] for row in self.leases()]))
        self.ctl("evict", "c", "--timeout", "0")
        self.assertTrue(eventually(lambda: self.backends()["c"]["state"] == "evicting"))
        self.assertEqual(self.up(self.scrape()), {"a": False})
        self.assertNotIn("b", self.backends())

    def test_looking_is_no_use(self):
        self.tell("a", TEXT)
        self.start(models=self.model("a"), pool='max_backends = 1\nidle_timeout = "3s"')
        self.load("a")
        loaded = self.ctl("status")["meters"]
        acquires = [one for one in loaded if one["name"] == "modelpool_acquires_total"]
        # It goes for idleness, however often it is asked.
        self.assertTrue(eventually(lambda: self.up(self.scrape()) == {}))
        self.assertGreaterEqual(len(self.asked()), 1)
        after = self.ctl("status")["meters"]
        self.assertEqual(
            [one for one in after if one["name"] == "modelpool_acquires_total"], acquires
        )

    def test_a_thousand_scrapes_a_second_cost_one_question(self):
        self.tell("a", TEXT)
        self.start(models=self.model("a"))
        self.load("a")
        # So many that no worker takes them all.
        connections = [http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                       for _ in range(CONNECTIONS)]  # fmt: skip
        for connection in connections:
            connection.connect()
            self.addCleanup(connection.close)
        began = time.monotonic()
        answers = []

        def storm(connection):
            for _ in range(STORM // CONNECTIONS):
                connection.request("GET", PATH)
                answers.append(connection.getresponse().read().count(b"load{"))

        threads = [threading.Thread(target=storm, args=[one]) for one in connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - began
        self.assertEqual(answers, [1] * STORM)
        self.assertLessEqual(len(self.asked()), 1 + took // KEPT_S, f"in {took} s")
        print(f"{STORM} scrapes in {took:.1f} s, {len(self.asked())} questions")

    def test_one_that_tells_no_metrics_is_named_and_costs_the_others_nothing(self):
        head = b"HTTP/1.1 200 OK\r\n"
        bad = {
            "json": None,  # as an OpenAI server without metrics
            "html": b"<html>no</html>",
            "empty": b"",
            "hang": b"!hang",
            "large": b"a{x=\"" + b"v" * (5 << 20) + b"\"} 1\n",
            "lost": b"!raw" + b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\na 1\n",
            "away": b"!raw" + b"HTTP/1.1 302 Found\r\nLocation: /m\r\nContent-Length: 0\r\n\r\n",
            "zipped": b"!raw" + head + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\na 1\n",
            "cut": b"!raw" + head + b"Content-Length: 400\r\n\r\na 1\n",
            "chunk": b"!raw" + head + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\na 1\n",
            "mute": b"!raw",
            "noise": b"!raw" + bytes(range(256)) * 300,
        }  # fmt: skip
        for name, text in bad.items():
            if text is not None:
                self.tell(name, text)
        self.tell("good", TEXT)
        self.tell("old", b"!raw" + b"HTTP/1.0 200 OK\r\n\r\n" + TEXT.encode())
        self.tell("slow", b"!raw" + b"HTTP/1.1 103 Hints\r\n\r\n" + head + b"Content-Length: 4\r\n\r\na 1\n")
        names = [*bad, "good", "old", "slow"]
        models = "".join(self.model(name) for name in names)
        self.start(models=models, pool=f"max_backends = {len(names)}")
        self.load(*names)
        text = self.scrape()
        self.assertEqual(self.up(text), {name: name not in bad for name in names})
        self.assertEqual(text.count("load{"), 2)

    def test_one_that_has_ended_is_not_told_of(self):
        self.tell("a", TEXT)
        self.tell("b", TEXT)
        self.start()
        self.load("a", "b")
        self.assertEqual(self.up(self.scrape()), {"a": True, "b": True})
        os.kill(self.backends()["a"]["pid"], signal.SIGKILL)
        self.assertTrue(eventually(lambda: self.up(self.scrape()) == {"b": True}))

    def owner_of_lock(self):
        """The worker that asks for all: it has the only lock of a file in memory."""
        for line in pathlib.Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "POSIX" and int(fields[4]) in self.workers():
                return int(fields[4])
        return None

    def begin_to_ask(self):
        """A scrape that waits for a server that hangs; who asks it."""
        self.tell("a", "!hang")
        self.tell("b", TEXT)
        self.start()
        self.load("a", "b")
        self.told = []

        def scrape():
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.told.append(self.get(PATH).body.decode())

        self.waits = threading.Thread(target=scrape)
        self.waits.start()
        self.addCleanup(self.waits.join)
        self.assertTrue(eventually(self.owner_of_lock))
        return self.owner_of_lock()

    def test_a_worker_that_dies_while_it_asks_is_followed_by_another(self):
        asks = self.begin_to_ask()
        os.kill(asks, signal.SIGKILL)
        self.tell("a", TEXT)
        self.assertTrue(eventually(lambda: self.up(self.scrape()) == {"a": True, "b": True}))

    def test_a_worker_that_is_stopped_while_it_asks_keeps_nobody_waiting(self):
        asks = self.begin_to_ask()
        os.kill(asks, signal.SIGSTOP)
        self.addCleanup(os.kill, asks, signal.SIGCONT)
        self.tell("a", TEXT)
        self.assertEqual(self.up(self.scrape()), {"a": True, "b": True})

    def test_one_that_ends_while_it_is_asked_is_not_told_of(self):
        asks = self.begin_to_ask()
        os.kill(asks, signal.SIGSTOP)
        os.kill(self.backends()["b"]["pid"], signal.SIGKILL)
        self.assertTrue(eventually(lambda: "b" not in self.backends()))
        os.kill(asks, signal.SIGCONT)
        self.waits.join()
        self.assertEqual(self.up(self.told[0]), {"a": False})


if __name__ == "__main__":
    unittest.main()
