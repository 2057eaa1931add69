"""poolserve under test: started in a directory of its own; all that it started is gone at the end.

Workers and coordinator outlive the first process by design, so they are found by a mark in their
environment, by a watcher that also sees the test itself die.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import modelpool
from support import DIES_WITH_US, PATIENCE_S, POOLCTL, eventually, processes_with

POOLSERVE = os.environ["MODELPOOL_POOLSERVE"]
COORDINATORD = os.environ["MODELPOOL_COORDINATORD"]
WATCHER = """
cat >/dev/null
for process in /proc/[0-9]*; do
  grep -qs -- "$0" "$process/environ" && kill -KILL "${process#/proc/}"
done
"""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self._path)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def ask(address, path="/livez"):
    """The status of an answer from "127.0.0.1:80" or "unix:/path"."""
    if address.startswith("unix:"):
        connection = UnixConnection(address[5:])
    else:
        host, port = address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status


def status_of(pid):
    """A process's fields of /proc/PID/status; empty if it is gone."""
    with contextlib.suppress(OSError):
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {}


def lives(pid):
    return status_of(pid).get("State", "Z")[0] not in "ZX"


def title(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().strip(b"\0").decode()
    return ""


class Asking(threading.Thread):
    """A client that asks again and again, each time on a connection of its own."""

    def __init__(self, address):
        super().__init__()
        self.answers, self.failures = 0, []
        self._address, self._stop_event = address, threading.Event()
        self.start()

    def run(self):
        while not self._stop_event.is_set():
            try:
                ask(self._address)
                self.answers += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))

    def wait_for_more(self, count):
        wanted = self.answers + count
        if not eventually(lambda: self.answers >= wanted or self.failures):
            raise AssertionError(f"{self.answers} of {wanted} answers")

    def stop(self):
        self._stop_event.set()
        self.join()


class Door:
    """One poolserve."""

    def __init__(self, test, *arguments, command=(), program=POOLSERVE, **options):
        self._log = pathlib.Path(test.dir, "poolserve.log")
        before = self._log.stat().st_size if self._log.exists() else 0
        self._before = before
        environment = {**os.environ, "DOOR_TEST": test.mark, **options.pop("env", {})}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*DIES_WITH_US, *command, program, "--dir", test.dir, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, **options,
            )  # fmt: skip
        test.doors.append(self)

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        return self._log.read_bytes()[self._before :].decode()

    def wait_for_log(self, text, count=1):
        found = eventually(
            lambda: self.log().count(text) >= count or self.process.poll() is not None
        )
        if not found or self.log().count(text) < count:
            raise AssertionError(f"no {text!r} in: {self.log()}")
        return self

    def wait_until_serving(self, count=1):
        self.wait_for_log("serving pool default: ", count)
        line = re.findall(r"serving pool default: \d+ models on (.*), \d+ workers", self.log())[-1]
        self.addresses = line.split(" ")
        return self

    def workers(self):
        """PIDs of its children that serve."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit() and status_of(entry.name).get("PPid") == str(self.pid):
                if title(entry.name) == "poolserve: worker" and lives(entry.name):
                    found.append(int(entry.name))
        return sorted(found)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(PATIENCE_S)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class DoorTest(unittest.TestCase):
    """A scratch directory, and self.config with two workers at a free port of loopback."""

    def setUp(self):
        self.mark = f"door-{os.getpid()}-{time.monotonic_ns()}"
        self.doors = []
        self.dir = tempfile.mkdtemp(prefix=f"modelpool-test-{os.getpid()}-", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.watcher = subprocess.Popen(
            ["sh", "-c", WATCHER, f"DOOR_TEST={self.mark}"], stdin=subprocess.PIPE
        )
        self.addCleanup(self.end_everything)
        self.config = pathlib.Path(self.dir, "pool.toml")
        self.write_config()

    def end_everything(self):
        for door in self.doors:
            door.kill()
        self.watcher.stdin.close()
        self.watcher.wait()
        assert eventually(lambda: not any(lives(p) for p in processes_with(self.mark)))

    def write_config(
        self, listen=("127.0.0.1:0",), models=("tiny",), serve="", rest="", workers=2
    ):
        text = f"[serve]\nlisten = {json.dumps(list(listen))}\nworkers = {workers}\n{serve}\n"
        for name in models:
            text += f'[models."{name}"]\ncommand = "sleep 600 {{port}}"\n{rest}\n'
        self.config.write_text(text)

    def start(self, *arguments, **options):
        return self.launch(*arguments, **options).wait_until_serving()

    def launch(self, *arguments, **options):
        return Door(self, "--config", str(self.config), *arguments, **options)

    def all_workers(self):
        """Of any poolserve of this test, also those that have died."""
        found = [pid for pid in processes_with(self.mark) if title(pid) == "poolserve: worker"]
        return sorted(pid for pid in found if lives(pid))

    def start_with(self, *sockets, **options):
        """As systemd does, which has these open."""
        opened = " ".join(f"{3 + i}<&{one.fileno()}" for i, one in enumerate(sockets))
        line = f'exec {opened}; LISTEN_FDS={len(sockets)} LISTEN_PID=$$ exec "$@"'
        return self.start(
            command=["bash", "-c", line, "sh"],
            pass_fds=[one.fileno() for one in sockets],
            **options,
        )

    def command_of_coordinator(self):
        """What poolserve started it with."""
        commands = [title(pid).split("\0") for pid in processes_with(self.mark)]
        return next(command for command in commands if command[0] == "coordinatord")

    def busy(self, door):
        """A connection whose request is not answered; that its worker has it is certain."""
        host, port = door.addresses[0].rsplit(":", 1)
        talk = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self.addCleanup(talk.close)
        talk.sendall(
            b"POST /m/tiny/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        self.assertIn(b" 100 ", talk.recv(100))
        return talk

    def attach(self):
        pool = modelpool.Pool(dir=self.dir, create=False)
        self.addCleanup(pool.close)
        return pool

    def poolctl(self, *arguments):
        return subprocess.run(
            [POOLCTL, "--dir", self.dir, *arguments], capture_output=True, text=True
        )

    def coordinator(self):
        """Of the pool: {"alive", "pid"...}."""
        done = self.poolctl("-o", "json", "--wait", "0s", "status")
        return json.loads(done.stdout)["coordinator"] if done.stdout else {"alive": False}
