"""LoadTicket.wait_ready: until what was started answers, or has ended."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import select
import signal
import socket
import threading
import time
from typing import Union

from ._modelpool import Invalid, LoadFailed, LoadTicket, Timeout, _seconds

# All in seconds.
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.2
_LEAST = 0.05
_CONNECT = 1.0  # a server on this host accepts at once, or not yet
_ANSWER = 10.0  # one that is loading may accept and answer late


def wait_ready(
    self: LoadTicket,
    address: str,
    check: str = "tcp",
    timeout: Union[float, str, None] = None,
    *,
    any_listener: bool = False,
) -> str:
    """Waits until what was started answers at this address, and returns the address.

    check: "tcp": a connection is accepted; "http:/health": a GET of /health is answered 2xx, asked
    without any proxy; "delay:5s": that much time has passed. An answer counts if it is the
    backend's own processes that listen there, as far as that can be told.
    timeout: seconds (or "5m"); None: the pool's load_timeout ends what was started. Past it the wait
    goes on while others wait for the model: they would only begin its load anew.
    any_listener: any process that listens there answers for the backend (a container's proxy).

    Raises LoadFailed if the process ends before, and Timeout.

    >>> def load(ticket):
    ...     port = modelpool.free_port()
    ...     ticket.spawn(["llama-server", "--port", str(port)])
    ...     return ticket.wait_ready(f"127.0.0.1:{port}", "http:/health")
    """
    answers = _reader_of(address, check)
    is_delay = check.startswith("delay:")
    if self.pid == 0 and timeout is None:
        raise Invalid(
            f"unable to wait for {self.model}: nothing was started whose end would end the wait;"
            " spawn first, or give a timeout"
        )
    began = time.monotonic()
    end = math.inf if timeout is None else _seconds(timeout, "timeout")
    pause = _FIRST_PAUSE
    another = ""  # who answered instead
    with _Watch(self.pid) as process:
        while True:
            waited = time.monotonic() - began
            if answers(waited, end - waited):
                another = "" if any_listener or is_delay else _another(self, address)
                if not another:
                    break
            left = min(pause, began + end - time.monotonic())
            if left <= 0 and self.waiting > 0:
                left = pause
            if left <= 0:
                raise Timeout(
                    f"unable to load {self.model}: it did not answer at {address} ({check})"
                    f" within {timeout if isinstance(timeout, str) else f'{timeout} s'}{another}"
                )
            if process.ended_within(left):
                raise LoadFailed(
                    f"unable to load {self.model}: its process ended before it was ready at"
                    f" {address}{process.how()}; spawn(..., stdout=FILE) keeps what it prints"
                )
            pause = min(2 * pause, _LONGEST_PAUSE)
    return address


def _another(ticket, address):
    """What is wrong with the answer: it came from another process. "" if nothing is."""
    try:
        ticket._check_listener(address)
    except Invalid as error:
        return f"; {error}"
    return ""


def _reader_of(address, check):
    """A function that looks once, told for how many seconds it was waited and how many are left."""
    for name, value in (("address", address), ("check", check)):
        if not isinstance(value, str):
            raise Invalid(f"{name}: expected str, not {type(value).__name__}")
    if check.startswith("delay:"):
        delay = _seconds(check[len("delay:") :], "check")
        return lambda waited, left: waited >= delay
    place = _place_of(address)
    if check == "tcp":
        return lambda waited, left: _accepts(place, left)
    path = check[len("http:") :]
    if not check.startswith("http:/") or path.startswith("//") or path.split() != [path]:
        raise Invalid(f"check: {check!r} is none; write tcp, http:/path or delay:DURATION")
    return lambda waited, left: _says_yes(place, path, left)


def _place_of(address):
    """(host, port), or the path of a Unix socket."""
    if address.startswith("unix:"):
        return address[len("unix:") :]
    rest = address[len("http://") :].split("/")[0] if address.startswith("http://") else address
    host, _, port = rest.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise Invalid(f"address: {address!r} is none to ask; write host:port or unix:/path")
    return host.strip("[]"), int(port)


def _at_most(seconds, left):
    return max(_LEAST, min(seconds, left))  # 0 would be a socket that does not wait


def _connect(place, left):
    if isinstance(place, str):
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(_at_most(_CONNECT, left))
        try:
            connected.connect(place)
        except BaseException:
            connected.close()
            raise
        return connected
    connected = socket.create_connection(place, timeout=_at_most(_CONNECT, left))
    # To a free port of this host it may get that very port, and meet itself.
    if connected.getsockname() == connected.getpeername():
        connected.close()
        raise ConnectionRefusedError
    return connected


def _accepts(place, left):
    with contextlib.suppress(OSError), _connect(place, left):
        return True
    return False


def _says_yes(place, path, left):
    connection = http.client.HTTPConnection("localhost" if isinstance(place, str) else place[0])
    limit = _at_most(_ANSWER, left)
    cut = None
    try:
        connection.sock = _connect(place, left)
        connection.sock.settimeout(limit)
        # The timeout is one of each read: who answers byte by byte is cut off as a whole.
        cut = threading.Timer(limit, _cut_off, (connection.sock,))
        cut.daemon = True
        cut.start()
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        if cut is not None:
            cut.cancel()
        connection.close()


def _cut_off(connected):
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


class _Watch:
    """The end of a process; of none, if the PID is 0."""

    def __init__(self, pid):
        self._pid = pid
        self._fd = None
        self._gone = False
        if pid:
            try:
                self._fd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._gone = True  # and reaped

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self._fd is not None:
            os.close(self._fd)

    def ended_within(self, seconds):
        if self._gone:
            return True
        if self._fd is None:
            time.sleep(seconds)
            return False
        poll = select.poll()  # unlike select, for descriptors of any number
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def how(self):
        """" (exit status 1)", as long as it is not reaped; else ""."""
        with contextlib.suppress(ChildProcessError):
            end = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if end is not None:
                if end.si_code == os.CLD_EXITED:
                    return f" (exit status {end.si_status})"
                with contextlib.suppress(ValueError):
                    return f" (signal {signal.Signals(end.si_status).name})"
                return f" (signal {end.si_status})"
        return ""
