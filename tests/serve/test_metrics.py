"""What Prometheus reads: by its own client's parser, against what was done."""

import json
import os
import pathlib
import re
import signal
import subprocess
import unittest

from door import POOLCTL, DoorTest, eventually
from prometheus_client.parser import text_string_to_metric_families

SCRAPES = 20
PATHS = "/metrics", "/metrics/backends"
METRICS = pathlib.Path(__file__).parents[2] / "tools/metrics"
README = METRICS / "README.md"
GROWS = ("_total", "_count", "_sum", "_bucket")


class Metrics(DoorTest):
    def scrape(self):
        """{(series, labels): value}; each family has its kind and its help."""
        answer = self.get("/metrics")
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.fields["Content-Type"].startswith("text/plain; version=0.0.4"))
        return self.read(answer.body.decode())

    def read(self, text):
        samples = {}
        for family in text_string_to_metric_families(text):
            self.assertTrue(family.documentation, family.name)
            self.assertIn(family.type, ("counter", "gauge", "histogram"))
            for one in family.samples:
                self.assertEqual(one.labels.pop("pool"), "default")
                key = (one.name, *sorted(one.labels.items()))
                self.assertNotIn(key, samples)
                samples[key] = one.value
        return samples

    def requests(self, model, code, seen=None):
        seen = self.scrape() if seen is None else seen
        key = ("modelpool_http_requests_total", ("code", code), ("model", model))
        return seen.get(key, 0)

    def test_requests_are_counted_by_model_and_answer(self):
        self.start()
        for _ in range(3):
            self.assertEqual(self.post("/v1/completions", {"model": "a"}).status, 200)
        self.assertEqual(self.post("/v1/completions", {"model": "none"}).status, 404)
        self.assertTrue(eventually(lambda: self.requests("a", "2xx") == 3))
        seen = self.scrape()
        self.assertGreaterEqual(self.requests("other", "4xx", seen), 1)
        self.assertGreaterEqual(seen[("modelpool_http_request_seconds_count",)], 4)
        self.assertEqual(seen[("modelpool_http_first_byte_seconds_count",)], 3)
        self.assertGreater(seen[("modelpool_http_received_bytes_total",)], 3 * len('{"model": "a"}') - 1)
        self.assertEqual(seen[("modelpool_model_state", ("model", "a"), ("state", "ready"))], 1)
        self.assertEqual(seen[("modelpool_backends", ("state", "ready"))], 1)
        self.assertEqual(seen[("modelpool_backends_limit",)], 2)
        self.assertEqual(seen[("modelpool_coordinator_up",)], 1)
        self.assertEqual(seen[("modelpool_waiters", ("model", "a"))], 0)
        loads = ("modelpool_loads_total", ("model", "a"), ("outcome", "loaded"))
        self.assertEqual(seen[loads], 1)

    def test_open_connections_and_processes_are_those_of_all_workers(self):
        self.start()
        talks = [self.socket() for _ in range(20)]
        count = ("modelpool_http_connections",)
        self.assertTrue(eventually(lambda: self.scrape()[count] >= len(talks) + 1))
        for talk in talks:
            talk.close()
        self.assertTrue(eventually(lambda: self.scrape()[count] == 1))
        pids = {str(pid) for pid in (*self.workers(), self.masters[-1].pid)}
        coordinator = str(self.ctl("status")["coordinator"]["pid"])
        for _ in range(SCRAPES):
            seen = {dict(key[1:])["pid"]: value for key, value in self.scrape().items()
                    if key[0] == "process_resident_memory_bytes"}  # fmt: skip
            self.assertEqual(set(seen), pids | {coordinator})
        self.assertGreater(min(seen.values()), 1 << 20)

    def test_memory_is_told_by_model_and_where_it_is(self):
        rule = '[[model]]\nmatch = "a"\nmemory = "64MiB"'
        pool = 'max_backends = 2\nmax_memory = "1GiB"'
        self.start(models=self.model("a", "--memory 30") + rule, pool=pool)
        self.assertEqual(self.post("/v1/completions", {"model": "a"}).status, 200)
        host = ("device", "host"), ("model", "a")
        measured = ("modelpool_memory_bytes", *host, ("source", "measured"))
        self.assertTrue(eventually(lambda: self.scrape().get(measured, 0) > 30 << 20))
        seen = self.scrape()
        self.assertEqual(seen["modelpool_memory_bytes", *host, ("source", "expected")], 64 << 20)
        self.assertEqual(seen["modelpool_memory_limit_bytes", ("device", "host")], 1 << 30)

    def test_a_histogram_adds_up(self):
        self.start()
        self.assertTrue(eventually(lambda: self.scrape()[("modelpool_http_request_seconds_count",)] >= 5))
        seen = self.scrape()
        name = "modelpool_http_request_seconds_bucket"
        buckets = {key[1][1]: value for key, value in seen.items() if key[0] == name}
        ordered = [buckets[bound] for bound in sorted(buckets, key=float)]
        self.assertEqual(ordered, sorted(ordered))
        self.assertEqual(buckets["+Inf"], seen[("modelpool_http_request_seconds_count",)])
        self.assertIn("600.0", [str(float(bound)) for bound in buckets])

    def test_totals_never_fall_whoever_answers_or_dies(self):
        self.start()
        self.assertEqual(self.post("/v1/completions", {"model": "a"}).status, 200)
        before = {}
        for i in range(SCRAPES):
            seen = self.scrape()
            for key, value in before.items():
                self.assertGreaterEqual(seen.get(key, -1), value, key)
            before = {key: value for key, value in seen.items() if key[0].startswith("modelpool_") and key[0].endswith(GROWS)}
            if i == SCRAPES // 3:
                os.kill(self.workers()[0], signal.SIGKILL)
            if i == SCRAPES // 2:
                self.masters[-1].kill()
                self.masters[-1].wait()
                self.start(keep_config=True)
            if i == SCRAPES * 2 // 3:
                os.kill(self.ctl("status")["coordinator"]["pid"], signal.SIGKILL)
        self.assertEqual(self.requests("a", "2xx"), 1)

    def test_poolctl_prints_the_same(self):
        self.start()
        self.assertEqual(self.post("/v1/completions", {"model": "a"}).status, 200)
        of_door = self.scrape()
        of_poolctl = self.read(
            subprocess.run([POOLCTL, "--dir", self.dir, "metrics"], capture_output=True, text=True).stdout
        )
        self.assertEqual(set(of_door) - set(of_poolctl), {("modelpool_http_connections",)})
        key = ("modelpool_acquires_total", ("model", "a"), ("outcome", "loaded"))
        self.assertEqual(of_door[key], of_poolctl[key])

    def documented(self):
        """{name: (labels, the rest of its row)} of the table in the README."""
        rows = re.findall(r"^\| `(\w+)` \|(.*?)\| (.*) \|$", README.read_text(), re.MULTILINE)
        return {name: (set(re.findall(r"`(\w+)`", labels)), text) for name, labels, text in rows}

    def test_the_readme_has_every_name_of_the_code_and_no_other(self):
        names = set()
        for path in (*METRICS.glob("*.?pp"), METRICS.parents[1] / "libshm/segment/meter_infos.cpp"):
            names |= set(re.findall(r'"((?:modelpool|process)_[a-z_]+)"', path.read_text()))
        self.assertEqual(names, set(self.documented()))

    def test_series_have_the_labels_of_the_readme_and_its_values(self):
        broken = '[models."broken"]\ncommand = "false {port}"\n'
        self.start(models=self.model("a") + broken, pool='max_backends = 2\nmax_memory = "4GiB"')
        self.assertEqual(self.post("/v1/completions", {"model": "a"}).status, 200)
        self.post("/v1/completions", {"model": "broken"})
        self.ctl("evict", "a")
        documented = self.documented()
        text = self.get("/metrics").body.decode() + self.get("/metrics/backends").body.decode()
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                name = one.name if one.name in documented else one.name.rsplit("_", 1)[0]
                labels, row = documented[name]
                self.assertEqual(set(one.labels) - {"pool", "le"}, labels, one)
                closed = {"state", "outcome", "source", "table", "code", "role"} & set(one.labels)
                for label in closed if f"{next(iter(closed), '')}:" in row else ():
                    self.assertIn(one.labels[label], re.split(r"\W+", row), one)

    def test_the_recipe_for_the_textfile_collector(self):
        self.start()
        recipe = re.search(r"```text\n(cd (\S+).*?)```", README.read_text(), re.DOTALL)
        script = recipe[1].replace(recipe[2], self.dir)
        script = script.replace("poolctl", f"{POOLCTL} --dir {self.dir}")
        subprocess.run(["sh", "-ec", script], check=True)
        seen = self.read(pathlib.Path(self.dir, "modelpool.prom").read_text())
        self.assertEqual(seen[("modelpool_coordinator_up",)], 1)
        self.assertFalse(pathlib.Path(self.dir, "modelpool.prom.new").exists())

    def test_names_are_escaped(self):
        name = 'a "quoted\\ one'
        in_toml = json.dumps(name)
        self.start(models=self.model("a").replace('[models."a"]', f"[models.{in_toml}]"))
        self.assertEqual(self.post("/v1/completions", {"model": name}).status, 200)
        self.assertTrue(eventually(lambda: self.requests(name, "2xx") == 1))

    def test_who_may_look(self):
        keys = f"{self.dir}/keys"
        with open(keys, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write("secret-of-a-user use prometheus\n")
        self.write_config(serve=f'keys = "{keys}"')
        self.start(keep_config=True, wait=False)
        self.assertTrue(eventually(self.answers))
        for path in PATHS:
            self.assertEqual(self.get(path).status, 401)
            allowed = self.get(path, fields={"Authorization": "Bearer secret-of-a-user"})
            self.assertEqual(allowed.status, 200)

    def test_it_is_only_looked_at(self):
        self.start()
        for path in PATHS:
            refused = self.post(path, b"")
            self.assertEqual((refused.status, refused.fields["Allow"]), (405, "GET, HEAD"))
            looked = self.request("HEAD", path)
            self.assertEqual((looked.status, looked.body), (200, b""))


if __name__ == "__main__":
    unittest.main()
