"""asyncio: many waits, one thread; cancellation leaves nothing and loses nothing."""

import asyncio
import concurrent.futures
import gc
import os
import threading
import unittest

import modelpool
from support import PATIENCE_S, PoolTest, eventually, load


def thread_count():
    return len(os.listdir("/proc/self/task"))


class AsyncTest(PoolTest):
    flags = ["--max-backends", "3", "--max-waiters", "500"]

    def run_async(self, coroutine):
        async def limited():
            return await asyncio.wait_for(coroutine, 2 * PATIENCE_S)

        return asyncio.run(limited())

    async def waiters_are(self, count):
        for _ in range(PATIENCE_S * 200):
            if len(self.pool.waiters()) == count:
                return
            await asyncio.sleep(0.005)
        self.fail(f"{len(self.pool.waiters())} waiters, not {count}")


class Acquire(AsyncTest):
    def test_a_loaded_model_is_leased_at_once(self):
        self.load_external("m").release()

        async def main():
            threads = thread_count()
            with await self.pool.acquire_async("m", timeout=5, tag="req-1") as lease:
                self.assertEqual(self.pool.leases()[0]["tag"], "req-1")
                self.assertEqual(lease.address, "127.0.0.1:4321")
            self.assertEqual(thread_count(), threads)

        self.run_async(main())

    def test_an_acquire_says_for_how_long_its_backend_may_be_idle(self):
        self.load_external("m").release()

        async def main():
            with await self.pool.acquire_async("m", keep_alive="1h"):
                self.assertEqual(self.pool.backends()[0]["keep_alive"], "1h")
            async with self.pool.lease_async("m", keep_alive=0):
                self.assertEqual(self.pool.backends()[0]["keep_alive"], "0")
            while self.pool.backends():
                await asyncio.sleep(0.005)

        self.run_async(main())

    def test_a_ticket_is_granted_and_waiters_get_leases(self):
        async def main():
            ticket = await self.pool.acquire_async("m")
            self.assertIsInstance(ticket, modelpool.LoadTicket)
            waits = [asyncio.create_task(self.pool.acquire_async("m")) for _ in range(5)]
            await self.waiters_are(5)
            ticket.ready("127.0.0.1:1", external=True).release()
            for lease in await asyncio.gather(*waits):
                self.assertEqual(lease.address, "127.0.0.1:1")
                lease.release()

        self.run_async(main())

    def test_hundreds_wait_with_one_thread_and_a_full_queue_is_refused(self):
        async def main():
            ticket = await self.pool.acquire_async("m")
            before = thread_count()
            waits = [asyncio.create_task(self.pool.acquire_async("m")) for _ in range(500)]
            await self.waiters_are(500)
            self.assertEqual(thread_count(), before + 1)
            with self.assertRaises(modelpool.QueueFull):
                await self.pool.acquire_async("m")
            ticket.ready("127.0.0.1:1", external=True).release()
            for lease in await asyncio.gather(*waits):
                lease.release()
            self.assertEqual(self.pool.waiters(), [])
            self.assertTrue(eventually(lambda: thread_count() == before))

        self.run_async(main())

    def test_a_loop_that_is_blocked_keeps_no_place(self):
        self.pool.set(max_backends=1)

        async def main():
            held = self.load_external("a")
            first = asyncio.create_task(self.pool.acquire_async("b"))
            await self.waiters_are(1)
            with concurrent.futures.ThreadPoolExecutor() as threads:
                second = threads.submit(self.pool.acquire, "c", PATIENCE_S)
                # From here on nothing of the loop's runs.
                self.wait_for_waiters(2)
                held.release()
                second.result(PATIENCE_S).give_back()
            (await first).give_back()

        self.run_async(main())

    def test_errors_are_raised_by_name(self):
        async def main():
            ticket = await self.pool.acquire_async("m")
            with self.assertRaises(modelpool.Timeout):
                await self.pool.acquire_async("m", timeout=0.05)
            with self.assertRaises(modelpool.Timeout):
                await self.pool.acquire_async("m", timeout=0)
            waiting = asyncio.create_task(self.pool.acquire_async("m"))
            await self.waiters_are(1)
            ticket.fail("no memory")
            with self.assertRaisesRegex(modelpool.LoadFailed, "no memory"):
                await waiting
            with self.assertRaises(modelpool.CoolingDown):
                await self.pool.acquire_async("m")
            with self.assertRaises(modelpool.NotLoaded):
                await self.pool.acquire_async("n", may_load=False)
            for model in ("", "\ud800", "x" * 256):
                with self.assertRaises(modelpool.Invalid):
                    await self.pool.acquire_async(model)
            for arguments in ((None,), (b"m",), ("m", b"1")):
                with self.assertRaises(TypeError):
                    await self.pool.acquire_async(*arguments)
            with self.assertRaises(modelpool.Invalid):
                await self.pool.acquire_async("m", timeout=None)

        self.run_async(main())

    def test_close_ends_the_waits(self):
        async def main():
            pool = self.attach()
            ticket = self.pool.acquire("m")
            waiting = asyncio.create_task(pool.acquire_async("m"))
            await self.waiters_are(1)
            pool.close()
            with self.assertRaises(modelpool.Closed):
                await waiting
            with self.assertRaises(modelpool.Closed):
                await pool.acquire_async("m")
            self.assertEqual(self.pool.waiters(), [])
            ticket._give_back()

        self.run_async(main())


class Cancel(AsyncTest):
    def test_a_cancelled_task_waits_no_more(self):
        async def main():
            ticket = await self.pool.acquire_async("m")
            patient = [self.pool.acquire_async("m", timeout=600) for _ in range(20)]
            waits = [asyncio.create_task(wait) for wait in patient]
            await self.waiters_are(20)
            for wait in waits[:19]:
                wait.cancel()
            await self.waiters_are(1)
            ticket.ready("127.0.0.1:1", external=True).release()
            (await waits[19]).release()

        self.run_async(main())

    def test_a_closed_coroutine_waits_no_more(self):
        async def main():
            ticket = await self.pool.acquire_async("m")
            wait = self.pool.acquire_async("m", timeout=600)
            wait.send(None)
            await self.waiters_are(1)
            wait.close()
            await self.waiters_are(0)
            ticket._give_back()

        self.run_async(main())

    def test_a_closed_loop_keeps_no_ticket(self):
        ticket = self.pool.acquire("m")
        loop = asyncio.new_event_loop()
        task = loop.create_task(self.pool.acquire_async("m", timeout=600))
        while not self.pool.waiters():
            loop.run_until_complete(asyncio.sleep(0.005))
        loop.close()
        ticket._give_back()

        async def main():
            (await self.pool.acquire_async("m", timeout=30.0))._give_back()

        self.run_async(main())
        self.assertFalse(task.done())
        task._log_destroy_pending = False

    def test_a_closed_loop_that_is_collected_waits_no_more(self):
        ticket = self.pool.acquire("m")
        loop = asyncio.new_event_loop()
        wait = self.pool.acquire_async("m", timeout=600, expected_bytes=9, priority=7)
        task = loop.create_task(wait)
        while not self.pool.waiters():
            loop.run_until_complete(asyncio.sleep(0.005))
        row = self.pool.waiters()[0]
        self.assertEqual((row["expected_bytes"], row["priority"]), (9, 7))
        loop.close()
        ticket._give_back()
        task._log_destroy_pending = False
        del wait, task, loop
        gc.collect()
        self.assertEqual(self.pool.waiters(), [])
        self.pool.acquire("m", timeout=PATIENCE_S)._give_back()

    def test_a_task_that_is_cancelled_when_its_model_is_ready_has_no_lease(self):
        async def main():
            ticket = await self.pool.acquire_async("m")
            waiting = asyncio.create_task(self.pool.acquire_async("m"))
            await self.waiters_are(1)
            ticket.ready("127.0.0.1:1", external=True).release()
            waiting.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await waiting
            self.assertEqual(self.pool.leases(), [])

        self.run_async(main())

    def test_a_task_that_is_cancelled_at_its_turn_has_no_ticket(self):
        async def main():
            ticket = await self.pool.acquire_async("m")
            waiting = asyncio.create_task(self.pool.acquire_async("m"))
            await self.waiters_are(1)
            ticket._give_back()
            waiting.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await waiting
            # No failure: the model does not cool down.
            (await self.pool.acquire_async("m", timeout=5)).ready("127.0.0.1:1", external=True)

        self.run_async(main())

    def test_a_result_that_was_delivered_but_not_taken_is_given_back(self):
        async def main():
            ticket = await self.pool.acquire_async("m")
            waiting = asyncio.create_task(self.pool.acquire_async("m"))
            await self.waiters_are(1)
            ticket.ready("127.0.0.1:1", external=True).release()
            mailbox = modelpool._Mailbox.of_running_loop()

            def is_delivered():  # the future has its result, the task did not run yet
                mailbox._deliver()
                return len(self.pool.leases()) == 1

            self.assertTrue(eventually(is_delivered))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            self.assertTrue(waiting.cancelled())
            self.assertEqual(self.pool.leases(), [])

        self.run_async(main())

    def test_in_the_middle_of_everything_nothing_is_lost(self):
        """Tasks that are cancelled at random moments while a model comes and goes."""

        async def use(lifetime):
            async with self.pool.lease_async("m", load=self.external, timeout=PATIENCE_S):
                await asyncio.sleep(lifetime)

        async def main():
            self.pool.set(idle_timeout=0.01)
            for i in range(30):
                tasks = [asyncio.create_task(use(0.001 * (i % 3))) for _ in range(10)]
                await asyncio.sleep(0.001 * (i % 7))
                for task in tasks[::2]:
                    task.cancel()
                for done in await asyncio.gather(*tasks, return_exceptions=True):
                    if done is not None:
                        self.assertIsInstance(done, asyncio.CancelledError)
            for _ in range(200):
                if not self.pool.leases():
                    break
                await asyncio.sleep(0.005)
            self.assertEqual((self.pool.leases(), self.pool.waiters()), ([], []))

        self.run_async(main())

    async def external(self, ticket):
        await asyncio.sleep(0.002)
        return ticket.ready("127.0.0.1:1", external=True)


class LeaseAsync(AsyncTest):
    def test_loads_with_an_async_function_and_with_one_that_blocks(self):
        async def load_async(ticket):
            return await asyncio.get_running_loop().run_in_executor(None, load, ticket)

        async def main():
            for model, function in (("m", load), ("n", load_async)):
                async with self.pool.lease_async(model, load=function) as lease:
                    self.assertEqual(lease.model, model)
                    lease.progress()
            self.assertEqual(self.pool.leases(), [])

        self.run_async(main())

    def test_a_load_goes_on_when_the_task_that_began_it_is_cancelled(self):
        async def main():
            go_on = asyncio.Event()

            async def slow(ticket):
                await go_on.wait()
                return ticket.ready("127.0.0.1:1", external=True)

            async def use():
                async with self.pool.lease_async("m", load=slow) as lease:
                    return lease.address

            first, second = asyncio.create_task(use()), asyncio.create_task(use())
            await self.waiters_are(1)
            first.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await first
            go_on.set()
            self.assertEqual(await second, "127.0.0.1:1")
            self.assertEqual(self.pool.leases(), [])

        self.run_async(main())

    def test_what_load_raises_is_raised_and_fails_the_load(self):
        async def broken(ticket):
            raise ZeroDivisionError("here")

        async def main():
            with self.assertRaisesRegex(ZeroDivisionError, "here"):
                async with self.pool.lease_async("m", load=broken):
                    self.fail("it was not loaded")
            with self.assertRaisesRegex(modelpool.CoolingDown, "here"):
                await self.pool.acquire_async("m")
            with self.assertRaises(modelpool.NotLoaded):
                async with self.pool.lease_async("n"):
                    self.fail("it is not loaded")

        self.run_async(main())


class LoopEnds(AsyncTest):
    """A load under way is given back with its loop: the next one loads the model at once."""

    flags = ["--load-cooldown", "1h..1h", "--stop-grace", "1s"]

    def begin(self, load):
        """A loop in which the load of "m" is under way."""
        loop = asyncio.new_event_loop()

        async def use():
            async with self.pool.lease_async("m", load=load):
                self.fail("it was not loaded")

        task = loop.create_task(use())
        while not any(b["state"] == "starting" for b in self.pool.backends()):
            loop.run_until_complete(asyncio.sleep(0.005))
        return loop, task

    def expect_no_failure(self):
        self.pool.acquire("m", timeout=PATIENCE_S).give_back()
        self.assertEqual([e for e in self.pool.events() if e["kind"] == "load_failed"], [])

    async def never_ready(self, ticket):
        ticket.spawn(["sleep", "60"])
        await asyncio.sleep(3600)

    def test_when_run_cancels_everything(self):
        async def main():
            async def use():
                async with self.pool.lease_async("m", load=self.never_ready):
                    self.fail("it was not loaded")

            using = asyncio.create_task(use())
            while not self.pool.backends():
                await asyncio.sleep(0.005)
            self.assertFalse(using.done())

        asyncio.run(main())
        self.expect_no_failure()

    def test_when_the_loop_is_closed(self):
        loop, task = self.begin(self.never_ready)
        loop.close()
        self.expect_no_failure()
        task._log_destroy_pending = False

    def test_when_the_loop_is_closed_while_a_thread_is_in_the_middle_of_spawn(self):
        class Ticket:
            """Its thread is inside a call for two more looks."""

            busy, given_back = 2, threading.Event()

            def give_back(self):
                if self.busy:
                    self.busy -= 1
                    raise modelpool.Busy("unable to give back: another thread uses this ticket")
                self.given_back.set()

        class Task:
            def done(self):
                return False

        loading = modelpool._Loading(Task(), Ticket())
        del loading
        self.assertTrue(Ticket.given_back.wait(PATIENCE_S))

    def test_when_the_loop_is_closed_around_a_load_that_blocks(self):
        go_on = threading.Event()
        outcome = []

        def blocks(ticket):
            ticket.spawn(["sleep", "60"])
            go_on.wait(PATIENCE_S)
            try:
                ticket.ready("127.0.0.1:1")
            except modelpool.Closed as error:
                outcome.append(error)
                raise

        loop, task = self.begin(blocks)
        executor = loop._default_executor
        loop.close()
        self.expect_no_failure()
        go_on.set()
        executor.shutdown()
        self.assertEqual(len(outcome), 1)
        task._log_destroy_pending = False

    def test_when_no_thread_is_to_be_had(self):
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_default_executor(concurrent.futures.ThreadPoolExecutor())
            loop._default_executor.shutdown()
            async with self.pool.lease_async("m", load=load):
                self.fail("it was not loaded")

        with self.assertRaisesRegex(RuntimeError, "cannot schedule"):
            self.run_async(main())
        self.expect_no_failure()

    def test_a_load_that_is_done_leaves_nothing_in_the_loop(self):
        async def main():
            async with self.pool.lease_async("m", load=load) as lease:
                lease.progress()

        self.run_async(main())
        with self.pool.acquire("m"):  # what was loaded stays
            pass


class Loops(AsyncTest):
    def test_each_thread_may_have_its_loop(self):
        ticket = self.pool.acquire("m")
        addresses = []

        def run():
            async def wait():
                waits = [self.pool.acquire_async("m") for _ in range(10)]
                for lease in await asyncio.gather(*waits):
                    addresses.append(lease.address)
                    lease.release()

            asyncio.run(wait())

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        self.wait_for_waiters(40)
        ticket.ready("127.0.0.1:1", external=True).release()
        for thread in threads:
            thread.join()
        self.assertEqual(addresses, ["127.0.0.1:1"] * 40)

    def test_loops_one_after_the_other_leave_no_descriptor(self):
        def wait_once():
            async def wait():
                with self.assertRaises(modelpool.Timeout):
                    await self.pool.acquire_async("m", timeout=0.01)

            asyncio.run(wait())

        ticket = self.pool.acquire("m")
        wait_once()
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            wait_once()
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), descriptors + 1)
        ticket._give_back()

    def test_a_child_forked_from_a_waiting_loop_waits_with_its_own(self):
        async def main():
            ticket = await self.pool.acquire_async("m")
            waiting = asyncio.create_task(self.pool.acquire_async("m"))
            await self.waiters_are(1)
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                self.run_child(write)
            os.close(write)
            with os.fdopen(read, "rb") as report:
                text = await asyncio.get_running_loop().run_in_executor(None, report.read)
            os.waitpid(pid, 0)
            self.assertEqual(text, b"Timeout")
            ticket.ready("127.0.0.1:1", external=True).release()
            (await waiting).release()

        self.run_async(main())

    def run_child(self, write):
        def run():
            async def wait():
                await self.pool.acquire_async("m", timeout=0.05)

            try:
                asyncio.run(wait())
            except BaseException as error:
                os.write(write, type(error).__name__.encode())

        # A loop runs in this thread already, as far as the child knows.
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        os._exit(0)


if __name__ == "__main__":
    unittest.main()
