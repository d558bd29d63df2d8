"""A topic whose calls are awaited."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from eventlog.aio.handle import Handle
from eventlog.aio.host import Host
from eventlog.aio.reading import Reading, Tail
from eventlog.aio.writing import how_durable, size_bytes
from eventlog.log import topic as _topic
from eventlog.log.cursor import CHUNK_COUNT, Take
from eventlog.log.partition import Partition
from eventlog.log.record import Receipt, Record
from eventlog.log.topic import Headers
from eventlog.settings import TopicSettings


class Topic(Handle[_topic.Topic]):
    """As :class:`eventlog.log.topic.Topic`. Made by ``log.topic(name)``; ``await log.topic(name)`` also opens
    it, which otherwise its first call does. For any number of tasks.

    What is passed to an append must not be changed before it returned.
    """

    def __init__(self, host: Host, name: str, make: Callable[[], _topic.Topic]) -> None:
        super().__init__(host, name, make)
        self._writes = host.writes(name)

    @property
    def name(self) -> str:
        """Of the topic."""
        return self._name

    @property
    def topic_id(self) -> UUID:
        """Its UUID. Like all properties it is there once the topic is open, else LogError."""
        return self.core.topic_id

    @property
    def settings(self) -> TopicSettings:
        """See :class:`eventlog.settings.TopicSettings`."""
        return self.core.settings

    @property
    def partition_count(self) -> int:
        """How many partitions there are."""
        return self.core.partition_count

    # -- append ---------------------------------------------------------------------------------

    async def append(
        self,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
        partition: int | None = None,
        durability: str | None = None,
    ) -> Receipt:
        """Append one record; returns when it is as durable as the topic promises.

        Arguments, result and errors are those of :meth:`eventlog.log.topic.Topic.append`. All tasks that wait
        for the disk share fdatasyncs. Cancelled, the record is there as a whole or not at all.
        """
        topic = self._core or await self._opened()
        self._host.begin()
        try:
            how, is_awaited = how_durable(topic.settings, durability)
            size = size_bytes(value) + size_bytes(key)
            if self._writes.is_quick(topic.settings, size, 1):
                receipt = topic.append(
                    value,
                    key=key,
                    headers=headers,
                    timestamp_ms=timestamp_ms,
                    partition=partition,
                    durability=how,
                )
            else:
                receipt = await self._writes.in_thread(
                    partial(
                        topic.append,
                        value,
                        key=key,
                        headers=headers,
                        timestamp_ms=timestamp_ms,
                        partition=partition,
                        durability=how,
                    )
                )
            target = topic.partitions[receipt.partition]
            self._writes.look(target)
            if is_awaited:
                await self._host.syncer.wait(target)
            return receipt
        finally:
            self._host.end()

    async def append_many(
        self,
        values: Sequence[bytes | None],
        *,
        keys: Sequence[bytes | None] | bytes | None = None,
        headers: Sequence[Headers | None] | None = None,
        timestamps_ms: Sequence[int] | None = None,
        partition: int | None = None,
        durability: str | None = None,
    ) -> list[Receipt]:
        """Append records, those of one partition as one atomic batch: all of them or none.

        Arguments, result and errors are those of :meth:`eventlog.log.topic.Topic.append_many`. More than 64
        KiB, or 1,024 records, are written in a thread. Cancelled, each partition's batch is there as a whole
        or not at all.
        """
        topic = self._core or await self._opened()
        self._host.begin()
        try:
            how, is_awaited = how_durable(topic.settings, durability)
            values = tuple(values)
            call = partial(
                topic.append_many,
                values,
                keys=keys if keys is None or isinstance(keys, bytes) else tuple(keys),
                headers=None if headers is None else tuple(headers),
                timestamps_ms=None if timestamps_ms is None else tuple(timestamps_ms),
                partition=partition,
                durability=how,
            )
            size = sum(map(size_bytes, values))
            if keys is not None and not isinstance(keys, bytes):
                size += sum(map(size_bytes, keys))
            if self._writes.is_quick(topic.settings, size, len(values)):
                receipts = call()
            else:
                receipts = await self._writes.in_thread(call)
            targets = [topic.partitions[receipt.partition] for receipt in receipts]
            for target in targets:
                self._writes.look(target)
            if is_awaited:
                await self._host.syncer.wait(*targets)
            return receipts
        finally:
            self._host.end()

    async def sync(self) -> None:
        """Return when all that was appended to any partition is on disk."""
        topic = await self._opened()
        self._host.begin()
        try:
            await self._host.syncer.wait(*topic.partitions)
        finally:
            self._host.end()

    # -- read -----------------------------------------------------------------------------------

    def read(
        self,
        partition: int = 0,
        *,
        start: int | None = None,
        end: int | None = None,
        limit: int | None = None,
        start_time_ms: int | None = None,
    ) -> Reading[Record]:
        """Records of one partition in order, up to what could be read when the first was asked for.

        Arguments and errors are those of :meth:`eventlog.log.topic.Topic.read`; all errors come from the
        iterator. A thread reads up to 1,024 records at a time. A cancelled ``anext`` loses none.
        """

        async def begin() -> Callable[[], Iterator[Record]]:
            return partial(
                (await self._opened()).read,
                partition,
                start=start,
                end=end,
                limit=limit,
                start_time_ms=start_time_ms,
            )

        return Reading(self._host, begin)

    def read_batches(
        self,
        partition: int = 0,
        *,
        start: int | None = None,
        end: int | None = None,
        limit: int | None = None,
        start_time_ms: int | None = None,
        take: Take = "records",
        batch_count: int = CHUNK_COUNT,
    ) -> Reading[list[Any]]:
        """As :meth:`read`, in lists: the fast way to read many. See
        :meth:`eventlog.log.partition.Partition.read_batches`."""

        async def begin() -> Callable[[], Iterator[list[Any]]]:
            return partial(
                (await self._opened()).read_batches,
                partition,
                start=start,
                end=end,
                limit=limit,
                start_time_ms=start_time_ms,
                take=take,
                batch_count=batch_count,
            )

        return Reading(self._host, begin, 1)

    def tail(
        self, partition: int = 0, *, start: int | None = None, timeout_s: float | None = None
    ) -> Tail:
        """Records from ``start`` on, and on, waiting for more: of this process and of others.

        A waiting task costs no thread, and nothing while it waits. A cancelled ``anext`` loses no record.

        Args:
            partition: number.
            start: offset; None: the high watermark, now if the topic is open, else when the first record
                is asked for.
            timeout_s: end when nothing has come for so many seconds; None: never.

        Raises:
            OffsetOutOfRangeError: ``start`` is outside the log, or what comes next is not kept any more.
            ClosedError: the log was closed.
            UnknownTopicError: the topic was deleted.
            And others of :meth:`read`; all from the iterator.
        """
        if start is None and self._core is not None:
            start = self._core.high_watermark(partition)

        async def begin() -> tuple[Partition, int]:
            source = (await self._opened()).partition(partition)
            if start is None:
                return source, source.high_watermark
            source.read_batches(start=start)  # refuses an offset outside the log
            return source, start

        return Tail(self._host, begin, timeout_s)

    # -- where it stands ------------------------------------------------------------------------

    async def offset_for_time(self, timestamp_ms: int, partition: int = 0) -> int:
        """First offset whose record has that time or a later one; the high watermark if none has."""
        topic = await self._opened()
        return await self._host.run(topic.offset_for_time, timestamp_ms, partition)

    async def log_start_offset(self, partition: int = 0) -> int:
        """First offset kept."""
        return (await self._opened()).log_start_offset(partition)

    async def log_end_offset(self, partition: int = 0) -> int:
        """Offset that the next record gets."""
        return (await self._opened()).log_end_offset(partition)

    async def high_watermark(self, partition: int = 0) -> int:
        """Records below it can be read."""
        return (await self._opened()).high_watermark(partition)

    async def partition_for_key(self, key: bytes) -> int:
        """Number of the partition that records of this key go to (Kafka's default partitioner)."""
        return (await self._opened()).partition_for_key(key)
