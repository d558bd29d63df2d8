"""A topic: its partitions, and which of them a record goes to."""

from __future__ import annotations

import itertools
import threading
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from eventlog._native import ffi, lib
from eventlog.errors import InvalidRecordError, PartitionMismatchError
from eventlog.log import cursor as _cursor
from eventlog.log.cursor import CHUNK_COUNT, Take
from eventlog.log.partition import Partition
from eventlog.log.record import NO_HEADERS, Receipt, Record, as_bytes, encode_headers
from eventlog.settings import TopicSettings

if TYPE_CHECKING:
    from eventlog.log.producer import Producer

Headers = Iterable[tuple[str, bytes | None]]


class Topic:
    """A named log of one or more partitions. Made by ``log.topic(name)``; thread-safe.

    Records of one key always go to the same partition, by Kafka's default partitioner (murmur2), so
    other clients agree; records without a key stick to one partition for a while, then to the next.

    Attributes:
        name: of the topic.
        topic_id: its UUID, as in Kafka's partition.metadata.
        settings: see :class:`eventlog.settings.TopicSettings`.
        new_producer_id: see :meth:`eventlog.log.store.Store.new_producer_id`.
    """

    def __init__(
        self,
        name: str,
        topic_id: uuid.UUID,
        partitions: Sequence[Partition],
        settings: TopicSettings,
        new_producer_id: Callable[[], int],
    ) -> None:
        self.name = name
        self.new_producer_id = new_producer_id
        self.topic_id = topic_id
        self.settings = settings
        self._partitions: tuple[Partition, ...] = ()
        self._count = 0
        self._only: Partition | None = None
        self._sticky_now = 0
        self._sticky_lock = threading.Lock()
        self._sticky_left_bytes = STICKY_SIZE_BYTES
        for partition in partitions:
            self.add_partition(partition)

    def __repr__(self) -> str:
        return f"Topic({self.name!r}, partitions={self._count})"

    @property
    def partition_count(self) -> int:
        """How many partitions there are."""
        return self._count

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """All of them, by number."""
        return self._partitions

    def add_partition(self, partition: Partition) -> None:
        """The store's: one more is there, made by this process or found to have been made."""
        self._partitions = (*self._partitions, partition)
        self._count = len(self._partitions)
        self._only = partition if self._count == 1 else None

    def partition(self, number: int) -> Partition:
        """One of them.

        Raises:
            PartitionMismatchError: there is no such partition.
        """
        if type(number) is not int or not 0 <= number < self._count:
            raise PartitionMismatchError(
                f"topic {self.name!r} has no partition {number!r}",
                hint=f"It has 0 .. {self._count - 1}",
                topic=self.name,
                partition=number,
            )
        return self._partitions[number]

    # -- append ---------------------------------------------------------------------------------

    def append(
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

        Args:
            value: bytes (or another buffer, which is copied); None is a tombstone.
            key: the same; decides about the partition.
            headers: ``(name, bytes or None)`` pairs.
            timestamp_ms: milliseconds since 1970 UTC, >= 0; None: now.
            partition: go there whatever the key.
            durability: ``"sync"``, ``"interval"`` or ``"os"`` for this call. A call that asks a
                ``"sync"`` topic for less is seen by readers once a later sync covers it.

        Returns:
            Receipt(partition, offset, 1).

        Raises:
            InvalidRecordError: a key, value or header that is not bytes, a bad timestamp; no key, in a
                topic that is compacted.
            RecordTooLargeError: larger than ``batch_size_bytes_max``: split it or raise the setting.
            StorageFullError: no room; nothing was kept, make room and call again.
            PoisonedError: an fdatasync failed: whether the record is kept shows after reopening.
            StorageReadOnlyError, ClosedError, ForkedError: this handle cannot write.

        Durability: under ``"sync"`` the record survives power loss once this returns; under the others
        the kill of the process. Threads share fdatasyncs (group commit).
        """
        if key is None:
            self.check_key_may_be_missing()
        target = self._only if partition is None else self.partition(partition)
        if target is None:
            target = self._partitions[self._choose(key, _size_bytes(value))]
        offset = target.append_one(
            value,
            key,
            NO_HEADERS if headers is None else encode_headers(headers),
            timestamp_ms,
            durability,
        )
        return Receipt(target.number, offset, 1)

    def append_many(
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

        Args:
            values: one or more; see :meth:`append`.
            keys: one each, or one ``bytes`` for all.
            headers: one sequence of pairs (or None) each.
            timestamps_ms: one each; None: now.
            partition: all go there.
            durability: as for :meth:`append`.

        Returns:
            One receipt for each partition that got records, by number. (One, then, where the topic has
            one partition.)

        Raises:
            As :meth:`append`. With several partitions those whose batch came before the error keep it.
        """
        encoded = (
            None
            if headers is None
            else tuple(NO_HEADERS if each is None else encode_headers(each) for each in headers)
        )
        if keys is None or (
            self.settings.compacts and not isinstance(keys, bytes) and None in keys
        ):
            self.check_key_may_be_missing()
        target = self._only if partition is None else self.partition(partition)
        if target is None and (keys is None or isinstance(keys, bytes)):
            target = self._partitions[self._choose(keys, sum(map(_size_bytes, values)))]
        if target is not None:
            offset, _ = target.append_columns(
                values,
                keys=keys,
                headers=encoded,
                timestamps_ms=timestamps_ms,
                durability=durability,
            )
            return [Receipt(target.number, offset, len(values))]
        assert keys is not None
        assert not isinstance(keys, bytes)
        for field, column in (
            ("keys", keys),
            ("headers", encoded),
            ("timestamps_ms", timestamps_ms),
        ):
            if column is not None and len(column) != len(values):
                raise InvalidRecordError(
                    f"{len(column)} {field} for {len(values)} values",
                    hint="Pass one each",
                    field=field,
                )
        receipts = []
        for number, places in self.spread(tuple(keys), len(values)).items():
            offset, _ = self._partitions[number].append_columns(
                [values[i] for i in places],
                keys=[keys[i] for i in places],
                headers=None if encoded is None else [encoded[i] for i in places],
                timestamps_ms=None if timestamps_ms is None else [timestamps_ms[i] for i in places],
                durability=durability,
            )
            receipts.append(Receipt(number, offset, len(places)))
        return receipts

    def producer(
        self,
        *,
        linger_ms: int = 5,
        batch_size_bytes: int = 1024 * 1024,
        durability: str | None = None,
        idempotent: bool = True,
        resume: Producer | None = None,
    ) -> Producer:
        """A buffered producer: see :class:`eventlog.log.producer.Producer`."""
        from eventlog.log.producer import Producer

        return Producer(
            self,
            linger_ms=linger_ms,
            batch_size_bytes=batch_size_bytes,
            durability=durability,
            idempotent=idempotent,
            resume=resume,
        )

    def partition_for_key(self, key: bytes) -> int:
        """Number of the partition that records of this key go to (Kafka's default partitioner)."""
        return int(lib.el_murmur2(key, len(key)) & 0x7FFFFFFF) % self._count

    def check_key_may_be_missing(self) -> None:
        """Compaction would drop a record without a key, so it is refused, as by Kafka.

        Raises:
            InvalidRecordError: the topic is compacted.
        """
        if self.settings.compacts:
            raise InvalidRecordError(
                f"a record without a key for topic {self.name!r}, of which only the last record of each "
                "key is kept",
                hint="Give it a key, or take a cleanup_policy without compact",
                field="key",
            )

    def _choose(self, key: bytes | None, size_bytes: int) -> int:
        key = as_bytes(key, "key")
        if key is not None:
            return self.partition_for_key(key)
        with self._sticky_lock:
            self._sticky_left_bytes -= size_bytes
            if self._sticky_left_bytes < 0:
                self._sticky_left_bytes = STICKY_SIZE_BYTES
                self._sticky_now = (self._sticky_now + 1) % self._count
            return self._sticky_now

    def spread(self, keys: tuple[bytes | None, ...], count: int) -> dict[int, list[int]]:
        """Which of so many records go to which partition: their places by its number, ascending."""
        numbers: Sequence[int]
        if count == 0:
            raise InvalidRecordError(
                "a batch without records", hint="Pass one or more", field="values"
            )
        numbers = array("i", bytes(4 * count))
        found = ffi.from_buffer("int32_t[]", numbers)
        if (
            not _cursor.ROUTE_OBJECTS
            or lib.el_keys_partition(id(keys), count, self._count, found) < 0
        ):
            numbers = [-1 if key is None else self._choose(key, 0) for key in keys]
        places: dict[int, list[int]] = {}
        for place, number in enumerate(numbers):
            if number < 0:
                number = self._choose(None, 1)
            places.setdefault(number, []).append(place)
        return dict(sorted(places.items()))

    # -- read -----------------------------------------------------------------------------------

    def read(
        self,
        partition: int = 0,
        *,
        start: int | None = None,
        end: int | None = None,
        limit: int | None = None,
        start_time_ms: int | None = None,
    ) -> Iterator[Record]:
        """Records of one partition in order, up to what was readable when the call was made.

        Args:
            partition: number.
            start: first offset; None: the log start.
            end: offset, exclusive; None: the high watermark.
            limit: at most so many.
            start_time_ms: instead of ``start``: from the first record with this time or a later one.

        Raises:
            OffsetOutOfRangeError: ``start`` is outside the log.
            CorruptionError: from the iterator, at a damaged batch; what came before is good.
        """
        return itertools.chain.from_iterable(
            self.read_batches(
                partition, start=start, end=end, limit=limit, start_time_ms=start_time_ms
            )
        )

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
    ) -> Iterator[list[Any]]:
        """As :meth:`read`, in lists; see :meth:`eventlog.log.partition.Partition.read_batches`."""
        source = self.partition(partition)
        if start is None and start_time_ms is not None:
            start = source.offset_for_time(start_time_ms)
        return source.read_batches(
            start=start, end=end, limit=limit, take=take, batch_count=batch_count
        )

    def tail(
        self, partition: int = 0, *, start: int | None = None, timeout_s: float | None = None
    ) -> Iterator[Record]:
        """Follow one partition; see :meth:`eventlog.log.partition.Partition.tail`."""
        return self.partition(partition).tail(start=start, timeout_s=timeout_s)

    def offset_for_time(self, timestamp_ms: int, partition: int = 0) -> int:
        """First offset whose record has that time or a later one; the high watermark if none has."""
        return self.partition(partition).offset_for_time(timestamp_ms)

    def log_start_offset(self, partition: int = 0) -> int:
        """First offset kept."""
        return self.partition(partition).log_start_offset

    def log_end_offset(self, partition: int = 0) -> int:
        """Offset that the next record gets."""
        return self.partition(partition).log_end_offset

    def high_watermark(self, partition: int = 0) -> int:
        """Records below it can be read."""
        return self.partition(partition).high_watermark

    def sync(self) -> None:
        """Return when all that was appended to any partition is on disk."""
        for partition in self._partitions:
            partition.sync()


STICKY_SIZE_BYTES = 16 * 1024
"""Records without a key go to one partition until so many bytes went there (Kafka's batch.size)."""


def _size_bytes(value: bytes | None) -> int:
    """Of a value; 0 for what is none, which is refused later."""
    return len(value) if type(value) is bytes else 0
