#!/usr/bin/env python3
"""SIGUSR2: another program in the place of poolserve's first process, in every way that can go."""

import contextlib
import http.client
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import time
import unittest

import modelpool
from poolserve import (
    POOLSERVE, Asking, DoorTest, ask, free_port, lives,
)  # fmt: skip
from support import PATIENCE_S, eventually

HERE = pathlib.Path(__file__).resolve().parent
ROWS = 9  # of the pool, so that a test can leave none for workers
CAPACITY = f"[capacity]\nworkers = {ROWS}"
SETTLES_AFTER_S = 10
DEATHS = 3  # of new workers, and the old ones go on
STREAM = b'{"model":"odd","stream":true,"messages":[],"max_tokens":%d,"pause":0.1}'


class Stream:
    """A request whose answer takes its time."""

    def __init__(self, test, door, words):
        host, port = door.addresses[0].rsplit(":", 1)
        self._talk = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        test.addCleanup(self._talk.close)
        body = STREAM % words
        self._talk.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        self.received = b""
        while b"data: {" not in self.received:
            self.received += self._part()

    def _part(self):
        part = self._talk.recv(4096)
        if not part:
            raise AssertionError(f"cut: {self.received[-200:]}")
        return part

    def is_whole(self):
        """Waits for its end."""
        while not self.received.endswith(b"0\r\n\r\n"):
            self.received += self._part()
        return b"data: [DONE]" in self.received


class Upgrade(DoorTest):
    def setUp(self):
        super().setUp()
        self.program = f"{self.dir}/program"
        self.install()

    def install(self, *lines, serves=POOLSERVE):
        """A program by the same name: these lines of a shell, then poolserve."""
        text = "\n".join(["#!/bin/bash", *lines, f'exec -a "$0" {serves} "$@"\n'])
        new = pathlib.Path(f"{self.program}.new")
        new.write_text(text)
        new.chmod(0o755)
        new.rename(self.program)

    def install_with_note(self):
        self.install(f'[[ $* == *--check-config* ]] || echo "$$" >>{self.dir}/runs')

    def runs(self):
        with contextlib.suppress(OSError):
            return pathlib.Path(self.dir, "runs").read_text().split()
        return []

    def start(self, *arguments, **options):
        return super().start(*arguments, program=self.program, **options)

    def upgrade(self, door, count=2):
        """The new workers, once they serve."""
        before = set(door.workers())
        door.signal(signal.SIGUSR2)
        door.wait_until_serving(count)
        return sorted(set(door.workers()) - before)

    def with_odd_model(self):
        log = f"{self.dir}/odd.log"
        self.config.write_text(
            '[serve]\nlisten = ["127.0.0.1:0"]\nworkers = 2\n[models."odd"]\n'
            f'command = "{sys.executable} {HERE}/odd_backend.py {{port}} odd {log}"\n'
        )

    def load(self, door, model):
        done = self.poolctl(
            "load", model, "--address", f"unix:{self.dir}/{model}", "--ready", "delay:0s", "--", "sleep", "600"
        )
        self.assertEqual(done.returncode, 0, done.stderr)

    def asking(self, door):
        asking = Asking(door.addresses[0])
        self.addCleanup(asking.stop)
        asking.wait_for_more(5)
        return asking

    def is_refused(self, door, why, asking):
        """What was tried is said, and all is as before."""
        old = door.workers()
        door.signal(signal.SIGUSR2)
        door.wait_for_log(why)
        door.wait_until_serving(2)
        asking.wait_for_more(5)
        self.assertEqual(door.workers(), old)
        self.assertEqual(asking.failures, [])

    def connection_after(self, kept):
        """What the answer to one more request on this connection says of it."""
        kept.request("GET", "/livez")
        answer = kept.getresponse()
        self.assertEqual(answer.read(), b'{"status":"ok"}\n')
        return answer.headers["Connection"]

    def killed_until_rolled_back(self, door, old, count=1):
        killed = set()
        while len(killed) < DEATHS:
            self.assertTrue(eventually(lambda: set(door.workers()) - set(old) - killed))
            pid = (set(door.workers()) - set(old) - killed).pop()
            killed.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        door.wait_for_log("tried once more", count)

    # --- It goes well ---

    def test_new_workers_serve_and_no_stream_is_cut(self):
        self.with_odd_model()
        door = self.start()
        old, asking, stream = door.workers(), self.asking(door), Stream(self, door, 130)
        pool = self.attach()
        backends, coordinator = pool.backends(), self.coordinator()["pid"]
        host, port = door.addresses[0].rsplit(":", 1)
        kept = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        self.addCleanup(kept.close)
        self.assertIsNone(self.connection_after(kept))
        self.install_with_note()
        new = self.upgrade(door)
        self.assertEqual(len(new), 2)
        self.assertEqual(self.runs(), [str(door.pid)])
        # One more answer for each that had a connection, once its worker has noticed.
        self.assertTrue(eventually(lambda: self.connection_after(kept) == "close"))
        asking.wait_for_more(5)
        self.assertTrue(stream.is_whole())
        door.wait_for_log("the new program's workers serve")
        self.assertTrue(eventually(lambda: not any(lives(pid) for pid in old)))
        asking.wait_for_more(5)
        asking.stop()
        self.assertEqual(asking.failures, [])
        self.assertEqual(door.workers(), new)
        self.assertEqual([b["pid"] for b in pool.backends()], [b["pid"] for b in backends])
        self.assertEqual(self.coordinator()["pid"], coordinator)

    def test_the_old_ones_wait_until_new_ones_have_shown_themselves(self):
        door = self.start()
        old = door.workers()
        new = self.upgrade(door)
        self.assertTrue(all(lives(pid) for pid in old))
        self.assertEqual(sorted(old + new), door.workers())
        # A second one is for afterwards.
        door.signal(signal.SIGUSR2)
        door.wait_for_log("the new program's workers serve")
        door.wait_until_serving(3)
        self.assertTrue(eventually(lambda: not any(lives(pid) for pid in old)))
        self.assertTrue(all(lives(pid) for pid in new))

    def test_a_config_that_is_new_as_well(self):
        self.write_config(models=("gone", "kept", "other"))
        with self.config.open("a") as config:
            config.write("[pool]\nmax_backends = 3\n")
        door = self.start()
        pool = self.attach()
        for model in ("gone", "kept", "other"):
            self.load(door, model)
        self.assertEqual(len(pool.backends()), 3)
        dropped, new = door.addresses[0], f"unix:{self.dir}/new.sock"
        self.write_config(models=("kept", "other"), listen=(new,))
        text = self.config.read_text()
        self.config.write_text(text.replace('[models."other"]\n', '[models."other"]\ncwd = "/"\n'))
        self.upgrade(door)
        self.assertEqual(door.addresses, [new])
        self.assertTrue(ask(new))
        self.assertTrue(eventually(lambda: [b["model"] for b in pool.backends()] == ["kept"]))
        door.wait_for_log("the new program's workers serve")
        with self.assertRaises(ConnectionRefusedError):
            ask(dropped)

    def test_what_it_started_is_its_own_still(self):
        door = self.start("--on-exit", "stop")
        old = door.workers()
        coordinator = self.coordinator()["pid"]
        self.upgrade(door)
        # Those of before are told, too, and waited for.
        door.signal(signal.SIGTERM)
        self.assertEqual(door.wait(), 0)
        self.assertFalse(any(lives(pid) for pid in old))
        self.assertTrue(eventually(lambda: not lives(coordinator)))

    def test_a_stream_of_before_is_waited_for_at_the_end(self):
        self.with_odd_model()
        door = self.start()
        stream = Stream(self, door, 30)
        self.upgrade(door)
        door.signal(signal.SIGTERM)
        self.assertTrue(stream.is_whole())
        self.assertEqual(door.wait(), 0)

    def test_sockets_of_systemd_stay_its_own(self):
        path = f"{self.dir}/x.sock"
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(path)
            unix.listen()
            self.write_config(listen=(f"unix:{path}",))
            door = self.start_with(unix)
            self.upgrade(door)
            self.assertTrue(ask(f"unix:{path}"))
            door.signal(signal.SIGTERM)
            self.assertEqual(door.wait(), 0)
            # Who connects now waits for the next poolserve.
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)

    # --- It is refused ---

    def test_a_program_that_refuses_its_config(self):
        door = self.start()
        asking = self.asking(door)
        self.config.write_text("[serve]\nlistne = []\n")
        self.is_refused(door, "--check-config ended with exit status 2", asking)
        self.assertIn("pool.toml:2", door.log())

    def test_a_program_that_crashes_is_absent_or_cannot_be_executed(self):
        for lines, why in ((["kill -SEGV $$"], "ended with signal SEGV"), (None, "ended with exit status 127")):
            with self.subTest(why=why):
                door = self.start()
                asking = self.asking(door)
                self.install(*lines) if lines else os.unlink(self.program)
                self.is_refused(door, why, asking)
                asking.stop()
                self.install()
                door.signal(signal.SIGTERM)
                self.assertEqual(door.wait(), 0)

    def test_a_program_that_hangs_while_it_is_asked(self):
        door = self.start()
        asking = self.asking(door)
        self.install("[[ $* == *--check-config* ]] && exec sleep 600")
        self.is_refused(door, "takes longer than 20 s", asking)

    def test_a_program_that_ends_while_it_is_asked_for_by_sigterm(self):
        door = self.start()
        self.install("[[ $* == *--check-config* ]] && exec sleep 600")
        door.signal(signal.SIGUSR2)
        self.assertTrue(eventually(lambda: self.asked_of(door)))
        (asked,) = self.asked_of(door)
        door.signal(signal.SIGTERM)
        self.assertEqual(door.wait(), 0)
        self.assertFalse(lives(asked))

    def asked_of(self, door):
        children = pathlib.Path(f"/proc/{door.pid}/task/{door.pid}/children").read_text().split()
        return [int(pid) for pid in children
                if pathlib.Path(f"/proc/{pid}/comm").read_text() == "sleep\n"]  # fmt: skip

    # --- It is given up ---

    def test_new_workers_that_die_are_given_up_and_the_old_ones_accept_again(self):
        self.with_odd_model()
        door = self.start()
        old, stream = door.workers(), Stream(self, door, 30)
        self.upgrade(door)
        self.killed_until_rolled_back(door, old)
        self.assertTrue(eventually(lambda: door.workers() == old))
        asking = self.asking(door)
        self.assertTrue(stream.is_whole())
        asking.wait_for_more(20)
        self.assertEqual(door.workers(), old)
        # The next try.
        door.signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: len(door.workers()) == 4))
        door.wait_for_log("the new program's workers serve")
        self.assertTrue(eventually(lambda: not any(lives(pid) for pid in old)))
        asking.wait_for_more(5)
        asking.stop()
        self.assertEqual(asking.failures, [])
        self.assertEqual(len(door.workers()), 2)

    def test_new_addresses_go_when_the_old_ones_go_on_and_old_ones_stay(self):
        door = self.start()
        old, address, new = door.workers(), door.addresses[0], f"127.0.0.1:{free_port()}"
        self.write_config(listen=(new,))
        self.upgrade(door)
        self.assertTrue(ask(new))
        self.killed_until_rolled_back(door, old)
        self.assertTrue(ask(address))
        with self.assertRaises(ConnectionRefusedError):
            ask(new)
        self.assertTrue(eventually(lambda: door.workers() == old))

    def test_after_that_the_end_of_an_old_one_is_a_reason_for_another_try(self):
        self.write_config(rest=CAPACITY)
        door = self.start()
        old = door.workers()
        self.upgrade(door)
        self.killed_until_rolled_back(door, old)
        os.kill(old[0], signal.SIGKILL)
        self.assertTrue(eventually(lambda: len(door.workers()) == 3))
        self.killed_until_rolled_back(door, old, 2)
        # Nor is there any hope.
        self.assertTrue(eventually(lambda: door.workers() == old[1:]))
        with contextlib.ExitStack() as rows:
            with self.assertRaises(modelpool.errors.TableFull):
                while True:
                    rows.enter_context(modelpool.Pool(dir=self.dir, create=False))
            os.kill(old[1], signal.SIGKILL)
            # Its row, too, and any that new ones leave.
            while door.process.poll() is None:
                with contextlib.suppress(modelpool.errors.TableFull):
                    rows.enter_context(modelpool.Pool(dir=self.dir, create=False))
        self.assertEqual(door.wait(), 1)
        self.assertIn("unable to serve: every worker ended", door.log())

    def test_new_workers_that_cannot_begin(self):
        self.write_config(rest=CAPACITY)
        door = self.start()
        old, asking = door.workers(), self.asking(door)
        with contextlib.ExitStack() as rows:
            for _ in range(ROWS - len(old) - 1):
                rows.enter_context(modelpool.Pool(dir=self.dir, create=False))
            door.signal(signal.SIGUSR2)
            door.wait_for_log(" with the new config or program")
        asking.wait_for_more(5)
        self.assertTrue(eventually(lambda: door.workers() == old))
        self.assertEqual(asking.failures, [])
        self.upgrade(door, 3)

    def test_the_old_ones_stay_for_as_long_as_they_may_be_needed(self):
        self.write_config(serve='drain_timeout_serve = "1s"')
        door = self.start()
        old = door.workers()
        self.upgrade(door)
        asking = self.asking(door)
        # Some answers of new ones later, longer than the drain.
        until = time.monotonic() + 2
        self.assertTrue(eventually(lambda: time.monotonic() > until))
        self.assertTrue(all(lives(pid) for pid in old))
        self.killed_until_rolled_back(door, old)
        asking.wait_for_more(5)
        self.assertTrue(eventually(lambda: door.workers() == old))

    def test_without_old_ones_the_new_ones_go_on_however_often_they_die(self):
        door = self.start()
        old = door.workers()
        self.upgrade(door)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        door.wait_for_log("the new program's workers serve")
        for _ in range(DEATHS + 1):
            before = set(door.workers())
            os.kill(min(before), signal.SIGKILL)
            self.assertTrue(eventually(lambda: set(door.workers()) - before))
        self.assertTrue(ask(door.addresses[0]))
        self.assertIsNone(door.process.poll())

    def test_the_old_ones_stay_until_the_new_ones_serve(self):
        self.write_config(rest=CAPACITY)
        door = self.start()
        old = door.workers()
        new = self.upgrade(door)
        with contextlib.ExitStack() as rows:
            with self.assertRaises(modelpool.errors.TableFull):
                while True:
                    rows.enter_context(modelpool.Pool(dir=self.dir, create=False))
            # Nobody gives rows of the dead back.
            coordinator = self.coordinator()["pid"]
            os.kill(coordinator, signal.SIGSTOP)
            self.addCleanup(os.kill, coordinator, signal.SIGCONT)
            for pid in new:
                os.kill(pid, signal.SIGKILL)
            # Those that take their place wait for a row; stopped, they neither begin nor end.
            again = lambda: set(door.workers()) - set(old) - set(new)  # noqa: E731
            self.assertTrue(eventually(lambda: len(again()) == 2))
            stopped = again()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            os.kill(coordinator, signal.SIGCONT)
        until = time.monotonic() + SETTLES_AFTER_S + 1
        self.assertTrue(eventually(lambda: time.monotonic() > until))
        self.assertNotIn("the new program's workers serve", door.log())
        self.assertTrue(all(lives(pid) for pid in old))
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        door.wait_for_log("the new program's workers serve")
        self.assertTrue(ask(door.addresses[0]))

    def test_where_new_ones_and_their_master_die_the_old_ones_accept_again(self):
        door = self.start()
        old = door.workers()
        new = self.upgrade(door)
        for pid in new:
            os.kill(pid, signal.SIGSTOP)
        door.kill()
        for pid in new:
            os.kill(pid, signal.SIGKILL)
        self.assertTrue(ask(door.addresses[0]))
        self.assertTrue(all(lives(pid) for pid in old))
        last = self.start()
        self.assertTrue(eventually(lambda: self.all_workers() == last.workers()))

    def test_models_that_changed_stay_with_old_workers_that_go_on(self):
        path = f"{self.dir}/x.sock"
        self.write_config(listen=(f"unix:{path}",), models=("a",))
        door = self.start()
        pool = self.attach()
        self.load(door, "a")
        (before,) = pool.backends()
        mode = stat.S_IMODE(os.stat(path).st_mode)
        text = self.config.read_text().replace('listen = ["unix:', 'listener = [{mode = "0600", address = "unix:')
        text = text.replace('x.sock"]', 'x.sock"}]')
        self.config.write_text(text.replace('[models."a"]\n', '[models."a"]\ncwd = "/"\n'))
        old = door.workers()
        self.upgrade(door)
        self.killed_until_rolled_back(door, old)
        self.assertTrue(ask(f"unix:{path}"))
        self.assertEqual(pool.backends()[0]["generation"], before["generation"])
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), mode)
        door.signal(signal.SIGHUP)
        door.wait_for_log("the new program's workers serve")
        self.assertTrue(eventually(lambda: not pool.backends()))
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)

    def test_what_an_old_worker_still_loads_goes_with_it(self):
        log = f"{self.dir}/odd.log"
        command = f'command = "{sys.executable} {HERE}/odd_backend.py {{port}} odd {log}"\n'
        head = '[serve]\nlisten = ["127.0.0.1:0"]\nworkers = 2\n[models."odd"]\n'
        self.config.write_text(head + command)
        door = self.start()
        host, port = door.addresses[0].rsplit(":", 1)
        kept = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        self.addCleanup(kept.close)
        self.assertIsNone(self.connection_after(kept))
        old = door.workers()
        self.config.write_text(head + command + 'cwd = "/"\n')
        self.upgrade(door)
        door.wait_for_log("the new program's workers serve")
        kept.request("POST", "/v1/chat/completions", '{"model": "odd", "messages": []}')
        answer = kept.getresponse()
        self.assertEqual((answer.status, bool(answer.read())), (200, True))
        pool = self.attach()
        self.assertIn(pool.backends()[0]["owner_pid"], old)
        kept.close()
        self.assertTrue(eventually(lambda: not any(lives(pid) for pid in old)))
        self.assertTrue(eventually(lambda: not pool.backends()))

    def test_the_coordinator_reads_the_file_once_it_is_in_force(self):
        self.write_config(rest='[pool]\nmax_backends = 3')
        door = self.start()
        pool = self.attach()
        self.assertEqual(pool.limit, 3)
        self.write_config(rest='[pool]\nmax_backends = 2')
        self.upgrade(door)
        self.assertTrue(eventually(lambda: pool.limit == 2))

    # --- It cannot be executed ---

    def test_after_an_execution_that_failed_the_next_one_is_as_the_first(self):
        door = self.start()
        self.install('[[ $* == *--check-config* ]] && chmod -x "$0"')
        door.signal(signal.SIGUSR2)
        door.wait_for_log("unable to execute")
        self.install_with_note()
        self.upgrade(door, 3)
        self.assertEqual(self.runs(), [str(door.pid)])

    def test_one_that_is_asked_for_while_another_hangs_is_not_lost(self):
        door = self.start()
        self.install("[[ $* == *--check-config* ]] && exec sleep 600")
        door.signal(signal.SIGUSR2)
        self.assertTrue(eventually(lambda: self.asked_of(door)))
        self.install_with_note()
        door.signal(signal.SIGUSR2)
        self.assertTrue(eventually(self.runs))

    def test_what_is_asked_ends_with_who_asked(self):
        door = self.start()
        self.install("[[ $* == *--check-config* ]] && exec sleep 600")
        door.signal(signal.SIGUSR2)
        self.assertTrue(eventually(lambda: self.asked_of(door)))
        (asked,) = self.asked_of(door)
        door.kill()
        self.assertTrue(eventually(lambda: not lives(asked)))

    def test_what_a_user_set_is_no_inheritance(self):
        for value in ("2", "0", "x", "99"):
            with self.subTest(value=value):
                door = self.start(env={"POOLSERVE_INHERITS": value})
                self.assertTrue(ask(door.addresses[0]))
                door.signal(signal.SIGTERM)
                self.assertEqual(door.wait(), 0)

    def test_a_program_that_knows_no_such_inheritance_refuses(self):
        done = subprocess.run(
            [POOLSERVE, "--dir", self.dir, "--config", str(self.config), "--check-config"],
            capture_output=True, text=True, env={**os.environ, "POOLSERVE_WOULD_INHERIT": "999"},
        )  # fmt: skip
        self.assertEqual(done.returncode, 2)
        self.assertIn("another version", done.stderr)

    # --- It crashes or hangs once it is executed ---

    def test_a_config_that_became_bad_meanwhile_is_worth_another_try(self):
        door = self.start()
        old, good = door.workers(), self.config.read_text()
        self.install(f"[[ $* == *--check-config* ]] || echo [serve >{self.config}")
        door.signal(signal.SIGUSR2)
        self.assertEqual(door.wait(), 1)  # not 2, after which systemd would not try again
        self.assertTrue(ask(door.addresses[0]))
        self.assertTrue(all(lives(pid) for pid in old))
        self.install()
        self.config.write_text(good)
        self.start()

    def test_one_that_crashes_leaves_workers_that_serve(self):
        for lines in (["kill -SEGV $$"], ["exit 1"]):
            with self.subTest(lines=lines):
                door = self.start()
                old, asking = door.workers(), self.asking(door)
                self.install("[[ $* == *--check-config* ]] || " + lines[0])
                door.signal(signal.SIGUSR2)
                door.wait()
                asking.wait_for_more(5)
                self.assertTrue(all(lives(pid) for pid in old))
                self.install()
                last = self.start()
                self.assertTrue(eventually(lambda: not any(lives(pid) for pid in old)))
                asking.wait_for_more(5)
                asking.stop()
                self.assertEqual(asking.failures, [])
                last.signal(signal.SIGTERM)
                self.assertEqual(last.wait(), 0)

    def test_one_that_hangs_leaves_workers_that_serve(self):
        door = self.start()
        old, asking = door.workers(), self.asking(door)
        self.install("[[ $* == *--check-config* ]] || exec sleep 600")
        door.signal(signal.SIGUSR2)
        self.assertTrue(eventually(lambda: pathlib.Path(f"/proc/{door.pid}/comm").read_text() == "sleep\n"))
        asking.wait_for_more(5)
        self.assertTrue(all(lives(pid) for pid in old))
        self.assertEqual(asking.failures, [])

    def test_the_first_process_dies_before_the_old_ones_end(self):
        door = self.start()
        self.install()
        asking = self.asking(door)
        self.upgrade(door)
        door.kill()
        asking.wait_for_more(5)
        last = self.start()
        self.assertTrue(eventually(lambda: self.all_workers() == last.workers()))
        asking.wait_for_more(5)
        self.assertEqual(asking.failures, [])

    def test_a_pool_of_another_layout_is_refused_by_name(self):
        door = self.start()
        self.assertEqual(len(door.workers()), 2)
        door.signal(signal.SIGTERM)
        door.wait()
        os.kill(self.coordinator()["pid"], signal.SIGKILL)
        with open(f"{self.dir}/default", "r+b") as segment:
            segment.seek(8)
            segment.write(b"\xff\0\0\0")
        done = subprocess.run(
            [POOLSERVE, "--dir", self.dir, "--config", str(self.config), "--check-config"],
            capture_output=True, text=True,
        )  # fmt: skip
        self.assertEqual(done.returncode, 3)
        self.assertIn("layout version 255", done.stderr)


if __name__ == "__main__":
    unittest.main()
