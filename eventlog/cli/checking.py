"""What ``eventlog verify`` looks at in one partition: segments, their order, their indexes.

Reads files only, takes no lock and asks no writer. What a writer is about to append is told from
damage by looking again: a batch in the making is whole a moment later, damage stays.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

from eventlog.cli.segment_file import BadBatchError, Batch, SegmentFile
from eventlog.errors import EventLogError
from eventlog.log.segment import INDEX, LOG, TIME_INDEX, base_offsets, segment_name

_INDEX_ENTRY = struct.Struct(">ii")
_TIME_ENTRY = struct.Struct(">qi")
_LOOK_AGAIN_COUNT = 8
_LOOK_AGAIN_SECONDS = 0.05
_SHOWN_PER_FILE = 3
_ATTEMPTS = 5


class Problem(NamedTuple):
    """One thing that is not as it should be; -1 where a position or an offset means nothing."""

    kind: str
    path: str
    position: int
    offset: int
    detail: str


@dataclass
class Report:
    """What was looked at, and what is wrong."""

    problems: list[Problem] = field(default_factory=list)
    topic_count: int = 0
    partition_count: int = 0
    segment_count: int = 0
    batch_count: int = 0
    record_count: int = 0
    stream_count: int = 0
    lost_count: int = 0  # offsets that a repair declared lost
    size_bytes: int = 0

    def add(
        self, kind: str, path: Path, detail: str, *, position: int = -1, offset: int = -1
    ) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, str(path), position, offset, detail))


class IndexEntry(NamedTuple):
    """``value`` is a position in the file (.index) or a timestamp (.timeindex)."""

    offset: int
    value: int


@dataclass
class PartitionCheck:
    """One partition directory. ``run`` fills the report and sets the two offsets."""

    directory: Path
    index_interval_bytes: int
    has_gaps: bool  # offsets may be missing: the topic is or was compacted
    segments_meet: bool  # all the same each segment ends where the next one begins
    is_clean: bool  # the store was closed cleanly: also the newest segment must be exact
    report: Report
    advance: Callable[[int], None] = lambda _: None  # for a progress bar
    log_start_offset: int = 0
    log_end_offset: int = 0

    def run(self) -> None:
        """Check all segments, in order; once more if retention or compaction came between."""
        self.report.partition_count += 1
        for attempt in range(_ATTEMPTS):
            before, kept = self._segments(), replace(self.report)
            problem_count = len(self.report.problems)
            try:
                self._run()
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                if before.items() <= self._segments().items():
                    return
            if attempt < _ATTEMPTS - 1:
                for count in fields(Report):
                    setattr(self.report, count.name, getattr(kept, count.name))
                del self.report.problems[problem_count:]

    def _segments(self) -> dict[str, int]:
        with os.scandir(self.directory) as entries:
            return {entry.name: entry.inode() for entry in entries if entry.name.endswith(LOG)}

    def _run(self) -> None:
        bases = base_offsets(self.directory)
        if not bases:
            return
        self.log_start_offset = self.log_end_offset = bases[0]
        for base in bases:
            path = self.directory / segment_name(base)
            if base > self.log_end_offset and self.segments_meet:
                self.report.add(
                    "segment",
                    self.directory / segment_name(self.log_end_offset),
                    f"the offsets {self.log_end_offset} to {base - 1} are missing",
                    offset=self.log_end_offset,
                )
            elif base < self.log_end_offset:
                self.report.add(
                    "order",
                    path,
                    f"begins at offset {base}, the segment before it ends at {self.log_end_offset}",
                    offset=base,
                )
            self.report.segment_count += 1
            self.log_end_offset = base
            _SegmentCheck(self, path, base, is_active=base == bases[-1]).run()


class _SegmentCheck:
    def __init__(
        self, partition: PartitionCheck, path: Path, base: int, *, is_active: bool
    ) -> None:
        self.partition = partition
        self.report = partition.report
        self.path = path
        self.base = base
        self.is_active = is_active
        self.is_exact = partition.is_clean or not is_active
        self.end_position = 0
        self.is_sound = True

    def run(self) -> None:
        # The indexes first: what a writer adds to the log meanwhile is not in them yet.
        index = self._entries(INDEX, _INDEX_ENTRY)
        times = self._entries(TIME_INDEX, _TIME_ENTRY)
        rules = _IndexRules(self.base, self.partition.index_interval_bytes)
        index_walk = _EntryWalk(index, is_time_index=False)
        times_walk = _EntryWalk(times, is_time_index=True)
        with SegmentFile(self.path) as file:
            for batch in self._batches(file):
                self._order(batch)
                self._records(file, batch)
                rules.add(batch)
                index_walk.add(batch)
                times_walk.add(batch)
                self.partition.log_end_offset = batch.last_offset + 1
                self.report.batch_count += 1
                self.report.record_count += batch.record_count
                self.report.size_bytes += batch.size_bytes
                self.partition.advance(batch.size_bytes)
        rules.close()
        self._judge(INDEX, index, rules.index, index_walk)
        self._judge(TIME_INDEX, times, rules.times, times_walk)

    # -- the log --------------------------------------------------------------------------------

    def _batches(self, file: SegmentFile) -> Iterator[Batch]:
        """The batches up to the end or to what is wrong, which is reported."""
        looks = 0
        while True:
            try:
                for batch in file.batches(self.end_position):
                    looks = 0
                    self.end_position = batch.position + batch.size_bytes
                    yield batch
                return
            except BadBatchError as error:
                bad = error
            if self.is_active and bad.is_zeros:
                return
            if not self.is_exact and looks < _LOOK_AGAIN_COUNT:  # somebody may be writing it
                looks += 1
                time.sleep(_LOOK_AGAIN_SECONDS)
                continue
            self._bad(file, bad)
            return

    def _bad(self, file: SegmentFile, bad: BadBatchError) -> None:
        self.is_sound = False
        offset = self.partition.log_end_offset
        left = file.size_bytes - bad.position
        if bad.is_zeros:
            what = f"{left} zero bytes stand at the end of a sealed segment"
        else:
            what = f"{bad.message}; {left} bytes from there on cannot be read"
            if self.is_active and not self.partition.is_clean:
                what += " (a torn tail of a crash is cut, and kept aside, by opening for writing)"
        self.report.add("batch", self.path, what, position=bad.position, offset=offset)

    def _order(self, batch: Batch) -> None:
        self._holes(batch)
        expected = self.partition.log_end_offset
        if batch.base_offset == expected or (
            batch.base_offset > expected and self.partition.has_gaps
        ):
            return
        if batch.base_offset < expected:
            what = f"offset {batch.base_offset} comes after offset {expected - 1}"
        else:
            what = f"the offsets {expected} to {batch.base_offset - 1} are missing"
        self.report.add("order", self.path, what, position=batch.position, offset=batch.base_offset)

    def _holes(self, batch: Batch) -> None:
        """Only compaction takes records out of batches; a repair leaves batches without any."""
        missing = batch.last_offset_delta + 1 - batch.record_count
        if missing == 0 or self.partition.has_gaps:
            return
        if batch.record_count == 0:
            self.report.lost_count += missing
            return
        self.report.add(
            "order",
            self.path,
            f"the batch spans {batch.last_offset_delta + 1} offsets and has {batch.record_count} records",
            position=batch.position,
            offset=batch.base_offset,
        )

    def _records(self, file: SegmentFile, batch: Batch) -> None:
        try:
            file.check_records(batch)
        except EventLogError as error:
            self.report.add(
                "batch",
                self.path,
                f"the checksum is right, its records are not: {error.message}",
                position=batch.position,
                offset=batch.base_offset,
            )

    # -- the indexes ----------------------------------------------------------------------------

    def _entries(self, suffix: str, entry: struct.Struct) -> list[IndexEntry] | None:
        """The entries of an index file with absolute offsets; None: reported."""
        path = self.path.with_suffix(suffix)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            self.report.add("index", path, "is missing; opening for writing rebuilds it")
            return None
        if not self.is_exact:  # may lag, or be cut in the middle of an entry, after a crash
            data = data[: len(data) - len(data) % entry.size]
        elif len(data) % entry.size:
            self.report.add(
                "index", path, f"its size, {len(data)} bytes, is no multiple of {entry.size}"
            )
            return None
        if suffix == INDEX:
            return [IndexEntry(self.base + a, b) for a, b in entry.iter_unpack(data)]
        return [IndexEntry(self.base + b, a) for a, b in entry.iter_unpack(data)]

    def _judge(
        self, suffix: str, found: list[IndexEntry] | None, rule: list[IndexEntry], walk: _EntryWalk
    ) -> None:
        if found is None or not self.is_sound or found == rule:
            return
        path = self.path.with_suffix(suffix)
        wrong = walk.wrong
        if self.is_exact:
            wrong = wrong + [(number, "points behind the last batch") for number in walk.left()]
        for number, what in wrong[:_SHOWN_PER_FILE]:
            self.report.add(
                "index",
                path,
                f"entry {number} {what}",
                position=number * (8 if suffix == INDEX else 12),
                offset=found[number].offset,
            )
        if len(wrong) > _SHOWN_PER_FILE:
            self.report.add("index", path, f"{len(wrong) - _SHOWN_PER_FILE} more wrong entries")
        if not wrong and self.is_exact and found == rule[: len(found)]:
            self.report.add(
                "index",
                path,
                f"is too short: {len(found)} of {len(rule)} entries",
                offset=rule[len(found)].offset,
            )


class _IndexRules:
    """What Kafka's rules put into the two indexes of a closed segment."""

    def __init__(self, base: int, interval_bytes: int) -> None:
        self.index: list[IndexEntry] = []
        self.times: list[IndexEntry] = []
        self._interval_bytes = interval_bytes
        self._bytes_since = 0
        self._largest = IndexEntry(base, -1)

    def add(self, batch: Batch) -> None:
        if batch.max_timestamp > self._largest.value:
            self._largest = IndexEntry(batch.last_offset, batch.max_timestamp)
        if self._bytes_since > self._interval_bytes:
            self.index.append(IndexEntry(batch.last_offset, batch.position))
            self.close()
            self._bytes_since = 0
        self._bytes_since += batch.size_bytes

    def close(self) -> None:
        if self._largest.value > (self.times[-1].value if self.times else -1):
            self.times.append(self._largest)


class _EntryWalk:
    """Holds the entries of an index against the batches that pass by.

    An entry of .index finds its batch by the position, one of .timeindex by the last offset.
    """

    def __init__(self, entries: list[IndexEntry] | None, *, is_time_index: bool) -> None:
        self.wrong: list[tuple[int, str]] = []
        self._entries = entries or []
        self._is_time_index = is_time_index
        self._next = 0

    def add(self, batch: Batch) -> None:
        place = batch.last_offset if self._is_time_index else batch.position
        while self._next < len(self._entries):
            entry = self._entries[self._next]
            wanted = entry.offset if self._is_time_index else entry.value
            if wanted > place:
                return
            value = batch.max_timestamp if self._is_time_index else batch.position
            if wanted < place:
                self.wrong.append((self._next, "points at no batch, or is out of order"))
            elif entry != (batch.last_offset, value):
                self.wrong.append((self._next, f"does not fit the batch at byte {batch.position}"))
            self._next += 1

    def left(self) -> range:
        """Numbers of the entries that no batch reached."""
        return range(self._next, len(self._entries))
