"""An overdue request is asked to end: a callback, a property, a task that is cancelled."""

import asyncio
import gc
import os
import threading
import unittest

import modelpool
from support import PATIENCE_S, PoolTest, eventually


class CancelTest(PoolTest):
    flags = ["--on-overdue", "cancel, 60s, kill"]

    def kinds(self):
        return [event["kind"] for event in self.pool.events()]


class Sync(CancelTest):
    def test_the_callback_of_a_with_ends_the_request_and_the_backend_stays(self):
        self.load_external("m").release()
        asked = threading.Event()
        with self.pool.lease("m", busy_timeout=0.1, tag="bad", on_cancel=asked.set) as lease:
            self.assertTrue(asked.wait(PATIENCE_S))
            self.assertTrue(lease.cancelled)
            self.assertIn("busy_timeout 100ms passed", lease.cancel_reason)
            row = self.pool.leases()[0]
            self.assertTrue(row["cancellable"])
            self.assertIsNotNone(row["cancelled_ms"])
        self.assertIn("cancel_requested", self.kinds())
        self.assertNotIn("killed", self.kinds())
        self.assertEqual(self.pool.backends()[0]["state"], "ready")

    def test_one_that_only_looks_starts_no_thread(self):
        self.load_external("m").release()
        threads = len(os.listdir("/proc/self/task"))
        with self.pool.acquire("m", busy_timeout=0.1, cancellable=True) as lease:
            self.assertFalse(lease.cancelled)
            self.assertIsNone(lease.cancel_reason)
            self.assertTrue(eventually(lambda: lease.cancelled))
            self.assertLessEqual(len(os.listdir("/proc/self/task")), threads)

    def test_a_lease_made_cancellable_later_is_asked(self):
        with self.load_external("m") as lease:
            self.pool.set(busy_timeout=0.1)
            lease.set_cancellable()
            self.assertTrue(eventually(lambda: lease.cancelled))

    def test_what_a_callback_raises_ends_neither_the_thread_nor_the_others(self):
        self.load_external("m").release()
        raised, asked = [], threading.Event()
        before = threading.excepthook
        self.addCleanup(setattr, threading, "excepthook", before)
        threading.excepthook = raised.append
        bad = self.pool.acquire("m", busy_timeout=0.1)
        bad.on_cancel(lambda: 1 / 0)
        good = self.pool.acquire("m", busy_timeout=0.1)
        good.on_cancel(asked.set)
        self.assertTrue(asked.wait(PATIENCE_S))
        self.assertTrue(eventually(lambda: raised))
        self.assertIs(raised[0].exc_type, ZeroDivisionError)
        bad.release()
        good.release()

    def test_a_lease_with_a_callback_is_collected_like_any_other(self):
        self.load_external("m").release()
        lease = self.pool.acquire("m")
        lease.on_cancel(print)
        del lease
        gc.collect()
        self.assertEqual(self.pool.leases(), [])

    def test_bad_callbacks_are_refused_and_released_leases_closed(self):
        lease = self.load_external("m")
        with self.assertRaises(modelpool.Invalid):
            lease.on_cancel("no function")
        with self.assertRaises(modelpool.Invalid):
            self.pool.lease("m", on_cancel=1)
        lease.release()
        for use in (lambda: lease.cancelled, lambda: lease.on_cancel(print), lease.set_cancellable):
            with self.assertRaises(modelpool.Closed):
                use()

    def test_a_child_of_fork_hears_of_its_own_leases(self):
        self.load_external("m").release()
        with self.pool.acquire("m") as lease:
            lease.on_cancel(print)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    asked = threading.Event()
                    own = self.pool.acquire("m", busy_timeout=0.1)
                    own.on_cancel(asked.set)
                    code = 0 if asked.wait(PATIENCE_S) else 2
                finally:
                    os._exit(code)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)


class Async(CancelTest):
    def setUp(self):
        super().setUp()
        self.load_external("m").release()

    def run_async(self, coroutine):
        return asyncio.run(asyncio.wait_for(coroutine, 2 * PATIENCE_S))

    def test_the_task_inside_is_cancelled_and_the_with_says_why(self):
        async def main():
            with self.assertRaises(modelpool.RequestCancelled) as raised:
                async with self.pool.lease_async("m", busy_timeout=0.1, cancellable=True):
                    await asyncio.Event().wait()
            self.assertIn("busy_timeout 100ms passed", str(raised.exception))
            self.assertIsInstance(raised.exception.__cause__, asyncio.CancelledError)
            await asyncio.sleep(0)  # the task goes on as if nothing had been

        self.run_async(main())
        self.assertEqual(self.pool.leases(), [])
        self.assertNotIn("killed", self.kinds())

    def test_one_that_is_cancelled_by_others_stays_cancelled(self):
        async def serve(inside):
            async with self.pool.lease_async("m", cancellable=True):
                inside.set()
                await asyncio.Event().wait()

        async def main():
            inside = asyncio.Event()
            task = asyncio.create_task(serve(inside))
            await inside.wait()
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        self.run_async(main())
        self.assertEqual(self.pool.leases(), [])

    def test_one_that_ends_in_time_is_left_alone_and_so_is_the_next(self):
        async def main():
            leasing = self.pool.lease_async("m", cancellable=True)
            for _ in range(3):
                async with leasing as lease:
                    await asyncio.sleep(0)
                    self.assertFalse(lease.cancelled)

        self.run_async(main())

    def test_of_many_only_the_overdue_one_is_cancelled(self):
        async def serve(busy_timeout, done):
            async with self.pool.lease_async("m", busy_timeout=busy_timeout, cancellable=True):
                await done.wait()
                return "served"

        async def main():
            done = asyncio.Event()
            good = [asyncio.create_task(serve(None, done)) for _ in range(7)]
            with self.assertRaises(modelpool.RequestCancelled):
                await serve(0.1, done)
            done.set()
            self.assertEqual(await asyncio.gather(*good), ["served"] * 7)

        self.run_async(main())

    def test_without_saying_so_nothing_is_cancelled(self):
        async def main():
            async with self.pool.lease_async("m") as lease:
                self.assertFalse(self.pool.leases()[0]["cancellable"])
                self.assertFalse(lease.cancelled)

        self.run_async(main())


if __name__ == "__main__":
    unittest.main()
