"""The synchronous consumer under an asynchronous one: requests for records may be given up.

A request runs in a thread, and may be cancelled before its records reached the task that asked. They then
count as not handed out: the position goes back to before them, and they come with the next request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from eventlog.consumer.consumer import Consumer
from eventlog.consumer.reader import Chunk
from eventlog.log.record import Record

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Request:
    """One request for records.

    Attributes:
        is_cancelled: nobody gets what it gives; set by the loop's thread, at any time.
        is_more: it gave nothing, but there may be more to be looked through.
    """

    def __init__(self) -> None:
        self.is_cancelled = False
        self.is_more = False


class Requests(Consumer):
    """See the module. Its methods are called in threads."""

    _request = Request()  # the latest

    @property
    def heartbeat_interval_s(self) -> float:
        """How often the group has to be looked after."""
        return self._options.heartbeat_interval_ms / 1000

    def records(self, request: Request, max_records: int | None) -> list[Record]:
        """What a poll gives that does not wait."""
        with self._asking:
            self._take_up(request)
            return self.poll(0.0, max_records)

    def chunk(self, request: Request) -> Chunk | None:
        """The next records to iterate over, without waiting; None: there are none."""
        with self._asking:
            self._take_up(request)
            self._ask(0.0, self._options.max_poll_records, is_single=True)
            return self._chunk

    def _take_up(self, request: Request) -> None:
        with self._lock:
            self._settle_cancelled()
            # Before this request counts: cancelled, it takes back what it gave, and nothing older.
            self._chunk = None
            self._fetcher.settle_work()
            self._request = request

    def _look(self, limit: int, *, is_single: bool) -> tuple[list[Record], bool]:
        with self._lock:
            found = super()._look(limit, is_single=is_single)
            self._request.is_more = found[1]
            if self._request.is_cancelled:
                self._settle_cancelled()
                return [], False
            return found

    def _settle_cancelled(self) -> None:
        """What a cancelled request gave was not handed out. With the lock."""
        if self._request.is_cancelled:
            self._fetcher.take_back_work()
            self._chunk = None

    def settled(
        self,
        method: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> _Result:
        """Call one of the consumer's methods that has to do with positions."""
        self._check()
        with self._lock:
            self._settle_cancelled()
            return method(*arguments, **options)

    def end(self, *, is_done: bool) -> None:
        """Close.

        Args:
            is_done: the application is done with what it was given.
        """
        with self._lock:
            self._settle_cancelled()
        if is_done:
            self._asked_by = threading.get_ident()  # it was another thread of the pool
        self._close(is_done=is_done)
