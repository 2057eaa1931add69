"""Servers under test, their clients, and an observer that counts backends from outside."""

import collections
import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import modelpool
from support import DIES_WITH_US, PATIENCE_S, PoolTest, eventually, processes_with

EXAMPLES = pathlib.Path(os.environ["MODELPOOL_EXAMPLES"])
PLACES = 2
CLIENTS = 8


class Observer:
    """The most backend processes that lived at once, counted in /proc by their token."""

    def __init__(self, uuid):
        self.most = 0
        self._token = f"MODELPOOL_BACKEND={uuid}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(0.05):
            self.most = max(self.most, len(processes_with(self._token)))

    def stop(self):
        self._stop.set()
        self._thread.join()


class Server:
    """A server program; found by its port, ended whole."""

    def __init__(self, argv, port, environment, log):
        self.port = port
        self._argv, self._environment, self._log = argv, environment, log
        self.start()

    def start(self):
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                [*DIES_WITH_US, *self._argv],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if not eventually(self.answers):
            self.kill()
            raise AssertionError(f"no answer: {pathlib.Path(self._log).read_text()[-4000:]}")

    def answers(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return get(self.port, "/v1/models").status == 200
        return False

    def members(self):
        """Of its session, but for the backends, which lead their own."""
        found = []
        for pid in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                if os.getsid(int(pid)) == self.process.pid:
                    found.append(int(pid))
        return found

    def workers(self):
        return [pid for pid in self.members() if pid != self.process.pid]

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        if not eventually(lambda: not self.members()):
            raise AssertionError(f"{self.members()} did not stop")

    def kill(self):
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


Reply = collections.namedtuple("Reply", "status headers body")


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()


def open_chat(port, model, tag=None, **options):
    """(connection, response) of a chat request; the caller reads and closes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * PATIENCE_S)
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **options}
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if tag:
        headers["X-Request-Id"] = tag
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        return connection, connection.getresponse()
    except BaseException as error:
        error.before_answer = True
        connection.close()
        raise


def chat(port, model, **options):
    connection, response = open_chat(port, model, **options)
    try:
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()


def is_whole(reply, options):
    if reply.status != 200:
        return False
    if options.get("stream"):
        return reply.body.endswith(b"data: [DONE]\n\n")
    return json.loads(reply.body)["choices"][0]["message"]["content"].endswith("word7 ")


class Load:
    """Clients that ask for models at random until stopped. What went wrong is kept."""

    def __init__(self, port, models, clients=CLIENTS):
        self.whole = 0
        self.refused = []  # (status, body)
        self.cut = []  # (began, ended, what)
        self._port, self._models = port, models
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, seed):
        chance = random.Random(seed)
        while not self._stop.is_set():
            options = {"stream": chance.random() < 0.5}
            began = time.monotonic()
            try:
                reply = chat(self._port, chance.choice(self._models), **options)
                with self._lock:
                    if is_whole(reply, options):
                        self.whole += 1
                    elif reply.status == 200:
                        self.cut.append((began, time.monotonic(), f"{reply.body[-80:]!r}"))
                    else:
                        self.refused.append((reply.status, reply.body))
            except (OSError, http.client.HTTPException) as error:
                with self._lock:
                    when = " before an answer" if hasattr(error, "before_answer") else ""
                    self.cut.append((began, time.monotonic(), repr(error) + when))

    def wait_for_more(self, count):
        """Until that many more answers were whole."""
        wanted = self.whole + count
        if not eventually(lambda: self.whole >= wanted):
            raise AssertionError(f"{self.whole} of {wanted} whole, {self.refused}, {self.cut}")

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()


class ServerTest(PoolTest):
    flags = [
        "--max-backends", str(PLACES), "--stop-grace", "2s", "--load-cooldown", "200ms..1s",
    ]  # fmt: skip
    models = ("one", "two", "three")

    def setUp(self):
        super().setUp()
        self.pool_toml = pathlib.Path(self.dir, "pool.toml")
        command = [sys.executable, str(EXAMPLES / "fake_model.py"), "--port", "{port}"]
        command += ["--load-time", "0.1", "--max-lifetime", "180"]
        self.pool_toml.write_text(
            "".join(f"[models.{m}]\ncommand = {json.dumps(command)}\n" for m in self.models)
        )
        self.observer = Observer(self.poolctl("status")["uuid"])
        self.addCleanup(self.observer.stop)

    def serve(self, argv, **environment):
        port = modelpool.free_port()
        variables = {"MODELPOOL_DIR": self.dir, "POOL_TOML": str(self.pool_toml), **environment}
        path = os.environ["PYTHONPATH"] + os.pathsep + str(EXAMPLES)
        server = Server(
            [argument.replace("{port}", str(port)) for argument in argv],
            port,
            {**os.environ, **variables, "PYTHONPATH": path},
            f"{self.dir}/server.log",
        )
        self.addCleanup(server.kill)
        return server

    def log(self):
        return pathlib.Path(self.dir, "server.log").read_text()[-6000:]

    def counts(self, kind):
        return collections.Counter(e["model"] for e in self.pool.events() if e["kind"] == kind)

    def backend_pids(self):
        return {b["model"]: b["pid"] for b in self.pool.backends() if b["state"] == "ready"}

    # --- What every server must show -------------------------------------------------------------

    def check_one_load_over_all_workers(self, server):
        """From cold, many clients at once on as many models as there are places."""
        load = Load(server.port, self.models[:PLACES])
        load.wait_for_more(4 * CLIENTS)
        load.stop()
        self.assertEqual((load.cut, load.refused), ([], []), self.log())
        self.assertTrue(eventually(lambda: len(self.counts("loaded")) == PLACES))
        self.assertEqual(self.counts("loaded"), {model: 1 for model in self.models[:PLACES]})

    def check_worker_killed(self, server, load, requests_of_a_worker, is_replaced=True):
        """Only its own requests are cut, and nothing it held stays."""
        load.wait_for_more(CLIENTS)
        attached = {row["pid"] for row in self.pool.workers()} & set(server.workers())
        victim = min(attached)
        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        self.assertTrue(
            eventually(lambda: victim not in {row["pid"] for row in self.pool.workers()})
        )
        self.assertNotIn(victim, {row["worker_pid"] for row in self.pool.leases()})
        load.wait_for_more(2 * CLIENTS)
        own = [cut for cut in load.cut if cut[0] <= killed <= cut[1] or abs(cut[0] - killed) < 0.5]
        self.assertEqual(load.cut, own, self.log())
        # Those it ran, and as many that it had accepted.
        self.assertLessEqual(len(own), 2 * requests_of_a_worker)
        if is_replaced:
            self.assertTrue(eventually(lambda: victim not in server.members()))
        load.cut.clear()

    def check_reload(self, server, load, number=signal.SIGHUP, resets_accepted=False):
        """Every worker is replaced under load; no request is cut. Where the server resets connections
        that a worker has accepted and not answered, those are not counted; a broken answer is.
        """
        before = set(server.workers())
        server.process.send_signal(number)
        self.assertTrue(
            eventually(lambda: server.workers() and not before & set(server.workers())), self.log()
        )
        load.wait_for_more(2 * CLIENTS)
        if resets_accepted:
            reset = re.compile(r"(ConnectionReset|BrokenPipe).* before an answer")
            load.cut[:] = [cut for cut in load.cut if not reset.match(cut[2])]
        self.assertEqual(load.cut, [], self.log())

    def check_client_that_leaves(self, server):
        """Its lease ends long before the stream would."""
        options = {"stream": True, "max_tokens": 2000, "fake": {"delay_s": 0.02}}
        connection, response = open_chat(server.port, self.models[0], tag="leaver", **options)
        response.read1(100)
        self.assertIn("leaver", [row["tag"] for row in self.pool.leases()])
        response.close()
        connection.close()
        self.assertTrue(
            eventually(lambda: "leaver" not in [row["tag"] for row in self.pool.leases()])
        )

    def check_hung_stream(self, server, rule="stall_timeout"):
        """It is killed for its silence, and the event names the request."""
        options = {"stream": True, "fake": {"hang_after": 2}}
        connection, response = open_chat(server.port, self.models[0], tag="hung-81", **options)
        self.assertIn(b"word0", response.readline())
        self.pool.set(**{rule: 0.5})
        try:
            rest = response.read()
        except http.client.IncompleteRead as error:
            rest = error.partial
        connection.close()
        self.pool.set(**{rule: None})
        self.assertNotIn(b"[DONE]", rest)
        killed = lambda: [e for e in self.pool.events() if e["tag"] == "hung-81"]
        self.assertTrue(eventually(killed), self.pool.events())
        event = killed()[0]
        self.assertEqual((event["kind"], event["reason"]), ("killed", rule.split("_")[0]))
        self.assertNotIn("hung-81", [row["tag"] for row in self.pool.leases()])

    def check_restart(self, server):
        """Backends survive the whole server and are found again."""
        for model in self.models[:PLACES]:
            self.assertEqual(chat(server.port, model).status, 200)
        before, loaded = self.backend_pids(), self.counts("loaded")
        self.assertEqual(len(before), PLACES)
        server.stop()
        self.assertTrue(eventually(lambda: not self.pool.leases()))
        for pid in before.values():
            os.kill(pid, 0)
        server.start()
        for model, pid in before.items():
            self.assertEqual(json.loads(chat(server.port, model).body)["pid"], pid)
        self.assertEqual((self.backend_pids(), self.counts("loaded")), (before, loaded))

    def check_errors(self, server):
        """Each kind of refusal has its status."""
        self.assertEqual(chat(server.port, "nobody").status, 404)
        self.assertEqual(get(server.port, "/elsewhere").status, 404)
        names = [one["id"] for one in json.loads(get(server.port, "/v1/models").body)["data"]]
        self.assertEqual(names, list(self.models))

    def check_limit_and_end(self, server, load):
        self.assertLessEqual(self.observer.most, PLACES)
        self.assertGreater(self.observer.most, 0)
        statuses = collections.Counter(status for status, _ in load.refused)
        self.assertEqual(statuses, {}, (load.refused[:3], self.log()))
        server.stop()
        self.assertTrue(eventually(lambda: not self.pool.leases() and not self.pool.waiters()))
        self.assertEqual(len([row for row in self.pool.workers() if row["alive"]]), 1)
