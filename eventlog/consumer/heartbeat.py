"""The thread by which a consumer is heard of while the application works on records."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from eventlog.errors import ClosedError, EventLogError, ForkedError

_logger = logging.getLogger("eventlog.consumer")


class Beating(Protocol):
    """Who has something to do now and then."""

    def beat(self) -> None:
        """Do it."""
        ...


class Heartbeat:
    """Calls ``beat`` in a thread of its own. Does not keep its owner alive: a consumer that was forgotten
    without ``close`` is collected, and :meth:`abandon` then tells what is left to do.

    Args:
        owner: whose ``beat`` is called.
        interval_s: seconds between two calls.
    """

    def __init__(self, owner: Beating, interval_s: float) -> None:
        self._owner = weakref.ref(owner)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._last_wish: Callable[[], object] | None = None
        self._thread = threading.Thread(
            target=self._run, name="eventlog-consumer-heartbeat", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Return when ``beat`` will not be called any more."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def abandon(self, last_wish: Callable[[], object]) -> None:
        """End soon, and call that at the end; for finalizers, which must not wait."""
        self._last_wish = last_wish
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            owner = self._owner()
            if owner is None:
                continue  # it is being collected, and its finalizer is about to tell
            try:
                owner.beat()
            except (ClosedError, ForkedError):
                return  # the store was closed first
            except (EventLogError, MemoryError) as error:
                _logger.warning("heartbeat of a consumer failed: %s", error)
            del owner
        if self._last_wish is not None:
            try:
                self._last_wish()
            except EventLogError as error:
                _logger.warning("a forgotten consumer could not leave its group: %s", error)
