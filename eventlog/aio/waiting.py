"""One thread that waits for what happens in the store, for any number of tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from copy import copy
from typing import NamedTuple

from eventlog.aio.loops import call_soon
from eventlog.errors import ClosedError, EventLogError
from eventlog.log.activity import Activity
from eventlog.log.partition import Partition

_PAUSES_S = (0.0, 0.0, 0.00005, 0.0001, 0.0002, 0.0005, 0.001)
"""After something happened in the store that concerned nobody here, several times in a row: a topic that
others fill fast must not keep this thread busy."""

_Future = asyncio.Future[bool]


class Watch(NamedTuple):
    """Waits for anything in the store. Made before looking at what one waits for."""

    ticket: int
    future: _Future


class _Told(NamedTuple):
    """Futures to be resolved: those who wait for a partition, or (None) watches."""

    partition: Partition | None
    futures: list[_Future]
    error: EventLogError | None = None


class Waiter:
    """See the module. For the loop's thread, but for what says otherwise.

    The thread sleeps on the page that all writers touch; woken, it looks at the partitions somebody
    waits for, and tells the loop. While nobody waits it does nothing, and writers have nobody to wake.

    Args:
        activity: of the store.
        loop: where the waiting tasks are.
    """

    def __init__(self, activity: Activity, loop: asyncio.AbstractEventLoop) -> None:
        self._activity = activity
        self._loop = loop
        self._changed = threading.Condition()
        self._partitions: dict[Partition, dict[_Future, int]] = {}
        self._watches: dict[_Future, int] = {}
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    # -- in the loop's thread -------------------------------------------------------------------

    async def wait(self, partition: Partition, offset: int, timeout_s: float | None) -> bool:
        """Wait until the record at ``offset`` can be read. False when the time is up.

        Args:
            partition: of the record.
            offset: of the record waited for.
            timeout_s: seconds; None: for ever.

        Raises:
            ClosedError: the log was closed.
            UnknownTopicError: the topic was deleted.
        """
        if partition.wait(offset, 0):
            return True
        future = self._loop.create_future()
        with self._changed:
            self._check()
            self._partitions.setdefault(partition, {})[future] = offset
            self._begin()
        try:
            # What came before the thread could know of this wait.
            if partition.wait(offset, 0):
                return True
            return await self._await(future, timeout_s)
        finally:
            self._forget(partition, (future,))

    def watch(self) -> Watch:
        """Begin to watch. What happens from now on ends the wait; give it back with :meth:`end_watch`.

        Raises:
            ClosedError: the log was closed.
        """
        watch = Watch(self._activity.ticket(), self._loop.create_future())
        with self._changed:
            self._check()
            self._watches[watch.future] = watch.ticket
            self._begin()
        return watch

    async def wait_for(self, watch: Watch, timeout_s: float | None) -> bool:
        """Wait until something happened since the watch began. False when the time is up.

        Raises:
            ClosedError: the log was closed.
        """
        return await self._await(watch.future, timeout_s)

    def end_watch(self, watch: Watch) -> None:
        """Nobody is to wait for it any more."""
        self._forget(None, (watch.future,))
        if not watch.future.done():
            watch.future.set_result(True)

    async def _await(self, future: _Future, timeout_s: float | None) -> bool:
        if timeout_s is None:
            return await future
        timer = self._loop.call_later(max(timeout_s, 0), _tell, _Told(None, [future]), False)
        try:
            return await future
        finally:
            timer.cancel()

    def _check(self) -> None:
        if self._is_stopped:
            raise _closed()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="eventlog-aio-waiter", daemon=True
            )
            self._thread.start()
        self._changed.notify()

    # -- from any thread ------------------------------------------------------------------------

    def stop(self) -> None:
        """End all waits by a ClosedError, and the thread."""
        with self._changed:
            if self._is_stopped:
                return
            self._is_stopped = True
            futures = [*self._watches]
            for waiting in self._partitions.values():
                futures += waiting
            self._changed.notify()
        if futures:
            call_soon(self._loop, _tell, _Told(None, futures, _closed()))
        self._activity.wake()

    def join(self) -> None:
        """Return when the thread has ended."""
        if self._thread is not None:
            self._thread.join()

    # -- in its own thread ----------------------------------------------------------------------

    def _run(self) -> None:
        in_vain_count = 0
        while self._has_work():
            ticket = self._activity.ticket()
            if self._is_stopped:
                return
            is_told = self._look()
            if not is_told:
                time.sleep(_PAUSES_S[min(in_vain_count, len(_PAUSES_S) - 1)])
                is_told = self._activity.wait(ticket) and self._tell_watches()
            in_vain_count = 0 if is_told else in_vain_count + 1

    def _has_work(self) -> bool:
        with self._changed:
            while not (self._partitions or self._watches or self._is_stopped):
                self._changed.wait()
            return not self._is_stopped

    def _look(self) -> bool:
        """Tell those who need not wait any more; whether there were any."""
        with self._changed:
            watches = dict(self._watches)
            partitions = {
                partition: dict(futures) for partition, futures in self._partitions.items()
            }
        told = [_due(partition, futures) for partition, futures in partitions.items()]
        moved = [future for future, since in watches.items() if self._activity.wait(since, 0)]
        told.append(_Told(None, moved))
        handed_over = [self._hand_over(each) for each in told]
        return any(handed_over)

    def _tell_watches(self) -> bool:
        with self._changed:
            futures = [*self._watches]
        return self._hand_over(_Told(None, futures))

    def _hand_over(self, told: _Told) -> bool:
        if told.futures:
            self._forget(told.partition, told.futures)
            call_soon(self._loop, _tell, told)
        return bool(told.futures)

    def _forget(self, partition: Partition | None, futures: Iterable[_Future]) -> None:
        """They end their wait, or are as good as told."""
        with self._changed:
            waiting = self._watches if partition is None else self._partitions.get(partition, {})
            for future in futures:
                waiting.pop(future, None)
            if partition is not None and not waiting:
                self._partitions.pop(partition, None)


def _due(partition: Partition, futures: dict[_Future, int]) -> _Told:
    """Those whose record can be read; all of them where there will be none any more."""
    try:
        state = partition.state()
        if state.is_deleted:
            partition.wait(state.high_watermark, 0)  # raises what is to be told
        due = [future for future, offset in futures.items() if offset < state.high_watermark]
        return _Told(partition, due)
    except EventLogError as error:
        return _Told(partition, [*futures], error)


def _tell(told: _Told, is_there: bool = True) -> None:
    for future in told.futures:
        if future.done():
            continue
        if told.error is None:
            future.set_result(is_there)
        else:
            future.set_exception(copy(told.error))  # each gets a traceback of its own


def _closed() -> ClosedError:
    return ClosedError("the log was closed", hint="Open it again")
