#!/usr/bin/env python3
"""Programs of the last commit that knew 12 settings, in a pool with today's, and the other way
round (DESIGN, Programs of two versions).

Usage: test_old_programs.py CASE... The programs of before are built by build_old. Ends with 77
where they are not there.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

OLD = pathlib.Path(os.environ["MODELPOOL_OLD"])
if not (OLD / "told_worker").exists():
    print(f"skipped: {OLD} has no programs of before; system.old_programs_are_built says why")
    sys.exit(77)

from support import DEMO_BACKEND, DIES_WITH_US, PATIENCE_S, eventually, processes_with

NEW = pathlib.Path(os.environ["MODELPOOL_NEW"])
PATIENCE_MS = PATIENCE_S * 1000

# Each setting that came later: its number, a value in use, one that is not.
ADMIT = {
    "max_memory": (16, "1GiB", "off"),
    "memory": (17, "1MiB", "off"),
    "parallel": (24, "2", "0"),
    "max_loads": (25, "1", "0"),
    "groups": (26, "heavy", "off"),
    "devices": (27, "1", "off"),
    "gpu_memory": (28, "50%", "off"),
}
JUDGE = {
    "eviction": (12, "lru", "cost"),
    "max_wait": (13, "5s", "60s"),
    "collect": (14, "1s", "off"),
    "priority": (15, "60", "50"),
    "on_overdue": (20, "kill", "cancel, 10s, kill"),
    "first_byte_timeout": (21, "1h", "off"),
    "pinned": (22, "true", "false"),
    "keep": (23, "1", "0"),
    "settle": (29, "5s", "2s"),
    "min_available": (30, "1MiB", "off"),
    "probe": (31, "tcp", "off"),
    "probe_interval": (32, "5s", "10s"),
    "probe_timeout": (33, "1s", "5s"),
    "probe_failures": (34, "5", "3"),
}
COMPAT = {"log_dir": (18, "off", "default"), "log_max": (19, "1MiB", "8MiB")}


def is_running(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def listens(path):
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


class Worker:
    """told_worker of one version: a line a command, its answer a line."""

    def __init__(self, programs, directory):
        self._process = subprocess.Popen(
            [*DIES_WITH_US, programs / "told_worker", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.greeting = self.hear()

    def say(self, *words):
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()

    def hear(self):
        return self._process.stdout.readline().rstrip("\n")

    def ask(self, *words):
        self.say(*words)
        return self.hear()

    def acquire(self, model, timeout_ms=PATIENCE_MS):
        return self.ask("acquire", model, str(timeout_ms))

    def end(self):
        self._process.kill()
        self._process.communicate()


class Coordinator:
    """coordinatord of one version, serving."""

    def __init__(self, programs, directory, flags):
        self._log = pathlib.Path(tempfile.mkdtemp(dir=directory)) / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*DIES_WITH_US, programs / "coordinatord", "--dir", directory, *flags], stderr=log
            )
        is_decided = eventually(
            lambda: "serving pool" in self.log() or self.process.poll() is not None
        )
        if not is_decided or self.process.poll() is not None:
            self.end()
            raise AssertionError(f"coordinatord did not start: {self.log()}")

    def log(self):
        return self._log.read_text()

    def leave(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def end(self):
        self.process.kill()
        self.process.wait()


class OldPrograms(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix=f"modelpool-test-{os.getpid()}-", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.addCleanup(self.end_backends)

    # --- The pool ---------------------------------------------------------------------------------

    def coordinator(self, programs, *flags):
        coordinator = Coordinator(programs, self.dir, flags)
        self.addCleanup(coordinator.end)
        return coordinator

    def worker(self, programs):
        worker = Worker(programs, self.dir)
        self.addCleanup(worker.end)
        self.assertEqual(worker.greeting, "attached")
        return worker

    def run_poolctl(self, programs, *arguments):
        return subprocess.run(
            [programs / "poolctl", "--dir", self.dir, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def poolctl(self, programs, *arguments):
        """What it prints; it must end with 0."""
        done = self.run_poolctl(programs, *arguments)
        self.assertEqual(done.returncode, 0, f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def json(self, programs, *arguments):
        return json.loads(self.poolctl(programs, "-o", "json", *arguments))

    def set(self, *values, programs=NEW):
        self.poolctl(programs, "set", *values)

    def events(self, programs=NEW):
        lines = self.poolctl(programs, "-o", "json", "events").splitlines()
        return [json.loads(line) for line in lines]

    def entry(self, model):
        found = [entry for entry in self.json(NEW, "list") if entry["model"] == model]
        return found[0] if found else None

    def state(self, model):
        found = self.entry(model)
        return found["state"] if found else None

    def load(self, worker, model, *flags):
        """Its PID; the worker keeps the lease."""
        self.assertEqual(worker.acquire(model), "ticket")
        return self.finish_load(worker, model, *flags)

    def finish_load(self, worker, model, *flags):
        path = f"{self.dir}/{model}.sock"
        argv = [DEMO_BACKEND, "--name", model, "--unix", path, "--max-lifetime", "300s", *flags]
        answer = worker.ask("spawn", model, *argv)
        self.assertTrue(answer.isdigit(), answer)
        self.assertTrue(eventually(lambda: listens(path)), "it does not listen")
        self.assertEqual(worker.ask("ready", model, f"unix:{path}"), "ok")
        return int(answer)

    def load_idle(self, worker, model, *flags):
        pid = self.load(worker, model, *flags)
        self.assertEqual(worker.ask("release", model), "ok")
        return pid

    def end_backends(self):
        # Without a coordinator it ends with 1, and says who they are all the same.
        done = self.run_poolctl(NEW, "-o", "json", "status")
        if not done.stdout:
            return
        for pid in processes_with(f"MODELPOOL_BACKEND={json.loads(done.stdout)['uuid']}"):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def assert_incompatible(self, answer, number, name):
        self.assertTrue(answer.startswith("incompatible "), answer)
        self.assertIn(f"setting {number} ({name})", answer)

    def assert_sound(self):
        for programs in (NEW, OLD):
            self.poolctl(programs, "check")

    # --- Settings ---------------------------------------------------------------------------------

    def test_settings_of_these_tables_are_all_that_came_later(self):
        self.coordinator(NEW)
        later = set(self.json(NEW, "set")) - set(self.json(OLD, "set"))
        self.assertEqual(later, {*ADMIT, *JUDGE, *COMPAT})

    # --- A worker of before -----------------------------------------------------------------------

    def test_a_worker_gets_leases_but_no_place_while_an_admit_setting_is_in_use(self):
        self.coordinator(NEW, "--max-backends", "3")
        old = self.worker(OLD)
        self.load_idle(self.worker(NEW), "warm")
        for name, (number, value, off) in ADMIT.items():
            with self.subTest(setting=name):
                self.set(f"{name}={value}")
                self.assert_incompatible(old.acquire("cold"), number, name)
                self.assertEqual([b["model"] for b in self.json(NEW, "list")], ["warm"])
                self.assertEqual(self.json(NEW, "waiters"), [])
                self.assertEqual(old.acquire("warm"), "lease")
                self.assertEqual(old.ask("progress", "warm"), "ok")
                self.assertEqual(old.ask("release", "warm"), "ok")
                late = self.worker(OLD)
                self.assertEqual(late.acquire("warm"), "lease", "it attached since")
                late.end()
                self.set(f"{name}={off}")
                self.assertEqual(old.acquire("cold"), "ticket")
                self.assertEqual(old.ask("release", "cold"), "ok")
        self.assert_sound()

    def test_a_worker_gets_no_place_while_one_model_has_an_admit_setting(self):
        config = pathlib.Path(self.dir, "pool.toml")
        config.write_text('[[model]]\nmatch = "big-*"\ngroups = ["heavy"]\n')
        coordinator = self.coordinator(NEW, "--config", config)
        old = self.worker(OLD)
        self.assert_incompatible(old.acquire("small"), 26, "groups")
        config.write_text("")
        coordinator.process.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: old.acquire("small") == "ticket"))

    def test_a_worker_that_waits_for_a_place_is_told_when_an_admit_setting_comes_into_use(self):
        self.coordinator(NEW, "--max-backends", "1", "--when-busy", "wait")
        old, new = self.worker(OLD), self.worker(NEW)
        pid = self.load(new, "first")
        old.say("acquire", "second", str(PATIENCE_MS))
        self.assertTrue(eventually(lambda: len(self.json(NEW, "waiters")) == 1))
        self.set("max_loads=1")
        self.assert_incompatible(old.hear(), 25, "max_loads")
        self.assertTrue(eventually(lambda: self.json(NEW, "waiters") == []))
        self.assertTrue(is_running(pid))
        self.assertEqual(new.ask("progress", "first"), "ok")

    def test_a_worker_waits_for_what_others_load_while_an_admit_setting_is_in_use(self):
        self.coordinator(NEW, "--max-loads", "1")
        old, new = self.worker(OLD), self.worker(NEW)
        self.assertEqual(new.acquire("m"), "ticket")
        old.say("acquire", "m", str(PATIENCE_MS))
        self.assertTrue(eventually(lambda: len(self.json(NEW, "waiters")) == 1))
        self.finish_load(new, "m")
        self.assertEqual(old.hear(), "lease")

    def test_a_ticket_that_a_worker_has_when_an_admit_setting_comes_into_use_is_good(self):
        self.coordinator(NEW)
        old, new = self.worker(OLD), self.worker(NEW)
        self.assertEqual(old.acquire("m"), "ticket")
        self.set("parallel=1", "max_memory=1GiB")
        self.finish_load(old, "m")
        # The coordinator counts it from its next scan on.
        self.assertTrue(eventually(lambda: (self.entry("m") or {}).get("parallel") == 1))
        self.assertTrue(new.acquire("m", 0).startswith("timeout "))
        self.assertEqual(old.ask("release", "m"), "ok")
        self.assertEqual(new.acquire("m"), "lease")
        self.assert_sound()

    def test_workers_do_not_exceed_parallel(self):
        self.coordinator(NEW)
        new, old, second = self.worker(NEW), self.worker(OLD), self.worker(OLD)
        self.load_idle(new, "m")
        for change in ("parallel=3", "parallel=2", "idle_timeout=1h"):
            self.set(change)
        self.assertEqual(new.acquire("m"), "lease")
        self.assertEqual(old.acquire("m"), "lease")
        self.assertTrue(second.acquire("m", 0).startswith("timeout "), "the third of two")
        second.say("acquire", "m", str(PATIENCE_MS))
        self.assertTrue(eventually(lambda: len(self.json(NEW, "waiters")) == 1))
        self.assertEqual(old.ask("release", "m"), "ok")
        self.assertEqual(second.hear(), "lease")
        self.assertEqual(self.entry("m")["in_flight"], 2)

    def test_a_stream_of_a_worker_that_makes_progress_has_had_its_first_byte(self):
        self.coordinator(NEW, "--first-byte-timeout", "1s")
        old = self.worker(OLD)
        pid = self.load(old, "stream")
        # Its progress is told from its begin by the time alone.
        self.assertTrue(eventually(lambda: self.age_ms("stream") > 50))
        self.assertEqual(old.ask("progress", "stream"), "ok")
        dead = self.load(old, "dead")
        self.assertTrue(eventually(lambda: not is_running(dead)), "no byte of it came")
        self.assertTrue(eventually(lambda: self.age_ms("stream") > 3000))
        self.assertTrue(is_running(pid))
        self.assertEqual(old.ask("progress", "stream"), "ok")

    def age_ms(self, model):
        return [lease for lease in self.json(NEW, "leases") if lease["model"] == model][0]["age_ms"]

    # --- A coordinator of before ------------------------------------------------------------------

    def test_a_coordinator_refuses_a_pool_whose_settings_it_must_know(self):
        self.coordinator(NEW).leave()
        worker = self.worker(NEW)
        for name, (number, value, off) in {**JUDGE, **ADMIT}.items():
            with self.subTest(setting=name):
                self.set(f"{name}={value}")
                done = subprocess.run(
                    [*DIES_WITH_US, OLD / "coordinatord", "--dir", self.dir],
                    stderr=subprocess.PIPE,
                    text=True,
                    timeout=PATIENCE_S,
                )
                self.assertEqual(done.returncode, 3)
                self.assertIn(
                    f"unable to serve pool default: it uses setting {number} ({name}), which this "
                    "program does not know; start a newer coordinatord",
                    done.stderr,
                )
                self.set(f"{name}={off}")
        self.coordinator(OLD)
        self.load(worker, "m")

    def test_a_coordinator_serves_a_pool_with_settings_that_nobody_must_know(self):
        self.coordinator(NEW).leave()
        for name, (_, value, _) in COMPAT.items():
            self.set(f"{name}={value}")
        self.coordinator(OLD)
        self.assertIn("settings 18 (log_dir), 19 (log_max)", self.poolctl(OLD, "set"))
        self.load(self.worker(NEW), "m")

    def test_a_coordinator_leaves_when_a_setting_that_it_must_know_comes_into_use(self):
        old_judge = self.coordinator(OLD)
        old, new = self.worker(OLD), self.worker(NEW)
        pids = [self.load(old, "of-old"), self.load(new, "of-new")]
        done = self.run_poolctl(NEW, "set", "keep=1", "idle_timeout=1h", "log_max=1MiB")
        self.assertEqual(done.returncode, 0)
        self.assertIn(f"pid {old_judge.process.pid}, does not know keep and leaves", done.stderr)
        self.assertEqual(old_judge.process.wait(PATIENCE_S), 3)
        self.assertIn("setting 23 (keep), which this program does not know", old_judge.log())
        self.coordinator(NEW)
        self.assertTrue(all(map(is_running, pids)))
        self.assertEqual(old.ask("progress", "of-old"), "ok")
        self.assertEqual(new.ask("progress", "of-new"), "ok")
        self.assertEqual(self.json(NEW, "set")["keep"]["value"], "1")

    def test_a_coordinator_ends_a_stream_of_todays_workers_that_stalls(self):
        self.coordinator(OLD, "--stall-timeout", "1s")
        new = self.worker(NEW)
        pid = self.load(new, "m")
        self.assertEqual(new.ask("progress", "m"), "ok")
        self.assertLess(self.json(OLD, "leases")[0]["progress_ms"], PATIENCE_MS)
        self.assertTrue(eventually(lambda: not is_running(pid)))
        killed = [event for event in self.events(OLD) if event["kind"] == "killed"]
        self.assertEqual([event["reason"] for event in killed], ["stall"])

    def test_a_coordinator_serves_todays_workers(self):
        self.coordinator(OLD, "--max-backends", "2", "--idle-timeout", "1h")
        old, new = self.worker(OLD), self.worker(NEW)
        first = self.load_idle(old, "first")
        self.load(new, "second")
        third = self.load(new, "third")
        self.assertFalse(is_running(first), "it made room")
        self.assertEqual(old.acquire("third"), "lease")
        self.assertEqual(new.ask("release", "third"), "ok")
        self.assertEqual(old.ask("release", "third"), "ok")
        self.poolctl(NEW, "pin", "third")
        self.set("idle_timeout=100ms")
        self.assertEqual(new.ask("release", "second"), "ok")
        self.assertTrue(eventually(lambda: self.state("second") is None))
        self.assertTrue(is_running(third))
        self.poolctl(NEW, "unpin", "third")
        self.assertTrue(eventually(lambda: not is_running(third)))
        self.assert_sound()

    # --- poolctl of before, and today's ---------------------------------------------------------

    def use_everything(self):
        config = pathlib.Path(self.dir, "pool.toml")
        config.write_text(
            '[pool]\nmax_memory = "1GiB"\neviction = "size"\n'
            '[[model]]\nmatch = "big-*"\ngroups = ["heavy", "vision"]\nparallel = 3\n'
        )
        coordinator = self.coordinator(NEW, "--config", config)
        self.set("collect=1s", "groups=all", "log_dir=off", "probe=GET /health")
        return coordinator

    def test_poolctl_shows_what_it_does_not_know_as_unknown(self):
        self.use_everything()
        new = self.worker(NEW)
        self.load(new, "big-1")
        shown = self.poolctl(OLD, "set")
        for number, name in (
            (12, "eviction"), (14, "collect"), (16, "max_memory"), (18, "log_dir"), (26, "groups"),
            (31, "probe"),
        ):
            self.assertIn(f"{number} ({name})", shown)
        self.assertIn("which this program does not know", shown)
        self.assertEqual(self.json(OLD, "status")["ready"], 1)
        [entry] = self.json(OLD, "list")
        shown = (entry["model"], entry["state"], entry["in_flight"])
        self.assertEqual(shown, ("big-1", "ready", 1))
        for command in (
            "status", "list", "workers", "leases", "waiters", "events", "dump", "check", "set",
        ):
            with self.subTest(command=command):
                self.poolctl(OLD, command)
                self.poolctl(OLD, "-o", "json", command)
        self.poolctl(OLD, "explain", "big-1")
        self.assertEqual(new.ask("progress", "big-1"), "ok")

    def test_poolctl_changes_one_setting_and_keeps_those_it_does_not_know(self):
        self.use_everything()
        old, new = self.worker(OLD), self.worker(NEW)
        self.load(new, "big-1")
        before = {**self.json(NEW, "set"), "rules": self.json(NEW, "dump")["rules"]}
        self.set("idle-timeout=7s", programs=OLD)
        after = {**self.json(NEW, "set"), "rules": self.json(NEW, "dump")["rules"]}
        self.assertEqual(after.pop("idle_timeout")["value"], "7s")
        before.pop("idle_timeout")
        self.assertEqual(after, before)
        for name in ("max_memory", "groups"):
            self.assertIn(f"({name})", old.acquire("cold"), "who must know it is told still")
        self.assertEqual(self.entry("big-1")["parallel"], 3)

    def test_poolctl_steers_todays_pool(self):
        judge = self.coordinator(NEW)
        worker = self.worker(NEW)
        pid = self.load_idle(worker, "m")
        for command in ("touch", "pin", "unpin", "reset"):
            self.poolctl(OLD, command, "m")
        self.poolctl(OLD, "evict", "m")
        self.assertFalse(is_running(pid))
        pid = self.load_idle(worker, "m")
        worker.end()
        judge.leave()
        self.poolctl(OLD, "remove", "--stop")
        self.assertFalse(is_running(pid))

    def test_todays_poolctl_shows_and_steers_a_pool_of_before(self):
        self.coordinator(OLD, "--max-backends", "2")
        old = self.worker(OLD)
        pid = self.load(old, "m")
        self.assertEqual(old.ask("progress", "m"), "ok")
        [lease] = self.json(NEW, "leases")
        self.assertLess(lease["progress_ms"], PATIENCE_MS)
        for command in (
            "status", "list", "workers", "leases", "waiters", "events", "dump", "check", "set",
        ):
            with self.subTest(command=command):
                self.poolctl(NEW, command)
                self.poolctl(NEW, "-o", "json", command)
        shown = self.json(NEW, "set")
        for name in {**ADMIT, **JUDGE, **COMPAT}:
            self.assertEqual(shown[name]["origin"], "default", name)
        self.poolctl(NEW, "explain", "m")
        self.assertEqual(old.ask("release", "m"), "ok")
        self.poolctl(NEW, "evict", "m")
        self.assertFalse(is_running(pid))
        self.poolctl(NEW, "why", "m")

    # --- Reasons ----------------------------------------------------------------------------------

    def leave_record(self, model, state, reason):
        argv = [NEW / "leave_record", self.dir, model, state, str(reason)]
        subprocess.run(argv, check=True, timeout=PATIENCE_S)

    def test_a_coordinator_finishes_the_stop_for_a_reason_that_it_does_not_know(self):
        judge = self.coordinator(
            NEW, "--probe", "GET /health", "--probe-interval", "50ms", "--probe-timeout", "100ms",
            "--probe-failures", "2", "--stop-grace", "1h",
        )
        worker = self.worker(NEW)
        pid = self.load_idle(worker, "m")
        os.kill(pid, signal.SIGSTOP)  # it is wedged, and deaf to SIGTERM
        self.assertTrue(eventually(lambda: self.state("m") == "stopping"))
        judge.end()
        self.assertEqual(self.entry("m")["stop"]["reason"], "wedged")
        self.assertIn("reason 12", self.poolctl(OLD, "list"))
        for name in ("probe", "probe_interval", "probe_timeout", "probe_failures"):
            self.set(f"{name}={JUDGE[name][2]}")
        old_judge = self.coordinator(OLD, "--stop-grace", "1s")
        self.assertTrue(eventually(lambda: not is_running(pid)))
        self.assertTrue(eventually(lambda: self.state("m") is None))
        self.assertIn("reason 12", old_judge.log())
        self.assertIn("reason 12", [event.get("reason") for event in self.events(OLD)])
        self.load(worker, "m")

    def test_a_coordinator_reopens_what_was_closed_for_a_reason_that_it_does_not_know(self):
        for number in (13, 40):
            with self.subTest(reason=number):
                model = f"m-{number}"
                judge = self.coordinator(NEW)
                worker = self.worker(OLD)
                pid = self.load_idle(worker, model)
                judge.end()
                self.leave_record(model, "evicting", number)
                self.assertIn(f"reason {number}", self.poolctl(OLD, "list"))
                old_judge = self.coordinator(OLD)
                self.assertTrue(eventually(lambda: self.state(model) == "ready"))
                self.assertEqual(worker.acquire(model), "lease")
                self.assertTrue(is_running(pid))
                old_judge.leave()

    def test_todays_coordinator_does_the_same_with_reasons_of_tomorrow(self):
        judge = self.coordinator(NEW)
        worker = self.worker(NEW)
        closed, stopping = self.load_idle(worker, "closed"), self.load_idle(worker, "stopping")
        judge.end()
        self.leave_record("closed", "evicting", 27)
        self.leave_record("stopping", "stopping", 28)
        shown = self.poolctl(NEW, "list")
        self.assertIn("reason 27", shown)
        self.assertIn("reason 28", shown)
        judge = self.coordinator(NEW)
        self.assertTrue(eventually(lambda: self.state("closed") == "ready"))
        self.assertEqual(worker.acquire("closed"), "lease")
        self.assertTrue(is_running(closed))
        self.assertTrue(eventually(lambda: not is_running(stopping)))
        self.assertTrue(eventually(lambda: self.state("stopping") is None))
        self.assertIn("reason 28", judge.log())

    # --- Upgrades and the way back ----------------------------------------------------------------

    def test_takeovers_both_ways_lose_no_backend_and_no_lease(self):
        flags = ["--max-backends", "4", "--busy-timeout", "1h"]
        judge = self.coordinator(OLD, *flags)
        old, new = self.worker(OLD), self.worker(NEW)
        leased = [self.load(old, "of-old"), self.load(new, "of-new")]
        idle = [self.load_idle(old, "idle-old"), self.load_idle(new, "idle-new")]
        expected = {model: ("ready", 1) for model in ("of-old", "of-new")}
        expected |= {model: ("ready", 0) for model in ("idle-old", "idle-new")}
        for programs in (NEW, OLD, NEW, OLD):
            for end in ("leave", "end"):
                with self.subTest(by="old" if programs == OLD else "new", end=end):
                    getattr(judge, end)()
                    judge = self.coordinator(programs, *flags)
                    self.assertTrue(all(map(is_running, leased + idle)))
                    self.assertEqual(old.ask("progress", "of-old"), "ok")
                    self.assertEqual(new.ask("progress", "of-new"), "ok")
                    found = {
                        entry["model"]: (entry["state"], entry["in_flight"])
                        for entry in self.json(NEW, "list")
                    }
                    self.assertEqual(found, expected)
                    # Each takes what the other's workers loaded.
                    for worker, model in ((old, "idle-new"), (new, "idle-old")):
                        self.assertEqual(worker.acquire(model), "lease")
                        self.assertEqual(worker.ask("release", model), "ok")
                    self.assert_sound()
        # The last one still enforces what it took over.
        self.set("idle_timeout=100ms")
        self.assertTrue(eventually(lambda: not any(map(is_running, idle))))
        self.assertTrue(all(map(is_running, leased)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
