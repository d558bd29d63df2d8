"""Compaction: of each key the last record stays, by the rules of Kafka's log cleaner.

A round looks at the *dirty* records, those since the last round: the highest offset of each of their keys goes
into a map of a fixed size (native/compaction.c). Then all sealed segments up to where the map knows the
log are copied without the records that a later one of their key replaces, neighbours joined into one file
while they fit, and each copy put in the place of its originals (replacement.py). Where the map was too small
for all, the rest waits for the next round. The newest segment is left alone, so writers notice nothing, and
readers keep the files that they have mapped.

A tombstone (a null value) stays for ``delete_retention_ms`` after the first round that copied it: its batch
says until when. Order and offsets never change; missing ones are passed over by readers. The last batch of each
segment stays, if need be without records, and so does that of each live producer: segments go on
meeting each other, so that a missing file is noticed, and the log ends where it did.

Where the next round begins is in Kafka's ``cleaner-offset-checkpoint``. Losing it costs time only: all
counts as dirty then. Two rounds must not run at once: the caller sees to that.
"""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from eventlog._native import check, ffi, lib, os_error, path_bytes
from eventlog.errors import EventLogError, StorageError
from eventlog.log import checkpoints, replacement, segment
from eventlog.log.compression import compress
from eventlog.log.partition import Partition, native_options
from eventlog.log.retention import RetainedSegment, list_segments, remove_aside, set_aside
from eventlog.log.segment_copy import (
    HEADER_SIZE,
    POSITION_MAX,
    Batches,
    Output,
    TooLargeError,
    damage,
    unpack,
)
from eventlog.settings import MIB, TopicSettings

_logger = logging.getLogger("eventlog.log")

_MAX_TIMESTAMP = slice(35, 43)  # in a batch
_TIME_ENTRY_SIZE = 12
_OUT_SIZE_BYTES = 1 * MIB
Lock = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """What there is to compact in one partition.

    Attributes:
        topic: name of the topic.
        partition: number of the partition.
        first_dirty_offset: below it everything was compacted before.
        first_uncleanable_offset: from there on records are too young, or in the newest segment.
        clean_size_bytes: of the segments below the first dirty offset.
        dirty_size_bytes: of those from there up to the first uncleanable one.
        oldest_dirty_ms: time of the oldest of these segments, by its first batch; -1: there is none.
        reason: why it is due: ``"dirty ratio"``, ``"max lag"``; ``""``: it is not.
    """

    topic: str
    partition: int
    first_dirty_offset: int
    first_uncleanable_offset: int
    clean_size_bytes: int
    dirty_size_bytes: int
    oldest_dirty_ms: int
    reason: Literal["", "dirty ratio", "max lag"]

    @property
    def dirty_ratio(self) -> float:
        """Share of what is dirty, 0 .. 1."""
        total = self.clean_size_bytes + self.dirty_size_bytes
        return self.dirty_size_bytes / total if total else 0.0


@dataclass(frozen=True, slots=True)
class CompactionResult:
    """What a round did.

    Attributes:
        topic: name of the topic.
        partition: number of the partition.
        first_dirty_offset: where it began.
        end_offset: everything below is compacted now.
        is_complete: False: keys beyond ``end_offset`` had no room in the map, or the round was cancelled.
        key_count: how many keys there were in the dirty part.
        records_read, records_kept: in the segments that were copied.
        segments_before, segments_after: how many there were and are among them.
        size_bytes_before, size_bytes_after: of these.
    """

    topic: str
    partition: int
    first_dirty_offset: int
    end_offset: int
    is_complete: bool = True
    key_count: int = 0
    records_read: int = 0
    records_kept: int = 0
    segments_before: int = 0
    segments_after: int = 0
    size_bytes_before: int = 0
    size_bytes_after: int = 0


# -- what there is to do --------------------------------------------------------------------------


def plan_compaction(partition: Partition, settings: TopicSettings, now_ms: int) -> CompactionPlan:
    """What a round would look at, and whether it is due, by Kafka's rules. Changes nothing.

    Args:
        partition: it may be open for reading only.
        settings: those that count.
        now_ms: the time, milliseconds since 1970.

    Raises:
        ClosedError, UnknownTopicError, StorageError: it cannot be looked at.
    """
    state = partition.state()
    sealed = [each for each in list_segments(partition, state) if not each.is_active]
    dirty_from = _first_dirty(partition, state.log_start_offset, state.log_end_offset)
    uncleanable = min(state.active_base_offset, state.high_watermark)
    if settings.min_compaction_lag_ms > 0:
        young_from_ms = now_ms - settings.min_compaction_lag_ms
        for each in sealed:
            if (
                each.end_offset > dirty_from
                and _latest_ms(_path_of(partition, each)) > young_from_ms
            ):
                uncleanable = min(uncleanable, each.base_offset)
                break
    uncleanable = max(
        (each.end_offset for each in sealed if each.end_offset <= uncleanable), default=dirty_from
    )
    clean = [each for each in sealed if each.end_offset <= dirty_from]
    dirty = [each for each in sealed if dirty_from < each.end_offset <= uncleanable]
    times = [_first_ms(_path_of(partition, each)) for each in dirty]
    plan = CompactionPlan(
        partition.topic,
        partition.number,
        dirty_from,
        max(uncleanable, dirty_from),
        sum(each.size_bytes for each in clean),
        sum(each.size_bytes for each in dirty),
        min((each for each in times if each > 0), default=-1),
        "",
    )
    lag_ms = settings.max_compaction_lag_ms
    if dirty and plan.dirty_ratio > settings.min_cleanable_dirty_ratio:
        return replace(plan, reason="dirty ratio")
    if lag_ms >= 0 and 0 < plan.oldest_dirty_ms < now_ms - lag_ms:
        return replace(plan, reason="max lag")
    return plan


def _first_dirty(partition: Partition, start: int, end: int) -> int:
    """By the checkpoint, unless that does not fit the log."""
    path = partition.directory.parent / checkpoints.CLEANER
    noted = checkpoints.read_offsets(path).get((partition.topic, partition.number), start)
    return noted if start <= noted <= end else start


def _path_of(partition: Partition, each: RetainedSegment) -> Path:
    return partition.directory / segment.segment_name(each.base_offset)


def _latest_ms(path: Path) -> int:
    """Time of a sealed segment's youngest record; its time index ends with that."""
    try:
        times = path.with_suffix(segment.TIME_INDEX).read_bytes()
    except OSError:
        times = b""
    if times and len(times) % _TIME_ENTRY_SIZE == 0:
        return int.from_bytes(times[-_TIME_ENTRY_SIZE:][:8], "big", signed=True)
    base = int(path.name[: segment.OFFSET_DIGITS])
    return int(segment.scan(path, base, has_gaps=True).max_timestamp)


def _first_ms(path: Path) -> int:
    """Time of a segment's first batch; -1 without one."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_SIZE)
    except OSError as error:
        raise os_error(error.errno or 0, str(path), "cannot read the segment") from error
    if len(header) < HEADER_SIZE:
        return -1
    return int.from_bytes(header[_MAX_TIMESTAMP], "big", signed=True)


def forget(log_directory: Path, topics: Iterable[str]) -> None:
    """Topics are deleted: one of the same name must not be measured by what was known of them.

    Raises:
        StorageError: it cannot be written down.
    """
    path = log_directory / checkpoints.CLEANER
    gone, offsets = set(topics), checkpoints.read_offsets(path)
    kept = {place: offset for place, offset in offsets.items() if place[0] not in gone}
    if kept != offsets:
        checkpoints.write_offsets(path, kept)


# -- doing it -------------------------------------------------------------------------------------


def compact(
    partition: Partition,
    settings: TopicSettings,
    now_ms: int,
    *,
    topic_lock: Lock = nullcontext,
    rate_limit: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> CompactionResult:
    """One round, whether it is due or not.

    Args:
        partition: open for writing, in any number of processes.
        settings: those that count.
        now_ms: the time, milliseconds since 1970: tombstones are measured by it.
        topic_lock: entered for each change of segments: keeps the topic from being deleted and made anew
            meanwhile, and raises where it was deleted.
        rate_limit: called again and again with the bytes read and written since; may sleep, and may raise
            to end the round.
        is_cancelled: asked again and again; the round ends soon after it said yes.

    Returns:
        What was done. There may be nothing to do.

    Raises:
        CorruptionError: a segment is damaged: it stays as it is, and so does all behind it.
        CompressionUnavailableError: the library of a batch's codec is missing.
        StorageFullError, StorageError: what is compacted so far is; the next round does the rest.
        MemoryError: for ``compaction_map_size_bytes``.
        UnknownTopicError, ClosedError: the topic was deleted, the store closed.

    Crashes: each group of segments is as before or as afterwards, at the latest when the store is opened.
    """
    work = _Round(partition, settings, now_ms, topic_lock, rate_limit, is_cancelled)
    try:
        return work.run()
    except StorageError:
        partition.state()  # that it was closed or deleted meanwhile is said instead
        raise


class _CancelledError(Exception):
    """The caller wants the round to end."""


class _Round:
    """See :func:`compact`."""

    def __init__(
        self,
        partition: Partition,
        settings: TopicSettings,
        now_ms: int,
        topic_lock: Lock,
        rate_limit: Callable[[int], None] | None,
        is_cancelled: Callable[[], bool] | None,
    ) -> None:
        self.partition = partition
        self.directory = partition.directory
        self.settings = settings
        self.now_ms = now_ms
        self._topic_lock = topic_lock
        self._rate_limit = rate_limit
        self._is_cancelled = is_cancelled
        self._options = native_options(settings, has_gaps=True)
        self._map = ffi.NULL
        self._out, self._out_size = ffi.NULL, 0
        self._filtered = ffi.new("el_filtered *")
        self._kept_ends: array[int] = array("q")
        self.segments_before = self.segments_after = 0
        self.size_bytes_before = self.size_bytes_after = 0

    def run(self) -> CompactionResult:
        """The whole round."""
        self._end_interrupted()
        plan = plan_compaction(self.partition, self.settings, self.now_ms)
        first, end = plan.first_dirty_offset, plan.first_dirty_offset
        if plan.first_uncleanable_offset <= first:
            return self._result(first, end, is_complete=True)
        handle = lib.el_key_map_new(self.settings.compaction_map_size_bytes, os.urandom(16))
        if handle == ffi.NULL:
            raise MemoryError(
                f"no memory for a map of {self.settings.compaction_map_size_bytes:,} bytes"
            )
        self._map = ffi.gc(handle, lib.el_key_map_free)
        try:
            sealed = [
                each
                for each in list_segments(self.partition, self.partition.state())
                if not each.is_active and each.end_offset <= plan.first_uncleanable_offset
            ]
            is_complete = self._fill([each for each in sealed if each.end_offset > first], first)
            end = int(lib.el_key_map_end(self._map, ffi.new("int64_t *")))
            if is_complete:
                end = plan.first_uncleanable_offset
            self._kept_ends = array("q", self.partition.producer_ends())
            for group in self._groups([each for each in sealed if each.base_offset < end]):
                self._replace(group)
            self._note(end)
            return self._result(first, end, is_complete=is_complete)
        except _CancelledError:
            return self._result(first, first, is_complete=False)
        finally:
            ffi.release(self._map)
            self._out, self._out_size = ffi.NULL, 0

    def _result(self, first: int, end: int, *, is_complete: bool) -> CompactionResult:
        keys = ffi.new("int64_t *")
        if self._map != ffi.NULL:
            lib.el_key_map_end(self._map, keys)
        return CompactionResult(
            self.partition.topic,
            self.partition.number,
            first,
            end,
            is_complete,
            int(keys[0]),
            int(self._filtered.records_read),
            int(self._filtered.records_kept),
            self.segments_before,
            self.segments_after,
            self.size_bytes_before,
            self.size_bytes_after,
        )

    def _note(self, end: int) -> None:
        path = self.directory.parent / checkpoints.CLEANER
        with self._topic_lock():
            offsets = checkpoints.read_offsets(path)
            offsets[self.partition.topic, self.partition.number] = end
            checkpoints.write_offsets(path, offsets)

    def _progress(self, size_bytes: int) -> None:
        if self._is_cancelled is not None and self._is_cancelled():
            raise _CancelledError
        if self._rate_limit is not None:
            self._rate_limit(size_bytes)

    # -- the first pass -------------------------------------------------------------------------

    def _fill(self, dirty: Sequence[RetainedSegment], first: int) -> bool:
        """Put the keys of the dirty part into the map. Did all of them fit?"""
        for each in dirty:
            with Batches(_path_of(self.partition, each), each) as mapped:
                batches = mapped.batches
                payload, size, result = ffi.NULL, 0, lib.EL_OK
                while result != lib.EL_END:
                    before = batches.position
                    result = check(lib.el_key_map_add(self._map, batches, first, payload, size))
                    payload, size = ffi.NULL, 0
                    if result == lib.EL_FULL:
                        return False
                    if result == lib.EL_COMPRESSED:
                        payload = unpack(batches)
                        size = len(payload)
                    mapped.let_go()
                    self._progress(batches.position - before)
        return True

    # -- the second pass ------------------------------------------------------------------------

    def _groups(self, segments: Sequence[RetainedSegment]) -> Iterator[list[RetainedSegment]]:
        """Neighbours that fit into one file, as Kafka joins them. Those that say something of
        transactions stay alone."""
        group: list[RetainedSegment] = []
        sizes = (0, 0, 0)
        for each in segments:
            path = _path_of(self.partition, each)
            own = (
                each.size_bytes,
                _size_of(path.with_suffix(segment.INDEX)),
                _size_of(path.with_suffix(segment.TIME_INDEX)),
            )
            sums = tuple(map(sum, zip(sizes, own, strict=True)))
            is_alone = path.with_suffix(segment.TRANSACTION_INDEX).exists()
            if group and (
                is_alone
                or _path_of(self.partition, group[0])
                .with_suffix(segment.TRANSACTION_INDEX)
                .exists()
                or sums[0] > self.settings.segment_size_bytes_max
                or max(sums[1:]) > self.settings.index_size_bytes_max
                or each.end_offset - 1 - group[0].base_offset > POSITION_MAX
            ):
                yield group
                group, sums = [], own
            group.append(each)
            sizes = (sums[0], sums[1], sums[2])
        if group:
            yield group

    def _replace(self, group: Sequence[RetainedSegment]) -> None:
        """Copy a group and put the copy in its place."""
        base = group[0].base_offset
        path = replacement.cleaned_path(self.directory, base)
        before = int(self._filtered.batches_changed)
        try:
            try:
                size = self._copy(group, path, self.now_ms + self.settings.delete_retention_ms)
            except TooLargeError:  # that tombstones are given a time may make batches larger
                size = self._copy(group, path, -1)
            self.segments_before += len(group)
            self.segments_after += 1
            self.size_bytes_before += sum(each.size_bytes for each in group)
            self.size_bytes_after += size
            if len(group) == 1 and self._filtered.batches_changed == before:
                return
            end = ffi.new("el_log_end *")
            check(lib.el_segment_index(path_bytes(path), base, size, True, self._options, end))
            with self._topic_lock():
                replacement.commit(self.directory, base)
                self._finish(base, group[-1].end_offset)
        finally:
            with suppress(EventLogError):  # else the next round removes it
                replacement.remove_cleaned(self.directory)
        remove_aside(self.partition)

    def _finish(self, base: int, end: int) -> None:
        replacement.finish(
            self.directory,
            base,
            end,
            self._options,
            tell=self.partition.segments_changed,
            remove=lambda bases: set_aside(self.partition, bases),
        )

    def _end_interrupted(self) -> None:
        """What an earlier round began and could not end."""
        for base in replacement.pending(self.directory):
            with self._topic_lock():
                path = replacement.placed_path(self.directory, base)
                if path is None:
                    replacement.forget(self.directory, base)
                    continue
                found = segment.scan(path, base, has_gaps=True)
                if found.stop != lib.EL_SCAN_END:
                    raise damage(path, int(found.end_position), segment.text(found.what))
                self._finish(base, int(found.end_offset))
        replacement.remove_cleaned(self.directory)
        remove_aside(self.partition)

    def _copy(self, group: Sequence[RetainedSegment], path: Path, horizon_ms: int) -> int:
        """Write what stays of a group to a new file, and sync it. Its size in bytes."""
        kept_ends = ffi.from_buffer("int64_t[]", self._kept_ends)
        counts = (
            int(self._filtered.records_read),
            int(self._filtered.records_kept),
            int(self._filtered.batches_changed),
        )
        output = Output(path, self._progress)
        try:
            for each in group:
                rules = ffi.new(
                    "el_compaction_rules *",
                    {
                        "now_ms": self.now_ms,
                        "horizon_ms": horizon_ms,
                        "kept_ends": kept_ends,
                        "kept_count": len(self._kept_ends),
                        "keeps_last": each is group[-1],
                    },
                )
                with Batches(_path_of(self.partition, each), each) as mapped:
                    self._filter(rules, mapped, output)
        except TooLargeError:
            found = self._filtered
            found.records_read, found.records_kept, found.batches_changed = counts
            raise
        output.sync()
        return output.size

    def _filter(self, rules: Any, mapped: Batches, output: Output) -> None:
        """Copy what stays of a segment."""
        found, batches = self._filtered, mapped.batches
        found.size = 0
        self._make_room(_OUT_SIZE_BYTES)
        payload, size, result = ffi.NULL, 0, lib.EL_OK
        while result != lib.EL_END:
            before = batches.position
            result = check(
                lib.el_key_map_filter(
                    self._map, rules, batches, payload, size, self._out, self._out_size, found
                )
            )
            if result == lib.EL_FULL:
                self._flush(output)
                self._make_room(int(found.size_needed))
                continue  # with the same payload
            payload, size = ffi.NULL, 0
            if result == lib.EL_COMPRESSED:
                payload = unpack(batches)
                size = len(payload)
            elif found.unpacked_position >= 0:
                self._pack(output)
            mapped.let_go()
            self._progress(batches.position - before)
        self._flush(output)

    def _make_room(self, size_bytes: int) -> None:
        if size_bytes > self._out_size:
            self._out, self._out_size = ffi.new("char[]", size_bytes), size_bytes

    def _flush(self, output: Output) -> None:
        output.write(self._out, int(self._filtered.size))
        self._filtered.size = 0

    def _pack(self, output: Output) -> None:
        """Compress the records of the last batch in ``out`` again, as they were."""
        found = self._filtered
        batch = bytearray(ffi.buffer(self._out, found.size)[found.unpacked_position :])
        batch[HEADER_SIZE:] = compress(
            found.codec, bytes(batch[HEADER_SIZE:]), self.settings.compression_level
        )
        check(lib.el_batch_compressed(ffi.from_buffer(batch), len(batch), found.codec))
        found.size = found.unpacked_position
        self._flush(output)
        output.write(ffi.from_buffer(batch), len(batch))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
