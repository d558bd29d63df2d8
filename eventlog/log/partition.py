"""One partition: append, read, wait. A thin hand on C's partition."""

from __future__ import annotations

import itertools
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventlog._native import DURABILITY, check, ffi, last_error, lib, path_bytes
from eventlog.clock import Clock
from eventlog.errors import (
    InvalidRecordError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    SettingError,
)
from eventlog.log import cursor as _cursor
from eventlog.log.activity import Activity, in_slices
from eventlog.log.compression import ZSTD, compress_zstd
from eventlog.log.cursor import CHUNK_COUNT, Cursor, Take
from eventlog.log.producer_state import ProducerState
from eventlog.log.producer_table import ProducerBatch
from eventlog.log.record import NO_HEADERS, Record, as_bytes
from eventlog.settings import TopicSettings, check_durability

_NULL = ffi.NULL
_HEADER_SIZE = 61
_PRODUCER_ID_POSITION = 43
RECORD_SIZE_BYTES_MAX = 2**31 - 1024
"""Keys and values are counted by 32 bits in the format."""


@dataclass(frozen=True, slots=True)
class PartitionState:
    """Where a partition stands. Offsets are exclusive ends, except the log start.

    Attributes:
        log_start_offset: first offset kept.
        log_end_offset: offset that the next record gets.
        high_watermark: records below it can be read.
        durable_end_offset: records below it are on disk.
        appended_batches, appended_bytes, sync_count: by all processes, since one of them opened the
            store while no other had.
        active_base_offset: first offset of the newest segment.
        active_position: bytes written to the newest segment.
        poisoned_errno: not 0 after a failed fdatasync.
        is_deleted: not 0 once the topic is.
        generation: counts how often the partition was recovered since the machine started; 0: nobody has
            it open for writing.
    """

    log_start_offset: int
    log_end_offset: int
    high_watermark: int
    durable_end_offset: int
    appended_batches: int
    appended_bytes: int
    sync_count: int
    active_base_offset: int
    active_position: int
    poisoned_errno: int
    is_deleted: int
    generation: int


def native_options(settings: TopicSettings, *, has_gaps: bool = False) -> Any:
    """Settings as C takes them; ``has_gaps``: the partition's offsets may have holes."""
    return ffi.new(
        "el_partition_options *",
        {
            "segment_size_bytes_max": settings.segment_size_bytes_max,
            "segment_ms": _segment_ms(settings),
            "batch_size_bytes_max": settings.batch_size_bytes_max,
            "index_interval_bytes": settings.index_interval_bytes,
            "index_size_bytes_max": settings.index_size_bytes_max,
            "preallocation_bytes_max": settings.preallocation_bytes_max,
            "durability": DURABILITY[settings.durability],
            "gather_us": settings.gather_us,
            "has_gaps": has_gaps,
        },
    )


def _segment_ms(settings: TopicSettings) -> int:
    """Only sealed segments are compacted, so one must not grow for longer than records may wait for it."""
    if settings.compacts and settings.max_compaction_lag_ms >= 0:
        return max(1, min(settings.segment_ms, settings.max_compaction_lag_ms))
    return settings.segment_ms


class Partition:
    """One partition of a topic, open in this process. Thread-safe; a forked child may not use it.

    Attributes:
        topic: name of the topic.
        number: of the partition, from 0.
        writable: may it be appended to here?
        directory: where its segments are.
        closed_end_offset: the log end offset once it was closed cleanly, -1 before.
    """

    def __init__(
        self,
        topic: str,
        number: int,
        directory: Path,
        control_path: Path,
        settings: TopicSettings,
        clock: Clock,
        *,
        writable: bool,
        has_gaps: bool,
        checkpoint: Callable[[Partition], None],
        activity: Activity,
    ) -> None:
        self.topic = topic
        self.number = number
        self.directory = directory
        self.writable = writable
        self._now_ms = clock.now_ms
        self._write_checkpoint = checkpoint
        self.closed_end_offset = -1
        self._has_gaps = has_gaps
        self._use(settings)
        handle = lib.el_partition_open(
            path_bytes(directory),
            path_bytes(control_path),
            writable,
            self._options(settings),
            activity.handle,
        )
        if handle == _NULL:
            raise last_error(_last_code())
        self.handle: Any = ffi.gc(handle, lib.el_partition_free)
        self._producers = ProducerState(self, control_path, clock.now_ms)

    def _options(self, settings: TopicSettings) -> Any:
        return native_options(settings, has_gaps=self._has_gaps)

    def _use(self, settings: TopicSettings) -> None:
        self.settings = settings
        self._durability = DURABILITY[settings.durability]
        self._compress_from = (
            settings.compression_size_bytes_min if settings.compression == "zstd" else sys.maxsize
        )

    # -- life -----------------------------------------------------------------------------------

    def begin(self, end: Any) -> None:
        """Go on from where recovery found the log to end (``el_log_end *``)."""
        check(lib.el_partition_begin(self.handle, end))

    def attach(self) -> bool:
        """Go on where other processes are that have it open; False: none of them has begun here."""
        result = lib.el_partition_attach(self.handle)
        if result == lib.EL_ERR_NOT_RUNNING:
            return False
        check(result)
        return True

    def delete(self) -> None:
        """Refuse appends and end waits from now on, in all processes."""
        check(lib.el_partition_delete(self.handle))

    def configure(self, settings: TopicSettings, *, has_gaps: bool = False) -> None:
        """Use other settings from now on; ``has_gaps``: offsets may be missing, for good and in all
        processes."""
        self._has_gaps |= has_gaps
        check(lib.el_partition_configure(self.handle, self._options(settings)))
        self._use(settings)

    def close(self, *, clean: bool = True, is_last: bool = True) -> None:
        """Make durable what is not and close the files. Twice is fine.

        Args:
            clean: False: promise nothing.
            is_last: no other process goes on here: also cut the reserved room.

        Raises:
            PoisonedError, StorageError: it could not be made durable; what was acknowledged under
                ``"os"`` or ``"interval"`` since the last sync is in doubt.
        """
        if clean and self.writable and self.closed_end_offset < 0:
            self._producers.close()
            state = ffi.new("el_partition_state *")
            check(lib.el_partition_state_read(self.handle, state))
            check(
                lib.el_partition_close(
                    self.handle, lib.EL_CLOSE_CLEAN if is_last else lib.EL_CLOSE_SYNC
                )
            )
            # Once more: other threads may have appended until the handle was closed.
            lib.el_partition_state_read(self.handle, state)
            self.closed_end_offset = int(state.log_end_offset)
        else:
            check(lib.el_partition_close(self.handle, lib.EL_CLOSE_DROP))

    # -- where it stands ------------------------------------------------------------------------

    def state(self) -> PartitionState:
        """All of them at (nearly) one moment.

        Raises:
            ClosedError, ForkedError: see there.
        """
        state = ffi.new("el_partition_state *")
        check(lib.el_partition_state_read(self.handle, state))
        return PartitionState(
            *(int(getattr(state, name)) for name in PartitionState.__dataclass_fields__)
        )

    def live_state(self) -> PartitionState | None:
        """As :meth:`state`; None while no writer of this boot has begun here."""
        state = ffi.new("el_partition_state *")
        result = lib.el_partition_state_read(self.handle, state)
        return None if result == lib.EL_ERR_NOT_RUNNING else self.state()

    @property
    def log_start_offset(self) -> int:
        """First offset kept."""
        return self.state().log_start_offset

    @property
    def log_end_offset(self) -> int:
        """Offset that the next record gets."""
        return self.state().log_end_offset

    @property
    def high_watermark(self) -> int:
        """Records below it can be read."""
        return self.state().high_watermark

    @property
    def durable_end_offset(self) -> int:
        """Records below it are on disk."""
        return self.state().durable_end_offset

    def sync(self) -> None:
        """Return when all that is appended is on disk.

        Raises:
            PoisonedError: an fdatasync failed, now or before.
        """
        check(lib.el_partition_sync(self.handle))

    def checkpoint(self) -> None:
        """:meth:`sync`, and write down durably how far the log reaches: recovery will not go below."""
        self.sync()
        self._write_checkpoint(self)

    def wait(self, offset: int, timeout_s: float | None = None) -> bool:
        """Wait until the record at ``offset`` can be read. False when the time is up.

        Sleeps on a futex: costs nothing while waiting, wakes within microseconds, also for what
        another process appends.

        Args:
            offset: of the record waited for.
            timeout_s: seconds; None: for ever.
        """
        return in_slices(
            lambda timeout_ns: int(lib.el_partition_wait(self.handle, offset, timeout_ns)),
            timeout_s,
        )

    # -- segments -------------------------------------------------------------------------------

    def roll(self) -> int:
        """Seal the newest segment, if it holds anything, and begin another one. Returns the base offset of
        the newest one. What was appended is durable then.

        Raises:
            StorageFullError, StorageError: it stays as it is, and the next append or roll tries again.
            StorageReadOnlyError: the store is open for reading only.
        """
        return check(lib.el_partition_roll(self.handle))

    def move_start(self, offset: int) -> None:
        """Nothing below ``offset`` is read from now on, in any process. It never goes back, and is not
        written down here: see :mod:`eventlog.log.retention`.

        Raises:
            OffsetOutOfRangeError: it is past the log end.
        """
        check(lib.el_partition_move_start(self.handle, offset))

    def producer_ends(self) -> list[int]:
        """Last offset of the newest batch of each idempotent producer that is not forgotten yet, ascending.

        Raises:
            CorruptionError: the log is damaged where it has to be looked at.
        """
        return self._producers.last_offsets()

    def segments_changed(self) -> None:
        """Sealed segments were removed or replaced: every process looks at the directory again."""
        check(lib.el_partition_segments_changed(self.handle))

    # -- append ---------------------------------------------------------------------------------

    def append_one(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: bytes = NO_HEADERS,
        timestamp_ms: int | None = None,
        durability: str | None = None,
        expected_end_offset: int = -1,
    ) -> int:
        """Append one record as a batch of its own; returns its offset. The short way in.

        Args:
            value: bytes, or None for a tombstone.
            key: bytes or None.
            headers: encoded (:func:`eventlog.log.record.encode_headers`).
            timestamp_ms: milliseconds since 1970 UTC; None: now.
            durability: other than the topic's, for this call.
            expected_end_offset: append only if the log ends there; -1: wherever it ends.

        Raises:
            EndOffsetMovedError: others have appended, so it does not end there.
            And what :meth:`eventlog.log.topic.Topic.append` raises.
        """
        if (type(value) is not bytes and value is not None) or (
            type(key) is not bytes and key is not None
        ):
            value, key = as_bytes(value, "value"), as_bytes(key, "key")
        value_size = -1 if value is None else len(value)
        if value_size >= self._compress_from:
            return self.append_columns(
                (value,),
                keys=(key,),
                headers=headers,
                timestamp_ms=timestamp_ms,
                durability=durability,
                expected_end_offset=expected_end_offset,
            )[0]
        if value_size > RECORD_SIZE_BYTES_MAX or (
            key is not None and len(key) > RECORD_SIZE_BYTES_MAX
        ):
            raise _record_too_large(max(value_size, len(key or b"")))
        offset: int = lib.el_partition_append(
            self.handle,
            _NULL if key is None else key,
            -1 if key is None else len(key),
            _NULL if value is None else value,
            value_size,
            headers,
            len(headers),
            self._now_ms() if timestamp_ms is None else _timestamp(timestamp_ms),
            expected_end_offset,
            self._durability if durability is None else DURABILITY[check_durability(durability)],
        )
        if offset < 0:
            raise last_error(offset)
        return offset

    def append_columns(
        self,
        values: Sequence[bytes | None],
        *,
        keys: bytes | Sequence[bytes | None] | None = None,
        headers: bytes | Sequence[bytes] | None = None,
        timestamps_ms: Sequence[int] | None = None,
        timestamp_ms: int | None = None,
        numbers: int | Sequence[int] | None = None,
        number_name: bytes = b"",
        ids: bytes | None = None,
        id_name: bytes = b"",
        producer: tuple[int, int, int] | None = None,
        is_first_try: bool = False,
        durability: str | None = None,
        expected_end_offset: int = -1,
    ) -> tuple[int, int]:
        """Append records as one atomic batch; returns (first offset, position of the batch in bytes).

        Args:
            values: one bytes (or None) a record.
            keys, headers: one each, or one ``bytes`` for all, or None. Headers are encoded.
            timestamps_ms: one each; otherwise ``timestamp_ms`` (None: now) for all.
            numbers: one each, or the first one from which they count up; written by C as the header
                ``number_name``, 8 bytes big-endian.
            ids: 16 bytes each, or 16 bytes from whose last 8 they count up; written by C as the header
                ``id_name``.
            producer: (id, epoch, first sequence): appended only if it is not there already, by the rules
                of :mod:`eventlog.log.producer_table`. If it is, its first offset is returned, and -1 for
                the position.
            is_first_try: it cannot be there: the caller alone has this producer id, and never tried to
                append the batch. Then nothing is looked up.
            durability: other than the topic's, for this call.
            expected_end_offset: append only if the log ends there; -1: wherever it ends.

        Raises:
            EndOffsetMovedError: others have appended, so it does not end there.
            OutOfOrderSequenceError, ProducerFencedError: the producer's batch is not due.
        """
        count = len(values)
        if count == 0:
            raise InvalidRecordError(
                "a batch without records", hint="Pass one or more", field="values"
            )
        columns = ffi.new("el_columns *")
        keep = _fill_columns(columns, values, keys, headers)
        if timestamps_ms is not None:
            keep.append(_int64(timestamps_ms, count, "timestamps_ms"))
            columns.timestamps = ffi.from_buffer("int64_t[]", keep[-1])
        else:
            columns.timestamp = self._now_ms() if timestamp_ms is None else _timestamp(timestamp_ms)
        if numbers is not None:
            columns.numbers_rise = isinstance(numbers, int)
            given = (
                _int64((numbers,), 1, "numbers")
                if isinstance(numbers, int)
                else _int64(numbers, count, "numbers")
            )
            keep += (given, ffi.from_buffer(number_name + b"\0"))
            columns.numbers = ffi.from_buffer("int64_t[]", keep[-2])
            columns.number_name = keep[-1]
        if ids is not None:
            columns.ids_rise = len(ids) == 16
            if len(ids) not in (16, 16 * count):
                raise InvalidRecordError("ids are not 16 bytes a record", field="ids")
            keep += (ffi.from_buffer(ids), ffi.from_buffer(id_name + b"\0"))
            columns.ids = keep[-2]
            columns.id_name = keep[-1]
        code = self._durability if durability is None else DURABILITY[check_durability(durability)]

        def write(code: int) -> tuple[int, int]:
            position = ffi.new("int64_t *")
            offset = self._append_filled(columns, expected_end_offset, code, position)
            if offset == lib.EL_ERR_TYPE and columns.packed == _NULL:
                # Something is not exactly bytes: other buffers can be taken after a copy.
                keep.extend(_pack_columns(columns, tuple(values), keys, headers))
                offset = self._append_filled(columns, expected_end_offset, code, position)
            return check(offset), int(position[0])

        if producer is None:
            return write(code)
        batch = None
        if not is_first_try:
            latest_ms = columns.timestamp if timestamps_ms is None else max(timestamps_ms)
            batch = ProducerBatch(*producer, count, int(latest_ms))
            batch.check()
        columns.has_producer = True
        columns.producer_id, columns.producer_epoch, columns.base_sequence = producer
        return write(code) if batch is None else self._append_once(batch, write, code)

    def _append_once(
        self, batch: ProducerBatch, write: Callable[[int], tuple[int, int]], code: int
    ) -> tuple[int, int]:
        """Append a batch unless it is there, and wait until it is as durable as was asked."""
        is_awaited = code == lib.EL_DURABILITY_SYNC  # not while others wait to check theirs
        first_code = lib.EL_DURABILITY_OS if is_awaited else code
        offset, position = self._producers.append(batch, lambda: write(first_code))
        if is_awaited and self.durable_end_offset < offset + batch.count:
            self.sync()
        return offset, position

    def _append_filled(
        self, columns: Any, expected_end_offset: int, durability: int, position: Any
    ) -> int:
        size = 0
        if self._compress_from != sys.maxsize:
            size = int(lib.el_batch_encode(columns, _NULL, 0))
        if size < self._compress_from:  # also where it is an error, which is then told again
            return int(
                lib.el_partition_append_columns(
                    self.handle, columns, expected_end_offset, durability, position
                )
            )
        batch = bytearray(size)
        check(lib.el_batch_encode(columns, ffi.from_buffer(batch), size))
        payload = compress_zstd(memoryview(batch)[_HEADER_SIZE:], self.settings.compression_level)
        if len(payload) < size - _HEADER_SIZE:
            batch[_HEADER_SIZE:] = payload
            check(lib.el_batch_compressed(ffi.from_buffer(batch), len(batch), ZSTD))
        return int(
            lib.el_partition_append_batch(
                self.handle,
                ffi.from_buffer(batch),
                len(batch),
                expected_end_offset,
                durability,
                position,
            )
        )

    def append_batch(
        self, batch: bytes, *, durability: str | None = None, expected_end_offset: int = -1
    ) -> int:
        """Append one encoded RecordBatch v2 as it is; its base offset is set here. Returns that.

        One that names a producer is appended only if it is not there already; see
        :meth:`append_columns`. A control batch is never taken for another one.

        Raises:
            StorageError: not exactly one sound batch.
            EndOffsetMovedError: the log does not end at ``expected_end_offset`` (-1: wherever).
            OutOfOrderSequenceError, ProducerFencedError: the producer's batch is not due.
        """
        code = self._durability if durability is None else DURABILITY[check_durability(durability)]

        def write(code: int) -> tuple[int, int]:
            position = ffi.new("int64_t *")
            offset = lib.el_partition_append_batch(
                self.handle, batch, len(batch), expected_end_offset, code, position
            )
            return check(offset), int(position[0])

        producer = _producer_of(batch)
        return (write(code) if producer is None else self._append_once(producer, write, code))[0]

    # -- read -----------------------------------------------------------------------------------

    def cursor(self, capacity: int = CHUNK_COUNT, *, unsynced: bool = False) -> Cursor:
        """A new cursor; see :class:`eventlog.log.cursor.Cursor`."""
        return Cursor(self, capacity, unsynced=unsynced)

    def read(
        self, *, start: int | None = None, end: int | None = None, limit: int | None = None
    ) -> Iterator[Record]:
        """Records ``start <= offset < end``, in order, up to the high watermark of this moment.

        Args:
            start: offset; None: the log start.
            end: offset, exclusive; None: the high watermark when the call was made.
            limit: at most so many.

        Raises:
            OffsetOutOfRangeError: ``start`` is below the log start or past the log end.
            CorruptionError: from the iterator, when it comes to a damaged batch. What came before is
                good.
        """
        chunks: Iterator[list[Record]] = self.read_batches(start=start, end=end, limit=limit)
        return itertools.chain.from_iterable(chunks)

    def read_batches(
        self,
        *,
        start: int | None = None,
        end: int | None = None,
        limit: int | None = None,
        take: Take = "records",
        batch_count: int = CHUNK_COUNT,
    ) -> Iterator[list[Any]]:
        """As :meth:`read`, in lists of up to ``batch_count`` records: the fast way to read many.

        Args:
            take: ``"records"``, ``"values"``, ``"keys"`` or ``"tuples"`` (offset, timestamp, key, value).
        """
        if take not in ("records", "values", "tuples", "keys"):
            raise SettingError(
                f"take is {take!r}",
                hint="It has to be records, values, tuples or keys",
                setting="take",
                value=take,
            )
        first, last = self._range(start, end)
        return self._chunks(first, last, sys.maxsize if limit is None else limit, take, batch_count)

    def _range(self, start: int | None, end: int | None) -> tuple[int, int]:
        state = self.state()
        first = state.log_start_offset if start is None else start
        if not state.log_start_offset <= first <= max(state.log_end_offset, state.high_watermark):
            raise out_of_range(first, state)
        last = state.high_watermark if end is None else max(0, min(end, state.high_watermark))
        return first, last

    def out_of_range(self, offset: int) -> OffsetOutOfRangeError:
        """The error for an offset that is not kept, with both ends."""
        return out_of_range(offset, self.state())

    def _chunks(
        self, first: int, last: int, limit: int, take: Take, batch_count: int
    ) -> Iterator[list[Any]]:
        topic, number = self.topic, self.number
        with Cursor(self, batch_count) as cursor:
            cursor.seek(first)
            while limit > 0 and cursor.next(last, min(limit, batch_count)):
                limit -= cursor.count
                yield cursor.take(take, Record, topic, number)

    def tail(self, *, start: int | None = None, timeout_s: float | None = None) -> Iterator[Record]:
        """Records from ``start`` (None: the log end) on, and on, waiting for more.

        Args:
            start: offset.
            timeout_s: end when nothing has come for so many seconds; None: never end.
        """
        first, _ = self._range(self.high_watermark if start is None else start, None)
        return self._follow(first, timeout_s)

    def _follow(self, offset: int, timeout_s: float | None) -> Iterator[Record]:
        with Cursor(self) as cursor:
            cursor.seek(offset)
            while True:
                end = self.high_watermark
                if cursor.next(end):
                    records: list[Record] = cursor.take("records", Record, self.topic, self.number)
                    offset = records[-1].offset + 1
                    yield from records
                else:
                    offset = max(offset, end)  # the last offsets may be missing: see compaction
                    if not self.wait(offset, timeout_s):
                        return

    def offset_for_time(self, timestamp_ms: int) -> int:
        """First offset whose record has that time or a later one; the high watermark where there is
        none. (Times need not rise: later offsets may be older again.)

        Raises:
            CorruptionError: a batch that has to be looked at is damaged.
        """
        while True:
            try:
                return self._find_time(timestamp_ms)
            except OffsetOutOfRangeError:  # deleted while it was looked at: look at what is kept
                continue

    def _find_time(self, timestamp_ms: int) -> int:
        with Cursor(self) as cursor:
            offset = max(cursor.find_time(timestamp_ms), self.log_start_offset)
            cursor.seek(offset)
            while cursor.next():
                for found, timestamp, _, _ in cursor.take("tuples"):
                    if timestamp >= timestamp_ms:
                        return int(found)
                    offset = found + 1
            # None has. That is said only if the log can be read to its end: damage may be hiding there.
            if offset > self.log_start_offset:
                cursor.seek(offset - 1)
                cursor.next(record_count_max=1)
            return offset


def _last_code() -> int:
    told = ffi.new("el_error *")
    lib.el_error_last(told)
    return int(told.code)


def out_of_range(offset: int, state: PartitionState) -> OffsetOutOfRangeError:
    """The error for an offset outside what is kept."""
    return OffsetOutOfRangeError(
        f"offset {offset} is outside {state.log_start_offset} .. {state.log_end_offset}",
        hint="Start from the log start (start=None) or at the log end",
        offset=offset,
        log_start_offset=state.log_start_offset,
        log_end_offset=state.log_end_offset,
    )


def _producer_of(batch: bytes) -> ProducerBatch | None:
    """What a sound data batch says of its producer, if it has one."""
    fields = ffi.new("int64_t[13]")
    if len(batch) < _HEADER_SIZE or batch[_PRODUCER_ID_POSITION] & 0x80:
        return None  # a negative id: none
    if lib.el_batch_check(ffi.from_buffer(batch), len(batch), fields) != len(batch):
        return None  # appending it will say what is wrong
    _, _, _, _, attributes, delta, _, timestamp_ms, producer_id, epoch, sequence, _, _ = fields
    found = ProducerBatch(producer_id, epoch, sequence, delta + 1, timestamp_ms, attributes)
    return None if found.is_control else found


def _record_too_large(size: int) -> RecordTooLargeError:
    return RecordTooLargeError(
        f"a record of {size:,} bytes",
        hint="Split it, or keep large objects elsewhere and append a reference",
        size=size,
        limit=RECORD_SIZE_BYTES_MAX,
    )


def _timestamp(timestamp_ms: object) -> int:
    if type(timestamp_ms) is int and 0 <= timestamp_ms < 2**63:
        return timestamp_ms
    raise InvalidRecordError(
        f"timestamp {timestamp_ms!r} is not one",
        hint="Pass milliseconds since 1970 UTC as an int, 0 or more",
        field="timestamp_ms",
    )


def _int64(numbers: Sequence[int], count: int, name: str) -> array[int]:
    if len(numbers) != count:
        raise InvalidRecordError(
            f"{len(numbers)} {name} for {count} records", hint="Pass one each", field=name
        )
    try:
        return (
            numbers if type(numbers) is array and numbers.typecode == "q" else array("q", numbers)
        )
    except (TypeError, OverflowError) as error:
        raise InvalidRecordError(
            f"{name}: {error}", hint="Pass whole numbers of 64 bits", field=name
        ) from None


def _fill_columns(
    columns: Any,
    values: Sequence[bytes | None],
    keys: bytes | Sequence[bytes | None] | None,
    headers: bytes | Sequence[bytes] | None,
) -> list[Any]:
    """Point the columns at the objects (CPython) or at one packed copy of them. Returns what has to
    be kept alive during the call."""
    columns.count = len(values)
    values = values if type(values) is tuple else tuple(values)
    if keys is not None and not isinstance(keys, bytes):
        keys = keys if type(keys) is tuple else tuple(keys)
    if headers is not None and not isinstance(headers, bytes):
        headers = headers if type(headers) is tuple else tuple(headers)
    if _cursor.ROUTE_OBJECTS:
        columns.values = id(values)
        columns.keys = 0 if keys is None else id(keys)
        columns.headers = 0 if headers is None else id(headers)
        return [values, keys, headers]
    return _pack_columns(columns, values, keys, headers)


def _pack_columns(
    columns: Any,
    values: Sequence[bytes | None],
    keys: bytes | Sequence[bytes | None] | None,
    headers: bytes | Sequence[bytes] | None,
) -> list[Any]:
    parts: list[bytes] = []
    keep: list[Any] = []

    def sizes(items: Sequence[bytes | None], name: str) -> Any:
        if len(items) != len(values):
            raise InvalidRecordError(f"{len(items)} {name} for {len(values)} values", field=name)
        plain = [as_bytes(item, f"{name}[{index}]") for index, item in enumerate(items)]
        parts.extend(item for item in plain if item)
        keep.append(array("q", [-1 if item is None else len(item) for item in plain]))
        return ffi.from_buffer("int64_t[]", keep[-1])

    columns.value_sizes = sizes(values, "values")
    if keys is not None:
        columns.key_sizes = sizes(
            (keys,) * len(values) if isinstance(keys, bytes) else keys, "keys"
        )
    if headers is not None:
        columns.header_sizes = sizes(
            (headers,) * len(values) if isinstance(headers, bytes) else headers, "headers"
        )
    keep.append(ffi.from_buffer(b"".join(parts) or b"\0"))
    columns.packed = keep[-1]
    return keep
