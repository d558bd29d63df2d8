"""Opening a partition after whatever happened to it: the recovery table, case by case.

The labels C-A ... C-K are those of docs/FORMAT.md; they appear in reports, log lines and tests. Two
questions decide about a bad batch: was it durable (then it is damage, and nothing is cut), and can a
crash explain it (then it is a torn tail)? See :func:`_is_torn_tail`.
"""

from __future__ import annotations

import itertools
import logging
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventlog._native import check, ffi, lib, path_bytes
from eventlog.errors import CorruptionError
from eventlog.log import producer_state, replacement, segment
from eventlog.log.log_starts import LogStart
from eventlog.log.segment import DELETED
from eventlog.settings import TopicSettings

_logger = logging.getLogger("eventlog.log")


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What opening found and did in one place.

    Attributes:
        case: label of the recovery table, ``"C-A"`` ... ``"C-L"``.
        topic: name of the topic.
        partition: number of the partition.
        path: the file concerned.
        position: byte in the file, -1 where none is concerned.
        offset: first offset concerned.
        detail: in words.
    """

    case: str
    topic: str
    partition: int
    path: str
    position: int
    offset: int
    detail: str


@dataclass(slots=True)
class PartitionRecovery:
    """Recovers one partition directory.

    Attributes:
        directory: of the partition.
        topic: name of the topic.
        partition: number of the partition.
        settings: of the topic.
        options: the same for C (``el_partition_options *``).
        is_clean: the store was closed cleanly (marker present).
        recovery_point: offset below which all is known to be durable.
        log_start: first offset kept, as it was written down; one that is not sound hides no records.
        written_end: where the last writer of this boot had come to (its bytes are in the page cache
            whatever became of the process), or None after a reboot.
        was_poisoned: an fdatasync of the last writer of this boot failed.
        is_writable: may anything be changed on disk?
        cut_directory: where cut bytes are kept; made when there are some.
        stamp: label for kept files, e.g. milliseconds.
        segments_meet: each segment ends where the next one begins, also where offsets are missing inside.
    """

    directory: Path
    topic: str
    partition: int
    settings: TopicSettings
    options: Any
    is_clean: bool
    recovery_point: int
    log_start: LogStart
    written_end: int | None
    was_poisoned: bool
    is_writable: bool
    cut_directory: Path
    stamp: int
    segments_meet: bool = True
    reports: list[RecoveryReport] = field(default_factory=list)

    def run(self) -> Any:
        """Find the log's end, mending what may be mended; an ``el_log_end *``.

        Raises:
            CorruptionError: damage (C-D, C-J), when writable. A reader is given the log up to it, and
                meets the error there.
        """
        end = ffi.new("el_log_end *")
        found = self._settled() if self.directory.is_dir() else []
        bases = self._kept(found)
        damaged_at = self._missing_start(bases)
        start = self._start(bases, damaged_at)
        if not bases:
            end.active_base_offset = -1
            end.log_end_offset = start
        else:
            for base, following in itertools.pairwise(bases):
                if damaged_at is None:
                    damaged_at = self._sealed(base, following, end)
            if damaged_at is None:
                damaged_at = self._active(bases[-1], end)
        end.log_start_offset = start
        if damaged_at is not None:  # a reader: let it run into the damage, not into a quiet end
            end.log_end_offset = damaged_at + 1
        elif self.is_writable:
            self._remove_temporary()
            self._remove_segments(found[: len(found) - len(bases)])
            producer_state.remove_past(self.directory, int(end.log_end_offset))
        return end

    def _kept(self, bases: list[int]) -> list[int]:
        """Without the segments that end below the log start: deleting them was interrupted."""
        if not self.log_start.is_sound:
            return bases
        return bases[max(0, bisect_right(bases, self.log_start.offset or 0) - 1) :]

    def _start(self, bases: list[int], damaged_at: int | None) -> int:
        """The first offset kept."""
        noted = self.log_start.offset or 0
        if not bases or damaged_at is not None or self.log_start.is_sound:
            return noted
        # The first segment says where the log starts: a damaged checkpoint must not hide records.
        if noted > bases[0]:
            path = self.directory / segment.segment_name(bases[0])
            detail = f"the log was to start at {noted}, which cannot be believed: at {bases[0]}"
            self._report("C-L", path, 0, bases[0], detail)
        return bases[0]

    def _settled(self) -> list[int]:
        """Base offsets of the segments, once a compaction that was interrupted is ended or undone (C-G). A
        reader leaves it as it is, and out what is replaced already."""
        hidden: set[int] = set()
        if self.is_writable:
            for path in replacement.remove_cleaned(self.directory):
                what = "a compaction was interrupted: what it had written is removed"
                self._report("C-G", path, -1, int(path.name[: segment.OFFSET_DIGITS]), what)
            for base in replacement.pending(self.directory):
                self._end_replacement(base)
            for path in self.directory.glob(f"*{DELETED}"):
                check(lib.el_file_unlink_unsynced(path_bytes(path)))
        else:
            for base in replacement.pending(self.directory):
                placed = replacement.placed_path(self.directory, base)
                if placed is not None and placed.suffix == segment.LOG:
                    end = int(segment.scan(placed, base, has_gaps=True).end_offset)
                    hidden.update(replacement.covered(self.directory, base, end))
        return [base for base in segment.base_offsets(self.directory) if base not in hidden]

    def _end_replacement(self, base: int) -> None:
        path = replacement.placed_path(self.directory, base)
        if path is None:
            replacement.forget(self.directory, base)
            return
        scan = segment.scan(path, base, has_gaps=True)
        position, offset = int(scan.end_position), int(scan.end_offset)
        if scan.stop != lib.EL_SCAN_END:
            self._damage("C-D", path, position, offset, segment.text(scan.what))
        what = f"a compacted segment is put in the place of those up to offset {offset}"
        self._report("C-G", path, -1, base, what)
        replacement.finish(
            self.directory,
            base,
            offset,
            self.options,
            tell=lambda: None,
            remove=self._remove_segments,
        )

    def _missing_start(self, bases: list[int]) -> int | None:
        """A partition has had a segment since it was made, and its first offset is written down: see
        that both are there. Offset of damage (reader only), or None."""
        noted = self.log_start.offset
        start = noted or 0
        if not bases and (noted is not None or self._durable_point() > 0):
            what = "all segments are missing"
        elif bases and noted is not None and bases[0] > noted:
            what = "the first segment is missing"
        else:
            return None
        return self._damage("C-J", self.directory / segment.segment_name(start), 0, start, what)

    # -- sealed segments ------------------------------------------------------------------------

    def _sealed(self, base: int, following: int, end: Any) -> int | None:
        """Check a segment that another one follows. Offset of damage (reader only), or None."""
        path = self.directory / segment.segment_name(base)
        is_trusted = self.is_clean or following <= self.recovery_point
        if (
            is_trusted
            and lib.el_segment_resume(path_bytes(path), base, self.options, end) == lib.EL_OK
        ):
            found_end, position = int(end.log_end_offset), int(end.active_position)
        else:
            scan = self._scan(path, base)
            found_end, position = int(scan.end_offset), int(scan.end_position)
            if scan.stop != lib.EL_SCAN_END:
                return self._damage(
                    "C-D",
                    path,
                    position,
                    found_end,
                    segment.text(scan.what) or "the sealed segment ends in zeros",
                )
            if self._meets(found_end, following):
                self._rebuild_index(path, base, position, end, is_sealed=True)
        if self._meets(found_end, following):
            return None
        missing = self.directory / segment.segment_name(found_end)
        return self._damage(
            "C-J",
            missing,
            0,
            found_end,
            f"the records {found_end} .. {following - 1} are missing behind {path.name}",
        )

    def _meets(self, end: int, following: int) -> bool:
        """May a segment that begins at ``following`` come behind one that ends at ``end``?"""
        return end == following or (end < following and not self.segments_meet)

    # -- the active segment ---------------------------------------------------------------------

    def _active(self, base: int, end: Any) -> int | None:
        path = self.directory / segment.segment_name(base)
        if self.is_clean:
            if (
                lib.el_segment_resume(path_bytes(path), base, self.options, end) == lib.EL_OK
                and end.log_end_offset == self.recovery_point
            ):
                self._report(
                    "C-A", path, int(end.active_position), int(end.log_end_offset), "clean"
                )
                return None
            self._report(
                "C-E",
                path.with_suffix(segment.INDEX),
                -1,
                base,
                "the indexes do not fit the log and are rebuilt",
            )
        scan = self._scan(path, base)
        position, offset = int(scan.end_position), int(scan.end_offset)
        if scan.stop == lib.EL_SCAN_BAD and not self._is_torn_tail(scan):
            return self._damage("C-D", path, position, offset, segment.text(scan.what))
        if offset < self._durable_point():
            return self._damage(
                "C-D",
                path,
                position,
                offset,
                f"the log is known to reach offset {self._durable_point()}",
            )
        if scan.stop == lib.EL_SCAN_BAD:
            self._cut(path, position, int(scan.sound_end_position), offset, segment.text(scan.what))
        elif scan.stop == lib.EL_SCAN_ZEROS:
            self._report(
                "C-F", path, position, offset, f"{scan.file_size - position} reserved bytes cut"
            )
        else:
            self._report("C-B", path, position, offset, "the tail is whole")
        if self.is_writable:
            if self.was_poisoned:  # its pages may pass for clean without ever having been written
                durable = segment.position_of(path, self._durable_point(), position)
                check(lib.el_file_rewrite(path_bytes(path), durable, position))
            if scan.file_size != position:
                check(lib.el_file_truncate(path_bytes(path), position))
            else:  # what was read may be in the page cache only: on disk before it is served
                check(lib.el_file_sync(path_bytes(path)))
        self._rebuild_index(path, base, position, end, is_sealed=False)
        return None

    def _durable_point(self) -> int:
        """Everything below is known to have been durable, or to be in the page cache of this boot."""
        start = self.log_start.offset or 0 if self.log_start.is_sound else 0
        return max(self.recovery_point, self.written_end or 0, start)

    def _is_torn_tail(self, scan: Any) -> bool:
        """Can a crash explain the bad batch, and was it not known to be durable?

        Without a reboot only the last append can be torn. After a reboot what had not been synced may
        be there in any part, so sound batches may follow a bad one; but a partition that promises
        `sync` never has more than a bounded number of bytes unsynced, and what lies further apart
        proves that the bad batch had been durable once.
        """
        if int(scan.end_offset) < self._durable_point():
            return False
        if int(scan.sound_position) < 0:
            return True
        if self.written_end is not None:
            return False
        reach = lib.EL_UNSYNCED_BYTES_MAX + 2 * self.settings.batch_size_bytes_max
        unsynced = int(scan.sound_end_position) - int(scan.end_position)
        return self.settings.durability != "sync" or unsynced <= reach

    def _cut(self, path: Path, position: int, file_end: int, offset: int, what: str) -> None:
        """Keep the torn tail aside (C-C). Truncation follows."""
        detail = f"torn tail of {file_end - position} bytes cut: {what}"
        if self.is_writable:
            kept = self.cut_directory / f"{path.stem}-{position}-{self.stamp}.bytes"
            check(lib.el_file_mkdir(path_bytes(self.cut_directory.parent)))
            check(lib.el_file_mkdir(path_bytes(self.cut_directory)))
            check(lib.el_file_preserve(path_bytes(path), position, file_end, path_bytes(kept)))
            detail += f"; kept as {kept}"
        self._report("C-C", path, position, offset, detail)

    def _scan(self, path: Path, base: int) -> Any:
        return segment.scan(path, base, has_gaps=bool(self.options.has_gaps))

    # -- common ---------------------------------------------------------------------------------

    def _rebuild_index(
        self, path: Path, base: int, position: int, end: Any, *, is_sealed: bool
    ) -> None:
        if not self.is_writable:
            end.log_end_offset = int(self._scan(path, base).end_offset)
            end.active_base_offset = base
            return
        indexes = (path.with_suffix(segment.INDEX), path.with_suffix(segment.TIME_INDEX))
        before = [p.read_bytes() if p.is_file() else None for p in indexes] if is_sealed else []
        check(lib.el_segment_index(path_bytes(path), base, position, is_sealed, self.options, end))
        if is_sealed and before != [p.read_bytes() for p in indexes]:
            self._report(
                "C-E", path.with_suffix(segment.INDEX), -1, base, "the indexes were rebuilt"
            )

    def _remove_temporary(self) -> None:
        """A crash may leave files under their temporary names; they were never part of the log."""
        for path in self.directory.glob(f"*{segment.TEMPORARY}"):
            check(lib.el_file_unlink(path_bytes(path)))
        for suffix in (segment.INDEX, segment.TIME_INDEX):
            for path in self.directory.glob(f"*{suffix}"):
                if not path.with_suffix(segment.LOG).exists():
                    check(lib.el_file_unlink(path_bytes(path)))

    def _remove_segments(self, bases: list[int]) -> None:
        """End a deletion. The log files last: as long as one is there, it is looked at again."""
        for base in bases:
            for suffix in (segment.INDEX, segment.TIME_INDEX, segment.LOG):
                path = self.directory / segment.segment_name(base, suffix)
                if path.exists():
                    check(lib.el_file_unlink_unsynced(path_bytes(path)))
        if bases:
            check(lib.el_file_sync(path_bytes(self.directory)))

    def _damage(self, case: str, path: Path, position: int, offset: int, what: str) -> int:
        """Refuse to write (raise), or tell a reader up to where it can read."""
        self._report(case, path, position, offset, what)
        if not self.is_writable:
            return offset
        raise CorruptionError(
            f"{case}: {path} is damaged at byte {position}: {what}; offsets from {offset} on are "
            "concerned, nothing was changed",
            hint="Open with read_only=True to read what lies before, and restore the file from a "
            "backup; `eventlog verify` lists all that is wrong",
            case=case,
            path=str(path),
            position=position,
            offset=offset,
            topic=self.topic,
            partition=self.partition,
        )

    def _report(self, case: str, path: Path, position: int, offset: int, detail: str) -> None:
        report = RecoveryReport(
            case, self.topic, self.partition, str(path), position, offset, detail
        )
        self.reports.append(report)
        level = logging.DEBUG if case in ("C-A", "C-B", "C-F") else logging.WARNING
        _logger.log(
            level,
            "%s %s-%d %s: %s",
            case,
            self.topic,
            self.partition,
            path.name,
            detail,
            extra={
                "case": case,
                "topic": self.topic,
                "partition": self.partition,
                "offset": offset,
                "position": position,
            },
        )
