"""Bad input gets a named error or does nothing, as documented; never a crash, nothing half-done."""

import asyncio
import contextlib
import copy
import inspect
import itertools
import os
import pickle
import threading
import unittest
import unittest.mock
from collections.abc import Callable

import modelpool
from support import PoolTest, eventually

WRONG_TYPES = (None, 7, 1.5, b"m", ["m"], object(), True)
BAD_NAMES = ("", "x" * 256, "é" * 128, "a\0b", "a\nb", "\ud800", "a\x7f")
BAD_SECONDS = (-1, -0.001, float("nan"), float("inf"), 1e300, 10**400, "soon", "", "-1s", "\ud800")


class BadInput(PoolTest):
    def tearDown(self):
        # Nothing of what was refused has left a trace, and the pool still works.
        if self.pool.name and not self.is_closed(self.pool):
            self.assertEqual(self.pool.leases(), [])
            self.assertEqual(self.pool.waiters(), [])
            self.assertEqual(self.pool.backends(), [])
            self.load_external("still-works").release()

    def is_closed(self, pool):
        try:
            pool.limit
        except modelpool.Closed:
            return True
        return False

    def test_names_of_pools(self):
        for name in ("", "Upper", "a/b", "..", "x" * 65, "\ud800", "a\0"):
            with self.subTest(name), self.assertRaises(modelpool.Invalid):
                modelpool.Pool(name, dir=self.dir)
        for name in (7, b"default", [], object()):
            with self.subTest(name), self.assertRaises(TypeError):
                modelpool.Pool(name, dir=self.dir)
        for directory in ("a\0b", b"\0", "\ud800", "", b""):
            with self.subTest(directory), self.assertRaises(modelpool.Invalid):
                modelpool.Pool(dir=directory)
        with self.assertRaises(TypeError):
            modelpool.Pool(dir=7)
        with self.assertRaises(modelpool.Error):
            modelpool.Pool(dir=self.dir + "/not/there")

    def test_texts_of_errors_are_unicode_whatever_the_directory_is_called(self):
        for name in (b"\xff\xfe", b"gone-\xc3", b"\x1b[2J"):
            directory = os.path.join(os.fsencode(self.dir), name)
            with self.subTest(name), self.assertRaises(modelpool.NoSuchPool) as raised:
                modelpool.Pool(dir=directory, create=False)
            self.assertTrue(str(raised.exception).isprintable(), str(raised.exception))
            os.mkdir(directory, 0o755)
            with self.subTest(name), self.assertRaises(modelpool.Permission) as raised:
                modelpool.Pool(dir=directory)
            self.assertTrue(str(raised.exception).isprintable(), str(raised.exception))
            os.chmod(directory, 0o700)
            with modelpool.Pool(dir=directory) as pool:
                self.assertTrue(pool.status()["path"].isprintable())

    def test_names_of_models(self):
        pool = self.pool
        calls = [pool.acquire, pool.touch, pool.pin, pool.unpin, pool.evict, pool.reset]
        calls.append(lambda model: self.pool.lease(model, load=print).__enter__())
        for call in calls:
            for name in BAD_NAMES:
                with self.subTest(call=call, name=name), self.assertRaises(modelpool.Invalid):
                    call(name)
            for name in WRONG_TYPES:
                with self.subTest(call=call, name=name), self.assertRaises(TypeError):
                    call(name)

    def test_the_longest_names_are_taken(self):
        name, tag = "é" * 95 + "x", "t" * 31
        lease = self.pool.acquire(name, tag=tag).ready("127.0.0.1:1", external=True)
        self.assertEqual((lease.model, self.pool.leases()[0]["tag"]), (name, tag))
        lease.release()
        self.pool.evict(name)
        self.assertTrue(eventually(lambda: not self.pool.backends()))

    def test_timeouts(self):
        for seconds in (None, "off", *BAD_SECONDS):
            with self.subTest(seconds), self.assertRaises(modelpool.Invalid):
                self.pool.acquire("m", timeout=seconds)
            if seconds not in (None, "off"):
                with self.subTest(seconds), self.assertRaises(modelpool.Invalid):
                    self.pool.acquire("m", busy_timeout=seconds)
        for seconds in (b"1", [], object(), True):
            with self.subTest(seconds), self.assertRaises(TypeError):
                self.pool.acquire("m", seconds)

    def test_tags(self):
        for tag in ("t" * 32, "a\nb", "\ud800", "a\0b"):
            with self.subTest(tag), self.assertRaises(modelpool.Invalid):
                self.pool.acquire("m", tag=tag)
        for tag in (7, b"t", []):
            with self.subTest(tag), self.assertRaises(TypeError):
                self.pool.acquire("m", tag=tag)

    def test_arguments_of_acquire(self):
        for arguments, keywords in (
            ((), {}),
            ((), {"timeout": 1}),
            (("m", 1, "tag"), {}),
            (("m",), {"model": "m"}),
            (("m",), {"unknown": 1}),
            (("m",), {"Tag": "t"}),
        ):
            with self.subTest((arguments, keywords)), self.assertRaises(TypeError):
                self.pool.acquire(*arguments, **keywords)
        with self.assertRaises(ZeroDivisionError):
            self.pool.acquire("m", may_load=Untruthful())

    def test_settings(self):
        for settings in (
            {"no_such": 1},
            {"idle_timeout": -1},
            {"idle_timeout": float("nan")},
            {"idle_timeout": "soon"},
            {"max_backends": -1},
            {"max_backends": 10**30},
            {"max_backends": "many"},
            {"when_busy": "perhaps"},
            {"stop_signal": "SIGNOTHING"},
            {"when_busy": "\ud800"},
            {"idle_timeout": 1, "max_backends": "many"},
        ):
            with self.subTest(settings), self.assertRaises(modelpool.Invalid):
                self.pool.set(**settings)
        for settings in ({"max_backends": 1.5}, {"max_backends": True}, {"idle_timeout": b"1"}):
            with self.subTest(settings), self.assertRaises(TypeError):
                self.pool.set(**settings)
        with self.assertRaises(modelpool.Invalid):
            self.pool.get("no_such")
        with self.assertRaises(TypeError):
            self.pool.get(None)
        with self.assertRaises(TypeError):
            self.pool.limit = 1.5
        self.assertEqual((self.pool.get("idle_timeout"), self.pool.limit), (None, 3))
        self.pool.set()

    def test_events_since(self):
        for since in (-1, 2**64, "1", None, 1.5):
            with self.subTest(since), self.assertRaises(TypeError):
                self.pool.events(since=since)
        self.assertEqual(self.pool.events(since=2**63), [])

    def test_spawn(self):
        ticket = self.pool.acquire("m")
        for argv in ("sleep 1", b"sleep", None, 7, [7], [None], [["sleep"]]):
            with self.subTest(argv), self.assertRaises(TypeError):
                ticket.spawn(argv)
        for argv in ([], [""], ["sleep\0"], ["sleep", "\udfff\ud800"]):
            with self.subTest(argv), self.assertRaises(modelpool.Error):
                ticket.spawn(argv)
        for env in ({"": "1"}, {"A=B": "1"}, {"A": "1\0"}, {"A": None}, {None: "1"}):
            with self.subTest(env), self.assertRaises(modelpool.Invalid):
                ticket.spawn(["sleep", "9"], env=env)
        for env in ({"A": 1}, {7: "1"}):
            with self.subTest(env), self.assertRaises(TypeError):
                ticket.spawn(["sleep", "9"], env=env)
        with self.assertRaises(TypeError):
            ticket.spawn(["sleep", "9"], env=["A=1"])
        with self.assertRaises(TypeError):
            ticket.spawn(["sleep", "9"], stdout=1)
        with self.assertRaises(modelpool.Error):
            ticket.spawn(["sleep", "9"], cwd="/not/there")
        fifo = os.path.join(self.dir, "fifo")
        os.mkfifo(fifo)
        for output in ({"stdout": fifo}, {"stderr": fifo}):
            with self.subTest(output), self.assertRaisesRegex(modelpool.Invalid, "nobody reads"):
                ticket.spawn(["sleep", "9"], **output)
        with self.assertRaisesRegex(modelpool.System, "/not/there/log"):
            ticket.spawn(["sleep", "9"], stdout="/not/there/log")
        self.assertEqual(ticket.pid, 0)
        with self.assertRaises(ZeroDivisionError):
            ticket.spawn(1 / 0 for _ in "x")
        ticket._give_back()

    def test_started(self):
        ticket = self.pool.acquire("m")
        for pid in (0, 1, -1, self.coordinator.pid, 2**22 + 1):
            with self.subTest(pid), self.assertRaises(modelpool.Error):
                ticket.started(pid)
        for pid in (None, "7", 1.5, 2**31, 2**70):
            with self.subTest(pid), self.assertRaises(TypeError):
                ticket.started(pid)
        ticket._give_back()

    def test_ready(self):
        ticket = self.pool.acquire("m")
        for address in ("", "x" * 256, "a b", "a\nb", "\ud800", "a\0"):
            with self.subTest(address), self.assertRaises(modelpool.Invalid):
                ticket.ready(address, external=True)
        for address in (None, 7, b"127.0.0.1:1"):
            with self.subTest(address), self.assertRaises(TypeError):
                ticket.ready(address, external=True)
        for options in (
            {"label": "x" * 32}, {"label": "\ud800"}, {"no_such": 1}, {"busy_timeout": -1},
        ):
            with self.subTest(options), self.assertRaises(modelpool.Invalid):
                ticket.ready("127.0.0.1:1", external=True, **options)
        for options in (
            {"size_bytes": -1}, {"size_bytes": "big"}, {"device_mask": 2**64}, {"label": 7},
        ):
            with self.subTest(options), self.assertRaises((TypeError, ValueError)):
                ticket.ready("127.0.0.1:1", external=True, **options)
        with self.assertRaises(modelpool.Error):
            ticket.ready("127.0.0.1:1")  # nothing was started
        for reason in (None, 7, b"x"):
            with self.assertRaises(TypeError):
                ticket.fail(reason)
        with self.assertRaises(modelpool.Invalid):
            ticket.fail("\ud800")
        ticket._give_back()

    def test_a_reason_of_any_length_is_kept_as_far_as_it_goes(self):
        self.pool.acquire("m").fail("x" * 100_000)
        self.pool.acquire("n").fail("")
        with self.assertRaisesRegex(modelpool.CoolingDown, "xxxx"):
            self.pool.acquire("m", timeout=0)


class Untruthful:
    def __bool__(self):
        return 1 / 0


class Unhelpful:
    """What is asked of it raises: that goes through, whatever it is asked for."""

    def refuse(self, *arguments):
        return 1 / 0

    __index__ = __float__ = __fspath__ = __iter__ = __bool__ = __getitem__ = refuse
    keys = items = refuse


ODD_VALUES = (
    None, True, 7, -1, 2**70, 1.5, float("nan"), 2j,
    b"x", b"\xff\0", "", "x" * 100_000, "\ud800", "a\0b",
    (), [7], [None], {}, {7: 7}, {"A": None}, {"": ""}, object(), Unhelpful(),
)
DURATION = (int, float, str)
PATH = (str, bytes, type(None))
# Of each parameter: a value that is taken, and the types that may be; of any other type is Invalid.
PARAMETERS = {
    "model": ("m", str),
    "timeout": (0, DURATION),
    "tag": ("t", (str, type(None))),
    "busy_timeout": (None, (*DURATION, type(None))),
    "may_load": (True, object),
    "cancellable": (False, object),
    "on_cancel": (None, (Callable, type(None))),
    "callback": (print, Callable),
    "expected_bytes": (None, (int, type(None))),
    "priority": (0, int),
    "keep_alive": (None, (*DURATION, type(None))),
    "load": (lambda ticket: ticket.ready("127.0.0.1:1", external=True), type(None)),
    "force": (False, object),
    "since": (1, int),
    "settings": (None, (*DURATION, type(None))),
    "argv": (["/not/there"], (list, tuple, dict)),  # a dict's keys are iterated over
    "env": (None, (dict, type(None))),
    "cwd": (None, PATH),
    "stdout": (None, PATH),
    "stderr": (None, PATH),
    "pid": (2**22 + 1, int),
    "address": ("127.0.0.1:1", str),
    "size_bytes": (None, (int, type(None))),
    "pinned": (False, object),
    "external": (True, object),
    "label": ("", str),
    "device_mask": (0, int),
    "any_listener": (False, object),
    "reason": ("no", str),
    "check": ("delay:0", str),
    "name": ("idle_timeout", str),
    "dir": (None, PATH),
    "create": (True, object),
    "coordinator_grace": (10, DURATION),
}


class EveryCallable(PoolTest):
    """Each public callable, each of its parameters, each odd value."""

    flags = ["--max-backends", "0"]

    def setUp(self):
        super().setUp()
        self.numbers = itertools.count()
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.dir)  # files named by odd values go with it
        environment = unittest.mock.patch.dict(os.environ, MODELPOOL_DIR=self.dir)
        environment.start()  # and so does the pool of who names no directory
        self.addCleanup(environment.stop)

    def callables(self):
        """(name, function of (*args, **kwargs) on a fresh object, its signature)"""
        self.load_external("held").release()
        # Without self; a constructor's is that of the stub, which test_package compares.
        pool_signature = inspect.signature(lambda name, dir, *, create, coordinator_grace: 0)
        yield "Pool", lambda *a, **k: modelpool.Pool(*a, **k).close(), pool_signature
        yield "free_port", modelpool.free_port, inspect.signature(modelpool.free_port)
        makers = {
            modelpool.Pool: lambda: self.pool,
            modelpool.LoadTicket: lambda: self.pool.acquire(f"m{next(self.numbers)}"),
            modelpool.Lease: lambda: self.pool.acquire("held"),
        }
        for kind, make in makers.items():
            for name in dir(kind):
                method = getattr(kind, name)
                if name.startswith("_") or not callable(method) or name == "close":
                    continue
                parameters = list(inspect.signature(method).parameters.values())[1:]
                yield f"{kind.__name__}.{name}", self.on(make, name), inspect.Signature(parameters)

    def on(self, make, name):
        def call(*arguments, **keywords):
            thing = make()
            try:
                self.end(getattr(thing, name)(*arguments, **keywords))
            finally:
                if thing is not self.pool:
                    self.end(thing)

        return call

    def end(self, result):
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        if isinstance(result, modelpool.LoadTicket):
            with contextlib.suppress(modelpool.Error):
                result._give_back()
        elif hasattr(result, "__aenter__"):

            async def use():
                async with result:
                    pass

            asyncio.run(use())
        elif hasattr(result, "__enter__"):
            with contextlib.suppress(modelpool.Closed), result:
                pass

    def good_arguments(self, signature):
        keywords = {}
        for name, parameter in signature.parameters.items():
            if parameter.kind == parameter.VAR_KEYWORD:
                continue
            keywords[name] = self.dir if name == "dir" else PARAMETERS[name][0]
        return keywords

    def assert_answered(self, call, keywords, must_be_invalid):
        try:
            call(**keywords)
        except ZeroDivisionError:  # an Unhelpful's own
            return
        except modelpool.Error as error:
            self.assertNotIn("incompatible", str(error))
            str(error).encode()
            if must_be_invalid:
                self.assertIsInstance(error, modelpool.Invalid)
            return
        self.assertFalse(must_be_invalid, "it was taken")

    def test_answers_each_odd_value_of_each_parameter(self):
        calls = 0
        for name, call, signature in self.callables():
            for parameter in signature.parameters.values():
                types = PARAMETERS[parameter.name][1]
                if (name, parameter.name) == ("Pool", "name"):
                    types = (str, type(None))
                for value in ODD_VALUES:
                    keywords = self.good_arguments(signature)
                    named = "idle_timeout" if parameter.name == "settings" else parameter.name
                    keywords[named] = value
                    # A bool is an int to Python, and no number to us.
                    wrong = not isinstance(value, types) or (value is True and types is not object)
                    wrong = wrong and not isinstance(value, Unhelpful)
                    with self.subTest(call=name, parameter=named, value=repr(value)[:40]):
                        self.assert_answered(call, keywords, wrong)
                    calls += 1
        self.assertGreater(calls, 900)
        self.assertEqual((self.pool.leases(), self.pool.waiters()), ([], []))

    def test_answers_arguments_that_are_missing_too_many_or_unknown(self):
        for name, call, signature in self.callables():
            required = [p for p in signature.parameters.values() if p.default is p.empty]
            takes_any = any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values())
            wrong = [(range(20), {})]
            if name == "Pool" or not takes_any:
                wrong.append(((), {**self.good_arguments(signature), "unknown": 1}))
            if required and name not in ("Pool", "Pool.set"):
                wrong.append(((), {}))
            for arguments, keywords in wrong:
                with self.subTest(name, arguments=arguments, keywords=keywords):
                    with self.assertRaises(TypeError) as raised:
                        call(*arguments, **keywords)
                    self.assertNotIn("incompatible", str(raised.exception))

    def test_answers_a_self_of_another_kind(self):
        for kind in (modelpool.Pool, modelpool.LoadTicket, modelpool.Lease):
            for name in dir(kind):
                method = getattr(kind, name)
                if not callable(method) or name.startswith(("_", "lease", "acquire_")):
                    continue  # lease and its like are Python's own functions: AttributeError
                with self.subTest(kind=kind, name=name), self.assertRaises(TypeError) as raised:
                    method(7)
                self.assertNotIn("incompatible", str(raised.exception))


class Closed(PoolTest):
    def test_pool(self):
        pool = self.attach()
        held = self.load_external("m")
        lease = pool.acquire("m")
        ticket = pool.acquire("n")
        pool.close()
        pool.close()
        calls = [
            lambda: pool.acquire("m"),
            lambda: pool.lease("m").__enter__(),
            lambda: pool.touch("m"),
            lambda: pool.evict("m"),
            lambda: pool.set(max_backends=1),
            lambda: pool.get("max_backends"),
            lambda: pool.limit,
            pool.status,
            pool.backends,
            pool.events,
            pool.__enter__,
        ]
        for call in calls:
            with self.assertRaises(modelpool.Closed):
                call()
        self.assertIn("closed", repr(pool))
        # What is out stays valid.
        self.assertEqual(lease.address, "127.0.0.1:4321")
        lease.progress()
        lease.release()
        ticket.ready("127.0.0.1:2", external=True).release()
        held.release()
        self.assertTrue(eventually(lambda: len(self.pool.workers()) == 1))

    def test_close_ends_the_waits_of_other_threads(self):
        pool = self.attach()
        ticket = self.pool.acquire("m")
        raised = []

        def wait():
            try:
                pool.acquire("m")
            except modelpool.Error as error:
                raised.append(type(error))

        waiter = threading.Thread(target=wait)
        waiter.start()
        self.wait_for_waiters(1)
        pool.close()
        waiter.join()
        self.assertEqual(raised, [modelpool.Closed])
        self.assertEqual(self.pool.waiters(), [])
        ticket._give_back()

    def test_lease(self):
        self.load_external("m").release()
        lease = self.pool.acquire("m")
        lease.release()
        for call in (lease.progress, lease.__enter__, lambda: lease.model, lambda: lease.address,
                     lambda: lease.pid):
            with self.assertRaises(modelpool.Closed):
                call()
        lease.release()
        lease.__exit__(None, None, None)
        self.assertEqual(repr(lease), "<modelpool.Lease released>")

    def test_ticket(self):
        for end in (lambda t: t.ready("127.0.0.1:1", external=True).release(),
                    lambda t: t.fail("no"), lambda t: t._give_back()):
            ticket = self.pool.acquire("m" + str(id(end)))
            end(ticket)
            for call in (lambda: ticket.ready("127.0.0.1:1", external=True), ticket._give_back,
                         lambda: ticket.fail("again"), lambda: ticket.spawn(["sleep", "9"]),
                         lambda: ticket.started(2)):
                with self.assertRaises(modelpool.Closed):
                    call()

    def test_what_python_can_do_to_an_object(self):
        self.load_external("m").release()
        with self.pool.acquire("m") as lease, self.assertRaises(TypeError):
            copy.copy(lease)
        ticket = self.pool.acquire("n")
        for thing in (self.pool, lease, ticket):
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                with self.subTest(thing, protocol=protocol), self.assertRaises(TypeError):
                    pickle.loads(pickle.dumps(thing, protocol))
        with self.assertRaises(TypeError):
            modelpool.Lease()
        with self.assertRaises(TypeError):
            modelpool.LoadTicket()
        with self.assertRaises(TypeError):
            modelpool.Lease.release(self.pool)
        with self.assertRaises(TypeError):
            modelpool.Pool.acquire(7, "m")
        empty = modelpool.Pool.__new__(modelpool.Pool)
        for call in (lambda: empty.acquire("m"), empty.status, empty.close, lambda: repr(empty)):
            try:
                call()
            except (TypeError, modelpool.Closed):
                pass
        with self.assertRaises(TypeError):
            modelpool.Lease.colour = "blue"
        error = modelpool.CoolingDown("no")
        self.assertEqual(str(pickle.loads(pickle.dumps(error))), "no")
        ticket._give_back()


    def test_a_lease_context_serves_one_with_at_a_time(self):
        with self.assertRaises(modelpool.Invalid):
            self.pool.lease("m", load=7)
        context = self.pool.lease("m", load=lambda t: t.ready("127.0.0.1:1", external=True))
        with self.assertRaises(modelpool.Closed):
            context.__exit__(None, None, None)
        for _ in range(2):
            with context as lease:
                self.assertEqual(lease.model, "m")
                with self.assertRaises(modelpool.Busy), context:
                    self.fail("it was begun twice")
                lease.progress()
            self.assertEqual(self.pool.leases(), [])
        self.pool.evict("m")
        self.assertTrue(eventually(lambda: not self.pool.backends()))
        refused = self.pool.lease("m")
        for _ in range(2):
            with self.assertRaises(modelpool.NotLoaded), refused:
                self.fail("it is not loaded")

    def test_an_asynchronous_lease_context_serves_one_with_at_a_time(self):
        async def main():
            context = self.pool.lease_async(
                "m", load=lambda t: t.ready("127.0.0.1:1", external=True)
            )
            for _ in range(2):
                async with context as lease:
                    lease.progress()
                    with self.assertRaises(modelpool.Busy):
                        async with context:
                            self.fail("it was begun twice")
            with self.assertRaises(modelpool.Invalid):
                self.pool.lease_async("m", load="load")

        asyncio.run(main())
        self.assertEqual(self.pool.leases(), [])


class Threads(PoolTest):
    def test_a_ticket_that_another_thread_uses_is_busy(self):
        ticket = self.pool.acquire("m")
        done = threading.Event()

        def spawn_in_vain():
            while not done.is_set():
                with contextlib.suppress(modelpool.SpawnFailed, modelpool.Busy):
                    ticket.spawn(["/nowhere/to/be/found"])

        spawner = threading.Thread(target=spawn_in_vain)
        spawner.start()

        def is_busy():
            try:
                ticket.started(1)
            except modelpool.Error as error:
                return type(error) is modelpool.Busy

        found = eventually(is_busy)
        done.set()
        spawner.join()
        self.assertTrue(found)
        ticket.fail("enough")

    def test_one_ticket_in_two_threads_is_used_by_one(self):
        ticket = self.pool.acquire("m")
        start = threading.Barrier(2)
        outcomes = []

        def use():
            start.wait()
            try:
                ticket.spawn(["sleep", "60"])
                outcomes.append("spawned")
            except (modelpool.Busy, modelpool.Invalid) as error:  # in use, or started already
                outcomes.append(str(error))

        threads = [threading.Thread(target=use) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(outcomes.count("spawned"), 1, outcomes)
        ticket.fail("enough")

    def test_leases_of_many_threads_all_end(self):
        self.load_external("m").release()
        stop = threading.Event()
        shared = []

        def churn():
            while not stop.is_set():
                lease = self.pool.acquire("m")
                shared.append(lease)
                lease.release()
                with contextlib.suppress(IndexError):
                    shared.pop().release()  # another thread's, released already or not

        threads = [threading.Thread(target=churn) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            self.pool.backends()
            self.pool.leases()
        stop.set()
        for thread in threads:
            thread.join()
        shared.clear()
        self.assertEqual(self.pool.leases(), [])

    def test_closing_while_others_call_is_closed_or_an_answer(self):
        for _ in range(20):
            pool = self.attach()
            errors = []

            def calls():
                while not errors:
                    try:
                        pool.status()
                        pool.acquire("m", timeout=0, may_load=False)
                    except modelpool.NotLoaded:
                        continue
                    except modelpool.Closed:
                        return
                    except BaseException as error:
                        errors.append(error)

            threads = [threading.Thread(target=calls) for _ in range(2)]
            for thread in threads:
                thread.start()
            pool.close()
            for thread in threads:
                thread.join()
            self.assertEqual(errors, [])


if __name__ == "__main__":
    unittest.main()
