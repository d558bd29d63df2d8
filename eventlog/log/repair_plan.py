"""What is to be done about a partition that a store refuses to open (C-D, C-J); nothing is changed here.

The partition is taken apart into stretches of sound batches and holes: bytes that are no sound batch, or
records that are not there at all. Two ways lead on:

- ``"skip"``: sound batches behind a hole are kept. In its place, also at the end, comes one empty batch that
  spans the lost offsets (as Kafka's compaction leaves them), so nothing else ever gets those offsets.
- ``"cut"``: the log ends at the first hole, and what is behind it is lost, too. The next records get the
  offsets of those that are lost.

With both, a log that lost its first segments begins later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from eventlog._native import check, ffi, lib, path_bytes
from eventlog.log import segment
from eventlog.log.partition_files import walk_batches
from eventlog.log.recovery import PartitionRecovery
from eventlog.log.segment import segment_name

Method = Literal["skip", "cut"]
OFFSET_SPAN_MAX = 2**31 - 1
"""Offsets in a segment are counted by 31 bits."""
_REFUSED = ("C-D", "C-J")


class RepairStep(NamedTuple):
    """One thing that is done, and what is lost by it.

    Attributes:
        case: label of the recovery table (docs/FORMAT.md); empty: a file of the store's own.
        topic: name of the topic; empty: of the store.
        partition: number of the partition, -1: of the store.
        path: the file concerned.
        action: what is done, in words.
        first_offset, end_offset: the offsets ``first_offset <= offset < end_offset`` are lost; equal:
            none.
        position, end_position: those bytes of the file are lost; equal: none.
    """

    case: str
    topic: str
    partition: int
    path: str
    action: str
    first_offset: int = 0
    end_offset: int = 0
    position: int = 0
    end_position: int = 0

    @property
    def lost_count(self) -> int:
        """How many offsets are lost."""
        return self.end_offset - self.first_offset


class Kind(Enum):
    """What a stretch of a segment is."""

    SOUND = "sound batches"
    HOLE = "records are lost here"
    TORN = "a torn tail, which opening cuts and keeps aside"


class Stretch(NamedTuple):
    """Bytes ``position .. end_position`` of a segment, which hold the offsets ``first .. end``."""

    kind: Kind
    base: int
    path: Path
    position: int
    end_position: int
    first: int
    end: int
    what: str = ""
    case: str = "C-D"


class NewSegment(NamedTuple):
    """A segment as it shall be: stretches and holes in order."""

    base: int
    pieces: list[Stretch]


@dataclass
class PartitionPlan:
    """What is to be done with one partition.

    Attributes:
        recovery: how opening looks at it.
        steps: the same for people.
        written: segments that are written anew.
        removed: base offsets of segments that go.
        indexes: base offsets of segments of which only the indexes are made anew.
        start: the log start that is written down; None: it stays.
        end: the recovery point that is written down; None: it stays.
    """

    recovery: PartitionRecovery
    steps: list[RepairStep] = field(default_factory=list)
    written: list[NewSegment] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    start: int | None = None
    end: int | None = None

    def note(self, stretch: Stretch, action: str) -> None:
        """A step that loses a stretch."""
        self.steps.append(
            RepairStep(
                stretch.case,
                self.recovery.topic,
                self.recovery.partition,
                str(stretch.path),
                action,
                stretch.first,
                stretch.end,
                stretch.position,
                stretch.end_position,
            )
        )


def plan_partition(recovery: PartitionRecovery, method: Method) -> PartitionPlan:
    """What to do, if anything. ``recovery`` must not be writable."""
    plan = PartitionPlan(recovery)
    recovery.run()
    _Planner(plan, method).run()
    return plan


class _Planner:
    def __init__(self, plan: PartitionPlan, method: Method) -> None:
        self.plan = plan
        self.recovery = plan.recovery
        self.method = method
        self.has_gaps = bool(self.recovery.options.has_gaps)
        self.known_end = self.recovery._durable_point()

    def run(self) -> None:
        directory = self.recovery.directory
        found = segment.base_offsets(directory) if directory.is_dir() else []
        bases = self.recovery._kept(found)
        stretches = [
            stretch
            for base, following in [*pairwise(bases), *((base, None) for base in bases[-1:])]
            for stretch in self._segment(base, following)
        ]
        self._front(bases)
        if not bases:
            if any(report.case in _REFUSED for report in self.recovery.reports):
                self._begin_anew(bases, stretches)
            return
        if not any(stretch.kind is Kind.HOLE for stretch in stretches):
            return
        kept, lost = self._divide(stretches)
        for stretch in kept:
            if stretch.kind is Kind.HOLE:
                self.plan.note(stretch, f"skipped: {stretch.what}")
            elif stretch.kind is Kind.TORN:
                self.plan.note(stretch, "a torn tail is cut and kept aside by opening")
        for stretch in lost:
            what = f": {stretch.what}" if stretch.kind is Kind.HOLE else ""
            self.plan.note(stretch, f"cut off{what}")
        if any(stretch.kind is Kind.SOUND for stretch in kept) or self.method == "cut":
            self._lay_out(bases, kept, lost)
        else:
            self._begin_anew(bases, stretches)

    def _front(self, bases: list[int]) -> None:
        """Are the first segments missing? Then the log begins later."""
        noted = self.recovery.log_start.offset
        if bases and noted is not None and noted < bases[0]:
            self.plan.start = bases[0]
            path = self.recovery.directory / segment_name(noted)
            gone = Stretch(Kind.HOLE, noted, path, 0, 0, noted, bases[0], case="C-J")
            self.plan.note(gone, f"the first segment is missing: the log begins at {bases[0]}")

    # -- taking apart ---------------------------------------------------------------------------

    def _segment(self, base: int, following: int | None) -> list[Stretch]:
        path = self.recovery.directory / segment_name(base)
        found: list[Stretch] = []
        position, offset = 0, base
        while True:
            scan = _scan(path, position, offset, self.has_gaps)
            bad, end = int(scan.end_position), int(scan.end_offset)
            if bad > position:
                found.append(Stretch(Kind.SOUND, base, path, position, bad, offset, end))
            what = segment.text(scan.what)
            is_bad = scan.stop == lib.EL_SCAN_BAD
            if is_bad and following is None and self.recovery._is_torn_tail(scan):
                size = int(scan.sound_end_position)
                return [*found, Stretch(Kind.TORN, base, path, bad, size, end, end)]
            sound = int(scan.sound_position)
            if (
                not is_bad
                or sound < 0
                or (following is not None and scan.sound_offset >= following)
            ):
                break
            position, offset = sound, int(scan.sound_offset)
            found.append(Stretch(Kind.HOLE, base, path, bad, position, end, offset, what))
        size = int(scan.file_size)
        if following is None:
            reach = max(self.known_end, end)
            what = what or f"the log is known to reach offset {reach}"
            if is_bad or reach > end:
                stop = size if is_bad else bad
                found.append(Stretch(Kind.HOLE, base, path, bad, stop, end, reach, what))
            return found
        if end > following:
            return self._without_overlap(found, following)
        if bad < size or (end < following and self.recovery.segments_meet):
            if bad < size:
                what, case = what or "zeros behind the last batch", "C-D"
            else:
                what, case = f"the records {end} .. {following - 1} are missing", "C-J"
            found.append(Stretch(Kind.HOLE, base, path, bad, size, end, following, what, case))
        return found

    def _without_overlap(self, found: list[Stretch], following: int) -> list[Stretch]:
        """Batches that the next segment has, too, are left out of this one."""
        last = found[-1]
        position, end = walk_batches(last.path, last.position, last.first, following)
        what = f"the next segment begins at offset {following}"
        kept = [last._replace(end_position=position, end=end)] if position > last.position else []
        hole = Stretch(
            Kind.HOLE, last.base, last.path, position, last.end_position, end, following, what
        )
        return [*found[:-1], *kept, hole]

    # -- deciding -------------------------------------------------------------------------------

    def _divide(self, stretches: list[Stretch]) -> tuple[list[Stretch], list[Stretch]]:
        """What stays (holes among it are filled), and what is lost at the end."""
        holes = [i for i, stretch in enumerate(stretches) if stretch.kind is Kind.HOLE]
        if self.method == "cut":
            at = holes[0] if holes else len(stretches)
        else:  # a checkpoint that names an end as far away as that is damaged itself
            too_long = [i for i in holes if stretches[i].end - stretches[i].first > OFFSET_SPAN_MAX]
            at = too_long[-1] if too_long and too_long[-1] == len(stretches) - 1 else len(stretches)
        return stretches[:at], stretches[at:]

    def _begin_anew(self, bases: list[int], stretches: Iterable[Stretch]) -> None:
        """Nothing is left: an empty log, that goes on with an offset that nothing had."""
        noted = self.recovery.log_start.offset or 0
        end = max(self.known_end, noted, *bases, *(stretch.end for stretch in stretches), 0)
        if not bases:
            path = self.recovery.directory / segment_name(noted)
            gone = Stretch(Kind.HOLE, noted, path, 0, 0, noted, end, case="C-J")
            self.plan.note(gone, f"all segments are missing: an empty log begins at {end}")
        self.plan.removed = [base for base in bases if base != end]
        self.plan.written = [NewSegment(end, [])]
        self.plan.start = self.plan.end = end

    def _lay_out(self, bases: list[int], kept: list[Stretch], lost: list[Stretch]) -> None:
        plan = self.plan
        by_base: dict[int, list[Stretch]] = {base: [] for base in bases}
        for stretch in kept:
            by_base[stretch.base].append(stretch)
        if lost:
            last = kept[-1].base if kept else bases[0]
            plan.removed = [base for base in bases if base > last]
            plan.end = kept[-1].end if kept else bases[0]
            noted = self.recovery.log_start.offset
            if noted is not None and noted > plan.end:
                plan.start = plan.end
        for base in bases:
            if base in plan.removed:
                continue
            pieces = by_base[base]
            is_cut = bool(lost) and base == bases[len(bases) - len(plan.removed) - 1]
            if is_cut or any(piece.kind is Kind.HOLE for piece in pieces):
                plan.written += _fitting(base, pieces)


def _fitting(base: int, pieces: list[Stretch]) -> list[NewSegment]:
    """The segment, and others for holes that reach further than one can count."""
    segments = [NewSegment(base, [])]
    for piece in pieces:
        if piece.kind is not Kind.HOLE or piece.end - segments[-1].base <= OFFSET_SPAN_MAX:
            segments[-1].pieces.append(piece)
            continue
        for first in range(piece.first, piece.end, OFFSET_SPAN_MAX):
            end = min(first + OFFSET_SPAN_MAX, piece.end)
            segments.append(NewSegment(first, [piece._replace(first=first, end=end)]))
    return segments


def _scan(path: Path, position: int, offset: int, has_gaps: bool) -> Any:
    result = ffi.new("el_scan *")
    check(lib.el_segment_scan(path_bytes(path), position, offset, has_gaps, result))
    return result
