"""A pool for the tests of an application: of the test's own, and without a daemon.

>>> import modelpool.testing
>>> with modelpool.testing.pool(max_backends=2) as pool:
...     modelpool.testing.serve(pool, "llama", "127.0.0.1:4321")  # the test's own server
...     with modelpool.Pool().lease("llama") as lease:            # what the application does
...         lease.address
'127.0.0.1:4321'

Everything works but what coordinatord does: no eviction, no timeouts, nothing is cleared after a
worker that died. With pytest:

    @pytest.fixture
    def pool():
        with modelpool.testing.pool() as pool:
            yield pool

To test evictions as well, run `coordinatord --dir DIR` on `pool.dir` for as long.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from typing import Union

from . import Pool as _Pool

__all__ = ["TestPool", "pool", "serve"]

_KILL_MAX = 10.0  # seconds that SIGKILL may take
_VARIABLES = ("MODELPOOL_DIR", "MODELPOOL_POOL")


class TestPool(_Pool):
    """The Pool that pool() gives."""

    __test__ = False  # no test of pytest's
    dir: str  # where its segment lies, MODELPOOL_DIR meanwhile


@contextlib.contextmanager
def pool(
    *, coordinator_grace: Union[float, str] = 0.2, **settings: Union[float, str, None]
) -> Iterator[TestPool]:
    """A new, empty pool for the time of a `with`.

    MODELPOOL_DIR names it meanwhile, so that modelpool.Pool() anywhere in this process, or in one
    that it starts, is this pool: make the application's Pool inside. At the end every backend that was
    spawned in it is killed, and nothing is left behind.

    coordinator_grace: seconds until what only coordinatord could do raises NoCoordinator.
    settings: of the pool, as Pool.set() takes them.
    """
    directory = tempfile.mkdtemp(prefix="modelpool-test-", dir="/dev/shm")
    before = {name: os.environ.pop(name, None) for name in _VARIABLES}
    os.environ["MODELPOOL_DIR"] = directory
    try:
        with TestPool(dir=directory, coordinator_grace=coordinator_grace) as made:
            made.dir = directory
            made.set(**{"max_backends": 0, "log_dir": f"{directory}/output", **settings})
            token = f"MODELPOOL_BACKEND={made.status()['uuid']}/"
            try:
                yield made
            finally:
                _kill_all_with(token.encode())
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(directory, ignore_errors=True)


def serve(pool: _Pool, model: str, address: str = "127.0.0.1:1") -> None:
    """Makes the model ready at an address where the test answers, without a process."""
    pool.acquire(model, timeout=0).ready(address, external=True).release()


def _kill_all_with(token):
    """Every process that the pool started, by the environment it inherited."""
    until = time.monotonic() + _KILL_MAX
    while (found := _all_with(token)) and time.monotonic() < until:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                process = os.pidfd_open(pid)
                try:
                    if _has(pid, token):  # that very one: the descriptor was opened before
                        signal.pidfd_send_signal(process, signal.SIGKILL)
                finally:
                    os.close(process)
        time.sleep(0.005)


def _all_with(token):
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _has(pid, token)]


def _has(pid, token):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as environ:
        return token in environ.read()
    return False
