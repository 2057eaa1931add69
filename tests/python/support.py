"""A pool of the test's own with the real coordinatord and real backends; all gone when it ends."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import modelpool

COORDINATORD = os.environ["MODELPOOL_COORDINATORD"]
POOLCTL = os.environ["MODELPOOL_POOLCTL"]
DEMO_BACKEND = os.environ["MODELPOOL_DEMO_BACKEND"]
# What backends write is kept there, and not in the home of whoever runs the tests.
STATE_HOME = tempfile.TemporaryDirectory(prefix=f"modelpool-test-{os.getpid()}-", dir="/dev/shm")
os.environ["XDG_STATE_HOME"] = STATE_HOME.name
# Before a command: a test that is killed leaves no such process.
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
# Of a wait whose end the test is sure of: the machine may be slow.
PATIENCE_S = 30


def eventually(condition):
    """Waits until condition() is true and returns it; what it is after PATIENCE_S otherwise."""
    until = time.monotonic() + PATIENCE_S
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.005)
    return found


def processes_with(text):
    """PIDs of the processes whose environment holds this text."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if text.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def answers(address):
    host, port = address.rsplit(":", 1)
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def load(ticket, *flags):
    """A load function: starts a demo backend and returns its address when it answers."""
    port = modelpool.free_port()
    argv = [DEMO_BACKEND, "--port", str(port), "--name", ticket.model, "--max-lifetime", "120s"]
    ticket.spawn([*argv, *flags])
    address = f"127.0.0.1:{port}"
    if not eventually(lambda: answers(address)):
        raise TimeoutError(f"{address} does not answer")
    return address


class PoolTest(unittest.TestCase):
    """A scratch directory, a coordinator with these flags, and self.pool."""

    flags = ["--max-backends", "3"]

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix=f"modelpool-test-{os.getpid()}-", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.addCleanup(self.end_backends)
        self.coordinator = None
        self.addCleanup(self.stop_coordinator)
        self.start_coordinator()
        self.pool = self.attach()
        self.addCleanup(self.pool.close)

    def start_coordinator(self, *flags):
        log = pathlib.Path(self.dir, "coordinatord.log")
        before = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self.coordinator = subprocess.Popen(
                [*DIES_WITH_US, COORDINATORD, "--dir", self.dir, *self.flags, *flags], stderr=output
            )
        serving = eventually(lambda: b"serving pool" in log.read_bytes()[before:])
        self.assertTrue(serving, log.read_text())

    def stop_coordinator(self):
        if self.coordinator is None:
            return
        self.coordinator.send_signal(signal.SIGTERM)
        try:
            self.coordinator.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.coordinator.kill()
            self.coordinator.wait()
        self.coordinator = None

    def end_backends(self):
        """Whoever carries the token of this test's pool."""
        status = self.poolctl("--wait", "0s", "status", check=False)
        if not status:
            return
        for pid in processes_with(f"MODELPOOL_BACKEND={status['uuid']}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def attach(self, **options):
        return modelpool.Pool(dir=self.dir, **options)

    def poolctl(self, *arguments, check=True):
        """What `poolctl -o json ARGUMENTS` prints."""
        done = subprocess.run(
            [POOLCTL, "--dir", self.dir, "-o", "json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=check,
        )
        return json.loads(done.stdout) if done.stdout else None

    def load_external(self, model, address="127.0.0.1:4321", **options):
        """Loads it without a process and returns the loader's lease."""
        return self.pool.acquire(model).ready(address, external=True, **options)

    def wait_for_waiters(self, count):
        self.assertTrue(
            eventually(lambda: len(self.pool.waiters()) == count), self.pool.waiters()
        )
