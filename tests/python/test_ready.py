"""LoadTicket.wait_ready: what counts as an answer, and what ends the wait without one."""

import os
import signal
import socket
import threading
import sys
import time
import unittest

import modelpool
from support import DEMO_BACKEND, PoolTest

# Where no proxy is: what asks through these never gets an answer.
PROXIES = {name: "http://127.0.0.1:9" for name in ("http_proxy", "HTTP_PROXY", "all_proxy")}


class WaitReady(PoolTest):
    def spawn(self, *flags, model="m", port=None):
        """(ticket, address) of a demo backend that is starting."""
        ticket = self.pool.acquire(model)
        self.addCleanup(self.let_go, ticket)
        port = port or modelpool.free_port()
        argv = [DEMO_BACKEND, "--port", str(port), "--max-lifetime", "120s", *flags]
        return ticket.spawn(argv), f"127.0.0.1:{port}"

    @staticmethod
    def let_go(ticket):
        try:
            ticket.fail("the test is over")
        except modelpool.Error:
            pass

    def test_it_returns_the_address_once_the_backend_answers(self):
        for model, check in (("tcp", "tcp"), ("http", "http:/health")):
            ticket, address = self.spawn("--load-time", "200ms", model=model)
            began = time.monotonic()
            self.assertEqual(ticket.wait_ready(address, check), address)
            self.assertGreaterEqual(time.monotonic() - began, 0.1)
            with ticket.ready(address) as lease:
                self.assertEqual(lease.address, address)

    def test_a_delay_is_an_answer_of_its_own(self):
        ticket, address = self.spawn("--load-time", "60s")
        self.assertEqual(ticket.wait_ready(address, "delay:50ms"), address)

    def test_who_answers_byte_by_byte_does_not_hold_up_the_wait(self):
        path = f"{self.dir}/drip.sock"
        drip = (
            "import socket, sys, time\n"
            "server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen()\n"
            "connected = server.accept()[0]\n"
            "for byte in b'HTTP/1.0 200 OK\\r\\nX: ' + 50 * b'x':\n"
            "    connected.send(bytes([byte])); time.sleep(0.1)\n"
        )
        ticket = self.pool.acquire("m")
        self.addCleanup(self.let_go, ticket)
        ticket.spawn([sys.executable, "-c", drip, path])
        # It leaves after its last byte: who waited for that would hear that it ended.
        with self.assertRaises(modelpool.Timeout):
            ticket.wait_ready(f"unix:{path}", "http:/", timeout=1)

    def test_a_unix_socket_is_asked_too(self):
        path = f"{self.dir}/backend.sock"
        ticket = self.pool.acquire("m")
        self.addCleanup(self.let_go, ticket)
        ticket.spawn([DEMO_BACKEND, "--unix", path, "--max-lifetime", "120s"])
        for check in ("tcp", "http:/health"):
            self.assertEqual(ticket.wait_ready(f"unix:{path}", check), f"unix:{path}")

    def test_a_backend_is_never_asked_through_a_proxy(self):
        """The README's example asked through http_proxy, and never got ready."""
        before = dict(os.environ)
        self.addCleanup(os.environ.update, before)
        os.environ.update(PROXIES)
        self.addCleanup(lambda: [os.environ.pop(n, None) for n in PROXIES if n not in before])
        ticket, address = self.spawn()
        self.assertEqual(ticket.wait_ready(address, "http:/health"), address)

    def test_only_2xx_is_a_yes(self):
        ticket, address = self.spawn()
        ticket.wait_ready(address)
        with self.assertRaisesRegex(modelpool.Timeout, r"did not answer at .*http:/nowhere"):
            ticket.wait_ready(address, "http:/nowhere", timeout=0.2)

    def test_the_end_of_the_process_ends_the_wait_and_says_how(self):
        ticket, address = self.spawn("--fail-load", "out of memory")
        with self.assertRaisesRegex(modelpool.LoadFailed, r"ended before it was ready at 127"):
            ticket.wait_ready(address)
        flags = ("--load-time", "500ms", "--fail-load", "out of memory")
        ticket, address = self.spawn(*flags, model="other")
        # Else its status may be gone before it is looked at.
        self.coordinator.send_signal(signal.SIGSTOP)
        self.addCleanup(self.coordinator.send_signal, signal.SIGCONT)
        with self.assertRaisesRegex(modelpool.LoadFailed, r"\(exit status 1\); spawn\(.*stdout="):
            ticket.wait_ready(address)

    def test_the_reason_reaches_those_who_wait_for_the_load(self):
        def load(ticket):
            ticket.spawn([DEMO_BACKEND, "--port", "0", "--fail-load", "no"])
            return ticket.wait_ready("127.0.0.1:1")

        with self.assertRaises(modelpool.LoadFailed):
            self.pool.lease("m", load=load).__enter__()
        with self.assertRaisesRegex(modelpool.CoolingDown, "ended before"):
            self.pool.acquire("m")

    def test_a_timeout_leaves_the_ticket(self):
        ticket, address = self.spawn("--load-time", "60s")
        with self.assertRaises(TimeoutError) as raised:
            ticket.wait_ready(address, timeout="100ms")
        self.assertIn("within 100ms", str(raised.exception))
        with ticket.ready(address) as lease:
            self.assertEqual(lease.address, address)

    def test_a_server_that_accepts_and_is_silent_is_no_answer_to_http(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            ticket = self.pool.acquire("m").spawn(["sleep", "60"])
            self.addCleanup(self.let_go, ticket)
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            self.assertEqual(ticket.wait_ready(address, any_listener=True), address)
            closed = threading.Thread(target=lambda: silent.accept()[0].close())
            closed.start()
            with self.assertRaises(modelpool.Timeout):
                ticket.wait_ready(address, "http:/health", timeout=0.1, any_listener=True)
            socket.create_connection(silent.getsockname()).close()
            closed.join()

    def test_an_answer_from_another_process_is_none(self):
        ticket, address = self.spawn()
        ticket.wait_ready(address)  # the one that answers
        other = self.pool.acquire("other").spawn(["sleep", "60"])
        self.addCleanup(self.let_go, other)
        for check in ("tcp", "http:/health"):
            with self.assertRaisesRegex(modelpool.Timeout, f"process {ticket.pid} "):
                other.wait_ready(address, check, timeout=0.2)
            self.assertEqual(other.wait_ready(address, check, any_listener=True), address)

    def test_past_its_timeout_it_goes_on_for_those_who_wait(self):
        """Each of several impatient loaders began a load and threw it away."""
        ticket, address = self.spawn("--load-time", "1s")
        waiter = threading.Thread(target=lambda: self.pool.acquire("m").release())
        waiter.start()
        self.wait_for_waiters(1)
        self.assertEqual(ticket.wait_ready(address, timeout=0.1), address)
        ticket.ready(address).release()
        waiter.join()

    def test_a_timeout_of_a_load_function_is_no_failed_load(self):
        def load(ticket):
            port = modelpool.free_port()
            ticket.spawn([DEMO_BACKEND, "--port", str(port), "--load-time", "60s"])
            return ticket.wait_ready(f"127.0.0.1:{port}", timeout=0.1)

        self.pool.set(stop_grace="1s")
        with self.assertRaises(modelpool.Timeout):
            self.pool.lease("m", load=load).__enter__()
        self.pool.acquire("m", timeout=30.0).give_back()

    def test_wrong_arguments_are_named(self):
        ticket, address = self.spawn()
        for arguments, said in (
            ((address, "https:/health"), "https:/health"),
            ((address, "http:health"), "http:health"),
            ((address, "http://x/health"), "http://x/health"),
            ((address, "delay:soon"), "soon"),
            (("127.0.0.1",), "write host:port"),
            (("127.0.0.1:0",), "write host:port"),
            ((4321,), "expected str, not int"),
            ((address, 5), "expected str, not int"),
            ((address, "tcp", None, 1), "positional"),
        ):
            with self.assertRaises((modelpool.Invalid, TypeError)) as raised:
                ticket.wait_ready(*arguments)
            self.assertIn(said, str(raised.exception))
        with self.assertRaisesRegex(modelpool.Invalid, "timeout"):
            ticket.wait_ready(address, timeout=-1)

    def test_without_a_process_it_needs_an_end(self):
        ticket = self.pool.acquire("m")
        with self.assertRaisesRegex(modelpool.Invalid, "spawn first, or give a timeout"):
            ticket.wait_ready("127.0.0.1:1")
        with self.assertRaises(modelpool.Timeout):
            ticket.wait_ready("127.0.0.1:1", timeout=0.05)
        ticket.fail("the test is over")


if __name__ == "__main__":
    unittest.main()
