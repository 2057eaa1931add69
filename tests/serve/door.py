"""A poolserve of the test's own, its pool and its odd backends; all gone when the test ends."""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

POOLSERVE = os.environ["MODELPOOL_POOLSERVE"]
POOLCTL = os.environ["MODELPOOL_POOLCTL"]
HERE = pathlib.Path(__file__).parent
# Of a wait whose end the test is sure of: the machine may be slow.
PATIENCE_S = 60


def eventually(condition):
    """Waits until condition() is true and returns it; what it is after PATIENCE_S otherwise."""
    until = time.monotonic() + PATIENCE_S
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def workers_of(pid, anyone=False):
    """The workers that a master started; or all of its children."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            is_worker = b"poolserve: worker" in (entry / "cmdline").read_bytes()
            if int(stat[1]) == pid and (is_worker or anyone):
                found.append(int(entry.name))
    return found


def descriptors(pids):
    """How many files these processes have open, together."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


class Reply:
    def __init__(self, status, fields, body):
        self.status, self.fields, self.body = status, fields, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def message(self):
        return self.json["error"]["message"]


class DoorTest(unittest.TestCase):
    """self.start(...) writes a config and starts a door; then self.get, self.post, self.ctl."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix=f"modelpool-door-{os.getpid()}-", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.log = f"{self.dir}/backends.log"
        self.port = free_port()
        self.config = f"{self.dir}/pool.toml"
        self.masters = []
        self.addCleanup(self.end_all)

    def model(self, name, flags="", more=""):
        command = f"{sys.executable} {HERE}/odd_backend.py {{port}} {name} {self.log} {flags}"
        return f'[models."{name}"]\ncommand = "{command}"\n{more}\n'

    def write_config(self, models=None, pool="max_backends = 2", serve="", more=""):
        models = models if models is not None else self.model("a") + self.model("b")
        pathlib.Path(self.config).write_text(
            f'[pool]\n{pool}\n[serve]\nlisten = ["127.0.0.1:{self.port}"]\nworkers = 2\n'
            f"{serve}\n{models}\n{more}\n"
        )

    def start(self, *, flags=(), wait=True, env=None, keep_config=False, **config):
        if not keep_config:
            self.write_config(**config)
        log = open(f"{self.dir}/poolserve.log", "ab")
        master = subprocess.Popen(
            [POOLSERVE, "--config", self.config, "--dir", self.dir, *flags],
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=os.environ | {"XDG_STATE_HOME": f"{self.dir}/state"} | (env or {}),
        )
        log.close()
        self.masters.append(master)
        if wait and not eventually(self.answers):
            self.fail(f"no answer: {self.said()}")
        return master

    def said(self):
        return pathlib.Path(f"{self.dir}/poolserve.log").read_text(errors="replace")[-6000:]

    def answers(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/livez").status == 200

    def end_all(self):
        # Stopped: else one that it is just forking, which has no title yet, would stay.
        for master in self.masters:
            if master.poll() is None:
                master.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, master.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        everyone = [pid for master in self.masters for pid in workers_of(master.pid, anyone=True)]
        for master in self.masters:
            master.kill()
            master.wait()
        # The pool's other processes, and workers of masters that were killed: all that have its
        # directory in their command line or environment.
        subprocess.run([POOLCTL, "--dir", self.dir, "remove", "--stop"], capture_output=True)
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if self.dir.encode() in told and int(entry.name) != os.getpid():
                    everyone.append(int(entry.name))
        for pid in everyone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def workers(self):
        return workers_of(self.masters[-1].pid) if self.masters else []

    # --- Asking ---

    def request(self, method, path, body=None, fields=None, timeout=PATIENCE_S):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, fields or {})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body, **options):
        text = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.request("POST", path, text, **options)

    def socket(self):
        talk = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        self.addCleanup(talk.close)
        return talk

    def ctl(self, *argv):
        done = subprocess.run(
            [POOLCTL, "--dir", self.dir, "-o", "json", *argv], capture_output=True, text=True
        )
        return json.loads(done.stdout) if done.stdout.strip() else None

    def seen(self):
        """What the backends were asked, as they noted it."""
        with contextlib.suppress(OSError):
            return pathlib.Path(self.log).read_text().splitlines()
        return []

    def leases(self):
        return self.ctl("leases") or []

    def events(self):
        argv = [POOLCTL, "--dir", self.dir, "-o", "json", "events"]
        done = subprocess.run(argv, capture_output=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def backends(self):
        return {row["model"]: row for row in self.ctl("list") or []}


def read_answer(talk):
    """(head, body) of one answer, and no byte of the next; without a length all until the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = talk.recv(1)
        if not byte:
            return head, b""
        head += byte
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    count = int(length[0].split(b":")[1]) if length else None
    body = b""
    while count is None or len(body) < count:
        some = talk.recv(65536 if count is None else count - len(body))
        if not some:
            break
        body += some
    return head, body


def read_all(talk):
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while some := talk.recv(65536):
            data += some
    return data
