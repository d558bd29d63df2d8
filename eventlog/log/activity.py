"""Waiting for anything to happen in a store, in this process or another: no polling, one futex."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventlog._native import check, ffi, last_error, lib, path_bytes

_SIGNAL_SLICE_NS = 250_000_000
_FOR_EVER_NS = 1 << 62
PAGE_SIZE_BYTES = 4096


class Activity:
    """The page on which all processes that have the store open tell that something happened: records
    became readable in some partition, a consumer group changed, the store's topics did.

    Take a :meth:`ticket`, look at what you wait for, then :meth:`wait`: nothing that happens after the
    ticket is slept over. One thread can so wait for any number of partitions. Thread-safe.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        if writable:
            # Real blocks, so that a full disk is an error here and never a SIGBUS later.
            check(lib.el_file_reserve(path_bytes(path), PAGE_SIZE_BYTES))
        handle = lib.el_activity_open(path_bytes(path))
        if handle == ffi.NULL:
            raise last_error(lib.EL_ERR_OS)
        self.handle: Any = ffi.gc(handle, lib.el_activity_close)

    def ticket(self) -> int:
        """Take it before looking at what you wait for."""
        return int(lib.el_activity_ticket(self.handle))

    def wait(self, ticket: int, timeout_s: float | None = None) -> bool:
        """Sleep until something happened after the ticket. False when the time is up.

        True says only that it may be worth looking again. In the main thread Python's signal handlers
        run four times a second.

        Args:
            ticket: what :meth:`ticket` gave.
            timeout_s: seconds; None: for ever.
        """
        return in_slices(
            lambda timeout_ns: int(lib.el_activity_wait(self.handle, ticket, timeout_ns)), timeout_s
        )

    def wake(self) -> None:
        """Wake all who wait, in all processes."""
        lib.el_activity_wake(self.handle)


def in_slices(wait: Callable[[int], int], timeout_s: float | None) -> bool:
    """Wait in C, up to ``timeout_s`` seconds (None: for ever); whether it came before the time was up.

    Python's signal handlers run between bytecodes of the main thread. A signal that comes just before
    the sleep begins does not end it, so the main thread looks up now and then.

    Args:
        wait: takes nanoseconds, returns EL_OK, EL_TIMEOUT, EL_INTERRUPTED or an error.
    """
    until_ns = None if timeout_s is None else time.monotonic_ns() + int(timeout_s * 1e9)
    is_main = threading.current_thread() is threading.main_thread()
    slice_ns = _SIGNAL_SLICE_NS if is_main else _FOR_EVER_NS
    while True:
        left_ns = _FOR_EVER_NS if until_ns is None else max(0, until_ns - time.monotonic_ns())
        result = check(wait(min(left_ns, slice_ns)))
        if result == lib.EL_OK:
            return True
        if result == lib.EL_TIMEOUT and left_ns <= slice_ns:
            return False
