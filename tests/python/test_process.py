"""Signals, fork, exec of nothing, and the end of the interpreter."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
import unittest

import modelpool
from support import PATIENCE_S, PoolTest, eventually

PROLOGUE = """
import asyncio, gc, os, signal, sys, threading, time
import modelpool
pool = modelpool.Pool(dir=sys.argv[1])
"""


class ProcessTest(PoolTest):
    def start(self, code):
        """A Python process with `pool`; killed when the test ends."""
        process = subprocess.Popen(
            # From 3.12 on Python warns of each fork while there are threads.
            [sys.executable, "-X", "faulthandler", "-W", "ignore:This process",
             "-c", PROLOGUE + textwrap.dedent(code)]
            + [self.dir],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def run_to_end(self, code):
        process = self.start(code)
        out, err = process.communicate(timeout=PATIENCE_S)
        self.assertEqual((process.returncode, err), (0, ""))
        return out

    def rest_of(self, process):
        """What it still prints; communicate() would miss what readline() has buffered."""
        out, err = process.stdout.read(), process.stderr.read()
        process.wait()
        return out, err

    def nothing_left(self, process):
        """No row, lease or waiter of that process."""
        rows = self.pool.workers() + [
            {"pid": row["worker_pid"]} for row in self.pool.leases() + self.pool.waiters()
        ]
        return all(row["pid"] != process.pid for row in rows)


class Subinterpreters(ProcessTest):
    def test_are_refused_whoever_imports_first(self):
        for first in ("", "import modelpool"):
            program = f"""
                try:  # from 3.13 on: the error is returned, and a new one keeps such modules out
                    import _interpreters as interpreters
                    create = lambda: interpreters.create("legacy")
                except ModuleNotFoundError:
                    import _xxsubinterpreters as interpreters
                    create = interpreters.create
                {first}
                for _ in range(2):
                    one = create()
                    try:
                        error = str(interpreters.run_string(one, "import modelpool"))
                    except getattr(interpreters, "RunFailedError", ()) as raised:
                        error = str(raised)
                    print("ImportError" in error and "is a subinterpreter" in error)
                    interpreters.destroy(one)
                import modelpool
                try:
                    modelpool.Pool("Not a name")
                except modelpool.Invalid:
                    print("main")
            """
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(program)],
                capture_output=True, text=True, timeout=PATIENCE_S,
            )
            self.assertEqual((done.stdout, done.stderr), ("True\nTrue\nmain\n", ""), first)


class Resources(ProcessTest):
    def test_without_descriptors_every_call_answers(self):
        out = self.run_to_end("""
            import resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

            async def main():
                taken = []
                try:
                    while True:
                        taken.append(os.dup(0))
                except OSError:
                    pass
                for call in (
                    lambda: pool.acquire_async("a"),
                    lambda: asyncio.sleep(0, pool.acquire("b").spawn(["true"])),
                    lambda: asyncio.sleep(0, modelpool.Pool(dir=sys.argv[1])),
                ):
                    try:
                        await call()
                    except modelpool.System as error:
                        print(error.errno == 24, end=" ")
                for descriptor in taken:
                    os.close(descriptor)
                (await pool.acquire_async("a"))._give_back()

            asyncio.run(main())
        """)
        self.assertEqual(out, "True True True ")


class Signals(ProcessTest):
    def test_ctrl_c_ends_a_wait_and_leaves_no_waiter(self):
        held = self.pool.acquire("m")
        process = self.start("""
            try:
                pool.acquire("m", timeout=600)
            except KeyboardInterrupt:
                print("interrupted", len(pool.waiters()), flush=True)
            print(type(pool.acquire("other", may_load=True)).__name__)
        """)
        self.wait_for_waiters(1)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.stdout.readline(), "interrupted 0\n")
        self.assertEqual(self.rest_of(process), ("LoadTicket\n", ""))
        self.assertEqual(process.returncode, 0)
        held._give_back()

    def test_ctrl_c_ends_a_wait_while_other_threads_wait(self):
        held = self.pool.acquire("m")
        process = self.start("""
            for _ in range(3):
                threading.Thread(target=lambda: pool.acquire("m", timeout=600), daemon=True).start()
            while len(pool.waiters()) < 3:
                time.sleep(0.005)
            pool.acquire("m", timeout=600)
        """)
        self.wait_for_waiters(4)
        process.send_signal(signal.SIGINT)
        self.assertIn("KeyboardInterrupt", process.communicate()[1])
        self.assertTrue(eventually(lambda: not self.pool.waiters()))
        held._give_back()

    def test_a_handler_may_use_the_pool_that_waits(self):
        held = self.pool.acquire("m")
        process = self.start("""
            def on_signal(number, frame):
                with pool.acquire("other", timeout=5).ready("127.0.0.1:1", external=True) as lease:
                    print(lease.model, len(pool.waiters()), flush=True)
            signal.signal(signal.SIGUSR1, on_signal)
            print(pool.acquire("m", timeout=600).model)
        """)
        self.wait_for_waiters(1)
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(process.stdout.readline(), "other 1\n")
        held.ready("127.0.0.1:2", external=True).release()
        self.assertEqual(self.rest_of(process), ("m\n", ""))

    def test_a_handler_may_close_the_pool_that_waits(self):
        held = self.pool.acquire("m")
        process = self.start("""
            signal.signal(signal.SIGUSR1, lambda number, frame: pool.close())
            try:
                pool.acquire("m", timeout=600)
            except modelpool.Closed:
                print("closed")
        """)
        self.wait_for_waiters(1)
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(process.communicate(timeout=PATIENCE_S), ("closed\n", ""))
        held._give_back()

    def test_handlers_that_release_the_lease_in_use_do_nothing_worse(self):
        self.load_external("m").release()
        self.run_to_end("""
            held = []
            def on_signal(number, frame):
                pool.acquire("m").release()
                for lease in held:
                    lease.release()
            signal.signal(signal.SIGALRM, on_signal)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                lease = pool.acquire("m")
                held.append(lease)
                try:
                    lease.progress()
                except modelpool.Closed:
                    pass
                lease.release()
                held.clear()
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert pool.leases() == [], pool.leases()
        """)


class Fork(ProcessTest):
    def in_child(self, check):
        """Runs check() in a forked child; what it raises is the test's failure."""
        report, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            text = b"ok"
            try:
                check()
            except BaseException as error:
                text = repr(error).encode()
            os.write(write, text)
            os._exit(0)
        os.close(write)
        with os.fdopen(report, "rb") as answer:
            self.assertEqual(answer.read(), b"ok")
        os.waitpid(pid, 0)

    def test_inherited_leases_and_tickets_are_closed_and_end_nothing(self):
        lease = self.load_external("m")
        ticket = self.pool.acquire("n")

        def check():
            lease.release()
            for call in (lease.progress, lambda: lease.address, lease.__enter__, ticket._give_back,
                         lambda: ticket.fail("child"), lambda: ticket.spawn(["sleep", "9"]),
                         lambda: ticket.ready("127.0.0.1:9", external=True)):
                try:
                    call()
                    raise AssertionError(f"{call} did something")
                except modelpool.Closed:
                    pass
            assert "released" in repr(lease)

        self.in_child(check)
        lease.progress()
        self.assertEqual(len(self.pool.leases()), 1)
        with ticket.ready("127.0.0.1:2", external=True):
            pass
        lease.release()

    def test_dropping_what_was_inherited_ends_nothing(self):
        holder = [self.load_external("m"), self.pool.acquire("n"), self.attach()]
        self.in_child(holder.clear)
        holder[0].progress()
        holder[1].ready("127.0.0.1:2", external=True).release()
        self.assertEqual(holder[2].limit, 3)

    def test_the_pool_attaches_anew_in_a_child(self):
        self.load_external("m").release()

        def check():
            with self.pool.acquire("m") as lease:
                assert lease.address == "127.0.0.1:4321"
                assert [row["worker_pid"] for row in self.pool.leases()] == [os.getpid()]

        self.in_child(check)
        self.assertEqual([w["pid"] for w in self.pool.workers() if w["alive"]], [os.getpid()])

    def test_a_child_forked_while_threads_wait_waits_itself(self):
        ticket = self.pool.acquire("m")
        waiter = threading.Thread(target=lambda: self.pool.acquire("m").release())
        waiter.start()
        self.wait_for_waiters(1)

        def check():
            try:
                self.pool.acquire("m", timeout=0.05)
            except modelpool.Timeout:
                return
            raise AssertionError("no timeout")

        self.in_child(check)
        ticket.ready("127.0.0.1:1", external=True).release()
        waiter.join()

    def test_forks_in_the_middle_of_leases_leave_none_behind(self):
        self.load_external("m").release()
        out = self.run_to_end("""
            stop = threading.Event()
            def churn():
                while not stop.is_set():
                    pool.acquire("m").release()
            threads = [threading.Thread(target=churn) for _ in range(2)]
            for thread in threads:
                thread.start()
            for _ in range(20):
                pid = os.fork()
                if pid == 0:
                    pool.acquire("m").release()
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
            stop.set()
            for thread in threads:
                thread.join()
            print(pool.leases())
        """)
        self.assertEqual(out, "[]\n")


class Exit(ProcessTest):
    def test_at_exit_of_a_process_that_holds_everything_nothing_stays(self):
        self.load_external("m").release()
        out = self.run_to_end("""
            lease = pool.acquire("m")
            ticket = pool.acquire("n")
            class Late:
                def __del__(self):  # when modules are torn down already
                    lease.release()
                    print(repr(lease))
            late = Late()
            cycle = [pool, pool.acquire("m")]; cycle.append(cycle)
        """)
        self.assertEqual(out, "<modelpool.Lease released>\n")
        self.assertTrue(eventually(lambda: not self.pool.leases()))
        self.assertTrue(eventually(lambda: len(self.pool.workers()) == 1))

    def test_at_exit_with_threads_in_a_wait(self):
        held = self.pool.acquire("m")
        process = self.start("""
            threading.Thread(target=lambda: pool.acquire("m", timeout=600), daemon=True).start()
            while not pool.waiters():
                time.sleep(0.005)
        """)
        self.assertEqual(process.communicate(timeout=PATIENCE_S), ("", ""))
        self.assertEqual(process.returncode, 0)
        self.assertTrue(eventually(lambda: not self.pool.waiters()))
        held._give_back()

    def test_at_exit_with_daemon_threads_in_every_call(self):
        for call in ("pool.acquire('x', timeout=0.02, may_load=False)", "pool.status()"):
            process = self.start(f"""
                begun = threading.Event()
                def work():
                    while True:
                        try:
                            {call}
                        except modelpool.Error:
                            pass
                        begun.set()
                for _ in range(4):
                    threading.Thread(target=work, daemon=True).start()
                begun.wait()
            """)
            self.assertEqual(process.communicate(timeout=PATIENCE_S), ("", ""))
            self.assertEqual(process.returncode, 0)

    def test_at_exit_with_an_event_loop_left_in_a_wait(self):
        held = self.pool.acquire("m")
        process = self.start("""
            loop = asyncio.new_event_loop()
            task = loop.create_task(pool.acquire_async("m", timeout=600))
            while not pool.waiters():
                loop.run_until_complete(asyncio.sleep(0.005))
            loop._logger = None
        """)
        process.communicate(timeout=PATIENCE_S)
        self.assertEqual(process.returncode, 0)
        self.assertTrue(eventually(lambda: not self.pool.waiters()))
        held._give_back()

    def test_killed_with_a_lease_it_is_cleared(self):
        self.load_external("m").release()
        process = self.start("""
            lease = pool.acquire("m", tag="doomed")
            print("held", flush=True)
            time.sleep(600)
        """)
        self.assertEqual(process.stdout.readline(), "held\n")
        self.assertEqual([row["tag"] for row in self.pool.leases()], ["doomed"])
        process.kill()
        self.assertTrue(eventually(lambda: self.nothing_left(process)))


if __name__ == "__main__":
    unittest.main()
