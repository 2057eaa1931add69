"""A shared memory pool of model backends: the Python package.

>>> pool = modelpool.Pool("default", dir=pool_dir)  # attaches; creates the pool if there is none
>>> with pool.lease("llama", load=load_llama) as lease:  # loads it if nobody has
...     lease.address
'127.0.0.1:4321'
>>> pool.close()

Every wait has a deadline, lets other threads run, and ends on Ctrl-C. Objects may be used from any
thread. What is closed, released, used up or inherited through fork raises Closed; a Pool attaches
anew in a forked child. Subinterpreters cannot import it: ImportError.

Errors derive from modelpool.Error; help(modelpool.errors) explains each. A wait may end with
Timeout, Cancelled, QueueFull, TableFull, AllPinned, TooLarge, CoolingDown, LoadFailed,
NoCoordinator, NotLoaded or Replaced; what is cancellable with RequestCancelled; a Pool may raise
NoSuchPool, Incompatible or Permission; a ticket TicketLost or SpawnFailed; a lease LeaseLost. Any
call may raise Invalid (an argument), Closed, Busy and System.

modelpool.testing has a pool for the tests of an application, without a daemon.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import inspect
import itertools
import os
import struct
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Union

try:
    from . import _modelpool
except ImportError:
    from ._missing import why_missing

    if why_missing():
        raise ImportError(why_missing()) from None
    raise

_modelpool._require_main_interpreter()

from ._modelpool import Lease, LoadTicket, __version__ as __version__  # noqa: E402
from ._ready import wait_ready as _wait_ready  # noqa: E402
from . import errors as errors  # noqa: E402
from .errors import *  # noqa: E402, F403
from .errors import Busy, Closed, Error, Invalid, RequestCancelled  # noqa: E402

LoadTicket.wait_ready = _wait_ready

__all__ = ["Lease", "LoadTicket", "Pool", "errors", "free_port"]
__all__ += errors.__all__


def __dir__():
    """Without the errors: their pages would be the start of help(modelpool). errors has them."""
    return sorted(globals().keys() - set(errors.__all__))



_Duration = Union[float, str]  # seconds, or "15m"
_Load = Callable[[LoadTicket], Union[str, Lease]]
_LoadAsync = Callable[[LoadTicket], Union[str, Lease, Awaitable[Union[str, Lease]]]]


class Pool(_modelpool.Pool):
    """One process's view of a pool.

    name: of the pool; None is MODELPOOL_POOL, else "default".
    dir: where it lies; None is MODELPOOL_DIR, else the usual places.
    create: False raises NoSuchPool instead of creating it.
    coordinator_grace: seconds that a coordinator may be absent before NoCoordinator.

    >>> with modelpool.Pool(dir=pool_dir) as pool:
    ...     pool.status()["max_backends"]
    3
    >>> pool.limit
    Traceback (most recent call last):
        ...
    modelpool.Closed: unable to use this pool: it is closed, used up, or was inherited through fork
    """

    def lease(
        self,
        model: str,
        load: _Load | None = None,
        timeout: _Duration = 30.0,
        *,
        tag: str | None = "",
        busy_timeout: _Duration | None = None,
        expected_bytes: int | None = None,
        priority: int = 0,
        on_cancel: Callable[[], object] | None = None,
        keep_alive: _Duration | None = None,
    ) -> contextlib.AbstractContextManager[Lease]:
        """A lease for the time of a `with`; loads the model if nobody has.

        load(ticket) starts the backend and returns its address when it answers (or the Lease that
        ticket.ready() gave). It is called only if needed. What it raises fails the load, for those
        who wait for it too, and the model cools down; unless it says nothing of the model: then the
        next waiter loads it at once. These are KeyboardInterrupt, SystemExit and all that is no
        Exception, errors of modelpool but LoadFailed (a file or a program that cannot be opened, a
        bad argument, a Timeout), the TypeError of a `load` that takes no ticket, MemoryError, an
        OSError for want of descriptors, memory or processes, and whatever is raised while the
        interpreter ends. Without `load`, a model that is not loaded raises NotLoaded.

        on_cancel() is called when the request takes too long, before its backend is killed
        (help(Lease.on_cancel)): end it then.

        timeout covers the wait; the load itself is bounded by the pool's load_timeout: it goes on
        past the timeout. What this returns may serve one `with` after the other; two at once raise
        Busy.

        >>> with pool.lease("llama", load=load_llama, tag="req-81") as lease:
        ...     lease.address
        '127.0.0.1:4321'
        """
        return _Leasing(
            self, load, (model, timeout), on_cancel, tag=tag, busy_timeout=busy_timeout,
            expected_bytes=expected_bytes, priority=priority, keep_alive=keep_alive,
        )

    async def acquire_async(
        self,
        model: str,
        timeout: _Duration = 30.0,
        *,
        tag: str | None = "",
        busy_timeout: _Duration | None = None,
        may_load: bool = True,
        expected_bytes: int | None = None,
        priority: int = 0,
        cancellable: bool = False,
        keep_alive: _Duration | None = None,
    ) -> Lease | LoadTicket:
        """acquire() for asyncio: one thread serves all the waits of the process.

        A cancelled task waits no more; what it was granted in that moment is given back.

        >>> async def main():
        ...     lease = await pool.acquire_async("llama", timeout=5)
        ...     with lease:
        ...         return lease.address
        >>> asyncio.run(main())
        '127.0.0.1:4321'
        """
        mailbox = _Mailbox.of_running_loop()
        got = self._begin(
            mailbox.inbox, model, timeout, tag, busy_timeout, may_load, expected_bytes, priority,
            cancellable, keep_alive,
        )
        if not isinstance(got, int):
            return got
        return await mailbox.wait_for(self, got)

    def lease_async(
        self,
        model: str,
        load: _LoadAsync | None = None,
        timeout: _Duration = 30.0,
        *,
        tag: str | None = "",
        busy_timeout: _Duration | None = None,
        expected_bytes: int | None = None,
        priority: int = 0,
        cancellable: bool = False,
        keep_alive: _Duration | None = None,
    ) -> contextlib.AbstractAsyncContextManager[Lease]:
        """lease() for asyncio. `load` is an async function, or one that blocks and gets a thread.

        cancellable: when the request takes too long, the task that began the `with` is cancelled
        inside of it, before the backend is killed (on_overdue), and the `with` raises
        RequestCancelled.

        A load goes on when the task that began it is cancelled: others wait for it too. With the
        end of its loop it is given back.

        >>> async def main():
        ...     async with pool.lease_async("llama", load=load_llama) as lease:
        ...         return lease.address
        >>> asyncio.run(main())
        '127.0.0.1:4321'
        """
        return _LeasingAsync(
            self, load, (model, timeout), cancellable, tag=tag, busy_timeout=busy_timeout,
            expected_bytes=expected_bytes, priority=priority, keep_alive=keep_alive,
        )


def free_port() -> int:
    """A TCP port of this host that is free, for a backend that is to be started.

    It is held for it: no other caller on this host gets it, as long as this process has not asked
    for 64 more, and it lies outside of the range from which the kernel hands out ports.

    >>> 0 < modelpool.free_port() < 65536
    True
    """
    return _modelpool._free_port()


# --- Leases by `with` -----------------------------------------------------------------------------


class _OneAtATime:
    """What lease() and lease_async() return: a lease for each `with`, one after the other."""

    def __init__(self, pool, load, asked, on_cancel, **options):
        if load is not None and not callable(load):
            raise Invalid(f"load: expected a function or None, not {type(load).__name__}")
        self._pool, self._load, self._asked, self._options = pool, load, asked, options
        self._on_cancel = on_cancel
        self._options["may_load"] = load is not None
        self._turn = threading.Lock()
        self._lease = None

    def _begin(self):
        if not self._turn.acquire(blocking=False):
            raise Busy("unable to begin: a `with` uses this already; call the pool's method again")

    def _hold(self, lease):
        try:
            self._hear(lease)
        except BaseException:
            lease.release()
            raise
        self._lease = lease.__enter__()
        return lease

    def _end(self):
        lease, self._lease = self._lease, None
        if lease is None:
            raise Closed("unable to end this lease: no `with` has begun it")
        self._turn.release()
        lease.release()


class _Leasing(_OneAtATime):
    def __init__(self, pool, load, asked, on_cancel, **options):
        if on_cancel is not None:
            _check_callback(on_cancel)
        super().__init__(pool, load, asked, on_cancel, **options)

    def _hear(self, lease):
        if self._on_cancel is not None:
            lease.on_cancel(self._on_cancel)

    def __enter__(self):
        self._begin()
        try:
            got = self._pool.acquire(*self._asked, **self._options)
            if isinstance(got, LoadTicket):
                got = _load(got, self._load)
            return self._hold(got)
        except BaseException:
            self._turn.release()
            raise

    def __exit__(self, *exc_info):
        self._end()


class _LeasingAsync(_OneAtATime):
    def __init__(self, pool, load, asked, cancellable, **options):
        super().__init__(pool, load, asked, bool(cancellable), **options)

    async def __aenter__(self):
        self._begin()
        try:
            got = await self._pool.acquire_async(*self._asked, **self._options)
            if isinstance(got, LoadTicket):
                loading = asyncio.ensure_future(_load_async(got, self._load))
                _keep_while_loading(_Loading(loading, got))
                del got
                try:
                    got = await asyncio.shield(loading)
                except asyncio.CancelledError:
                    loading.add_done_callback(_release)
                    raise
            return self._hold(got)
        except BaseException:
            self._turn.release()
            raise

    def _hear(self, lease):
        if not self._on_cancel:
            return
        self._reason, self._task = None, asyncio.current_task()
        self._cancelling = self._task.cancelling() if hasattr(self._task, "cancelling") else 0

        # Weak: a lease is no part of a cycle that could be collected.
        itself = weakref.ref(self)

        def tell():
            leasing = itself()
            if leasing is not None and leasing._lease is not None:
                leasing._reason = leasing._lease.cancel_reason
                leasing._task.cancel(leasing._reason)

        _LoopCancels.of_running_loop().register(lease, tell)

    async def __aexit__(self, kind, error, trace):
        self._end()
        if not self._on_cancel or self._reason is None:
            return
        reason, task, self._task = self._reason, self._task, None
        # Somebody else may have cancelled it, too (from Python 3.11 on that can be told).
        left = task.uncancel() if hasattr(task, "uncancel") else 0
        if kind is not None and issubclass(kind, asyncio.CancelledError) and left <= self._cancelling:
            raise RequestCancelled(reason) from error


# --- Loading --------------------------------------------------------------------------------------


def _load(ticket, load):
    try:
        return _ready(ticket, load(ticket))
    except BaseException as error:
        _end_load(ticket, error)
        raise


async def _load_async(ticket, load):
    try:
        if inspect.iscoroutinefunction(load):
            return _ready(ticket, await load(ticket))
        try:
            running = asyncio.get_running_loop().run_in_executor(None, load, ticket)
        except RuntimeError:  # no thread is to be had: the loop or the interpreter ends
            ticket.give_back()
            raise
        result = await running
        return _ready(ticket, await result if inspect.isawaitable(result) else result)
    except BaseException as error:
        _end_load(ticket, error)
        raise


def _ready(ticket, result):
    if isinstance(result, Lease) and result.model == ticket.model:
        return result
    if not isinstance(result, str):
        raise Invalid(
            f"unable to load {ticket.model}: load must return the backend's address, as a str,"
            f" or the lease that ticket.ready() gave; it returned {result!r}"
        )
    return ticket.ready(result)


def _end_load(ticket, error):
    # The ticket may be used up or lost by then: what `error` says counts.
    with contextlib.suppress(Error):
        if _says_nothing_of_the_model(error):
            ticket.give_back()
        else:
            ticket.fail(_why_it_failed(ticket.model, error).encode(errors="replace").decode())


def _why_it_failed(model, error):
    # Who is told this reads "the load failed" before it.
    if isinstance(error, LoadFailed):
        return str(error).removeprefix(f"unable to load {model}: ")
    return f"{type(error).__name__}: {error}"


def _is_raised_here(error):
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    return innermost is not None and innermost.tb_frame.f_globals is globals()


_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


def _says_nothing_of_the_model(error):
    if not isinstance(error, Exception):  # interrupted, cancelled, told to exit
        return True
    if isinstance(error, (Error, MemoryError, concurrent.futures.CancelledError)):
        return not isinstance(error, LoadFailed)
    if isinstance(error, TypeError) and _is_raised_here(error):  # load takes no ticket
        return True
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        return True
    # No thread, no process and no future is to be had any more.
    return sys.is_finalizing() or not threading.main_thread().is_alive()


class _Loading:
    """A load of an event loop. It belongs to the loop alone: with it the load ends."""

    def __init__(self, task, ticket):
        self.task, self._ticket = task, ticket

    def __del__(self):
        if self.task.done():
            return
        try:
            self._ticket.give_back()
        except Busy:  # its thread is in the middle of spawn; nobody else comes back for it
            with contextlib.suppress(RuntimeError):  # the interpreter ends, and with it the load
                threading.Thread(target=_give_back_when_free, args=(self._ticket,), daemon=True).start()
        except Error:
            pass


def _give_back_when_free(ticket):
    while True:
        try:
            return ticket.give_back()
        except Busy:
            time.sleep(0.01)
        except Error:
            return None


def _keep_while_loading(loading):
    # The loop keeps weak references to tasks only, but it owns its timers, and lets them go when it
    # is closed.
    if not loading.task.done():
        asyncio.get_running_loop().call_later(60, _keep_while_loading, loading)


def _release(loading):
    if not loading.cancelled() and loading.exception() is None:
        loading.result().release()


# --- Overdue requests -----------------------------------------------------------------------------


def _check_callback(callback):
    if not callable(callback):
        raise Invalid(f"on_cancel: expected a function, not {type(callback).__name__}")


def _on_cancel(lease, callback):
    _check_callback(callback)
    _ThreadCancels.of_process().register(lease, callback)


class _Told:
    """Who is told of one lease. The lease keeps it until its release, and it keeps the pipe open."""

    def __init__(self, cancels, tell):
        self.cancels, self.tell = cancels, tell


class _Cancels:
    """A pipe to which the library writes the numbers of leases that are asked to end."""

    def __init__(self):
        self.out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        self._told = weakref.WeakValueDictionary()
        self._numbers = itertools.count(1)

    def __del__(self):
        for end in (self.out, self._in):
            os.close(end)

    def register(self, lease, tell):
        told = _Told(self, tell)
        number = next(self._numbers)
        self._told[number] = told
        lease._notify_cancel(self._in, number, told)

    def take(self):
        """Those who are to be told; waits if `out` does."""
        numbers = struct.iter_unpack("=Q", os.read(self.out, 8 * 64))
        return [told for (number,) in numbers if (told := self._told.get(number))]


class _ThreadCancels(_Cancels):
    """Of those without an event loop: a thread of the interpreter's, which ends with it."""

    _of_process = None, None  # its PID: a child of fork has no such thread
    _turn = threading.Lock()

    @classmethod
    def of_process(cls):
        with cls._turn:
            pid, found = cls._of_process
            if pid != os.getpid():
                found = cls()
                threading.Thread(target=found._run, name="modelpool cancels", daemon=True).start()
                cls._of_process = os.getpid(), found
            return found

    def _run(self):
        while True:
            for told in self.take():
                try:
                    told.tell()
                except BaseException as error:
                    of = (type(error), error, error.__traceback__, threading.current_thread())
                    threading.excepthook(threading.ExceptHookArgs(of))


class _LoopCancels(_Cancels):
    """Of one event loop, which looks at the pipe for as long as it runs."""

    _by_loop = weakref.WeakKeyDictionary()

    @classmethod
    def of_running_loop(cls):
        loop = asyncio.get_running_loop()
        found = cls._by_loop.get(loop)
        if found is None or found._pid != os.getpid():
            found = cls._by_loop[loop] = cls()
            found._pid = os.getpid()
            os.set_blocking(found.out, False)
            loop.add_reader(found.out, cls._deliver, weakref.ref(found))
        return found

    @staticmethod
    def _deliver(found):
        with contextlib.suppress(BlockingIOError):
            for told in found().take():
                told.tell()


# --- asyncio --------------------------------------------------------------------------------------


class _Mailbox:
    """The waits of one event loop. Results arrive by an eventfd, watched while there are any."""

    _by_loop = weakref.WeakKeyDictionary()

    @classmethod
    def of_running_loop(cls):
        loop = asyncio.get_running_loop()
        for other in [known for known in cls._by_loop if known.is_closed()]:
            cls._by_loop.pop(other)._leave()  # its tasks will not come for their answers
        found = cls._by_loop.get(loop)
        if found is None or not found.inbox.alive:  # none, or inherited through fork
            found = cls._by_loop[loop] = cls()
        return found

    def __init__(self):
        self.inbox = _modelpool._Inbox()
        # Weak: a future holds its loop. So a loop that was closed with tasks waiting can be
        # collected with them, and each gives back what it was granted.
        self._futures = weakref.WeakValueDictionary()
        self._pools = {}

    def _leave(self):
        for wait, pool in self._pools.items():
            pool._cancel(self.inbox, wait)

    async def wait_for(self, pool, wait):
        loop = asyncio.get_running_loop()
        if not self._futures:
            loop.add_reader(self.inbox.fileno(), self._deliver)
        future = self._futures[wait] = loop.create_future()
        self._pools[wait] = pool
        try:
            return await future
        except BaseException:  # cancelled, or the coroutine was closed
            pool._cancel(self.inbox, wait)
            if future.done() and not future.cancelled() and future.exception() is None:
                _give_back(future.result())
            raise
        finally:
            self._futures.pop(wait, None)
            self._pools.pop(wait, None)
            if not self._futures and not loop.is_closed():
                loop.remove_reader(self.inbox.fileno())

    def _deliver(self):
        for wait, result in self.inbox.take():
            future = self._futures.get(wait)
            if future is None or future.done():
                _give_back(result)
            elif isinstance(result, Error):
                future.set_exception(result)
            else:
                future.set_result(result)


def _give_back(granted):
    if isinstance(granted, LoadTicket):
        granted.give_back()
    elif isinstance(granted, Lease):
        granted.release()
