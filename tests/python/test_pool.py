"""The package's surface on a real coordinator and real backends."""

import errno
import gc
import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import unittest

import modelpool
from support import POOLCTL, PoolTest, answers, eventually, load, processes_with


class Loading(PoolTest):
    def test_a_ticket_becomes_a_lease_and_the_next_acquire_gets_the_same_backend(self):
        ticket = self.pool.acquire("m", timeout=30.0, tag="req-81")
        self.assertIsInstance(ticket, modelpool.LoadTicket)
        self.assertEqual((ticket.model, ticket.pid), ("m", 0))
        address = load(ticket)
        self.assertGreater(ticket.pid, 1)
        lease = ticket.ready(address, size_bytes=1 << 20, pinned=True)
        self.assertEqual((lease.model, lease.address, lease.pid), ("m", address, ticket.pid))
        with self.pool.acquire("m") as second:
            self.assertEqual(second.pid, lease.pid)
            second.progress()
            self.assertEqual([b["in_flight"] for b in self.pool.backends()], [2])
        self.assertEqual([one["tag"] for one in self.pool.leases()], ["req-81"])
        backend = self.pool.backends()[0]
        self.assertEqual((backend["size_bytes"], backend["pinned"]), (1 << 20, True))
        lease.release()

    def test_lease_loads_once_for_many_threads(self):
        loads = []
        both = threading.Barrier(8)

        def once(ticket):
            loads.append(ticket.model)
            return load(ticket)

        def work():
            both.wait()
            with self.pool.lease("m", load=once) as lease:
                pids.append(lease.pid)

        pids = []
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((loads, len(pids), len(set(pids))), (["m"], 8, 1))

    def test_lease_takes_the_lease_its_load_function_made(self):
        with self.pool.lease("m", load=lambda t: t.ready("127.0.0.1:1", external=True)) as lease:
            self.assertEqual((lease.address, lease.pid), ("127.0.0.1:1", 0))

    def test_what_is_said_about_a_wait_is_seen(self):
        ticket = self.pool.acquire("m", expected_bytes=1, priority=1)

        def wait():
            with self.pool.lease("m", load=print, expected_bytes=1 << 33, priority=7):
                pass

        waiter = threading.Thread(target=wait)
        waiter.start()
        self.wait_for_waiters(1)
        row = self.pool.waiters()[0]
        self.assertEqual((row["expected_bytes"], row["priority"]), (1 << 33, 7))
        ticket.ready("127.0.0.1:1", external=True).release()
        waiter.join()

    def test_lease_without_load_raises_not_loaded(self):
        with self.assertRaises(modelpool.NotLoaded), self.pool.lease("m"):
            self.fail("there is no such backend")
        self.assertEqual(self.pool.backends(), [])

    def test_what_load_raises_fails_the_load_and_cools_the_model_down(self):
        self.pool.set(load_cooldown="60s..60s")
        with self.assertRaisesRegex(ZeroDivisionError, "division"):
            with self.pool.lease("m", load=lambda ticket: 1 / 0):
                self.fail("it was not loaded")
        with self.assertRaisesRegex(modelpool.CoolingDown, "ZeroDivisionError") as raised:
            self.pool.acquire("m", timeout=0)
        self.assertEqual(raised.exception.code, "cooling_down")
        self.assertTrue(0 < raised.exception.retry_after <= 60, raised.exception.retry_after)

    def test_a_waiter_is_told_why_the_load_failed(self):
        ticket = self.pool.acquire("m")
        answers_ = []

        def wait():
            try:
                self.pool.acquire("m")
            except modelpool.Error as error:
                answers_.append(error)

        waiter = threading.Thread(target=wait)
        waiter.start()
        self.wait_for_waiters(1)
        ticket.fail("no memory")
        waiter.join()
        self.assertIsInstance(answers_[0], modelpool.LoadFailed)
        self.assertIn("no memory", str(answers_[0]))

    def test_what_a_backend_wrote_is_kept_and_told_when_its_load_fails(self):
        self.pool.set(log_dir=f"{self.dir}/logs", load_cooldown="60s..60s")
        self.assertEqual(self.pool.get("log_dir"), f"{self.dir}/logs")
        self.assertEqual(self.pool.get("log_max"), 8 << 20)
        ticket = self.pool.acquire("org/m")
        ticket.spawn(["sh", "-c", "echo no such weights; exec sleep 60"])
        log = pathlib.Path(self.dir, "logs", "org%2Fm.log")
        self.assertEqual(self.pool.backends()[0]["log"], str(log))
        self.assertEqual(eventually(log.read_text), "no such weights\n")
        ticket.fail("it does not answer")
        with self.assertRaises(modelpool.CoolingDown) as raised:
            self.pool.acquire("org/m", timeout=0)
        self.assertIn("it does not answer; its last lines: no such weights", str(raised.exception))
        self.assertIn("logs org/m` has more", str(raised.exception))

    def test_a_lease_tells_how_its_backend_ended(self):
        ticket = self.pool.acquire("m")
        ticket.spawn(["sleep", "60"])
        lease = ticket.ready("unix:/m")
        self.assertIsNone(lease.exit_words)
        os.kill(lease.pid, signal.SIGKILL)
        self.assertTrue(eventually(lambda: lease.exit_words == "signal SIGKILL"), lease.exit_words)
        lease.release()

    def test_spawn_takes_an_environment_a_directory_and_files(self):
        directory = pathlib.Path(self.dir)
        ticket = self.pool.acquire("m")
        returned = ticket.spawn(
            ["/bin/sh", "-c", 'pwd; echo "$COLOUR"; echo oops >&2; exec sleep 60'],
            env={"COLOUR": "blue"},
            cwd=directory,
            stdout=directory / "out",
            stderr=os.fsencode(directory / "err"),
        )
        self.assertIs(returned, ticket)
        eventually(lambda: (directory / "err").exists() and (directory / "err").read_text())
        self.assertEqual((directory / "out").read_text(), f"{self.dir}\nblue\n")
        self.assertEqual((directory / "err").read_text(), "oops\n")
        ticket.fail("enough")

    def test_a_program_that_does_not_exist_leaves_the_ticket(self):
        ticket = self.pool.acquire("m")
        with self.assertRaisesRegex(modelpool.SpawnFailed, "/nowhere/llama-server"):
            ticket.spawn(["/nowhere/llama-server"])
        ticket.spawn(["sleep", "60"]).fail("enough")

    def test_started_registers_a_process_of_the_caller(self):
        process = subprocess.Popen(["sleep", "60"], start_new_session=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        ticket = self.pool.acquire("m")
        self.assertIs(ticket.started(process.pid), ticket)
        with ticket.ready("127.0.0.1:1") as lease:
            self.assertEqual(lease.pid, process.pid)

    def test_a_dropped_ticket_is_given_back_and_what_it_started_ends(self):
        ticket = self.pool.acquire("m")
        load(ticket)
        pid = ticket.pid
        del ticket
        gc.collect()
        self.assertTrue(eventually(lambda: not self.pool.backends()), self.pool.backends())
        self.assertTrue(eventually(lambda: not pathlib.Path(f"/proc/{pid}").exists()))

    def test_settings_given_at_ready_are_the_backends_own(self):
        ticket = self.pool.acquire("m")
        ticket.ready("127.0.0.1:1", external=True, busy_timeout="15m", idle_timeout=0.25).release()
        explained = self.poolctl("explain", "m")["settings"]
        self.assertEqual(explained["busy_timeout"]["value"], "15m")
        self.assertEqual(explained["idle_timeout"]["value"], "250ms")
        with self.assertRaisesRegex(modelpool.Invalid, "max_backends"):
            self.pool.acquire("n").ready("127.0.0.1:1", external=True, max_backends=1)


    def test_a_load_that_returns_no_address_is_told_so(self):
        with self.assertRaisesRegex(modelpool.Invalid, "must return the backend's address.*None"):
            with self.pool.lease("m", load=lambda ticket: None):
                self.fail("it was not loaded")

    def test_a_load_that_cannot_be_called_or_calls_wrongly_is_no_failed_load(self):
        self.pool.set(load_cooldown="60s..60s")
        for wrong in (lambda: None, lambda ticket: ticket.spawn(["true"], stdoot=None)):
            with self.assertRaises(TypeError), self.pool.lease("m", load=wrong):
                self.fail("it was not loaded")
            self.pool.acquire("m", timeout=30.0).give_back()

    def test_a_type_error_inside_of_load_is_the_models(self):
        def load(ticket):
            return len(ticket.model, 1)

        with self.assertRaises(TypeError), self.pool.lease("m", load=load):
            self.fail("it was not loaded")
        with self.assertRaises(modelpool.CoolingDown):
            self.pool.acquire("m", timeout=0)

    def test_a_ticket_given_back_is_no_failed_load(self):
        self.pool.acquire("given back").give_back()
        load_ticket = self.pool.acquire("m", timeout=30.0)
        load_ticket.ready(load(load_ticket)).release()
        eventually(lambda: any(e["kind"] == "loaded" for e in self.pool.events()))
        self.assertEqual([e for e in self.pool.events() if e["kind"] == "load_failed"], [])

    def test_a_wait_does_not_spin_when_its_time_is_up(self):
        ticket = self.pool.acquire("m", timeout=30.0)
        before = time.thread_time()
        with self.assertRaises(modelpool.Timeout):
            self.pool.acquire("m", timeout=1.3)
        self.assertLess(time.thread_time() - before, 0.3)  # CPU time, of a wait
        ticket.fail("done")


class LoadersTrouble(PoolTest):
    """What ends a loader and says nothing of the model: the next one loads it at once."""

    flags = ["--max-backends", "3", "--load-cooldown", "1h..1h", "--stop-grace", "1s"]

    def expect_no_failure(self, kind, load):
        with self.assertRaises(kind), self.pool.lease("m", load=load):
            self.fail("it was not loaded")
        self.pool.acquire("m", timeout=30.0).give_back()
        self.assertEqual([e for e in self.pool.events() if e["kind"] == "load_failed"], [])

    def test_an_interrupt_an_exit_and_whatever_else_is_no_exception(self):
        class ServersTimeout(BaseException):  # gevent's and eventlet's
            pass

        for kind in (KeyboardInterrupt, SystemExit, GeneratorExit, ServersTimeout):
            for starts in (False, True):
                def load(ticket):
                    if starts:
                        ticket.spawn(["sleep", "60"])
                    raise kind

                with self.subTest(kind=kind, starts=starts):
                    self.expect_no_failure(kind, load)
        self.assertTrue(eventually(lambda: not self.pool.backends()))

    def test_want_of_descriptors_and_memory(self):
        for error in (OSError(errno.EMFILE, "too many"), OSError(errno.ENOMEM, "no memory"),
                      BlockingIOError(errno.EAGAIN, "no process"), MemoryError()):
            def load(ticket):
                ticket.spawn(["sleep", "60"])
                raise error

            with self.subTest(error):
                self.expect_no_failure(type(error), load)

    def test_without_descriptors(self):
        def load(ticket):
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            try:
                ticket.spawn(["sleep", "60"])
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)

        self.expect_no_failure(modelpool.System, load)

    def test_what_it_was_told_wrong(self):
        for kind, arguments in (
            (modelpool.System, {"stdout": "/nonexistent/x"}),
            (modelpool.System, {"stderr": self.dir}),
            (modelpool.SpawnFailed, {"cwd": "/nonexistent"}),
            (modelpool.Invalid, {"env": {"": "x"}}),
        ):
            with self.subTest(arguments):
                self.expect_no_failure(kind, lambda t: t.spawn(["sleep", "60"], **arguments))
        self.expect_no_failure(modelpool.SpawnFailed, lambda t: t.spawn(["/nowhere/server"]))
        self.expect_no_failure(modelpool.Invalid, lambda t: None)
        self.expect_no_failure(
            modelpool.Invalid, lambda t: t.spawn(["sleep", "60"]).ready("no blanks", nothing=1))

    def test_an_exit_from_a_signal_handler(self):
        code = """
            import modelpool, signal, sys
            pool = modelpool.Pool(dir=sys.argv[1])
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))

            def load(ticket):
                ticket.spawn(["sleep", "60"])
                print("loading", flush=True)
                signal.pause()

            with pool.lease("m", load=load):
                pass
        """
        loader = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), self.dir],
                                  stdout=subprocess.PIPE)
        self.addCleanup(loader.stdout.close)
        self.addCleanup(loader.wait)
        self.addCleanup(loader.kill)
        self.assertEqual(loader.stdout.readline(), b"loading\n")
        loader.send_signal(signal.SIGTERM)
        self.assertEqual(loader.wait(), 7)
        self.pool.acquire("m", timeout=30.0).give_back()

    def test_the_end_of_the_interpreter(self):
        code = """
            import concurrent.futures, modelpool, sys, threading, time
            pool = modelpool.Pool(dir=sys.argv[1])
            executor = concurrent.futures.ThreadPoolExecutor()

            def load(ticket):
                ticket.spawn(["sleep", "60"])
                print("loading", flush=True)
                while threading.main_thread().is_alive():
                    time.sleep(0.01)
                while True:  # "cannot schedule new futures after interpreter shutdown"
                    executor.submit(time.sleep, 0).result()

            def use():
                try:
                    with pool.lease("m", load=load):
                        pass
                except RuntimeError:
                    print("ended", flush=True)

            threading.Thread(target=use).start()
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), self.dir],
                              stdout=subprocess.PIPE, text=True, check=True)
        self.assertEqual(done.stdout, "loading\nended\n")
        self.pool.acquire("m", timeout=30.0).give_back()
        self.assertEqual([e for e in self.pool.events() if e["kind"] == "load_failed"], [])

    def test_a_ticket_that_is_dropped(self):
        ticket = self.pool.acquire("m").spawn(["sleep", "60"])
        del ticket
        gc.collect()
        self.pool.acquire("m", timeout=30.0).give_back()


class Steering(PoolTest):
    flags = ["--max-backends", "3", "--load-cooldown", "1h..1h", "--stop-grace", "1s"]

    def fail_to_load(self):
        self.pool.acquire("m").fail("no")
        with self.assertRaisesRegex(modelpool.CoolingDown, "`poolctl .*reset m` ends that"):
            self.pool.acquire("m")

    def test_reset_and_a_changed_setting_forget_a_failed_load(self):
        self.fail_to_load()
        self.pool.reset("m")
        self.fail_to_load()
        self.pool.set(load_cooldown="2h..2h")
        self.pool.acquire("m").give_back()
        self.pool.reset("never heard of")

    def test_evict_ends_a_load_and_nothing_cools_down(self):
        ticket = self.pool.acquire("m").spawn(["sleep", "60"])
        self.pool.evict("m")
        self.assertTrue(eventually(lambda: not self.pool.backends()))
        with self.assertRaisesRegex(modelpool.TicketLost, "requested"):
            ticket.ready("127.0.0.1:1")
        self.pool.acquire("m").give_back()

    def test_a_ticket_knows_who_waits_for_its_model(self):
        ticket = self.pool.acquire("m")
        self.assertEqual(ticket.waiting, 0)
        waiter = threading.Thread(target=lambda: self.pool.acquire("m").release())
        waiter.start()
        self.assertTrue(eventually(lambda: ticket.waiting == 1))
        ticket.ready("127.0.0.1:1", external=True).release()
        waiter.join()
        self.assertEqual(ticket.waiting, 0)

    def test_a_ticket_tells_the_devices_of_its_backend(self):
        self.pool.set(gpu_memory="GPU-a=1GiB,GPU-b=1GiB", devices="1")
        ticket = self.pool.acquire("m")
        self.assertEqual(ticket.devices, ["GPU-a"])
        ticket.give_back()
        self.pool.set(gpu_memory="off", devices="off")

    def test_an_address_and_a_listener_of_others_are_refused(self):
        with self.pool.lease("m", load=load) as lease:
            address = lease.address
        ticket = self.pool.acquire("n").spawn(["sleep", "60"])
        with self.assertRaisesRegex(modelpool.Invalid, "m is served at|none of its backend's"):
            ticket.ready(address)
        with self.assertRaisesRegex(modelpool.Invalid, "m is served at"):
            ticket.ready(address, any_listener=True)
        with socket.create_server(("127.0.0.1", 0)) as squatter:
            address = f"127.0.0.1:{squatter.getsockname()[1]}"
            with self.assertRaisesRegex(modelpool.Invalid, f"process {os.getpid()} "):
                ticket.ready(address)
            ticket.ready(address, any_listener=True).release()


class Leases(PoolTest):
    def test_end_with_with_release_and_collection(self):
        self.load_external("m").release()
        with self.pool.acquire("m"):
            self.assertEqual(len(self.pool.leases()), 1)
        self.assertEqual(self.pool.leases(), [])
        lease = self.pool.acquire("m")
        lease.release()
        lease.release()
        self.assertEqual(self.pool.leases(), [])
        lease = self.pool.acquire("m")
        self.assertEqual(len(self.pool.leases()), 1)
        del lease
        gc.collect()
        self.assertEqual(self.pool.leases(), [])

    def test_of_a_backend_that_was_stopped_are_lost(self):
        with self.pool.lease("m", load=load) as lease:
            self.pool.evict("m", force=True)
            with self.assertRaisesRegex(modelpool.LeaseLost, "requested"):
                eventually(lambda: lease.progress())
        self.assertTrue(eventually(lambda: not self.pool.backends()))

    def test_an_acquire_says_for_how_long_its_backend_may_be_idle(self):
        self.load_external("m").release()
        kept = lambda: self.pool.backends()[0]["keep_alive"]
        self.assertIsNone(kept())
        for value, shown in (
            ("5m", "5m"), (90, "1m30s"), (0.25, "250ms"), (None, "250ms"),
            (-1, "off"), (2, "2s"), (-0.5, "off"), (2, "2s"), ("off", "off"), ("-1", "off"),
        ):
            with self.subTest(value=value):
                self.pool.acquire("m", keep_alive=value).release()
                self.assertEqual(kept(), shown)
        with self.pool.lease("m", keep_alive=0):
            self.assertEqual(kept(), "0")
        self.assertTrue(eventually(lambda: not self.pool.backends()))
        with self.pool.lease("n", load=load, keep_alive=0) as lease:
            self.assertEqual(lease.model, "n")
        self.assertTrue(eventually(lambda: not self.pool.backends()))
        for value in (True, "soon", "-soon", float("nan"), b"1", [1]):
            with self.subTest(value=value), self.assertRaises(modelpool.Invalid):
                self.pool.acquire("m", keep_alive=value)

    def test_a_hung_request_ends_its_backend_and_the_event_has_its_tag(self):
        self.pool.set(stop_grace="100ms")
        with self.pool.lease("m", load=load):
            pass
        with self.pool.acquire("m", tag="hung-7", busy_timeout=0.05) as lease:
            with self.assertRaises(modelpool.LeaseLost):
                eventually(lambda: lease.progress())
        killed = lambda: [e for e in self.pool.events() if e["kind"] == "killed"]
        self.assertTrue(eventually(killed))
        self.assertEqual((killed()[0]["tag"], killed()[0]["reason"]), ("hung-7", "busy"))


class Looking(PoolTest):
    def keys(self, rows):
        return [list(row) for row in rows]

    def test_the_tables_have_the_keys_of_poolctls_json(self):
        held = self.load_external("m")
        waiting = threading.Thread(target=self.wait_in_vain)
        loading = self.pool.acquire("n")
        waiting.start()
        self.wait_for_waiters(1)
        for name, ours in {
            "list": self.pool.backends(),
            "leases": self.pool.leases(),
            "waiters": self.pool.waiters(),
            "workers": self.pool.workers(),
        }.items():
            theirs = self.poolctl(name)
            self.assertTrue(ours, name)
            self.assertEqual(self.keys(ours), self.keys(theirs), name)
        self.assertEqual(list(self.pool.status()), list(self.poolctl("status")))
        self.assertEqual(self.pool.status()["waiting"], 1)
        loading.ready("127.0.0.1:2", external=True).release()
        waiting.join()
        held.release()

    def wait_in_vain(self):
        with self.pool.acquire("n"):
            pass

    def test_events_are_those_of_poolctl(self):
        with self.pool.lease("m", load=load):
            pass
        self.assertTrue(eventually(lambda: self.pool.events()[-1]["kind"] == "loaded"))
        ours = self.pool.events()
        done = subprocess.run(
            [POOLCTL, "--dir", self.dir, "-o", "json", "events"], stdout=subprocess.PIPE, check=True
        )
        self.assertEqual(ours, [json.loads(line) for line in done.stdout.splitlines()])
        self.assertEqual(self.pool.events(since=ours[-1]["seq"]), ours[-1:])
        self.assertEqual(self.pool.events(since=ours[-1]["seq"] + 1), [])

    def test_a_switch_is_a_bool(self):
        for value, read in ((True, True), (False, False), ("on", True), (None, False)):
            self.pool.set(pinned=value, keep=2)
            self.assertIs(self.pool.get("pinned"), read)
        for wrong in (1, 1.5, "yes"):
            with self.subTest(wrong=wrong), self.assertRaises(modelpool.Invalid):
                self.pool.set(pinned=wrong)
        self.load_external("m", pinned=True).release()
        with self.assertRaisesRegex(modelpool.NotLoaded, "other"):
            self.pool.unpin("other")
        self.pool.set(pinned=True)
        with self.assertRaisesRegex(modelpool.Invalid, "its settings pin it .set."):
            self.pool.unpin("m")

    def test_settings_are_set_in_seconds_and_read_back(self):
        self.pool.set(
            idle_timeout=2.5, busy_timeout="15m", max_backends=3, stop_signal=signal.SIGINT,
            when_busy="force", load_timeout=None,
        )
        got = {name: self.pool.get(name) for name in
               ("idle_timeout", "busy_timeout", "max_backends", "stop_signal", "when_busy",
                "load_timeout", "load_cooldown")}
        self.assertEqual(got, {
            "idle_timeout": 2.5, "busy_timeout": 900.0, "max_backends": 3, "stop_signal": "SIGINT",
            "when_busy": "force", "load_timeout": None, "load_cooldown": "10s..5m"})
        self.pool.limit = 2
        self.assertEqual((self.pool.limit, self.pool.get("max-backends")), (2, 2))
        self.assertEqual(self.poolctl("set")["max_backends"]["value"], "2")

    def test_touch_pin_unpin_and_evict_steer_the_backend(self):
        with self.pool.lease("m", load=load) as lease:
            pid = lease.pid
        self.pool.touch("m")
        self.pool.pin("m")
        self.assertTrue(self.pool.backends()[0]["pinned"])
        self.pool.unpin("m")
        self.assertFalse(self.pool.backends()[0]["pinned"])
        self.pool.evict("m")
        self.assertTrue(eventually(lambda: not self.pool.backends()))
        self.assertTrue(eventually(lambda: pid not in processes_with("MODELPOOL_BACKEND=")))
        for steer in (self.pool.touch, self.pool.pin, self.pool.unpin, self.pool.evict):
            with self.assertRaises(modelpool.NotLoaded):
                steer("m")


class Refusals(PoolTest):
    flags = ["--max-backends", "1", "--max-waiters", "1"]

    def test_timeout(self):
        ticket = self.pool.acquire("m")
        with self.assertRaisesRegex(modelpool.Timeout, "being loaded") as raised:
            self.pool.acquire("m", timeout=0.01)
        self.assertIsInstance(raised.exception, TimeoutError)
        with self.assertRaises(modelpool.Timeout):
            self.pool.acquire("m", timeout=0)
        ticket.ready("127.0.0.1:1", external=True)

    def test_queue_full(self):
        ticket = self.pool.acquire("m")
        waiter = threading.Thread(target=lambda: self.pool.acquire("m").release())
        waiter.start()
        self.wait_for_waiters(1)
        with self.assertRaises(modelpool.QueueFull):
            self.pool.acquire("m")
        ticket.ready("127.0.0.1:1", external=True).release()
        waiter.join()

    def test_all_pinned(self):
        self.load_external("m", pinned=True).release()
        with self.assertRaises(modelpool.AllPinned):
            self.pool.acquire("n")

    def test_no_coordinator(self):
        pool = self.attach(coordinator_grace=0.05)
        held = self.load_external("m")
        self.coordinator.kill()
        self.coordinator.wait()
        with self.assertRaisesRegex(modelpool.NoCoordinator, "start coordinatord"):
            pool.acquire("n")
        held.release()

    def test_no_such_pool_and_a_directory_open_to_others(self):
        with self.assertRaises(modelpool.NoSuchPool):
            modelpool.Pool("other", dir=self.dir, create=False)
        os.chmod(self.dir, 0o777)
        with self.assertRaises(modelpool.Permission):
            modelpool.Pool("other", dir=self.dir)

    def test_incompatible(self):
        with open(os.path.join(self.dir, "noise"), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(b"noise" * 10_000)
        with self.assertRaises(modelpool.Incompatible):
            modelpool.Pool("noise", dir=self.dir)

    def test_ticket_lost(self):
        self.pool.set(load_timeout=0.05)
        ticket = self.pool.acquire("m")
        self.assertTrue(eventually(lambda: not self.pool.backends()))
        with self.assertRaises(modelpool.TicketLost):
            ticket.ready("127.0.0.1:1", external=True)

    def test_every_error_is_an_error_with_its_code(self):
        kinds = [getattr(modelpool, name) for name in modelpool.__all__]
        errors = [k for k in kinds if isinstance(k, type) and issubclass(k, Exception)]
        self.assertEqual(len(errors), 23)
        for kind in errors:
            self.assertTrue(issubclass(kind, modelpool.Error), kind)
            self.assertEqual(kind.__module__, "modelpool")
            self.assertTrue(kind.__doc__)
        promised = (
            "Timeout QueueFull TableFull AllPinned CoolingDown LoadFailed NoCoordinator NoSuchPool "
            "Incompatible NotLoaded TicketLost LeaseLost Invalid Closed"
        )
        for name in promised.split():
            self.assertIn(name, modelpool.__all__)


class Places(PoolTest):
    def test_the_environment_names_the_pool_and_its_directory(self):
        code = "import modelpool; p = modelpool.Pool(); print(p.name, p.status()['path'])"
        environment = dict(os.environ, MODELPOOL_DIR=self.dir, MODELPOOL_POOL="other")
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=True,
                              stdout=subprocess.PIPE, text=True)
        self.assertEqual(done.stdout, f"other {self.dir}/other\n")

    def test_free_port_is_free_and_nobody_elses(self):
        code = "import modelpool; print(*[modelpool.free_port() for _ in range(64)]); input()"
        others = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True) for _ in range(3)]
        ports = [modelpool.free_port() for _ in range(64)]
        for other in others:
            ports += map(int, other.stdout.readline().split())
        for other in others:
            other.communicate("end\n")
        self.assertEqual(len(set(ports)), 4 * 64)
        self.assertFalse(answers(f"127.0.0.1:{ports[0]}"))
        with socket.socket() as server:  # one that sets no option
            server.bind(("127.0.0.1", ports[0]))
            server.listen()

    def test_the_extension_is_linked_to_no_libpython(self):
        done = subprocess.run(["ldd", modelpool._modelpool.__file__], check=True,
                              stdout=subprocess.PIPE, text=True)
        self.assertNotIn("libpython", done.stdout)


if __name__ == "__main__":
    unittest.main()
