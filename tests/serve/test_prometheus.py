"""The pool's metrics as Debian's Prometheus takes them, and against the pool's events."""

import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import unittest

from door import HERE, POOLCTL, DoorTest, eventually
from prometheus_client.parser import text_string_to_metric_families
from prometheus_server import promtool, start_prometheus

STORM = 2000
METRICS = HERE.parents[1] / "tools/metrics"
# What each kind of event moves: a counter, and which labels of it the event says.
COUNTER_OF = {
    "loaded": ("modelpool_loads_total", lambda event: {"model": event["model"], "outcome": "loaded"}),
    "load_failed": ("modelpool_loads_total",
                    lambda event: {"model": event["model"], "outcome": "failed"}),
    "evicted": ("modelpool_stops_total",
                lambda event: {"model": event["model"], "reason": event["reason"]}),
    "killed": ("modelpool_stops_total",
               lambda event: {"model": event["model"], "reason": event["reason"]}),
    "exited": ("modelpool_stops_total",
               lambda event: {"model": event["model"], "reason": event["reason"]}),
    "worker_died": ("modelpool_worker_deaths_total", lambda event: {}),
    "coordinator_started": ("modelpool_coordinator_starts_total", lambda event: {}),
    "recovered": ("modelpool_coordinator_restarts_total", lambda event: {}),
    "settings_changed": ("modelpool_settings_changes_total", lambda event: {}),
    "cancel_requested": ("modelpool_cancel_requests_total",
                         lambda event: {"reason": event["reason"]}),
    "probe_failed": ("modelpool_probe_failures_total", lambda event: {"model": event["model"]}),
}  # fmt: skip
HOSTILE = ('a "quoted" \\ one', "{}=,#", "\u00e4\u4e16\U0001f600", "other", "o" * 120, "-x", "NaN")


class EventsAndCounters(DoorTest):
    """Each decision is told twice: as an event, and by a counter that it moves."""

    def counters(self):
        """{(counter, labels): value} of those that events move."""
        names = {name for name, _ in COUNTER_OF.values()}
        found = {}
        for family in text_string_to_metric_families(self.get("/metrics").body.decode()):
            for one in family.samples:
                one.labels.pop("pool", None)
                if one.name in names and one.value:
                    found[one.name, *sorted(one.labels.items())] = one.value
        return found

    def expected(self, events):
        counted = collections.Counter()
        for event in events:
            name, labels = COUNTER_OF[event["kind"]]
            labels = {key: value or "none" for key, value in labels(event).items()}
            counted[name, *sorted(labels.items())] += 1
        return dict(counted)

    def kinds(self):
        said = self.get("/api/pool/events?kind=none-of-them").message
        return set(said.split("the kinds are ")[1].split())

    def seen_kinds(self):
        return {event["kind"] for event in self.events()}

    def ends_for_idleness(self):
        return [event["reason"] for event in self.events()].count("idle")

    def provoke(self):
        """Every kind there is."""
        self.assertEqual(self.get("/m/a/x").status, 200)
        self.get("/m/a/wait?30")  # asked to end
        self.get("/m/broken/x")
        self.get("/m/killed/wait?30")
        self.assertTrue(self.ctl("evict", "a")["gone"])
        self.assertEqual(self.get("/m/a/x").status, 200)
        for times in (1, 2):  # the second is soon
            self.assertEqual(self.get("/m/idle/x").status, 200)
            self.assertTrue(eventually(lambda: self.ends_for_idleness() == times))
        os.kill(self.backends()["a"]["pid"], signal.SIGKILL)
        self.assertEqual(self.get("/m/probed/x").status, 200)
        self.ctl("set", "idle_timeout=300s")
        os.kill(self.workers()[0], signal.SIGKILL)
        self.assertTrue(eventually(lambda: "worker_died" in self.seen_kinds()))
        os.kill(self.ctl("status")["coordinator"]["pid"], signal.SIGKILL)
        self.assertTrue(eventually(lambda: self.seen_kinds() == self.kinds()), self.seen_kinds())

    def test_every_kind_of_event_moves_one_counter(self):
        broken = '[models."broken"]\ncommand = "false {port}"\n'
        rules = ('[[model]]\nmatch = "killed"\non_overdue = "kill"\n'
                 '[[model]]\nmatch = "idle"\nidle_timeout = "200ms"\n'
                 '[[model]]\nmatch = "probed"\nprobe = "GET /raw"\nprobe_interval = "200ms"\n')  # fmt: skip
        self.start(
            models="".join(map(self.model, ("a", "killed", "probed", "idle"))) + broken + rules,
            pool='max_backends = 4\nbusy_timeout = "1s"\nload_cooldown = "off"',
        )
        self.assertEqual(set(COUNTER_OF), self.kinds())
        self.provoke()

        def agree():
            before = self.events()
            counters = self.counters()
            # Nothing happened between.
            return self.events() == before and counters == self.expected(before)

        self.assertTrue(eventually(agree), (self.counters(), self.expected(self.events())))
        soon, evicted = 0, set()
        for event in self.events():
            soon += event["kind"] == "loaded" and event["model"] in evicted
            # Not by an order: that is no thrash.
            if event["kind"] == "evicted" and event["reason"] != "requested":
                evicted.add(event["model"])
            elif event["kind"] in ("loaded", "killed", "exited"):
                evicted.discard(event["model"])
        self.assertGreater(soon, 0)
        told = re.search(r"^modelpool_reloads_soon_total{.*} (\d+)$",
                         self.get("/metrics").body.decode(), re.MULTILINE)  # fmt: skip
        self.assertEqual(int(told[1]), soon)


class Promtool(DoorTest):
    def test_it_finds_nothing_whatever_models_are_called(self):
        models = "".join(
            self.model("m").replace('"m"', json.dumps(name, ensure_ascii=False), 1)
            for name in HOSTILE
        )
        small = '[[model]]\nmatch = "*"\nmemory = "10MiB"\n'
        self.start(models=models + small, pool='max_backends = 9\nmax_memory = "4GiB"')
        pathlib.Path(f"{self.log}.m.metrics").write_text(
            '# HELP a_total A.\n# TYPE a_total counter\na_total{x="\\"\\\\"} 1\n'
        )
        for name in HOSTILE:
            self.assertEqual(self.post("/v1/completions", {"model": name}).status, 200)
        self.assertEqual(self.post("/v1/completions", {"model": "nobody \"knows\""}).status, 404)
        texts = {path: self.get(path).body for path in ("/metrics", "/metrics/backends")}
        argv = [POOLCTL, "--dir", self.dir, "metrics"]
        texts["poolctl"] = subprocess.run(argv, capture_output=True, check=True).stdout
        for what, text in texts.items():
            self.assertEqual(promtool("check", "metrics", input=text), "", what)
            models = {one.labels["model"] for family in text_string_to_metric_families(text.decode())
                      for one in family.samples if "model" in one.labels}  # fmt: skip
            self.assertEqual(models - {"other"}, set(HOSTILE) - {"other"}, what)


class Server(DoorTest):
    def test_it_scrapes_both_while_a_thousand_others_do(self):
        self.start()
        pathlib.Path(f"{self.log}.a.metrics").write_text("# HELP t T.\n# TYPE t gauge\nt 1\n")
        self.assertEqual(self.get("/m/a/x").status, 200)
        prometheus = start_prometheus(self, self.port)
        storm = threading.Thread(target=lambda: [self.get("/metrics") for _ in range(STORM)])
        storm.start()
        self.addCleanup(storm.join)
        query = prometheus.query
        self.assertTrue(eventually(lambda: len(query("count_over_time(up[1m]) > 3")) == 2))
        self.assertEqual({one["value"][1] for one in query("min_over_time(up[1m])")}, {"1"})
        self.assertEqual([one["value"][1] for one in query('t{model="a",pool="default"}')], ["1"])
        loads = 'modelpool_loads_total{model="a",outcome="loaded"}'
        self.assertEqual([one["value"][1] for one in query(loads)], ["1"])
        self.assertTrue(query("histogram_quantile(0.9, modelpool_load_seconds_bucket) > 0"))
        self.assertEqual(prometheus.complaints(), [])


class BoardAndAlerts(DoorTest):
    """Each expression of grafana.json and alerts.yaml finds what it is about."""

    def use_everything(self):
        for model in ("a", "a", "a", "broken"):
            self.post("/v1/completions", {"model": model})
        self.ctl("evict", "a")
        for times in range(1, 8):
            self.get("/m/idle/x")
            self.assertTrue(eventually(lambda: self.stops("idle") == times))
        os.kill(self.workers()[0], signal.SIGKILL)

    def stops(self, reason):
        return [event["reason"] for event in self.events()].count(reason)

    def test_each_expression_finds_data_and_what_is_provoked_fires(self):
        rules = '[[model]]\nmatch = "*"\nmemory = "10MiB"\n[[model]]\nmatch = "idle"\nidle_timeout = "100ms"\n'
        broken = '[models."broken"]\ncommand = "false {port}"\n'
        self.start(models="".join(map(self.model, ("a", "b", "idle"))) + broken + rules,
                   pool='max_backends = 1\nmax_memory = "1GiB"\nload_cooldown = "off"')  # fmt: skip
        prometheus = start_prometheus(self, self.port, rules=[METRICS / "alerts.yaml"])
        self.assertTrue(eventually(lambda: prometheus.query("modelpool_coordinator_up")))
        self.use_everything()
        self.assertEqual(self.get("/m/a/x").status, 200)
        self.ctl("pin", "a")
        self.assertEqual(self.get("/m/b/x").json["error"]["code"], "all_pinned")
        self.ctl("unpin", "a")
        threads = [threading.Thread(target=self.get, args=[f"/m/{name}/wait?2"]) for name in "ab"]
        for thread in threads:
            thread.start()  # one of them waits for the other
            self.addCleanup(thread.join)
        alerts = {"ModelpoolThrash": "firing", "ModelpoolAllPinned": "firing"}
        self.assertTrue(eventually(lambda: prometheus.alerts() == alerts), prometheus.alerts())
        for expression in re.findall(r'"expr": (".*"),', (METRICS / "grafana.json").read_text()):
            query = json.loads(expression).replace("$pool", ".*").replace("$__rate_interval", "1m")
            of_late = f"last_over_time(({query})[5m:1s])"
            self.assertTrue(eventually(lambda: prometheus.query(of_late)), query)  # noqa: B023
        self.assertEqual(prometheus.unwell_rules(), [])

    def test_alerts_fire_when_they_should(self):
        self.assertNotIn("FAILED", promtool("check", "rules", METRICS / "alerts.yaml"))
        text = (HERE / "alerts_test.yaml").read_text()
        names = set(re.findall(r"alert: (\w+)", (METRICS / "alerts.yaml").read_text()))
        self.assertEqual(set(re.findall(r"alertname: (\w+)", text)), names)
        test = pathlib.Path(self.dir, "test.yaml")
        test.write_text(text.replace("ALERTS", str(METRICS / "alerts.yaml")))
        done = subprocess.run(["promtool", "test", "rules", test], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
