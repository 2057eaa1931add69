"""What modelpool raises: all of it derives from Error, and stands in modelpool itself, too."""

from ._modelpool import (
    AllPinned,
    Busy,
    Cancelled,
    Closed,
    CoolingDown,
    Error,
    Incompatible,
    Invalid,
    LeaseLost,
    LoadFailed,
    NoCoordinator,
    NoSuchPool,
    NotLoaded,
    Permission,
    QueueFull,
    Replaced,
    SpawnFailed,
    System,
    TableFull,
    TicketLost,
    Timeout,
    TooLarge,
)


class RequestCancelled(Error):
    """The pool asked for the end of this request: it took too long, by busy_timeout, stall_timeout or
    first_byte_timeout. The text is its Lease.cancel_reason. Raised by `async with
    pool.lease_async(..., cancellable=True)`, whose task was cancelled for it."""

    code = "request_cancelled"


RequestCancelled.__module__ = "modelpool"

__all__ = [
    "AllPinned",
    "Busy",
    "Cancelled",
    "Closed",
    "CoolingDown",
    "Error",
    "Incompatible",
    "Invalid",
    "LeaseLost",
    "LoadFailed",
    "NoCoordinator",
    "NoSuchPool",
    "NotLoaded",
    "Permission",
    "QueueFull",
    "Replaced",
    "RequestCancelled",
    "SpawnFailed",
    "System",
    "TableFull",
    "TicketLost",
    "Timeout",
    "TooLarge",
]
