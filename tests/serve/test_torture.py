"""Tenants of both kinds beside models in one small pool, and everything killed at random.

`poolctl run` and leases by connection, ordinary requests, orders and nonsense, while workers,
master, coordinator, backends, tenants, their children and poolctl are killed, and the door is
reloaded and upgraded. What lives is counted from outside: never more than the pool may hold. At the
end nothing is left. MODELPOOL_TEST_TORTURE_S lengthens it; MODELPOOL_TEST_SEED repeats its choices.
"""

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
import unittest

from door import HERE, POOLCTL, DoorTest, descriptors, eventually
from test_leases import NOBODY, Held

PLACES, LIMIT_MIB, MODEL_MIB = 4, 100, 30
SECONDS = float(os.environ.get("MODELPOOL_TEST_TORTURE_S", "8"))
SEED = int(os.environ.get("MODELPOOL_TEST_SEED", random.randrange(1 << 30)))
KEY = "key-that-is-in-no-log"
HANG_S = 60  # nothing here takes as long
IDLE_AFTER_S = 60  # a run as long does everything at least once
# What may be answered while everything is killed: no place, no backend, a name not free yet.
GOOD = {200, 409, 429, 502, 503, 504}
# A command with a child, and one in a session of its own; and one that has dropped its environment.
STAYS, LEAVES = "while :; do sleep 0.1; done", "sleep 0.3"
FAMILY = f"sh -c '{STAYS}' UNIT &\nsetsid sh -c '{STAYS}' UNIT &\n"
BARE = f"env -i sh -c '{STAYS}' UNIT &\n"
ANOTHER_USER = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
ANOTHER_NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child"]
NONSENSE = (
    b"", b"{", b'{"model": "a", "name": "a"}', b'{"name": "x", "memory": 99999999999999999999}',
    b'{"name": "x", "timeout": "999999999999999h"}', b'{"name": "x\\u0007", "memory": 1}',
    b'{"name": "a", "id": "x"}', b'{"name": "x", "memory": "100TiB"}', b"[" * 60000,
)  # fmt: skip


class Process:
    """One that is seen in /proc, and no other of its number."""

    def __init__(self, pid):
        folder = pathlib.Path(f"/proc/{pid}")
        fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        self.pid, self.state, self.start = pid, fields[0], fields[19]
        self.line = (folder / "cmdline").read_bytes().decode(errors="replace")

    def __eq__(self, other):
        return (self.pid, self.start) == (other.pid, other.start)

    def __hash__(self):
        return hash((self.pid, self.start))


def living():
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            process = Process(int(name))
            if process.state not in "ZX" and process.line:
                yield process


class Torture(DoorTest):
    def setUp(self):
        super().setUp()
        print(f"MODELPOOL_TEST_SEED={SEED} MODELPOOL_TEST_TORTURE_S={SECONDS:g}", file=sys.stderr)
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.counts = collections.Counter()
        self.faults = []
        self.held = {}  # tag: (MiB, process of the worker)
        keys = pathlib.Path(self.dir, "keys")
        keys.write_text(f"{KEY} steer one\n")
        keys.chmod(0o600)
        self.workers_wanted = 2

    def configure(self):
        """At once: a master may be reading it."""
        name, self.config = self.config, f"{self.config}.new"
        models = "".join(self.model(name, f"--memory {MODEL_MIB}") for name in "abc")
        self.write_config(
            models=models + f'[[model]]\nmatch = "[abc]"\nmemory = "{MODEL_MIB + 10}MiB"',
            pool=f'max_backends = {PLACES}\nmax_memory = "{LIMIT_MIB}MiB"\nstop_grace = "300ms"\n'
                 'max_wait = "100ms"\nload_cooldown = "off"',
            serve=f'keys = "{self.dir}/keys"\naccess_log = "{self.dir}/access.log"\n'
                  'queue_timeout = "3s"',
            more=f'[[serve.listener]]\naddress = "unix:{self.dir}/s"',
        )  # fmt: skip
        new = pathlib.Path(self.config)
        new.write_text(new.read_text().replace("workers = 2", f"workers = {self.workers_wanted}"))
        new.rename(name)
        self.config = name

    # --- What is seen from outside ---

    def units(self):
        """{unit: MiB} of tenants by poolctl, with all they started, and of backends."""
        found = {}
        for process in living():
            unit = re.search(rf"{self.dir}/unit-(\w+)-(\d+)-\0$", process.line)
            if unit and "\0run\0" not in process.line:
                found[unit[1]] = int(unit[2])
            backend = re.search(rf"odd_backend\.py\0[^\0]+\0(\w)\0{self.log}", process.line)
            if backend:
                found[f"{backend[1]} {process.pid}.{process.start}"] = MODEL_MIB
        return found

    def leased(self):
        """{tag: MiB} of the leases by connection whose worker lives: nothing else ends them."""
        with self.lock:
            held = dict(self.held)
        alive = set(living())
        return {tag: mib for tag, (mib, worker) in held.items() if worker in alive}

    def observe(self):
        """What is seen in both looks lived, and was held, all the time between them."""
        while not self.over.is_set() and not self.faults:
            one, other = self.leased() | self.units(), self.units() | self.leased()
            both = {unit: one[unit] for unit in one.keys() & other.keys()}
            total = sum(both.values())
            with self.lock:
                self.counts["looks"] += 1
                self.counts["most units"] = max(self.counts["most units"], len(both))
                self.counts["most MiB"] = max(self.counts["most MiB"], total)
            if len(both) > PLACES or total > LIMIT_MIB:
                self.fault(f"above the limit: {both}; {json.dumps(self.ctl('list'))}")

    def fault(self, text):
        with self.lock:
            self.faults.append(text)

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    # --- Who uses the pool ---

    def run_tenants(self, dice, name):
        unit = f"{self.dir}/unit-{name}x{dice.randrange(1 << 30)}-{(mib := dice.choice((15, 30, 45)))}-"
        how = dice.choice(([], ANOTHER_USER, ANOTHER_NAMESPACE))
        # Of another user nothing proves whose one is that is left without its environment.
        family = FAMILY + BARE if how != ANOTHER_USER else FAMILY
        script = family.replace("UNIT", unit) + dice.choice((STAYS, STAYS, LEAVES))
        options = ["--memory", f"{mib}MiB", "--timeout", "2s"]
        options += ["--evictable"] if dice.random() < 0.5 else []
        with open(f"{self.dir}/{name}.log", "wb") as log:
            process = subprocess.Popen(
                [POOLCTL, "--dir", self.dir, "run", name, *options, "--",
                 *how, "bash", "-c", script, unit],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
            )  # fmt: skip
        until = time.monotonic() + dice.uniform(0.3, 1.5)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        whom = dice.choice(("poolctl", "command", "child", "nobody"))
        own = [one for one in living() if one.line.endswith(f"{unit}\0") and one.pid != process.pid]
        first = [one for one in own if one.line.endswith(f"\0{unit}\0") and script in one.line]
        victims = {"poolctl": [process], "command": first, "nobody": [],
                   "child": [one for one in own if one not in first]}[whom]  # fmt: skip
        if process.poll() is None and victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(victims).pid, signal.SIGKILL)
            self.count(f"killed {whom}")
        if whom in ("child", "nobody") or not victims:  # unshare does not end by SIGTERM
            process.send_signal(signal.SIGKILL if how == ANOTHER_NAMESPACE else signal.SIGTERM)
        try:
            code = process.wait(HANG_S)
            said = pathlib.Path(self.dir, f"{name}.log").read_text() if code == 125 else ""
            self.count(f"tenant's end {code} {said}")
        except subprocess.TimeoutExpired:
            self.fault(f"poolctl run {name} hangs: {json.dumps(self.ctl('list'))}")
            process.kill()
            process.wait()

    def connect(self, dice):
        if dice.random() < 0.5:
            return socket.create_connection(("127.0.0.1", self.port), HANG_S)
        talk = socket.socket(socket.AF_UNIX)
        talk.settimeout(HANG_S)
        talk.connect(f"{self.dir}/s")
        return talk

    def lease(self, dice, name):
        """Each ends in one of the ways to end, or after its client came back by its id."""
        mib, number = dice.choice((15, 30, 45)), dice.randrange(1 << 30)
        body = {"name": name, "memory": f"{mib}MiB"}
        if dice.random() < 0.3:
            mib, body = 0, {"model": dice.choice("abc")}  # its backend is counted
        body |= {"timeout": "2s", "tag": f"{name}x{number}"[:10]}
        if dice.random() < 0.5:
            body["id"] = f"i{number}"
        for _ in range(dice.choice((1, 1, 3))):
            with contextlib.closing(self.connect(dice)) as talk:
                held = Held(talk, body, key=KEY)
                if dice.random() < 0.8:
                    held.wait()
                    self.count(f"lease {held.status}")
                    if held.status == 200:
                        self.hold_for(dice.uniform(0, 1), held, held.first["lease"], mib)
                    elif held.status not in GOOD:
                        self.fault(f"{body} is refused: {held.error}")
                dice.choice((Held.close, Held.reset))(held)

    def hold_for(self, seconds, held, tag, mib):
        worker = None
        with contextlib.suppress(IndexError, OSError):
            row = [row for row in self.leases() if row["tag"] == tag][0]
            worker = Process(row["worker_pid"])
        if worker and mib:
            with self.lock:
                self.held[tag] = (mib, worker)
        held.talk.settimeout(seconds + 0.01)
        try:
            end = held.last_line()["error"]
            self.count(f"lease's end {end['code']}")
        except (TimeoutError, AssertionError, OSError):
            self.count("lease's end by client or worker")
        finally:
            held.talk.settimeout(HANG_S)
            with self.lock:
                self.held.pop(tag, None)

    def request(self, method, path, body=None, fields=None, **options):
        fields = {"Authorization": f"Bearer {KEY}"} | (fields or {})
        return super().request(method, path, body, fields, **options)

    def use_models(self, dice, _):
        target = dice.choice(("x", "x", "stream?9,0.05", "big?900000", "wait?0.3", "die?body"))
        reply = self.request("POST", f"/m/{dice.choice('abc')}/{target}", "")
        self.count(f"request {reply.status}")
        if reply.status not in GOOD:
            self.fault(f"{target} is refused: {reply.status} {reply.body}")

    def steer(self, dice, _):
        order, json_type = dice.randrange(7), {"Content-Type": "application/json"}
        model = dice.choice("abc")
        if order == 0:
            body = json.dumps({"model": model, "timeout": dice.choice(("0", "1s"))})
            reply = self.request("POST", "/api/pool/evict", body, json_type)
        elif order == 1:
            reply = self.request("POST", "/api/pool/load", json.dumps({"model": model}), json_type)
        elif order == 2:
            reply = self.get("/api/pool/events?follow=1&since=1&count=9")
        elif order == 3:
            what = dice.choice(("list", "leases", "waiters", "workers", "status", f"explain/{model}"))
            reply = self.get(f"/api/pool/{what}")
        elif order == 4:
            reply = self.get("/metrics")
        else:
            reply = self.request("POST", "/api/pool/leases", dice.choice(NONSENSE), json_type)
            self.count(f"nonsense {reply.status}")
            if reply.status not in (400, 409, 413, 503, 504):
                self.fault(f"nonsense is answered with {reply.status}: {reply.body}")
            return
        self.count(f"order {reply.status}")
        if reply.status not in GOOD | {404}:
            self.fault(f"order {order} is refused: {reply.status} {reply.body}")

    def repeat(self, what, name, seed):
        dice = random.Random(seed)
        while not self.over.is_set():
            try:
                what(dice, name)
            except TimeoutError:
                self.fault(f"{name}: no answer for {HANG_S} s")
            except (OSError, AssertionError, http.client.HTTPException):
                self.count("cut")  # by a kill
            time.sleep(dice.uniform(0, 0.1))

    # --- What is done to them ---

    def processes(self, name):
        """Of the door's, also where their master has died."""
        found = []
        for process in living():
            with contextlib.suppress(OSError):
                if name in process.line and "poolctl" not in process.line:
                    if self.dir.encode() in pathlib.Path(f"/proc/{process.pid}/environ").read_bytes():
                        found.append(process)
        return found

    def do_harm(self, dice):
        what = dice.choice(("worker", "worker", "worker", "coordinatord", "odd_backend.py", "master",
                            "reload", "upgrade", "stop"))  # fmt: skip
        self.count(f"harm {what}")
        if what == "reload":
            self.workers_wanted = dice.choice((2, 3))
            self.configure()
            return self.tell_master(signal.SIGHUP)
        if what == "upgrade":
            return self.tell_master(signal.SIGUSR2)
        if what == "master":
            self.masters[-1].kill()
            self.masters[-1].wait()
            return None
        there = self.processes("poolserve: worker" if what in ("worker", "stop") else what)
        if not there:
            return None
        victim = dice.choice(sorted(there, key=lambda one: one.pid))
        with contextlib.suppress(ProcessLookupError):
            if what == "stop":
                os.kill(victim.pid, signal.SIGSTOP)
                time.sleep(dice.uniform(0.05, 0.5))
            os.kill(victim.pid, signal.SIGCONT if what == "stop" else signal.SIGKILL)
        return None

    def tell_master(self, number):
        """Not before it listens for it: as any program it would end."""
        status = pathlib.Path(f"/proc/{self.masters[-1].pid}/status").read_text()
        listens = re.findall(r"Sig(?:Blk|Cgt):\s+(\w+)", status)
        if any(int(mask, 16) >> (number - 1) & 1 for mask in listens):
            self.masters[-1].send_signal(number)

    def look_after_master(self):
        if self.masters[-1].poll() is not None:
            if self.masters[-1].returncode != -signal.SIGKILL:
                self.fault(f"the master ended by itself: {self.said()}")
            self.start(keep_config=True, wait=False)

    # --- The whole ---

    def left(self):
        """What there should not be when nobody does anything any more."""
        found = [f"{what}: {rows}" for what in ("leases", "waiters") if (rows := self.ctl(what))]
        found += [f"a place: {row}" for row in self.ctl("list") if row["external"] or row["tenant"]]
        known = {row["pid"] for row in self.ctl("list")}
        found += [f"a process: {unit}" for unit in self.units()
                  if " " not in unit or int(unit.split()[1].split(".")[0]) not in known]  # fmt: skip
        workers = {one.pid for one in self.processes("poolserve: worker")}
        rows = {row["pid"] for row in self.ctl("workers")}
        if rows != workers | {self.masters[-1].pid} or len(workers) != self.workers_wanted:
            found.append(f"rows {rows} of {workers} and master {self.masters[-1].pid}")
        done = subprocess.run([POOLCTL, "--dir", self.dir, "check", "--settled"], capture_output=True)
        return found + ([done.stdout.decode()] if done.returncode else [])

    def test_never_above_the_limit_and_nothing_left(self):
        self.configure()
        self.start(keep_config=True)
        fresh = descriptors(self.workers()) / len(self.workers())
        work = [(self.run_tenants, f"t{i}") for i in range(3)]
        work += [(self.lease, f"l{i}") for i in range(3)]
        work += [(self.use_models, f"r{i}") for i in range(2)] + [(self.steer, "s")]
        threads = [threading.Thread(target=self.observe)]
        threads += [threading.Thread(target=self.repeat, args=[what, name, f"{SEED} {name}"])
                    for what, name in work]  # fmt: skip
        for thread in threads:
            thread.start()
        dice = random.Random(SEED)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and not self.faults:
            self.do_harm(dice)
            time.sleep(dice.expovariate(3))
            self.look_after_master()
        self.over.set()
        for thread in threads:
            thread.join()
        for name, count in sorted(self.counts.items()):
            print(f"{name:40} {count}", file=sys.stderr)
        self.assertEqual(self.faults, [])
        self.check_that_it_happened()
        # Once: an upgrade that had to wait for the one before may begin at any time.
        self.assertTrue(eventually(lambda: self.look_after_master() or not self.left()), self.left())
        for model in "abc":
            self.ctl("evict", model)
        self.assertEqual(self.units(), {})
        self.assertEqual(self.ctl("list"), [])
        open_now = [descriptors([pid]) for pid in self.workers()]
        self.assertTrue(eventually(lambda: all(
            descriptors([pid]) <= fresh + 8 for pid in self.workers())), (fresh, open_now))
        for log in ("poolserve.log", "access.log"):
            self.assertNotIn(KEY, pathlib.Path(self.dir, log).read_text(errors="replace"))

    def check_that_it_happened(self):
        """A run in which a kind of thing never happened proves nothing about it."""
        self.assertGreater(self.counts["most MiB"], LIMIT_MIB // 2)
        wanted = ["lease 200", "request 200", "killed poolctl"]
        if SECONDS >= IDLE_AFTER_S:
            wanted += ["killed command", "killed child", "nonsense 400", "harm master", "harm worker",
                       "harm coordinatord", "harm upgrade", "harm reload"]  # fmt: skip
        self.assertEqual([what for what in wanted if not self.counts[what]], [])


if __name__ == "__main__":
    unittest.main()
