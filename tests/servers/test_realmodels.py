"""A server with real models: llama.cpp from npm's node-llama-cpp, loading real GGUF files."""

import collections
import concurrent.futures
import contextlib
import fcntl
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest

from realmodel.tiny_gguf import write_tiny_gguf
from serving import PLACES, ServerTest, chat, open_chat
from support import eventually, processes_with
from test_servers import GUNICORN, UVICORN

# Holds node_modules and a copy of llama_backend.mjs, which finds them beside itself.
NODE_DIR = pathlib.Path(os.environ["MODELPOOL_NODE_DIR"])
POOLSERVE = os.environ["MODELPOOL_POOLSERVE"]
PACKAGES = ["node-llama-cpp@3.22.1", "@node-llama-cpp/linux-x64@3.22.1"]
INSTALL_TIMEOUT_S = 180
SKIPPED = 77
LAYERS = {"small-1": 2, "small-2": 2, "large-1": 100, "large-2": 100}
CLIENTS = 6


def why_not():
    """Why it cannot run here, or None; installs what is needed, once."""
    if not shutil.which("node") or not shutil.which("npm"):
        return "node and npm are not installed"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
    if int(re.match(r"v(\d+)", version)[1]) < 20:
        return f"node is {version.strip()}, node-llama-cpp needs 20"
    with open(NODE_DIR / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _install()


def _install():
    installed = NODE_DIR / "installed"
    if installed.exists() and installed.read_text() == str(PACKAGES):
        return None
    command = ["npm", "install", "--prefix", str(NODE_DIR), "--omit=optional", "--no-audit"]
    command += ["--no-fund", "--fetch-retries=1", "--fetch-timeout=30000", *PACKAGES]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"npm had no answer within {INSTALL_TIMEOUT_S} s"
    if done.returncode != 0:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        return f"npm install failed: {'; '.join(reasons[:3])}"
    installed.write_text(str(PACKAGES))
    return None


Seen = collections.namedtuple("Seen", "pids files resident_bytes")


class Watch:
    """What the kernel says, over and over: which of these files which backend has mapped.

    Knows nothing of the pool but its uuid. A backend is its token, however many processes it has.
    """

    def __init__(self, uuid, directory):
        self.most = 0  # backends at once
        self.most_files = 0
        self.most_resident_bytes = 0  # all backends together
        self._token = re.compile(rb"MODELPOOL_BACKEND=(%s/\d+/\d+)" % uuid.encode())
        self._uuid, self._directory = uuid, directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(0.2):
            seen = self.look()
            self.most = max(self.most, len(seen))
            files = set().union(*(one.files for one in seen.values()))
            self.most_files = max(self.most_files, len(files))
            resident = sum(one.resident_bytes for one in seen.values())
            self.most_resident_bytes = max(self.most_resident_bytes, resident)

    def look(self):
        """{token: Seen} of the backends that live now."""
        found = {}
        for pid in processes_with(f"MODELPOOL_BACKEND={self._uuid}"):
            with contextlib.suppress(OSError):
                process = pathlib.Path("/proc", str(pid))
                token = self._token.search((process / "environ").read_bytes())
                status = (process / "status").read_text()
                maps = (process / "maps").read_text()
                if not token:
                    continue
                one = found.setdefault(token[1], Seen([], set(), 0))
                resident = re.search(r"VmRSS:\s+(\d+) kB", status)
                found[token[1]] = Seen(
                    [*one.pids, pid],
                    one.files | set(re.findall(rf"{self._directory}/(\S+)\.gguf", maps)),
                    one.resident_bytes + (int(resident[1]) * 1024 if resident else 0),
                )
        return found

    def resident_bytes_of(self, pid):
        return next(one.resident_bytes for one in self.look().values() if pid in one.pids)

    def stop(self):
        self._stop.set()
        self._thread.join()


class RealModels(ServerTest):
    models = tuple(LAYERS)

    def setUp(self):
        super().setUp()
        self.observer.stop()  # node starts helpers: counting processes is not counting backends
        self.sizes, tables = {}, []
        for model, layers in LAYERS.items():
            file = f"{self.dir}/{model}.gguf"
            self.sizes[model] = write_tiny_gguf(file, model, layers)
            command = ["node", str(NODE_DIR / "llama_backend.mjs"), file, "{port}"]
            tables.append(
                f'[models."{model}"]\ncommand = {json.dumps(command)}\n'
                f'log = "{self.dir}/{model}.log"\n'
            )
        self.pool_toml.write_text("".join(tables))
        self.watch = Watch(self.poolctl("status")["uuid"], self.dir)
        self.addCleanup(self.watch.stop)

    def test_gthread(self):
        server = self.serve([*GUNICORN, "--threads", "4"])
        self.check_one_load_of_each(server)
        self.check_memory()
        self.check_least_recently_used_leaves(server)
        self.check_swapping_under_load(server)
        self.check_progress_of_a_stream(server)
        self.check_wedged_model(server)
        self.check_end(server)

    def test_uvicorn(self):
        server = self.serve(UVICORN)
        self.check_one_load_of_each(server)
        self.check_memory()
        self.check_swapping_under_load(server)
        self.check_progress_of_a_stream(server)
        self.check_end(server)

    def test_poolserve(self):
        """Two models, one place, one URL; a worker is killed in the middle of a stream."""
        self.pool.set(max_backends=1)
        config = ["--config", str(self.pool_toml), "--workers", "2"]
        began = time.monotonic()
        server = self.serve([POOLSERVE, *config, "--listen", "127.0.0.1:{port}"])
        connection, response = open_chat(server.port, "small-1", stream=True)
        line = response.readline()
        while line.startswith(b":"):  # it is being loaded
            line = response.readline()
        self.assertIn(b"delta", line)
        print(f"start to first token: {time.monotonic() - began:.1f} s", file=sys.stderr)
        response.read()
        connection.close()
        self.ask(server, "large-1")
        self.assertEqual(set(self.backend_pids()), {"large-1"})
        self.check_progress_of_a_stream(server)
        self.check_killed_worker_of_the_door(server)
        self.assertEqual(self.counts("loaded"), {"small-1": 1, "large-1": 1})
        self.assertEqual((self.watch.most, self.watch.most_files), (1, 1))
        before = self.backend_pids()
        server.stop()
        self.assertEqual(self.backend_pids(), before)

    def check_killed_worker_of_the_door(self, server):
        """Its stream is cut; the model stays, and answers the next request."""
        connection, response = open_chat(
            server.port, "large-1", tag="cut", stream=True, max_tokens=450
        )
        response.readline()
        (lease,) = [row for row in self.pool.leases() if row["tag"] == "cut"]
        os.kill(lease["worker_pid"], signal.SIGKILL)
        rest = b""
        with contextlib.suppress(OSError, http.client.HTTPException):
            rest = response.read()
        connection.close()
        self.assertNotIn(b"[DONE]", rest)
        self.ask(server, "large-1")

    def check_one_load_of_each(self, server):
        """From cold, every worker is asked at once; each model is loaded once."""
        self.ask_all(server, self.models[1:3] * CLIENTS)
        self.assertEqual(self.counts("loaded"), {model: 1 for model in self.models[1:3]})

    def check_memory(self):
        """What is resident is what was loaded."""
        listed = {row["model"]: row for row in self.pool.backends()}
        self.assertEqual(set(listed), set(self.models[1:3]))
        resident = {}
        for model, row in listed.items():
            resident[model] = self.watch.resident_bytes_of(row["pid"])
            self.assertGreater(resident[model], self.sizes[model])
        small, large = self.models[1:3]
        self.assertGreater(resident[large] - resident[small], self.sizes[large] - self.sizes[small])
        self.two_resident = 2 * resident[large]

    def check_least_recently_used_leaves(self, server):
        """One after the other, so that it is known whose turn it is."""
        for model in ("small-2", "large-1", "small-1", "large-2", "large-1"):
            self.ask(server, model)
        evicted = [e for e in self.pool.events() if e["kind"] == "evicted"]
        self.assertEqual(
            [(e["model"], e["reason"]) for e in evicted],
            [("small-2", "lru"), ("large-1", "lru"), ("small-1", "lru")],
        )
        self.assertEqual(set(self.backend_pids()), {"large-2", "large-1"})

    def check_swapping_under_load(self, server):
        chance = random.Random(5)
        before = sum(self.counts("loaded").values())
        self.ask_all(server, [chance.choice(self.models) for _ in range(3 * CLIENTS)])
        self.assertGreater(sum(self.counts("loaded").values()), before)
        self.assertEqual(self.counts("killed"), {})
        self.assertEqual(self.counts("load_failed"), {})
        print(f"loads: {dict(self.counts('loaded'))}", file=sys.stderr)

    def check_progress_of_a_stream(self, server):
        """Its lease grows old while its progress stays young, as long as its client reads."""
        options = {"stream": True, "max_tokens": 150}
        connection, response = open_chat(server.port, "large-1", tag="long", **options)
        lines = [response.readline()]

        def has_progressed():
            lines.append(response.readline())
            row = [lease for lease in self.pool.leases() if lease["tag"] == "long"]
            return row and row[0]["age_ms"] - row[0]["progress_ms"] > 100

        self.assertTrue(eventually(has_progressed), self.pool.leases())
        rest = b"".join(lines) + response.read()
        connection.close()
        self.assertEqual(rest.count(b"delta"), 150)
        self.assertTrue(rest.endswith(b"data: [DONE]\n\n"))

    def check_wedged_model(self, server):
        """A backend that stands still loses its request, by name, and its memory."""
        options = {"stream": True, "max_tokens": 450}
        connection, response = open_chat(server.port, "large-2", tag="wedged-7", **options)
        response.readline()
        pid = self.backend_pids()["large-2"]
        os.kill(pid, signal.SIGSTOP)
        self.pool.set(stall_timeout=0.5)
        rest = b""
        with contextlib.suppress(OSError, http.client.HTTPException):  # however it is cut
            rest = response.read()
        connection.close()
        self.assertNotIn(b"[DONE]", rest)
        self.pool.set(stall_timeout=None)
        killed = lambda: [e for e in self.pool.events() if e["kind"] == "killed"]
        self.assertTrue(eventually(killed), self.pool.events())
        event = killed()[0]
        self.assertEqual(
            (event["model"], event["reason"], event["tag"], event["pid"]),
            ("large-2", "stall", "wedged-7", pid),
        )
        self.assertFalse(any(pid in one.pids for one in self.watch.look().values()))
        self.ask(server, "large-2")

    def check_end(self, server):
        self.assertEqual((self.watch.most, self.watch.most_files), (PLACES, PLACES))
        # Twice the largest, and room for what a busier moment needs.
        self.assertLess(self.watch.most_resident_bytes, 1.5 * self.two_resident)
        before = self.backend_pids()
        server.stop()
        self.assertTrue(eventually(lambda: not self.pool.leases() and not self.pool.waiters()))
        self.assertEqual(self.backend_pids(), before)
        print(f"most resident: {self.watch.most_resident_bytes >> 20} MiB", file=sys.stderr)

    def ask_all(self, server, models):
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
            for answered in [clients.submit(self.ask, server, model) for model in models]:
                answered.result()

    def ask(self, server, model):
        """A stream, whole, from the model that was asked for: its name is read from its file."""
        reply = chat(server.port, model, stream=True, max_tokens=16)
        self.assertEqual(reply.status, 200, (reply.body, self.said_by(model), self.log()))
        said = re.sub(r"^:.*\n", "", reply.body.decode(), flags=re.MULTILINE)  # signs of life
        events = said.split("\n\n")
        self.assertEqual(events[-2:], ["data: [DONE]", ""])
        answered = [json.loads(event.removeprefix("data: "))["model"] for event in events[:-2]]
        self.assertEqual(answered, [model] * 16)

    def said_by(self, model):
        return pathlib.Path(self.dir, f"{model}.log").read_text()[-2000:]


if __name__ == "__main__":
    if reason := why_not():
        print(f"skipped: {reason}")
        sys.exit(SKIPPED)
    unittest.main()
