"""Reading as async iterators. A chunk is read in a thread, its items are handed out in the loop.

Other than async generators they outlive a cancellation: a chunk that comes when nobody waits for it any more
is handed out to whoever asks next, so that ``asyncio.wait_for(anext(records), 1)`` loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Generic, NamedTuple, Self, TypeVar

from eventlog.aio.host import Host
from eventlog.errors import LogError
from eventlog.log.cursor import CHUNK_COUNT
from eventlog.log.partition import Partition
from eventlog.log.record import Record

_Item = TypeVar("_Item")


class Part(NamedTuple, Generic[_Item]):
    """What one step in a thread gave: items, whether they were the last, and what was raised after
    them."""

    items: list[_Item]
    is_last: bool
    error: Exception | None = None


class Reading(AsyncIterator[_Item]):
    """Items of an iterator of the synchronous API. For one task at a time.

    Args:
        host: of the log.
        begin: gives something that opens the iterator in a thread.
        count: how many items are fetched by one step.
    """

    def __init__(
        self,
        host: Host,
        begin: Callable[[], Awaitable[Callable[[], Iterator[_Item]]]],
        count: int = CHUNK_COUNT,
    ) -> None:
        self._host = host
        self._begin = begin
        self._count = count
        self._open: Callable[[], Iterator[_Item]] | None = None
        self._source: Iterator[_Item] | None = None
        self._job: Future[Part[_Item]] | None = None
        self._items: Iterator[_Item] = iter(())
        self._error: Exception | None = None
        self._is_ended = False
        self._is_asked = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Item:
        for item in self._items:
            return item
        self._items = iter(await self.chunk())
        for item in self._items:
            return item
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Let go of what is read; nothing more comes. Without it that happens when it is forgotten."""
        self._is_ended = True
        self._items, self._source, self._open = iter(()), None, None

    async def chunk(self) -> list[_Item]:
        """The next items that were not handed out yet; empty at the end."""
        if self._is_asked:
            raise _two_tasks()
        self._is_asked = True
        try:
            if self._error is not None:
                error, self._error = self._error, None
                self._is_ended = True
                raise error
            if self._is_ended:
                return []
            if self._open is None:
                self._open = await self._begin()
            if self._job is None:
                self._job = self._host.submit(self._step)
            # Cancelled here, the job stays.
            part = await asyncio.shield(asyncio.wrap_future(self._job))
            self._job = None
            self._is_ended = part.is_last
            self._error = part.error
            if not part.items and part.error is not None:
                self._error, self._is_ended = None, True
                raise part.error
            return part.items
        finally:
            self._is_asked = False

    def _step(self) -> Part[_Item]:
        """In a thread."""
        items: list[_Item] = []
        try:
            if self._source is None:
                assert self._open is not None
                self._source = self._open()
            items.extend(islice(self._source, self._count))
        except Exception as error:  # noqa: BLE001  raised in the loop, behind what came before it
            return Part(items, False, error)
        return Part(items, len(items) < self._count)


class Tail(AsyncIterator[Record]):
    """Records of a partition, on and on. For one task at a time; outlives a cancellation as
    :class:`Reading` does.

    What lies behind is read in a thread. At the end of the log no thread is needed: what the task is woken for
    has just been written, so it lies in memory and is read in the loop.

    Args:
        host: of the log.
        begin: gives the partition, and the offset to begin at.
        timeout_s: end when nothing has come for so many seconds; None: never.
    """

    def __init__(
        self,
        host: Host,
        begin: Callable[[], Awaitable[tuple[Partition, int]]],
        timeout_s: float | None,
    ) -> None:
        self._host = host
        self._begin = begin
        self._timeout_s = timeout_s
        self._place: tuple[Partition, int] | None = None
        self._behind: Reading[Record] | None = None
        self._records: Iterator[Record] = iter(())
        self._is_ended = False
        self._is_asked = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        for record in self._records:
            return record
        if self._is_asked:
            raise _two_tasks()
        self._is_asked = True
        try:
            records = [] if self._is_ended else await self._wait()
        finally:
            self._is_asked = False
        self._is_ended = not records
        self._records = iter(records)
        for record in self._records:
            return record
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nothing more comes."""
        self._is_ended = True
        self._records, self._behind = iter(()), None

    async def _wait(self) -> list[Record]:
        """The next records; empty when the time is up."""
        self._host.check()
        if self._place is None:
            self._place = await self._begin()
        partition, offset = self._place
        while True:
            if self._behind is None and partition.wait(offset, 0):
                self._behind = self._reading(partition, offset)
            if self._behind is not None:
                records = await self._behind.chunk()
                if not records:
                    self._behind = None
                    continue
            else:
                if not await self._host.waiter.wait(partition, offset, self._timeout_s):
                    return []
                if partition.settings.compression != "none":
                    continue
                records = next(partition.read_batches(start=offset), [])
            if records:
                self._place = partition, records[-1].offset + 1
                return records

    def _reading(self, partition: Partition, offset: int) -> Reading[Record]:
        async def begin() -> Callable[[], Iterator[Record]]:
            return partial(partition.read, start=offset)

        return Reading(self._host, begin)


def _two_tasks() -> LogError:
    return LogError("two tasks iterate at once", hint="Let each have an iterator of its own")
