"""Debian's Prometheus, on loopback, for one test; and its promtool."""

import contextlib
import json
import pathlib
import subprocess
import urllib.error
import urllib.parse
import urllib.request

from door import eventually, free_port

# Only of this machine, whatever proxy the environment names.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def promtool(*argv, **options):
    """What it finds fault with; "" if nothing."""
    done = subprocess.run(["promtool", *argv], capture_output=True, **options)
    said = done.stdout + done.stderr
    return said.decode(errors="replace") if done.returncode or said.strip() else ""


class Prometheus:
    def __init__(self, port, log, process):
        self.port, self.log, self.process = port, log, process

    def ask(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/{path}?{urllib.parse.urlencode(parameters)}"
        with OPENER.open(url, timeout=60) as answer:
            return answer.read()

    def is_ready(self):
        with contextlib.suppress(OSError, urllib.error.URLError):
            return bool(self.ask("-/ready"))

    def query(self, expression):
        """[{metric, value}]"""
        try:
            answer = json.loads(self.ask("api/v1/query", query=expression))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        return answer["data"]["result"]

    def alerts(self):
        """{name: "pending" or "firing"}"""
        rows = json.loads(self.ask("api/v1/alerts"))["data"]["alerts"]
        return {row["labels"]["alertname"]: row["state"] for row in rows}

    def unwell_rules(self):
        groups = json.loads(self.ask("api/v1/rules"))["data"]["groups"]
        return [rule for group in groups for rule in group["rules"] if rule["health"] != "ok"]

    def complaints(self):
        """What it says of series that it did not take as they were."""
        log = pathlib.Path(self.log).read_text()
        return [line for line in log.splitlines() if "level=warn" in line or "level=error" in line]

    def end(self):
        self.process.terminate()
        self.process.wait()


def start_prometheus(test, door_port, key=None, rules=()):
    """One that scrapes that door each second, until the test ends."""
    port, folder = free_port(), f"{test.dir}/prometheus"
    pathlib.Path(folder).mkdir()
    job = {
        "scheme": "http",
        "static_configs": [{"targets": [f"127.0.0.1:{door_port}"]}],
        **({"authorization": {"credentials": key}} if key else {}),
    }
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rule) for rule in rules],
        "scrape_configs": [
            {"job_name": "modelpool", **job},
            {"job_name": "models", "metrics_path": "/metrics/backends", **job},
        ],
    }
    pathlib.Path(f"{folder}/config.yaml").write_text(json.dumps(config))  # JSON is YAML, too
    with open(f"{folder}/log", "wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/config.yaml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
            stdout=log, stderr=log,
        )  # fmt: skip
    server = Prometheus(port, f"{folder}/log", process)
    test.addCleanup(server.end)
    if not eventually(server.is_ready):
        test.fail(pathlib.Path(server.log).read_text())
    return server
