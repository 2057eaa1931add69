#!/usr/bin/env python3
"""Who takes over from whom, and which addresses are open, where masters die one after the other.

Of several generations of workers some may be slow to begin (stopped here, before they are ready),
and some may still have requests of theirs.
"""

import contextlib
import json
import os
import re
import signal
import unittest

import modelpool
from poolserve import DoorTest, ask, free_port, lives
from support import eventually

ROWS = 9  # of the pool, so that a test can leave none for workers
CAPACITY = f"[capacity]\nworkers = {ROWS}"


class Takeover(DoorTest):
    def configure(self, listen, workers=2, serve=""):
        self.write_config(listen=listen, workers=workers, serve=serve, rest=CAPACITY)

    def first(self, *more):
        """Two workers whose master has died, at an address of their own and more."""
        self.configure(("127.0.0.1:0", *more))
        door = self.start()
        door.kill()
        return door.addresses, self.all_workers()

    @contextlib.contextmanager
    def rows_left(self, count):
        self.assertTrue(eventually(lambda: all(lives(pid) for pid in self.attached())))
        with contextlib.ExitStack() as rows:
            for _ in range(ROWS - len(self.attached()) - count):
                rows.enter_context(modelpool.Pool(dir=self.dir, create=False))
            yield rows

    def attached(self):
        rows = json.loads(self.poolctl("-o", "json", "workers").stdout)
        return [row["pid"] for row in rows if row["pid"]]

    def never_serves(self, listen):
        """A poolserve that takes over, and ends because its workers cannot begin."""
        self.configure(listen, workers=1)
        with self.rows_left(1) as rows:  # its own
            door = self.launch()
            self.assertTrue(eventually(lambda: door.workers() or door.process.poll() is not None))
            # Workers of before may end meanwhile.
            while door.process.poll() is None:
                self.assertNotIn("serving pool", door.log())
                with contextlib.suppress(modelpool.errors.TableFull):
                    rows.enter_context(modelpool.Pool(dir=self.dir, create=False))
            self.assertEqual(door.wait(), 1)
        self.assertIn("every worker ended", door.log())

    def slow(self, listen):
        """A poolserve that takes over, and its worker, stopped before that is ready."""
        self.configure(listen, workers=1)
        with self.rows_left(1):  # its own, so the worker waits for one
            door = self.launch()
            self.assertTrue(eventually(door.workers), door.log())
            (pid,) = door.workers()
            os.kill(pid, signal.SIGSTOP)
        self.assertNotIn("serving pool", door.log())
        return door, pid

    @contextlib.contextmanager
    def half_ready(self, listen, serve=""):
        """One that takes over, with as many workers that serve as there were rows for; not all."""
        self.configure(listen, workers=3, serve=serve)
        with self.rows_left(2):
            door = self.launch()
            self.assertTrue(eventually(door.workers))  # so it takes signals
            self.assertTrue(eventually(lambda: self.ready_of(door)), door.log())
            yield door, self.ready_of(door)

    def ready_of(self, door):
        door.signal(signal.SIGUSR1)
        return [int(pid) for pid in re.findall(r"worker pid (\d+): serves", door.log())]

    def refuses(self, address):
        with contextlib.suppress(TimeoutError):
            try:
                ask(address)
            except (ConnectionRefusedError, ConnectionResetError):
                return True
        return False

    def test_those_who_finish_are_not_asked(self):
        for stays in (True, False):  # the address that is new, and the one that was dropped
            with self.subTest(stays=stays):
                other = f"127.0.0.1:{free_port()}"
                self.configure(("127.0.0.1:0", *(() if stays else (other,))), workers=1)
                door = self.start()
                held = self.busy(door)  # so the worker of the first generation stays
                first, (old,) = door.addresses[0], door.workers()
                self.configure((first, other) if stays else (first,), workers=1)
                door.signal(signal.SIGHUP)
                door.wait_until_serving(2)
                door.kill()
                self.never_serves((first, other))
                self.assertTrue(lives(old))
                last = self.start()
                self.assertEqual(last.addresses, [first, other])
                for address in last.addresses:
                    self.assertTrue(ask(address))
                held.close()
                last.signal(signal.SIGTERM)
                self.assertEqual(last.wait(), 0)

    def test_who_is_told_to_stop_while_it_takes_over_ends_nobody(self):
        (address,), old = self.first()
        with self.half_ready((address,), serve='shutdown_timeout = "off"') as (door, ready):
            for pid in ready:
                os.kill(pid, signal.SIGSTOP)
            door.signal(signal.SIGTERM)
            door.wait_for_log("stopping")
            door.kill()
            # What it hears first is that its master has gone.
            for pid in ready:
                os.kill(pid, signal.SIGCONT)
            self.assertTrue(eventually(lambda: self.all_workers() == old))
            self.assertTrue(ask(address))

    def test_what_nobody_wants_is_closed_whoever_dies(self):
        for how in ("killed", "hopeless"):
            with self.subTest(how=how):
                (address, other), _old = self.first(f"127.0.0.1:{free_port()}")
                killed, slow = self.slow((address,))
                killed.kill()
                if how == "killed":
                    also_killed, also_slow = self.slow((address,))
                    also_killed.kill()
                    os.kill(also_slow, signal.SIGKILL)
                else:
                    self.never_serves((address,))
                os.kill(slow, signal.SIGCONT)
                self.assertTrue(eventually(lambda: self.all_workers() == [slow]))
                self.assertTrue(ask(address))
                self.assertTrue(eventually(lambda: self.refuses(other)))
                # It is free for the next one.
                self.configure((address, other))
                last = self.start()
                self.assertTrue(ask(other))
                last.signal(signal.SIGTERM)
                self.assertEqual(last.wait(), 0)

    def test_what_a_slow_generation_opened_is_closed_though_it_has_requests(self):
        (address,), _old = self.first()
        new = f"127.0.0.1:{free_port()}"
        killed, slow = self.slow((address, new))
        killed.kill()
        last, also_slow = self.slow((address,))
        os.kill(slow, signal.SIGCONT)
        self.assertTrue(eventually(lambda: self.all_workers() == sorted((slow, also_slow))))
        killed.addresses = [new]
        self.busy(killed)
        os.kill(also_slow, signal.SIGCONT)
        last.wait_until_serving()
        self.assertTrue(eventually(lambda: self.refuses(new)))
        self.assertTrue(lives(slow))
        self.configure((address, new), workers=1)
        last.signal(signal.SIGHUP)
        last.wait_until_serving(2)
        self.assertEqual(last.addresses, [address, new])
        self.assertTrue(ask(new))

    def test_newcomers_that_have_died_hold_nobody_up(self):
        self.configure(("127.0.0.1:0",), workers=1)
        door = self.start()
        door.kill()
        killed, slow = self.slow(door.addresses)
        killed.signal(signal.SIGTERM)
        os.kill(slow, signal.SIGKILL)
        killed.wait()
        for _ in range(12):
            dies = self.launch()
            # So it asks, or has asked.
            self.assertTrue(eventually(lambda: self.holds_the_lock(dies)))
            dies.kill()
        last = self.start()
        self.assertEqual(last.addresses, door.addresses)

    def holds_the_lock(self, door):
        with open(f"{self.dir}/default.door.lock", encoding="ascii") as lock:
            return lock.read() == str(door.pid)


if __name__ == "__main__":
    unittest.main()
