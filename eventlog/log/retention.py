"""Deleting old records: which segments go, by Kafka's rules, and how they go.

Whole segments go, from the oldest; each rule stops at the first one that stays, and the next rule goes on
from there: what lies below the log start, then by size, by age, by count. The newest segment can go, too:
it is sealed and another one begun. What is not readable yet stays.

Age is record time, never when a file was written: the youngest record of a segment decides, so one that is
dated into the future holds up its segment and all behind it, as in Kafka. An index may be damaged, so
it is believed only when it says that a segment stays; before one goes its batches are read and verified.

A deletion is done in this order, so that a crash anywhere leaves the log as it was or as it will be:

1. the log start moves in the page that all processes share: nobody reads below it any more;
2. it is written down, durably (:mod:`eventlog.log.log_starts`);
3. the files get names ending in ``.deleted``;
4. every process looks at the directory again;
5. the files are removed.

Opening ends what began with 2.
"""

from __future__ import annotations

import itertools
import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from eventlog._native import check, ffi, lib, path_bytes
from eventlog.log import segment
from eventlog.log.partition import Partition, PartitionState
from eventlog.settings import TopicSettings

_logger = logging.getLogger("eventlog.log")

DELETED = ".deleted"
Reason = Literal["log start", "size", "age", "count"]
_SUFFIXES = (segment.INDEX, segment.TIME_INDEX, ".txnindex", segment.LOG)
_TIME_ENTRY = struct.Struct(">qi")
_FIELDS, _MAX_TIMESTAMP = 13, 7  # of a batch header as C gives it
_HEADERS_COUNT = 256


@dataclass(frozen=True, slots=True)
class RetainedSegment:
    """A segment as retention sees it.

    Attributes:
        base_offset: its first offset.
        end_offset: where the next one begins, or the log end.
        size_bytes: of its batches.
        is_active: it is the newest one.
    """

    base_offset: int
    end_offset: int
    size_bytes: int
    is_active: bool


@dataclass(frozen=True, slots=True)
class DeletedSegment:
    """A segment that goes, or would go if no group needed it.

    Attributes:
        base_offset, end_offset, size_bytes, is_active: see :class:`RetainedSegment`.
        reason: ``"log start"``: it lies below it. ``"size"``, ``"age"``, ``"count"``: so says the setting.
        latest_timestamp_ms: of its youngest record, milliseconds since 1970; -1: nobody asked.
        blocked_by: the groups that have not read it, with the next offset that each of them reads.
    """

    base_offset: int
    end_offset: int
    size_bytes: int
    is_active: bool
    reason: Reason
    latest_timestamp_ms: int = -1
    blocked_by: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What retention does to one partition.

    Attributes:
        topic: name of the topic.
        partition: number of the partition.
        log_start_offset: the first offset kept so far.
        new_log_start_offset: the first one kept afterwards.
        segments: those that go, from the oldest.
        blocked: those behind them that would go, too, if groups had read them.
    """

    topic: str
    partition: int
    log_start_offset: int
    new_log_start_offset: int
    segments: tuple[DeletedSegment, ...]
    blocked: tuple[DeletedSegment, ...]

    @property
    def size_bytes(self) -> int:
        """Of the segments that go."""
        return sum(each.size_bytes for each in self.segments)

    @property
    def record_count(self) -> int:
        """Offsets that are not read any more. (In a compacted topic there are fewer records than that.)"""
        return self.new_log_start_offset - self.log_start_offset


# -- the rules ------------------------------------------------------------------------------------


def choose(
    segments: Sequence[RetainedSegment],
    settings: TopicSettings,
    log_start_offset: int,
    high_watermark: int,
    now_ms: int,
    latest_ms: Callable[[RetainedSegment], int | None],
) -> list[DeletedSegment]:
    """The segments that go by the rules, from the oldest.

    Args:
        segments: all of them, from the oldest; the last one is the active one.
        settings: of the topic.
        log_start_offset: first offset kept.
        high_watermark: what ends behind it stays.
        now_ms: the time.
        latest_ms: time of a segment's youngest record; None: it cannot be known, so it stays. Asked only
            where age decides.
    """
    log_end_offset = segments[-1].end_offset if segments else 0
    left_bytes = sum(each.size_bytes for each in segments)
    left = list(segments)
    chosen: list[DeletedSegment] = []
    timestamp_ms = -1

    def is_below_start(each: RetainedSegment) -> bool:
        return each.end_offset <= log_start_offset and not each.is_active

    def is_too_much(each: RetainedSegment) -> bool:
        return left_bytes - each.size_bytes >= settings.retention_size_bytes

    def is_too_old(each: RetainedSegment) -> bool:
        nonlocal timestamp_ms
        found_ms = latest_ms(each)
        timestamp_ms = -1 if found_ms is None else found_ms
        return found_ms is not None and now_ms - found_ms > settings.retention_ms

    def are_too_many(each: RetainedSegment) -> bool:
        return log_end_offset - each.end_offset >= settings.retention_count

    rules: list[tuple[Reason, bool, Callable[[RetainedSegment], bool]]] = [
        ("log start", True, is_below_start),
        ("size", settings.deletes and settings.retention_size_bytes >= 0, is_too_much),
        ("age", settings.deletes and settings.retention_ms >= 0, is_too_old),
        ("count", settings.deletes and settings.retention_count >= 0, are_too_many),
    ]
    for reason, is_on, goes in rules:
        while is_on and left:
            each = left[0]
            is_empty = each.is_active and each.size_bytes == 0
            if is_empty or each.end_offset > high_watermark or not goes(each):
                break
            chosen.append(
                DeletedSegment(
                    each.base_offset,
                    each.end_offset,
                    each.size_bytes,
                    each.is_active,
                    reason,
                    timestamp_ms if reason == "age" else -1,
                )
            )
            left_bytes -= each.size_bytes
            del left[0]
    return chosen


def plan_retention(
    partition: Partition,
    settings: TopicSettings,
    now_ms: int,
    groups: Mapping[str, int] | None = None,
) -> RetentionPlan:
    """What retention would do to a partition now. Changes nothing.

    Args:
        partition: it may be open for reading only.
        settings: those that count; by ordinary ones only what lies below the log start goes.
        now_ms: the time.
        groups: the next offset that each group reads, for ``retention_waits_for_groups``.

    Raises:
        CorruptionError: the newest segment is damaged.
        ClosedError, StorageError: it cannot be looked at.
    """
    state = partition.state()
    times = _Times(partition, now_ms - settings.retention_ms)
    chosen = choose(
        list_segments(partition, state),
        settings,
        state.log_start_offset,
        state.high_watermark,
        now_ms,
        times.latest_ms,
    )
    waiting = groups if groups and settings.retention_waits_for_groups else {}
    blocked: list[DeletedSegment] = []
    for each in chosen:
        behind = tuple(
            (group, offset) for group, offset in sorted(waiting.items()) if offset < each.end_offset
        )
        # What lies below the log start is lost to the groups already.
        if blocked or (behind and each.reason != "log start"):
            blocked.append(replace(each, blocked_by=behind))
    gone = tuple(chosen[: len(chosen) - len(blocked)])
    return RetentionPlan(
        partition.topic,
        partition.number,
        state.log_start_offset,
        max(state.log_start_offset, gone[-1].end_offset if gone else 0),
        gone,
        tuple(blocked),
    )


# -- what there is --------------------------------------------------------------------------------


def list_segments(partition: Partition, state: PartitionState) -> list[RetainedSegment]:
    """The segments of a partition, from the oldest.

    Args:
        state: asked before: a segment that is begun meanwhile is left out.
    """
    bases = [
        base
        for base in segment.base_offsets(partition.directory)
        if base <= state.active_base_offset
    ]
    if not bases or bases[-1] != state.active_base_offset:
        return []  # the topic is being deleted
    found = []
    for base, following in itertools.pairwise([*bases, state.log_end_offset]):
        is_active = base == state.active_base_offset
        try:
            path = partition.directory / segment.segment_name(base)
            size_bytes = state.active_position if is_active else path.stat().st_size
        except FileNotFoundError:
            return []  # somebody else deletes just this
        found.append(RetainedSegment(base, following, size_bytes, is_active))
    return found


class _Times:
    """When the youngest record of a segment was written, as far as age needs it."""

    def __init__(self, partition: Partition, young_from_ms: int) -> None:
        self._partition = partition
        self._young_from_ms = young_from_ms

    def latest_ms(self, each: RetainedSegment) -> int | None:
        """See :func:`choose`."""
        return self._of_active(each) if each.is_active else self._of_sealed(each)

    def _of_sealed(self, each: RetainedSegment) -> int | None:
        path = self._partition.directory / segment.segment_name(each.base_offset)
        indexed_ms = _last_indexed(path.with_suffix(segment.TIME_INDEX))
        if indexed_ms is not None and indexed_ms >= self._young_from_ms:
            return indexed_ms  # perhaps damaged: then it stays for longer
        found = segment.scan(path, each.base_offset, has_gaps=True)
        if found.stop != lib.EL_SCAN_END:
            _logger.warning(
                "%s is damaged at byte %d, so its age is unknown: it stays",
                path,
                found.end_position,
                extra={"topic": self._partition.topic, "partition": self._partition.number},
            )
            return None
        if found.max_timestamp >= 0:
            return int(found.max_timestamp)
        return path.stat().st_mtime_ns // 1_000_000  # records without a time, of some broker

    def _of_active(self, each: RetainedSegment) -> int | None:
        """Only what the batches say of themselves: before it goes it is sealed and looked at again."""
        for start in (each.end_offset - 1, each.base_offset):  # mostly the last one tells already
            latest_ms = max(self._timestamps(start, each.end_offset), default=-1)
            if latest_ms >= self._young_from_ms:
                break
        return latest_ms if latest_ms >= 0 else None

    def _timestamps(self, start: int, end: int) -> Iterator[int]:
        fields = ffi.new("int64_t[]", _FIELDS * _HEADERS_COUNT)
        following = ffi.new("int64_t *", start)
        while following[0] < end:
            before = int(following[0])
            count = check(
                lib.el_partition_headers(
                    self._partition.handle, before, end, False, fields, _HEADERS_COUNT, following
                )
            )
            yield from (fields[i * _FIELDS + _MAX_TIMESTAMP] for i in range(count))
            if following[0] <= before:
                return


def _last_indexed(path: Path) -> int | None:
    """The largest time that a segment's time index knows; None where it says nothing."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0 or size % _TIME_ENTRY.size:
                return None
            file.seek(size - _TIME_ENTRY.size)
            timestamp_ms, _ = _TIME_ENTRY.unpack(file.read(_TIME_ENTRY.size))
    except (OSError, struct.error):
        return None
    return int(timestamp_ms)


# -- doing it -------------------------------------------------------------------------------------


def set_aside(partition: Partition, base_offsets: Iterable[int]) -> None:
    """Step 3: give the files of segments names by which they are none any more. The log files come last: as
    long as one is there its segment is planned for again.

    Raises:
        StorageError: the operating system refuses; the rest is done by the next retention.
    """
    for base in base_offsets:
        for suffix in _SUFFIXES:
            path = partition.directory / segment.segment_name(base, suffix)
            if path.exists():
                target = path_bytes(path.with_name(path.name + DELETED))
                check(lib.el_file_rename_unsynced(path_bytes(path), target))


def remove_aside(partition: Partition) -> int:
    """Steps 4 and 5, also for what was left behind by who was killed there. Returns bytes of log files.

    Raises:
        StorageError: the operating system refuses; the rest is done by the next retention.
    """
    paths = sorted(partition.directory.glob(f"*{DELETED}"))
    if not paths:
        return 0
    partition.segments_changed()
    size_bytes = 0
    for path in paths:
        if path.name.endswith(segment.LOG + DELETED):
            size_bytes += path.stat().st_size
        check(lib.el_file_unlink_unsynced(path_bytes(path)))
    check(lib.el_file_sync(path_bytes(partition.directory)))
    return size_bytes
