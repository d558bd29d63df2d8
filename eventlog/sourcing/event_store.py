"""The event store: streams of events in a topic.

The topic's records are the store; everything else (the stream index) is folded from them. One
partition is one order: expected versions, and what is appended in one call, hold inside a partition.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Self, TypeVar, overload

from eventlog._native import lib
from eventlog.clock import Clock, SystemClock
from eventlog.errors import (
    ClosedError,
    EventLogError,
    InvalidNameError,
    InvalidRecordError,
    PartitionMismatchError,
)
from eventlog.log.topic import Topic
from eventlog.meta import Environment
from eventlog.sourcing import aggregate, postings
from eventlog.sourcing.codec import Codec, JsonCodec, type_name
from eventlog.sourcing.encoding import EncodedEvents, EventEncoder
from eventlog.sourcing.event import Event, RecordedEvent
from eventlog.sourcing.event_partition import (
    ANY,
    VERSION_END,
    EventPartition,
    EventReceipt,
    ExpectedVersion,
    StreamEvents,
)
from eventlog.sourcing.stream_index import (
    RUN_COUNT_MAX,
    STREAM_SIZE_BYTES_MAX,
    StreamIndex,
)

_logger = logging.getLogger("eventlog.sourcing")
State = TypeVar("State")
_KEYS_MAX = 16_384


class StreamAppend(NamedTuple):
    """What ``append_many`` does to one stream.

    Attributes:
        stream: its id.
        events: one event or several, as for ``append``.
        expected_version: what the stream has to be like.
    """

    stream: str
    events: object
    expected_version: ExpectedVersion | int = ANY


def stream_key(stream: str) -> bytes:
    """A stream id as the key of its records.

    Raises:
        InvalidNameError: not a str of 1 to 400 bytes in UTF-8, or with a NUL in it.
    """
    try:
        key = stream.encode()
    except (AttributeError, UnicodeEncodeError):
        key = b""
    if type(stream) is not str or not 0 < len(key) <= STREAM_SIZE_BYTES_MAX or b"\0" in key:
        raise InvalidNameError(
            f"{stream!r:.80} cannot be a stream id",
            hint=f"Give a str of 1 to {STREAM_SIZE_BYTES_MAX} bytes in UTF-8, without NUL",
            name=stream,
        )
    return key


class EventStore:
    """Streams of events; made by ``log.event_store(name)``. Thread-safe; refused after a fork.

    Args:
        topic: where the events are.
        environment: where the indexes are kept; the caller closes it after the store.
        codec: of typed data; None: a JsonCodec of its own (``store.codec.register`` adds classes).
        clock: labels events and goes into their ids.
        index_run_count_max: how much each partition's index keeps in memory before it writes a
            checkpoint; see stream_index.py.
    """

    def __init__(
        self,
        topic: Topic,
        environment: Environment,
        codec: Codec | None = None,
        *,
        clock: Clock | None = None,
        index_run_count_max: int = RUN_COUNT_MAX,
    ) -> None:
        self.topic = topic
        self.codec: Any = JsonCodec() if codec is None else codec
        self._encoder = EventEncoder(self.codec)
        self._is_closed = False
        self._keys: dict[str, bytes] = {}
        self._partitions = [
            EventPartition(
                topic.partition(number),
                topic.topic_id,
                environment,
                self.codec,
                SystemClock() if clock is None else clock,
                run_count_max=index_run_count_max,
            )
            for number in range(topic.partition_count)
        ]
        self._only = self._partitions[0] if len(self._partitions) == 1 else None

    def __repr__(self) -> str:
        return f"EventStore({self.topic.name!r}, partitions={len(self._partitions)})"

    @property
    def name(self) -> str:
        """Of the store and of its topic."""
        return self.topic.name

    # -- append ---------------------------------------------------------------------------------

    def append(
        self,
        stream: str,
        events: object,
        *,
        expected_version: ExpectedVersion | int = ANY,
        durability: str | None = None,
    ) -> EventReceipt:
        """Append events to a stream: all of them, as one batch, or none.

        Args:
            stream: the stream's id; 1 to 400 bytes in UTF-8. It begins with its first event.
            events: one event or a sequence of them: ``Event``s, or instances of registered classes.
                An empty sequence checks the version and appends nothing.
            expected_version: ``ANY``; ``NO_STREAM`` (or 0); ``STREAM_EXISTS``; or n: the stream holds
                n events.
            durability: ``"sync"``, ``"interval"`` or ``"os"`` for this call; None: as the topic has it.

        Returns:
            EventReceipt(stream, version, partition, offset, count); ``version`` is the stream's now.

        Raises:
            WrongExpectedVersion: the stream is not as expected: read it again and decide again.
            InvalidNameError: a stream id or an event type that cannot be one.
            InvalidRecordError: no event, no type, or data that cannot be encoded.
            RecordTooLargeError: more than the topic's ``batch_size_bytes_max`` in all.
            StorageFullError: no room; nothing was kept. Make room and call again.
            PoisonedError: the disk failed; whether the events are kept shows after reopening.
            StorageReadOnlyError, ClosedError, ForkedError: this handle cannot write.

        Durability: with ``"sync"`` the events survive power loss once this returns; else the kill of
        the process. Readers see them from then on.
        Threads: the version is checked and the events are written under one lock, which is not held
        while waiting for the disk: threads share fdatasyncs.
        """
        key = self._keys.get(stream) or self._new_key(stream)
        partition = self._only or self._partition_of(key)
        if type(events) is Event:
            plain = self._encoder.plain(events)
            if plain is not None:
                value, start = plain
                return partition.append_one(stream, key, value, start, expected_version, durability)
        encoded = self._encoder.encode(self._sequence(events))
        return partition.append([StreamEvents(stream, key, encoded, expected_version)], durability)[
            0
        ]

    def append_raw(
        self,
        stream: str,
        type: str,  # noqa: A002
        values: Sequence[bytes],
        *,
        expected_version: ExpectedVersion | int = ANY,
        content_type: str | None = None,
        timestamps_ms: Sequence[int] | None = None,
        durability: str | None = None,
    ) -> EventReceipt:
        """Append events of one type whose data is bytes: the fastest way in, nothing is done for each.

        Args:
            type: of all events.
            values: the data of each.
            content_type: what the bytes are; None: of the codec's own format if a class is registered
                for the type, else opaque (``data`` gives them back as they are).
            timestamps_ms: one each, ms since 1970; None: now.
            stream, expected_version, durability: as for :meth:`append`.

        Returns and raises what :meth:`append` does.
        """
        key = stream_key(stream)
        type_name(type)
        if content_type is None or content_type == self.codec.content_type:
            is_opaque = content_type is None and not self.codec.has_type(type)
            headers = self._encoder.plain_headers(type, is_opaque=is_opaque)
        else:
            event = Event(b"", type=type, content_type=content_type)
            headers = self._encoder.encode([event]).headers[0]  # type: ignore[assignment]
        times: list[int | None] | None = None if timestamps_ms is None else [*timestamps_ms]
        if times is not None and len(times) != len(values):
            raise InvalidRecordError(
                f"{len(times)} timestamps_ms for {len(values)} values",
                hint="Pass one each",
                field="timestamps_ms",
            )
        encoded = EncodedEvents(tuple(values), headers, None, times)
        partition = self._only or self._partition_of(key)
        return partition.append([StreamEvents(stream, key, encoded, expected_version)], durability)[
            0
        ]

    def append_many(
        self,
        appends: Mapping[str, object] | Iterable[StreamAppend],
        *,
        durability: str | None = None,
    ) -> list[EventReceipt]:
        """Append to several streams at once: all of it is stored, as one batch, or nothing.

        Args:
            appends: ``{stream: events}``, or ``StreamAppend``s in the order in which the events shall
                be in the log. A stream may come more than once: its later expected version counts the
                events that the earlier one adds.
            durability: as for :meth:`append`.

        Returns:
            A receipt for each, in order.

        Raises:
            PartitionMismatchError: the streams lie in different partitions of the topic: append to
                each by itself, or use a store of one partition.
            WrongExpectedVersion and what :meth:`append` raises, before anything is written.
        """
        if isinstance(appends, Mapping):
            appends = [StreamAppend(stream, events) for stream, events in appends.items()]
        encoded: list[StreamEvents] = []
        encode, encode_one = self._encoder.encode, self._encoder.encode_one
        for stream, events, expected in appends:
            key = self._keys.get(stream) or self._new_key(stream)
            columns = (
                encode_one(events) if type(events) is Event else encode(self._sequence(events))
            )
            encoded.append(StreamEvents(stream, key, columns, expected))
        if not encoded:
            return []
        partition = self._only
        if partition is None:
            partition, *others = {self._partition_of(append.key) for append in encoded}
            if others:
                raise PartitionMismatchError(
                    f"the streams lie in {1 + len(others)} partitions, a batch in one",
                    hint="Append to each stream by itself, or use an event store of one partition",
                    topic=self.name,
                )
        return partition.append(encoded, durability)

    def _new_key(self, stream: str) -> bytes:
        key = stream_key(stream)
        if len(self._keys) >= _KEYS_MAX:
            self._keys.clear()
        self._keys[stream] = key
        return key

    def _sequence(self, events: object) -> Iterable[object]:
        if isinstance(events, list | tuple) and self.codec.type_of(events) is None:
            return events
        if self._encoder.is_one(events) or not isinstance(events, Iterable):
            return (events,)
        if isinstance(events, str | bytes | bytearray | Mapping):
            return (events,)  # refused with a better message
        return list(events)

    def _partition_of(self, key: bytes) -> EventPartition:
        partitions = self._open_partitions()
        if len(partitions) == 1:
            return partitions[0]
        return partitions[(int(lib.el_murmur2(key, len(key))) & 0x7FFFFFFF) % len(partitions)]

    def _open_partitions(self) -> list[EventPartition]:
        if self._is_closed:
            raise ClosedError("the event store is closed", hint="Open the store again")
        return self._partitions

    # -- read -----------------------------------------------------------------------------------

    def read_stream(
        self,
        stream: str,
        *,
        start: int = 1,
        end: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[RecordedEvent]:
        """The events of a stream with a version in ``[start, end)``, as far as they can be read now.

        Args:
            stream: its id; one that does not exist has no events.
            start: version, from 1.
            end: version, exclusive; None: to the last.
            backwards: from the last to the first.
            limit: at most so many.

        Returns:
            An iterator that reads ahead in chunks of up to 1024 events.

        Raises:
            InvalidNameError: the id cannot be one.
            CorruptionError: a batch is damaged; the events before it came.
        """
        key = stream_key(stream)
        chunks = self._partition_of(key).read_stream(
            key,
            max(start, 1),
            VERSION_END if end is None else end,
            VERSION_END if limit is None else limit,
            backwards=backwards,
        )
        first = next(chunks, None)
        return iter(()) if first is None else chain(first, chain.from_iterable(chunks))

    def read_all(
        self,
        *,
        start: int = 0,
        end: int | None = None,
        limit: int | None = None,
        partition: int = 0,
    ) -> Iterator[RecordedEvent]:
        """All events of a partition in their order.

        Args:
            start: offset; 0: from the first one kept.
            end: offset, exclusive; None: as far as can be read now.
            limit: at most so many.
            partition: its number.

        Raises:
            OffsetOutOfRangeError: events from ``start`` on are not kept any more.
            PartitionMismatchError: there is no such partition.
            CorruptionError: a batch is damaged; the events before it came.
        """
        partitions = self._open_partitions()
        self.topic.partition(partition)  # refuses what is no number of one
        chunks = partitions[partition].read_all(start, end, VERSION_END if limit is None else limit)
        return chain.from_iterable(chunks)

    def stream_version(self, stream: str) -> int:
        """How many events the stream holds, 0 for one that does not exist; as far as can be read now.

        It is the ``expected_version`` of an append that wants nobody else to have appended since.
        """
        key = stream_key(stream)
        return self._partition_of(key).version(key)

    def streams(self, prefix: str = "") -> Iterator[str]:
        """The ids of the streams that begin with the prefix, in the order of their UTF-8 bytes."""
        indexes = [
            partition.index.streams(prefix.encode()) for partition in self._open_partitions()
        ]
        if len(indexes) == 1:
            return map(bytes.decode, indexes[0])
        return map(bytes.decode, sorted(chain.from_iterable(indexes)))

    # -- fold -----------------------------------------------------------------------------------

    @overload
    def fold(
        self,
        stream: str,
        initial: Callable[[], State],
        evolve: Callable[[State, RecordedEvent], State],
        *,
        start: int = 1,
        end: int | None = None,
    ) -> State: ...
    @overload
    def fold(
        self,
        stream: str,
        initial: State,
        evolve: Callable[[State, RecordedEvent], State],
        *,
        start: int = 1,
        end: int | None = None,
    ) -> State: ...
    def fold(
        self,
        stream: str,
        initial: Any,
        evolve: Callable[[Any, RecordedEvent], Any],
        *,
        start: int = 1,
        end: int | None = None,
    ) -> Any:
        """The state that the stream's events come to: ``evolve(state, event)``, one after the other.

        Args:
            initial: the state before the first event, or a callable that makes it.
            evolve: gives the next state; the event's data is ``event.data``.
            start, end: versions, as for :meth:`read_stream`.
        """
        return aggregate.fold(self.read_stream(stream, start=start, end=end), initial, evolve)

    def fold_all(
        self,
        initial: Any,
        evolve: Callable[[Any, RecordedEvent], Any],
        *,
        prefix: str = "",
    ) -> Iterator[tuple[str, Any]]:
        """(stream, state) of every stream that begins with the prefix, after one scan of the log.

        Much faster than :meth:`fold` stream by stream; holds all states in memory. Streams come in the
        order in which they began, partition by partition.
        """
        for partition in self._open_partitions():
            yield from aggregate.fold_streams(
                partition.read_all(0, None, VERSION_END), prefix.encode(), initial, evolve
            )

    # -- the index --------------------------------------------------------------------------------

    @property
    def discarded_indexes(self) -> tuple[str, ...]:
        """Why stream indexes were thrown away and folded anew since the store was opened (C-H)."""
        reasons = ((p.partition.number, p.index.discarded) for p in self._partitions)
        return tuple(f"{self.name}-{number}: {reason}" for number, reason in reasons if reason)

    def checkpoint(self) -> None:
        """Write the stream indexes down, so that opening folds nothing. Done by itself when they grow
        and at close; makes the log durable first.

        Raises:
            StorageFullError, StorageError: not written; the index goes on in memory.
        """
        for partition in self._open_partitions():
            with partition.index.lock:
                partition.index.checkpoint()

    def rebuild_index(self) -> None:
        """Throw the stream indexes away and fold them from the whole log."""
        for partition in self._open_partitions():
            with partition.index.lock:
                partition.index.clear()
                partition.index.checkpoint()

    def verify(self) -> list[str]:
        """Compare the stream indexes with a fold of the whole log; what differs, empty if nothing does.

        Needs room in the temporary directory for a second index.
        """
        differences: list[str] = []
        for partition in self._open_partitions():
            with Environment.temporary() as environment:
                other = StreamIndex(partition.partition, self.topic.topic_id, environment)
                with other.lock:
                    other.catch_up()
                    end_offset = other.end_offset
                for key in _all_streams(partition.index, other):
                    have = _content(partition.index, key, end_offset)
                    want = _content(other, key, end_offset)
                    if have != want:
                        differences.append(
                            f"{self.name}-{partition.partition.number}: stream {key.decode()!r}: "
                            f"the index has {_shown(have)}, the log {_shown(want)}"
                        )
        return differences

    # -- the end ----------------------------------------------------------------------------------

    def forget(self) -> None:
        """Close it without writing anything down, and drop what is: the topic was deleted."""
        self._is_closed = True
        self._only = None
        for partition in self._partitions:
            partition.index.drop()

    def close(self) -> None:
        """Write the indexes down. Twice is fine; the topic stays open.

        What cannot be written is only logged: the next opening folds it from the log.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._only = None
        for partition in self._partitions:
            try:
                partition.close()
            except EventLogError as error:
                _logger.warning("%s: its index has no checkpoint: %s", self.name, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _all_streams(*indexes: StreamIndex) -> list[bytes]:
    return sorted({key for index in indexes for key in index.streams(b"")})


def _content(index: StreamIndex, key: bytes, end_offset: int) -> list[tuple[int, int, int]]:
    """(version, offset, count) of every run of a stream below an offset."""
    parts: list[bytes] = []
    start, is_last = 1, False
    while not is_last:
        with index.lock:
            part, is_last = index.postings(key, start, VERSION_END)
        if not part:
            break
        parts.append(part)
        start = postings.last_version(part) + 1
    return postings.merged(postings.below(b"".join(parts), end_offset))


def _shown(runs: list[tuple[int, int, int]]) -> str:
    if not runs:
        return "no events"
    version, offset, count = runs[-1]
    return f"version {version + count - 1} at offset {offset + count - 1}, {len(runs)} runs"
