"""poolctl run: a foreign program holds a place of the pool while it runs, and however it ends."""

import contextlib
import fcntl
import os
import pathlib
import random
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

import modelpool
from support import DEMO_BACKEND, DIES_WITH_US, PATIENCE_S, POOLCTL, PoolTest, eventually, processes_with

MIB = 1 << 20


class TenantTest(PoolTest):
    def run_command(self, name, *options, command, **popen):
        """`poolctl run NAME OPTIONS -- COMMAND`, running."""
        argv = [*DIES_WITH_US, POOLCTL, "--dir", self.dir, "run", name, *options, "--", *command]
        popen = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **popen}
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, **popen)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        process.kill()
        process.communicate()

    def finish(self, name, *options, command, **popen):
        """(exit code, stdout, stderr) of it."""
        process = self.run_command(name, *options, command=command, **popen)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def entry(self, name):
        return next((one for one in self.poolctl("list") if one["model"] == name), None)

    def start(self, name, *options, command=("sleep", "300"), **popen):
        """The running poolctl, and the tenant's entry of the list."""
        process = self.run_command(name, *options, command=command, **popen)
        self.assertTrue(eventually(lambda: self.entry(name)), "it does not run")
        self.assertTrue(eventually(lambda: self.entry(name)["state"] == "ready"))
        return process, self.entry(name)

    def is_gone(self, name):
        return eventually(lambda: self.entry(name) is None)

    def events(self, name):
        return [one for one in self.pool.events() if one["model"] == name]


class Run(TenantTest):
    flags = ["--max-backends", "2"]

    def test_the_exit_code_is_that_of_the_command(self):
        for code, command in (
            (0, ["true"]),
            (7, ["sh", "-c", "exit 7"]),
            (128 + 15, ["sh", "-c", "kill $$"]),
            (128 + 9, ["sh", "-c", "kill -KILL $$"]),
            (127, ["/no/such/program"]),
            (126, ["/dev/null"]),
        ):
            with self.subTest(command=command):
                self.assertEqual(self.finish("x", command=command)[0], code)
        self.assertEqual(self.poolctl("list"), [])

    def test_wrong_use_is_125_and_takes_no_place(self):
        for options, why in (
            (["--memory", "much"], "much"),
            (["--memory", "-1"], "-1"),
            (["--memory", "999999999TiB"], "999999999TiB"),
            (["--devices", "17"], "17"),
            (["--devices", "two"], "two"),
            (["--tag", 32 * "t"], "tag"),
            (["--group", "a, b"], "group"),
            (["--timeout", "soon"], "soon"),
            (["--no-such-option"], "--no-such-option"),
        ):
            with self.subTest(options=options):
                code, out, err = self.finish("x", *options, command=["echo", "ran"])
                self.assertEqual((code, out), (125, ""), err)
                self.assertIn(why, err)
        argv = [POOLCTL, "--dir", self.dir, "run", "x"]
        for rest in ([], ["--"], ["true"]):
            done = subprocess.run(argv + rest, capture_output=True, text=True)
            self.assertEqual(done.returncode, 125, done.stderr)
        done = subprocess.run([POOLCTL, "--dir", self.dir, "run", "", "--", "true"])
        self.assertEqual(done.returncode, 125)
        self.assertEqual([one["kind"] for one in self.pool.events() if one["model"]], [])

    def test_input_output_and_descriptors_are_the_commands(self):
        source, sink = os.pipe()
        self.addCleanup(os.close, source)
        script = f"cat; echo told >&{sink}; echo $MODELPOOL_MODEL >&2; pwd"
        process = self.run_command(
            "x y", command=["bash", "-c", script], stdin=subprocess.PIPE, pass_fds=[sink], cwd="/"
        )
        os.close(sink)
        out, err = process.communicate("given\n", timeout=60)
        self.assertEqual((out, err), ("given\n/\n", "x y\n"))
        self.assertEqual(os.read(source, 100), b"told\n")

    def test_it_counts_and_is_shown(self):
        _, entry = self.start("x", "--memory", "100MiB", "--tag", "mine")
        self.assertEqual(
            (entry["tenant"], entry["pinned"], entry["address"], entry["size_bytes"]),
            (True, True, None, 100 * MIB),
        )
        self.assertEqual((entry["label"], entry["in_flight"]), ("mine", 0))
        explained = self.poolctl("explain", "x")["verdicts"]
        self.assertIn("tenant", [one["rule"] for one in explained])
        self.start("y")
        with self.assertRaises(modelpool.AllPinned) as refused:
            self.pool.acquire("m", timeout=20)
        self.assertIn("x", str(refused.exception))
        self.assertEqual(self.finish("z", command=["true"])[0], 124)

    def test_its_name_is_leased_to_nobody(self):
        process, entry = self.start("x")
        for attempt in (
            lambda: self.pool.acquire("x", timeout=20),
            lambda: self.pool.acquire("x", timeout=20),  # known to this thread by now, if ever
        ):
            with self.assertRaises(modelpool.NotLoaded) as refused:
                attempt()
            for part in ("tenant", str(entry["pid"]), str(process.pid)):
                self.assertIn(part, str(refused.exception))
        for command in (["run", "x", "--"], ["lease", "x", "--"], ["load", "x", "--timeout", "9s"]):
            argv = [POOLCTL, "--dir", self.dir, *command]
            argv += ["true"] if command[-1] == "--" else ["--", "server", "{port}"]
            argv = [word if word != "server" else "true" for word in argv]
            done = subprocess.run(argv, capture_output=True, text=True)
            self.assertEqual(done.returncode, 124, done.stderr)
            self.assertIn(f"process {process.pid}", done.stderr)

    def test_a_loaded_model_is_no_name_for_a_tenant(self):
        with self.load_external("m"):
            code, out, err = self.finish("m", command=["echo", "ran"])
        self.assertEqual((code, out), (124, ""))
        self.assertIn("a model of this name is loaded", err)

    def test_who_waits_for_its_name_is_refused_when_it_runs(self):
        self.pool.set(max_backends=1)
        lease = self.load_external("other")
        first = self.run_command("x", "--timeout", "60s", command=["sleep", "300"])
        self.wait_for_waiters(1)
        second = self.run_command("x", "--timeout", "60s", command=["sleep", "300"])
        self.wait_for_waiters(2)
        lease.release()
        self.assertTrue(eventually(lambda: None in (first.poll(), second.poll()) and self.entry("x")))
        self.assertTrue(eventually(lambda: 124 in (first.poll(), second.poll())))

    def test_it_waits_in_line_and_says_for_what(self):
        self.pool.set(max_backends=1)
        lease = self.load_external("m")
        code, _, err = self.finish("x", "--timeout", "200ms", command=["true"])
        self.assertEqual(code, 124)
        self.assertIn("timed out", err)
        self.assertEqual(self.finish("x", "--timeout", "0", command=["true"])[0], 124)
        process = self.run_command("x", "--timeout", "60s", command=["echo", "ran"])
        self.wait_for_waiters(1)
        lease.release()  # idle now: room is made
        out, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out), (0, "ran\n"))
        self.assertIn("waits for a place", err)
        self.assertEqual(self.events("m")[-1]["reason"], "lru")

    def test_a_wait_that_is_interrupted_ends_as_a_command_would(self):
        self.pool.set(max_backends=1)
        with self.load_external("m"):
            process = self.run_command("x", "--timeout", "60s", command=["true"])
            self.wait_for_waiters(1)
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(60), 128 + signal.SIGINT)
            self.assertTrue(eventually(lambda: not self.pool.waiters()))

    def test_no_timeout_ends_it(self):
        self.pool.set(idle_timeout=0.1, busy_timeout=0.1, stall_timeout=0.1, load_timeout=0.1)
        for options in ([], ["--evictable"]):
            with self.subTest(options=options):
                process, entry = self.start("x", *options)
                self.load_external("m").release()
                self.assertTrue(self.is_gone("m"))  # by its idle_timeout, which has passed twice
                self.load_external("m").release()
                self.assertTrue(self.is_gone("m"))
                self.assertEqual(self.entry("x")["pid"], entry["pid"])
                process.terminate()
                self.assertEqual(process.wait(60), 128 + signal.SIGTERM)

    def test_with_evictable_it_goes_for_who_waits(self):
        self.pool.set(max_backends=1)
        script = "trap 'echo told; exit 5' TERM; echo runs; while :; do sleep 0.01; done"
        process, _ = self.start("x", "--evictable", command=["sh", "-c", script])
        self.assertEqual(process.stdout.readline(), "runs\n")
        self.load_external("m").release()
        out, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out), (5, "told\n"))
        self.assertIn("x was ended by the pool: lru", err)
        self.assertIn("room for m", err)

    def test_a_pin_that_is_taken_away_makes_it_evictable(self):
        self.pool.set(max_backends=1)
        process, _ = self.start("x")
        self.pool.unpin("x")
        self.load_external("m").release()
        self.assertEqual(process.wait(60), 128 + signal.SIGTERM)

    def test_an_order_ends_it_and_says_so(self):
        process, _ = self.start("x")
        self.assertEqual(self.poolctl("evict", "x")["model"], "x")
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 128 + signal.SIGTERM)
        self.assertIn("x was ended by the pool: requested", err)

    def test_signals_are_passed_on(self):
        script = (
            "import signal, sys, time\n"
            "for one in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):\n"
            "    signal.signal(one, lambda number, _: print(number, flush=True))\n"
            "print('runs', flush=True)\n"
            "while True: time.sleep(100)\n"
        )
        process, _ = self.start("x", command=[sys.executable, "-c", script])
        self.assertEqual(process.stdout.readline(), "runs\n")
        for one in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
            process.send_signal(one)
            self.assertEqual(process.stdout.readline(), f"{int(one)}\n")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(60), 128 + signal.SIGTERM)

    def test_what_nohup_ignores_stays_ignored(self):
        ask = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
        argv = ["nohup", POOLCTL, "--dir", self.dir, "run", "x", "--", sys.executable, "-c", ask]
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        self.assertEqual(done.stdout, "True\n", done.stderr)


# A command with a child, one that has dropped its environment, and one in a session of its own.
FAMILY = (
    "trap 'exit 3' TERM\n"
    "sh -c 'while :; do sleep 0.05; done' child &\n"
    "env -i sh -c 'while :; do sleep 0.05; done' bare-child &\n"
    "setsid sh -c 'while :; do sleep 0.05; done' far-child &\n"
    "echo runs\n"
    "while :; do sleep 0.05; done\n"
)


def children_of(parent):
    """Zombies, too."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rsplit(")", 1)[1].split()[1] == str(parent):
                found.append(int(stat.parent.name))
    return found


class Ends(TenantTest):
    flags = ["--max-backends", "1", "--stop-grace", "5s"]

    def start_family(self, *options):
        mark = f"mp-family-{os.getpid()}-{random.randrange(1 << 30)}"
        script = FAMILY.replace("child", "child-" + mark)
        process, entry = self.start("x", *options, command=["bash", "-c", script, mark])
        self.assertEqual(process.stdout.readline(), "runs\n")
        self.assertTrue(eventually(lambda: len(self.family(mark)) == 4), self.family(mark))
        return process, entry, mark

    @staticmethod
    def family(mark, part=""):
        """PIDs of its processes that live, but for poolctl."""
        return [pid for pid, words in living() if words.endswith(f"{part}{mark}\0") and is_own(words)]

    def assert_gone_when_free(self, mark):
        """Who takes the place finds none of it."""
        with eventually(self.take_place).ready("127.0.0.1:1", external=True):
            self.assertEqual(self.family(mark), [])

    def take_place(self):
        with contextlib.suppress(modelpool.AllPinned):  # it is not known yet to be left
            return self.pool.acquire("m", timeout=30)

    def test_killed_with_poolctl_all_of_it_ends_before_its_place_is_free(self):
        process, _, mark = self.start_family()
        process.kill()
        self.assert_gone_when_free(mark)
        event = self.events("x")[-1]
        self.assertEqual((event["kind"], event["signal"]), ("exited", "SIGTERM"))
        self.assertIn("the process that ran it has died", event["text"])

    def test_killed_itself_what_it_left_ends_before_its_place_is_free(self):
        process, entry, mark = self.start_family()
        os.kill(entry["pid"], signal.SIGKILL)
        self.assert_gone_when_free(mark)
        self.assertEqual(process.wait(60), 128 + signal.SIGKILL)

    def test_when_poolctl_returns_nothing_of_it_is_left(self):
        process, entry, mark = self.start_family()
        os.kill(entry["pid"], signal.SIGKILL)
        self.assertEqual(process.wait(60), 128 + signal.SIGKILL)
        self.assertEqual(self.family(mark), [])
        self.assertEqual(self.finish("x", command=["true"])[0], 0)

    def test_a_killed_child_is_the_commands_to_mind(self):
        process, entry, mark = self.start_family()
        for part in ("far-child-", "bare-child-"):
            for pid in self.family(mark, part):
                os.kill(pid, signal.SIGKILL)
        self.assertTrue(eventually(lambda: len(self.family(mark)) == 2))
        self.assertEqual(self.entry("x")["pid"], entry["pid"])
        process.terminate()
        self.assertEqual(process.wait(60), 3)
        self.assertEqual(self.family(mark), [])

    def test_killed_with_poolctl_while_no_coordinator_runs_it_counts_until_one_does(self):
        process, entry, mark = self.start_family()
        self.coordinator.kill()
        self.coordinator.wait()
        process.kill()
        process.wait()
        with self.assertRaises(modelpool.Error):
            self.pool.acquire("m", timeout=0)
        self.assertEqual(self.entry("x")["pid"], entry["pid"])
        self.start_coordinator()
        self.assert_gone_when_free(mark)

    def test_a_new_coordinator_lets_it_run(self):
        process, entry = self.start("x")
        self.coordinator.kill()
        self.coordinator.wait()
        self.start_coordinator()
        with self.assertRaises(modelpool.AllPinned):
            self.pool.acquire("m", timeout=20)
        self.assertEqual(self.entry("x")["pid"], entry["pid"])
        process.terminate()
        self.assertEqual(process.wait(60), 128 + signal.SIGTERM)

    def test_one_that_puts_itself_into_the_background_ends_and_leaves_nothing(self):
        script = (
            "import os, sys, time\n"
            "if os.fork(): sys.exit(4)\n"
            "os.setsid()\n"
            "if os.fork(): sys.exit(0)\n"
            "while True: time.sleep(0.05)\n"
        )
        for _ in range(5):
            mark = f"mp-daemon-{os.getpid()}-{random.randrange(1 << 30)}"
            code, _, _ = self.finish("x", command=[sys.executable, "-c", script, mark])
            self.assertEqual(code, 4)
            self.assertEqual(self.family(mark), [])
        self.assertEqual(self.poolctl("list"), [])

    def test_what_no_sign_but_its_parent_tells_ends_too(self):
        for _ in range(10):
            mark = f"mp-bare-{os.getpid()}-{random.randrange(1 << 30)}"
            script = f"env -i setsid sh -c 'while :; do sleep 0.05; done' {mark} & exit 4"
            self.assertEqual(self.finish("x", command=["sh", "-c", script])[0], 4)
            self.assertEqual(self.family(mark), [])

    def test_children_that_poolctl_had_before_are_not_its_own(self):
        mark = f"mp-other-{os.getpid()}-{random.randrange(1 << 30)}"
        script = f"sh -c 'while :; do sleep 0.05; done' {mark} & echo $!; exec \"$@\""
        run = [POOLCTL, "--dir", self.dir, "run", "x", "--", "true"]
        with subprocess.Popen(
            ["sh", "-c", script, "sh", *run], stdout=subprocess.PIPE, text=True
        ) as process:
            other = int(process.stdout.readline())
            try:
                self.assertEqual(process.wait(60), 0)
                self.assertEqual(self.family(mark), [other])
            finally:
                os.kill(other, signal.SIGKILL)

    def test_what_it_leaves_to_poolctl_is_reaped(self):
        script = "for i in 1 2 3 4 5 6 7 8; do (sleep 0.01 &); done; echo left; exec sleep 300"
        process, _ = self.start("x", command=["sh", "-c", script])
        self.assertEqual(process.stdout.readline(), "left\n")
        self.assertTrue(eventually(lambda: len(children_of(process.pid)) == 1))

    def test_one_that_ignores_the_stop_is_killed_after_the_grace(self):
        self.pool.set(stop_grace=0.2)
        script = "trap '' TERM; echo runs; while :; do sleep 0.05; done"
        process, _ = self.start("x", command=["sh", "-c", script])
        self.assertEqual(process.stdout.readline(), "runs\n")
        self.assertEqual(self.poolctl("evict", "x")["model"], "x")
        self.assertEqual(process.wait(60), 128 + signal.SIGKILL)

    def test_that_it_ends_at_once_is_no_failed_load(self):
        for _ in range(20):
            self.assertEqual(self.finish("x", command=["false"])[0], 1)
        self.assertEqual({one["kind"] for one in self.events("x")}, {"loaded", "exited"})

    def test_it_ends_with_the_pool(self):
        self.stop_coordinator()
        self.start_coordinator("--on-exit", "stop")
        process, _, mark = self.start_family()
        self.stop_coordinator()
        self.assertEqual(process.wait(60), 3)
        self.assertEqual(self.family(mark), [])


class Room(TenantTest):
    flags = [
        "--max-memory", "1000MiB",
        "--gpu-memory", "GPU-aaaa = 10GiB, GPU-bbbb = 10GiB",
    ]  # fmt: skip

    def test_bytes_are_counted(self):
        self.start("x", "--memory", "600MiB")
        code, _, err = self.finish("y", "--memory", "600MiB", command=["true"])
        self.assertEqual(code, 124)
        self.assertIn("pinned", err)
        self.assertEqual(self.finish("y", "--memory", "300MiB", command=["true"])[0], 0)
        code, _, err = self.finish("y", "--memory", "2GiB", command=["true"])
        self.assertEqual(code, 124)
        self.assertIn("max_memory is", err)

    def test_what_is_said_goes_before_what_another_program_of_that_name_took(self):
        self.assertEqual(self.finish("x", "--memory", "100MiB", command=["true"])[0], 0)
        self.start("y", "--memory", "600MiB")
        self.assertEqual(self.finish("x", "--memory", "600MiB", command=["true"])[0], 124)

    def test_devices_are_assigned_and_told(self):
        ask = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES $HIP_VISIBLE_DEVICES; exec sleep 300"]
        first, _ = self.start("x", "--memory", "1MiB", "--devices", "1", "--gpu-memory", "6GiB",
                              command=ask)  # fmt: skip
        second, _ = self.start("y", "--memory", "1MiB", "--gpu-memory", "6GiB", command=ask)
        told = {tuple(one.stdout.readline().split()) for one in (first, second)}
        self.assertEqual(told, {("GPU-aaaa",) * 2, ("GPU-bbbb",) * 2})
        options = ["--memory", "1MiB", "--devices", "1", "--gpu-memory", "6GiB"]
        self.assertEqual(self.finish("z", *options, command=["true"])[0], 124)
        both = ["--memory", "1MiB", "--devices", "2", "--gpu-memory", "4GiB"]
        code, out, _ = self.finish("z", *both, command=["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"])
        self.assertEqual((code, sorted(out.strip().split(","))), (0, ["GPU-aaaa", "GPU-bbbb"]))

    def test_nothing_of_its_group_is_beside_it(self):
        self.start("x", "--memory", "1MiB", "--group", "heavy")
        options = ["--memory", "1MiB", "--group"]
        code, _, err = self.finish("y", *options, "heavy", command=["true"])
        self.assertEqual(code, 124, err)
        self.assertEqual(self.finish("y", *options, "light", command=["true"])[0], 0)
        self.assertEqual(self.finish("y", "--memory", "1MiB", command=["true"])[0], 0)

    def test_a_model_of_its_group_evicts_it_if_that_may_be(self):
        config = pathlib.Path(self.dir, "pool.toml")
        config.write_text('[[model]]\nmatch = "m"\ngroups = ["heavy"]\nmemory = "1MiB"\n')
        self.stop_coordinator()
        self.start_coordinator("--config", str(config))
        kept, _ = self.start("kept", "--memory", "1MiB", "--group", "light")
        gone, _ = self.start("gone", "--memory", "1MiB", "--group", "heavy", "--evictable")
        with self.load_external("m"):
            _, err = gone.communicate(timeout=60)
            self.assertEqual(gone.returncode, 128 + signal.SIGTERM)
            self.assertIn("ended by the pool: group", err)
            self.assertIsNone(kept.poll())
            waits = self.run_command("gone", "--memory", "1MiB", "--group", "heavy", "--timeout",
                                     "200ms", command=["true"])  # fmt: skip
            self.assertEqual(waits.wait(60), 124)


def living():
    """(pid, command line) of every process that is no zombie."""
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
            if words and (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                yield int(entry.name), words


class Terminal:
    """A pseudoterminal on which an interactive bash runs."""

    def __init__(self, directory):
        master, self.slave = os.openpty()
        self.master = master
        self.seen = ""
        environment = {**os.environ, "PS1": "", "PS2": "", "TERM": "dumb", "MODELPOOL_DIR": directory}
        environment.pop("PROMPT_COMMAND", None)
        self.shell = subprocess.Popen(
            ["setsid", "--ctty", "--wait", "bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=self.slave, stdout=self.slave, stderr=self.slave, env=environment,
        )  # fmt: skip

    def type(self, text):
        os.write(self.master, text.encode())

    def shows(self, text):
        """Reads until that was written; what came before it is not looked at again."""
        until = time.monotonic() + PATIENCE_S
        while text not in self.seen and time.monotonic() < until:
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        found, _, rest = self.seen.partition(text)
        if text in self.seen:
            self.seen = rest
            return True
        return found == text

    def close(self):
        self.shell.kill()
        self.shell.wait()
        os.close(self.master)
        os.close(self.slave)


# Counts its SIGINTs; answers to lines.
COUNTS = (
    "import signal, sys, os\n"
    "n = 0\n"
    "def count(*_):\n"
    "    global n; n += 1; print('interrupt', n, flush=True)\n"
    "def size(*_): print('size', *os.get_terminal_size(), flush=True)\n"
    "signal.signal(signal.SIGINT, count); signal.signal(signal.SIGWINCH, size)\n"
    "print('front' if os.tcgetpgrp(0) == os.getpgrp() else 'back', flush=True)\n"
    "for line in iter(sys.stdin.readline, ''): print('got', line.strip(), n, flush=True)\n"
    "print('end', flush=True)\n"
    "sys.exit(9)\n"
)


class OnTerminal(TenantTest):
    flags = ["--max-backends", "2"]

    def setUp(self):
        super().setUp()
        self.script = pathlib.Path(self.dir, "counts.py")
        self.script.write_text(COUNTS)
        self.terminal = Terminal(self.dir)
        self.addCleanup(self.terminal.close)
        self.run_it = f"{POOLCTL} run x -- {sys.executable} -u {self.script}"
        self.type("stty -echo; set -b; echo be''gin\n")  # -b: says at once that a job has stopped
        self.sees("begin")

    def type(self, text):
        self.terminal.type(text)

    @staticmethod
    def state_of(pid):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    def sees(self, text):
        self.assertTrue(self.terminal.shows(text), repr(self.terminal.seen))

    def test_the_keyboard_is_the_commands(self):
        self.type(f"{self.run_it}; echo code $?\n")
        self.sees("front")
        self.type("one\n")
        self.sees("got one 0")
        self.type("\x03")
        self.sees("interrupt 1")
        self.type("two\n")
        self.sees("got two 1")  # once, not twice
        self.type("\x04")
        self.sees("end")
        self.sees("code 9")
        self.type("echo sh''ell\n")  # has its terminal back
        self.sees("shell")

    def test_a_signal_of_the_keyboard_that_ends_it_is_in_the_exit_code(self):
        self.type(f"{POOLCTL} run x -- sh -c 'echo ru''ns; exec sleep 300'; echo code $?\n")
        self.sees("runs")
        self.type("\x03")
        self.sees("code 130")

    def test_it_is_stopped_and_goes_on_as_a_job(self):
        self.type(f"{self.run_it}\n")
        self.sees("front")
        self.type("\x1a")
        self.sees("Stopped")
        self.assertEqual(self.state_of(self.entry("x")["pid"]), "T")
        self.type("echo sh''ell; fg\n")
        self.sees("shell")
        self.type("one\n")
        self.sees("got one 0")
        self.type("\x1a")
        self.sees("Stopped")
        self.type("bg; echo do''ne\n")  # and stops, when it reads the keyboard
        self.sees("done")
        self.sees("Stopped")
        self.type("fg\n")
        self.type("two\n")
        self.sees("got two 0")
        self.type("\x03")
        self.sees("interrupt 1")
        self.type("\x04")
        self.sees("end")

    def test_started_in_the_background_it_waits_for_the_foreground(self):
        self.type(f"{self.run_it} &\n")
        self.sees("back")
        self.sees("Stopped")
        self.type("fg\n")
        self.type("one\n")
        self.sees("got one 0")
        self.type("\x04")
        self.sees("end")

    def test_the_size_of_the_window_is_told(self):
        self.type(f"{self.run_it}\n")
        self.sees("front")
        fcntl.ioctl(self.terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        self.sees("size 77 33")
        self.type("\x04")
        self.sees("end")

    def test_in_a_pipeline_it_reads_the_keyboard_when_it_asks(self):
        self.type(f"{self.run_it} | cat; echo code ${{PIPESTATUS[0]}}\n")
        self.sees("back")
        self.type("one\n")
        self.sees("got one 0")
        self.type("\x03")
        self.sees("interrupt 1")
        self.type("\x04")
        self.sees("end")
        self.sees("code 9")

    def test_in_a_pipeline_ctrl_c_reaches_it_once(self):
        script = self.script.with_name("waits.py")
        waits = "import time\nwhile n == 0: time.sleep(0.01)\n"
        script.write_text(COUNTS.replace("for line in", waits + "for line in"))
        self.type(f"{POOLCTL} run x -- {sys.executable} -u {script} | (trap '' INT; cat)\n")
        self.sees("back")
        self.type("\x03")
        self.sees("interrupt 1")
        self.type("one\n")
        self.sees("got one 1")
        self.type("\x04")
        self.sees("end")

    def test_interactive_programs_are_themselves(self):
        self.type(f"{POOLCTL} run x -- {sys.executable} -q -i; echo code $?\n")
        self.sees(">>> ")
        self.type("print(6 * 7)\n")
        self.sees("42")
        script = "while True: time.sleep(0.01)"  # not one long sleep: Python may miss a signal
        self.type(f"import time; print('sl' 'eeps', flush=True); exec('{script}')\n")
        self.sees("sleeps")
        self.type("\x03")
        self.sees("KeyboardInterrupt")
        self.type("raise SystemExit(4)\n")
        self.sees("code 4")

    def test_a_shell_in_it_has_jobs_of_its_own(self):
        self.type(f"{POOLCTL} run x -- bash --norc --noprofile --noediting -i; echo code $?\n")
        self.type("echo in''ner\n")
        self.sees("inner")
        self.type("sleep 300\n")
        self.assertTrue(eventually(lambda: self.sleeps()))
        self.type("\x1a")
        self.sees("Stopped")
        self.type("fg\n")
        self.assertTrue(eventually(lambda: self.state_of(self.sleeps()[0]) == "S"))
        self.type("\x03")
        self.type("echo in''ner; exit 6\n")
        self.sees("inner")
        self.sees("code 6")
        self.type("echo sh''ell\n")
        self.sees("shell")

    def sleeps(self):
        token = f"MODELPOOL_BACKEND={self.poolctl('status')['uuid']}"
        commands = dict(living())
        return [pid for pid in processes_with(token) if commands.get(pid, "").startswith("sleep")]

    def test_killed_in_the_foreground_it_leaves_the_shell_its_terminal(self):
        self.type(f"{self.run_it}; echo code $?\n")
        self.sees("front")
        os.kill(self.entry("x")["pid"], signal.SIGKILL)
        self.sees("code 137")
        self.type("echo sh''ell\n")
        self.sees("shell")

    def test_poolctl_killed_in_the_foreground_leaves_the_shell_its_terminal(self):
        self.type(f"{self.run_it}; echo code $?\n")
        self.sees("front")
        entry = self.entry("x")
        os.kill(entry["owner_pid"], signal.SIGKILL)
        self.sees("code 137")
        self.assertTrue(self.is_gone("x"))  # until then it may be in the middle of a read
        self.type("echo sh''ell\n")
        self.sees("shell")

    def test_a_terminal_left_raw_by_a_killed_command_is_put_right(self):
        raw = "import os, signal, tty; tty.setraw(0); os.kill(os.getpid(), signal.SIGKILL)"
        before = termios.tcgetattr(self.terminal.slave)
        self.type(f"{POOLCTL} run x -- {sys.executable} -c '{raw}'; echo code $?\n")
        self.sees("code 137")
        self.assertEqual(termios.tcgetattr(self.terminal.slave)[:4], before[:4])

    def test_without_a_shell_nothing_is_stopped(self):
        """As the first process of a container's terminal: nobody could go on with it."""
        self.type(f"exec {self.run_it}\n")
        self.sees("front")
        self.type("\x1a")
        self.type("one\n")
        self.sees("got one 0")
        self.type("\x03")
        self.sees("interrupt 1")
        self.type("\x04")
        self.sees("end")


def is_own(words):
    """Is it no poolctl, which has COMMAND in its command line?"""
    return "\0run\0" not in words


class Torture(TenantTest):
    """Tenants beside models in little memory, everything killed at random: never above it."""

    LIMIT_MIB = 100
    SECONDS = float(os.environ.get("MODELPOOL_TEST_TORTURE_S", "20"))
    flags = ["--max-memory", f"{LIMIT_MIB}MiB", "--stop-grace", "300ms", "--max-wait", "100ms"]

    def setUp(self):
        config = tempfile.NamedTemporaryFile("w", suffix=".toml", delete=False)
        self.addCleanup(os.unlink, config.name)
        config.write('[[model]]\nmatch = "model-*"\nmemory = "30MiB"\n')
        config.close()
        self.flags = [*Torture.flags, "--config", config.name]
        super().setUp()
        self.mark = f"mp-unit-{os.getpid()}"
        self.over = threading.Event()
        self.counts = {"runs": 0, "killed": {}, "loads": 0, "most": 0, "codes": {}}
        self.lock = threading.Lock()

    def units(self):
        """{pid: (unit, MiB)} of what lives of tenants and models; poolctl is none of it."""
        found = {}
        for pid, words in living():
            match = re.search(rf"{self.mark}-([a-z0-9]+)-(\d+)-\0$", words)
            if match and is_own(words):
                found[pid] = (match[1], int(match[2]))
        return found

    def observe(self):
        """What is seen in both looks lived all the time between them, together."""
        while not self.over.is_set():
            first, second = self.units(), self.units()
            both = {first[pid] for pid in first if second.get(pid) == first[pid]}
            total = sum(mib for _, mib in both)
            with self.lock:
                self.counts["most"] = max(self.counts["most"], total)
                if total > self.LIMIT_MIB:
                    self.counts.setdefault("above", sorted(both))

    def run_tenants(self, name, seed):
        dice = random.Random(seed)
        for number in range(1 << 30):
            if self.over.is_set():
                return
            mib = dice.choice((15, 30, 45))
            unit = f"{self.mark}-{name}x{number}-{mib}-"
            script = FAMILY.replace("child", "child-" + unit)
            if dice.random() < 0.3:  # forks and leaves
                script = script.replace("echo runs\nwhile :; do sleep 0.05; done", "sleep 0.2")
            options = ["--memory", f"{mib}MiB", "--timeout", "2s"]
            options += ["--evictable"] if dice.random() < 0.5 else []
            process = subprocess.Popen(
                [*DIES_WITH_US, POOLCTL, "--dir", self.dir, "run", name, *options, "--",
                 "bash", "-c", script, unit],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            until = time.monotonic() + dice.uniform(0.3, 1.5)
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            if process.poll() is None:
                self.kill_one(dice, process, unit)
            try:
                code = process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            with self.lock:
                self.counts["runs"] += 1
                self.counts["codes"][code] = self.counts["codes"].get(code, 0) + 1

    def kill_one(self, dice, process, unit):
        own = {pid: words for pid, words in living() if words.endswith(f"{unit}\0")}
        first = [pid for pid, words in own.items() if words.endswith(f"\0{unit}\0")]
        children = [pid for pid in own if pid not in first]
        who = dice.choice(["poolctl", "first", "child"])
        victims = {"poolctl": [process.pid], "first": first, "child": children}[who]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(victims), signal.SIGKILL)
            with self.lock:
                self.counts["killed"][who] = self.counts["killed"].get(who, 0) + 1
        if who == "child":
            process.terminate()

    def load_models(self, name, seed):
        dice = random.Random(seed)
        while not self.over.is_set():
            time.sleep(dice.uniform(0, 0.2))
            with contextlib.suppress(modelpool.Error, TimeoutError, OSError):
                got = self.pool.acquire(name, timeout=1)
                if isinstance(got, modelpool.LoadTicket):
                    port = modelpool.free_port()
                    unit = f"{self.mark}-{name.replace('-', '')}-30-"
                    argv = [DEMO_BACKEND, "--port", str(port), "--max-lifetime", "120s"]
                    argv += ["--memory", "30MiB", "--name", unit]  # the pool measures it
                    got.spawn(argv).wait_ready(f"127.0.0.1:{port}")
                    got = got.ready(f"127.0.0.1:{port}")
                    with self.lock:
                        self.counts["loads"] += 1
                time.sleep(dice.uniform(0, 0.1))
                got.release()

    def test_never_above_the_limit(self):
        seed = random.randrange(1 << 30)
        print(f"seed {seed}", file=sys.stderr)
        work = [
            (self.observe, ()),
            (self.run_tenants, ("t1", seed)),
            (self.run_tenants, ("t2", seed + 1)),
            (self.run_tenants, ("t3", seed + 2)),
            (self.load_models, ("model-1", seed + 3)),
            (self.load_models, ("model-2", seed + 4)),
        ]
        threads = [threading.Thread(target=target, args=args) for target, args in work]
        for thread in threads:
            thread.start()
        dice = random.Random(seed + 5)
        until = time.monotonic() + self.SECONDS
        while time.monotonic() < until:
            time.sleep(dice.uniform(2, 4))
            self.coordinator.kill()  # by this thread, with which it would end (DIES_WITH_US)
            self.coordinator.wait()
            self.start_coordinator()
        self.over.set()
        for thread in threads:
            thread.join()
        print(self.counts, file=sys.stderr)
        self.assertNotIn("above", self.counts)
        self.assertGreater(self.counts["runs"], 5)
        self.assertEqual(set(self.counts["killed"]), {"poolctl", "first", "child"})
        self.assertGreater(self.counts["loads"], 0)
        self.assertGreater(self.counts["most"], self.LIMIT_MIB // 2)
        # All tenants are gone, and only models hold anything.
        eventually(lambda: not any(one["tenant"] for one in self.poolctl("list")))
        self.assertEqual([one for one in self.poolctl("list") if one["tenant"]], [])
        left = {unit for unit, _ in self.units().values() if not unit.startswith("model")}
        self.assertEqual(left, set())
        self.assertTrue(self.poolctl("check")["ok"])


if __name__ == "__main__":
    unittest.main()
