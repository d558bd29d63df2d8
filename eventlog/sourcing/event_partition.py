"""One partition of an event store: checked appends, reads of a stream, scans.

The index's lock covers check, append and the note in the index: so an expected version holds among
threads. Among processes it holds because the append is made only if the log still ends where the index
does; if it does not, what came is folded into the index and all is checked again. The wait for the disk is outside of it, and one fdatasync serves all who wait. An append that
builds on events which are not yet on disk is sound: what makes it durable makes them durable too, and
if that fails the partition is poisoned for both.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple
from uuid import UUID

from eventlog.clock import Clock
from eventlog.errors import (
    EndOffsetMovedError,
    EventLogError,
    InvalidRecordError,
    OffsetOutOfRangeError,
    WrongExpectedVersion,
)
from eventlog.log.cursor import Cursor
from eventlog.log.partition import Partition
from eventlog.log.record import decode_headers, encode_headers
from eventlog.meta import Environment
from eventlog.settings import check_durability
from eventlog.sourcing import postings
from eventlog.sourcing.codec import Codec
from eventlog.sourcing.encoding import EncodedEvents
from eventlog.sourcing.event import (
    HEADER_ID,
    HEADER_VERSION,
    ID_MARK,
    RecordedEvent,
)
from eventlog.sourcing.event_id import EventIdMaker
from eventlog.sourcing.postings import UNKNOWN, Runs
from eventlog.sourcing.stream_index import RUN_COUNT_MAX, StreamIndex

CHUNK_COUNT = 1024
VERSION_END = 1 << 62
_VERSION_NAME, _ID_NAME = HEADER_VERSION.encode(), HEADER_ID.encode()
_LARGE_RUN_COUNT = 256  # a run as long is read in order
_PLAIN_TAIL = struct.Struct(">Q3sQQ")


class ExpectedVersion(Enum):
    """What a stream has to be like for an append, where it is not a number of events."""

    ANY = "ANY"
    NO_STREAM = "NO_STREAM"
    STREAM_EXISTS = "STREAM_EXISTS"


ANY = ExpectedVersion.ANY
NO_STREAM = ExpectedVersion.NO_STREAM
STREAM_EXISTS = ExpectedVersion.STREAM_EXISTS


class EventReceipt(NamedTuple):
    """What an append to a stream returns.

    Attributes:
        stream: the stream's id.
        version: of the stream, now: the expected version of the next append.
        partition: where the events went.
        offset: of the first of them; the others follow.
        count: how many.
    """

    stream: str
    version: int
    partition: int
    offset: int
    count: int  # type: ignore[assignment]  # of events; nobody counts equal items of a receipt

    @property
    def first_version(self) -> int:
        """Version of the first event appended."""
        return self.version - self.count + 1

    @property
    def end_offset(self) -> int:
        """One past the offset of the last event appended."""
        return self.offset + self.count


class StreamEvents(NamedTuple):
    """Encoded events for one stream, and what it has to be like."""

    stream: str
    key: bytes
    events: EncodedEvents
    expected: ExpectedVersion | int


def check_version(stream: str, expected: ExpectedVersion | int, actual: int) -> None:
    """Raises WrongExpectedVersion if the stream is not as expected."""
    if expected is ANY:
        return
    if expected is STREAM_EXISTS:
        if not actual:
            raise WrongExpectedVersion(stream, "STREAM_EXISTS", actual)
    elif expected is NO_STREAM:
        if actual:
            raise WrongExpectedVersion(stream, "NO_STREAM", actual)
    elif type(expected) is not int or expected < 0:
        raise InvalidRecordError(
            f"expected_version is {expected!r}",
            hint="Pass ANY, NO_STREAM, STREAM_EXISTS, or how many events the stream holds",
            field="expected_version",
        )
    elif expected != actual:
        raise WrongExpectedVersion(stream, expected, actual)


class EventPartition:
    """See above. Thread-safe."""

    def __init__(
        self,
        partition: Partition,
        topic_id: UUID,
        environment: Environment,
        codec: Codec,
        clock: Clock,
        *,
        run_count_max: int = RUN_COUNT_MAX,
    ) -> None:
        self.partition = partition
        self.codec = codec
        self.index = StreamIndex(partition, topic_id, environment, run_count_max=run_count_max)
        self._now_ms = clock.now_ms
        self._ids = EventIdMaker()
        self._cursors: list[Cursor] = []

    # -- append ---------------------------------------------------------------------------------

    def append_one(
        self,
        stream: str,
        key: bytes,
        value: bytes,
        start: bytes,
        expected: ExpectedVersion | int,
        durability: str | None,
    ) -> EventReceipt:
        """One plain event; ``start``: of its headers, up to the version's value."""
        index, partition = self.index, self.partition
        if durability is None:
            durability = partition.settings.durability
        is_awaited = durability == "sync"
        with index.lock:
            while True:
                entry = index.tail.get(key)
                version = index.version(key) if entry is None else entry.version
                if expected is not ANY and expected != version:
                    index.catch_up()
                    entry = index.tail.get(key)
                    version = index.version(key) if entry is None else entry.version
                    check_version(stream, expected, version)
                now_ms = self._now_ms()
                id_high, id_low = self._ids.one(now_ms)
                try:
                    offset = partition.append_one(
                        value,
                        key,
                        start + _PLAIN_TAIL.pack(version + 1, ID_MARK, id_high, id_low),
                        now_ms,
                        "os" if is_awaited else durability,
                        index.end_offset,
                    )
                    if entry is None:
                        index.appended(key, version, 1, offset, UNKNOWN)
                    else:
                        entry.version = version + 1
                        index.end_offset = offset + 1
                        index.room -= 1
                    break
                except EndOffsetMovedError:
                    index.catch_up()
                except EventLogError:
                    raise
                except BaseException:
                    index.forget_tail()
                    raise
        if is_awaited:
            partition.sync()
        if index.room <= 0:
            self._checkpoint()
        return tuple.__new__(EventReceipt, (stream, version + 1, partition.number, offset, 1))

    def append(self, appends: Sequence[StreamEvents], durability: str | None) -> list[EventReceipt]:
        """Events of one or more streams as one batch, in the order given. One receipt each."""
        index = self.index
        how, is_awaited = self._durability(durability)
        now_ms = self._now_ms()
        filled = [i for i, append in enumerate(appends) if append[2][0]]
        with index.lock:
            while True:
                index.catch_up()
                befores = self._checked(appends)
                offset = index.end_offset
                if not filled:
                    break
                try:
                    offset = self._write(
                        [appends[i] for i in filled], [befores[i] for i in filled], now_ms, how
                    )
                    break
                except EndOffsetMovedError:
                    continue  # another process was faster: look at what it did, check again
                except EventLogError:
                    raise
                except BaseException:
                    index.forget_tail()
                    raise
        if filled:
            self._finish(is_awaited)
        receipts = []
        number = self.partition.number
        for (stream, _, events, _), version in zip(appends, befores, strict=True):
            count = len(events.values)
            receipts.append(
                tuple.__new__(EventReceipt, (stream, version + count, number, offset, count))
            )
            offset += count
        return receipts

    def _checked(self, appends: Sequence[StreamEvents]) -> list[int]:
        """The version of each one's stream before it, all at the index's end. Raises WrongExpectedVersion."""
        index = self.index
        while True:
            end_offset = index.end_offset
            versions: dict[bytes, int] = {}
            befores = []
            for stream, key, events, expected in appends:
                version = versions.get(key)
                if version is None:
                    entry = index.tail.get(key)
                    version = index.version(key) if entry is None else entry.version
                if expected is not ANY:
                    check_version(stream, expected, version)
                befores.append(version)
                versions[key] = version + len(events.values)
            if index.end_offset == end_offset:
                return befores
            # Looking for one stream took in what others appended, perhaps to one looked at before.

    def _write(self, appends: list[StreamEvents], befores: list[int], now_ms: int, how: str) -> int:
        """Write the batch and tell the index; returns the first offset. Under the index's lock."""
        keys: bytes | tuple[bytes, ...]
        numbers: int | array[int]
        if len(appends) == 1:
            _, keys, events, _ = appends[0]
            numbers = befores[0] + 1  # and counting up, in C
        else:
            keys, events, numbers = _joined(appends, befores)
        values, headers, ids, times = events
        count = len(values)
        made = self._ids.first_of(count, now_ms)
        offset, position = self.partition.append_columns(
            values,
            keys=keys,
            headers=headers,
            timestamps_ms=None if times is None else [now_ms if t is None else t for t in times],
            timestamp_ms=now_ms,
            numbers=numbers,
            number_name=_VERSION_NAME,
            ids=made if ids is None else _ids_filled(ids, made),
            id_name=_ID_NAME,
            durability=how,
            expected_end_offset=self.index.end_offset,
        )
        at = offset
        for append, before in zip(appends, befores, strict=True):
            count = len(append.events.values)
            self.index.appended(
                append.key, before, count, at, position if len(appends) == 1 else UNKNOWN
            )
            at += count
        return offset

    def _durability(self, durability: str | None) -> tuple[str, bool]:
        """How to write, and whether to wait for the disk afterwards."""
        wanted = (
            self.partition.settings.durability
            if durability is None
            else check_durability(durability)
        )
        return ("os", True) if wanted == "sync" else (wanted, False)

    def _finish(self, is_awaited: bool) -> None:
        if is_awaited:
            self.partition.sync()
        if self.index.room <= 0:
            self._checkpoint()

    def _checkpoint(self) -> None:
        with self.index.lock:
            self.index.checkpoint_if_full()

    # -- read -----------------------------------------------------------------------------------

    def version(self, key: bytes) -> int:
        """The version of a stream as far as it can be read."""
        with self.index.lock:
            return self.index.visible_version(key, self.index.visible_range()[1])

    def read_stream(
        self, key: bytes, start: int, end: int, limit: int, *, backwards: bool
    ) -> Iterator[list[RecordedEvent]]:
        """The events of a stream with a version in ``[start, end)``, in lists."""
        index = self.index
        is_last = False
        while not is_last and start < end and limit > 0:
            with index.lock:
                data, is_last = index.postings(key, start, end, backwards=backwards)
                log_start_offset, high_watermark = index.visible_range()
            if not data:
                return
            if backwards:
                end = postings.first_version(data)
            else:
                start = postings.last_version(data) + 1
            data = postings.below(postings.from_offset(data, log_start_offset), high_watermark)
            if limit < VERSION_END:
                data = postings.limited(data, limit, backwards=backwards)
            if data:
                runs = postings.columns(data)
                limit -= sum(runs.counts)
                yield from self._read_runs(runs, backwards=backwards)

    def _read_runs(self, runs: Runs, *, backwards: bool) -> Iterator[list[RecordedEvent]]:
        groups = _groups(runs)
        for group in reversed(groups) if backwards else groups:
            if group.counts[0] <= CHUNK_COUNT:
                yield self._read_group(group, backwards=backwards)
                continue
            # One long run: in pieces.
            (version,), (offset,), _, _, (count,) = group
            pieces = range(0, count, CHUNK_COUNT)
            for at in reversed(pieces) if backwards else pieces:
                piece = Runs(
                    array("q", (version + at,)),
                    array("q", (offset + at,)),
                    array("q", (UNKNOWN,)),
                    array("i", (UNKNOWN,)),
                    array("i", (min(CHUNK_COUNT, count - at),)),
                )
                yield self._read_group(piece, backwards=backwards)

    def _read_group(self, runs: Runs, *, backwards: bool) -> list[RecordedEvent]:
        """All events of runs that are at most CHUNK_COUNT together."""
        cursor = self._take_cursor()
        try:
            events = self._gathered(cursor, runs)
        finally:
            self._give_cursor(cursor)
        if not self.index.is_regular:
            events = _with_versions(events, runs)
        if backwards:
            events.reverse()
        return events

    def _gathered(self, cursor: Cursor, runs: Runs) -> list[RecordedEvent]:
        _, offsets, batch_positions, record_positions, counts = runs
        number = self.partition.number
        if record_positions[0] != UNKNOWN:
            try:
                cursor.gather(offsets, batch_positions, record_positions, counts)
                return cursor.take("records", RecordedEvent, self.codec, number)
            except OffsetOutOfRangeError:
                pass  # a batch is compressed, or lies elsewhere by now
        events: list[RecordedEvent] = []
        for offset, count in zip(offsets, counts, strict=True):
            cursor.seek(offset)
            while cursor.next(offset + count, CHUNK_COUNT):
                events += cursor.take("records", RecordedEvent, self.codec, number)
        return events

    def read_all(self, start: int, end: int | None, limit: int) -> Iterator[list[RecordedEvent]]:
        """All events with an offset in ``[start, end)``, in lists."""
        log_start_offset, high_watermark = self.index.visible_range()
        end_offset = high_watermark if end is None else min(end, high_watermark)
        cursor = self._take_cursor()
        try:
            cursor.seek(log_start_offset if start == 0 else start)
            while limit > 0 and cursor.next(end_offset, min(limit, CHUNK_COUNT)):
                events = cursor.take("records", RecordedEvent, self.codec, self.partition.number)
                if any(event[4] is None for event in events):
                    events = [event for event in events if event[4] is not None]
                limit -= len(events)
                if events:
                    yield events
        finally:
            self._give_cursor(cursor)

    def _take_cursor(self) -> Cursor:
        try:
            return self._cursors.pop()
        except IndexError:
            return self.partition.cursor(CHUNK_COUNT)

    def _give_cursor(self, cursor: Cursor) -> None:
        cursor.seek(0)  # lets go of the segments
        self._cursors.append(cursor)

    def close(self) -> None:
        """Write the index's checkpoint, close what is open. Raises as the checkpoint does."""
        while self._cursors:
            self._cursors.pop().close()
        with self.index.lock:
            self.index.close()


def _joined(
    appends: list[StreamEvents], befores: list[int]
) -> tuple[tuple[bytes, ...], EncodedEvents, array[int]]:
    """Keys, events and versions of several appends, one behind the other."""
    if all(len(append[2][0]) == 1 for append in appends):
        return _joined_singles(appends, befores)
    values: list[bytes] = []
    keys: list[bytes] = []
    headers: list[bytes] = []
    numbers = array("q")
    ids: list[bytes | None] = []
    times: list[int | None] = []
    for (_, key, events, _), before in zip(appends, befores, strict=True):
        count = len(events.values)
        values += events.values
        keys += [key] * count
        headers += [events.headers] * count if isinstance(events.headers, bytes) else events.headers
        numbers.extend(range(before + 1, before + 1 + count))
        ids += [None] * count if events.ids is None else events.ids
        times += [None] * count if events.times_ms is None else events.times_ms
    together = EncodedEvents(
        tuple(values),
        tuple(headers),
        ids if any(ids) else None,
        None if times.count(None) == len(times) else times,
    )
    return tuple(keys), together, numbers


def _joined_singles(
    appends: list[StreamEvents], befores: list[int]
) -> tuple[tuple[bytes, ...], EncodedEvents, array[int]]:
    """As _joined, where each append is of one event: what an import does all day."""
    each = [append[2] for append in appends]
    ids = [None if ids is None else ids[0] for _, _, ids, _ in each]
    times = [None if times is None else times[0] for _, _, _, times in each]
    together = EncodedEvents(
        tuple([values[0] for values, _, _, _ in each]),
        tuple([headers if isinstance(headers, bytes) else headers[0] for _, headers, _, _ in each]),
        ids if any(ids) else None,
        None if times.count(None) == len(times) else times,
    )
    return (
        tuple([append[1] for append in appends]),
        together,
        array("q", [before + 1 for before in befores]),
    )


def _ids_filled(ids: list[bytes | None], made: bytes) -> bytes:
    """One id each: its own, or one counted up from the first that was made."""
    first = int.from_bytes(made, "big")
    return b"".join(
        (first + i).to_bytes(16, "big") if own is None else own for i, own in enumerate(ids)
    )


def _groups(runs: Runs) -> list[Runs]:
    """Runs in parts of at most CHUNK_COUNT events; those to be read in order stand alone."""
    counts, places = runs.counts, runs.record_positions
    if sum(counts) <= CHUNK_COUNT and (len(counts) == 1 or min(places) >= 0):
        return [runs]
    groups: list[Runs] = []
    first = total = 0
    for i, count in enumerate(counts):
        is_alone = count > _LARGE_RUN_COUNT or places[i] < 0
        if i > first and (is_alone or total + count > CHUNK_COUNT):
            groups.append(runs.part(first, i))
            first, total = i, 0
        total += count
        if is_alone:
            groups.append(runs.part(i, i + 1))
            first, total = i + 1, 0
    if first < len(counts):
        groups.append(runs.part(first, len(counts)))
    return groups


def _with_versions(events: list[RecordedEvent], runs: Runs) -> list[RecordedEvent]:
    """The same, with the version that the index found put into events that tell none or another."""
    versions = {
        offset + i: version + i
        for version, offset, count in zip(runs.versions, runs.offsets, runs.counts, strict=True)
        for i in range(count)
    }
    told = []
    for event in events:
        version = versions[event.offset]
        if event.version != version:
            others = [pair for pair in decode_headers(event[6]) if pair[0] != HEADER_VERSION]
            headers = encode_headers([*others, (HEADER_VERSION, version.to_bytes(8, "big"))])
            event = tuple.__new__(RecordedEvent, (*event[:6], headers))
        told.append(event)
    return told
