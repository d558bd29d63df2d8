"""Mending a store that refuses to open, or whose plain files do not fit any more.

First everything that is about to be changed is kept aside, durably, below ``repair/`` in the store. Then
files are replaced one by one, each whole: made under a temporary name, fsynced, renamed. A crash at any
point leaves a store that is damaged as before, or less: repair it again.

What is to be done with a partition is decided in :mod:`eventlog.log.repair_plan`.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eventlog._native import check, ffi, lib, os_error, path_bytes
from eventlog.errors import (
    LockedError,
    NotAStoreError,
    SettingError,
    StorageError,
    StorageReadOnlyError,
)
from eventlog.locks import Members
from eventlog.log import checkpoints
from eventlog.log.log_starts import LOG_STARTS_FILE, LogStarts
from eventlog.log.partition_files import SEGMENT_SUFFIXES, link_or_copy, sync_tree
from eventlog.log.repair_plan import Kind, Method, NewSegment, PartitionPlan, RepairStep
from eventlog.log.repair_survey import Survey
from eventlog.log.segment import INDEX, LOG, TEMPORARY, TIME_INDEX, segment_name
from eventlog.log.store import Store
from eventlog.log.store_directory import FORMAT_FILE, write_format
from eventlog.log.topics_file import TOPICS_FILE, TopicsFile

_logger = logging.getLogger("eventlog.log")

METHODS: tuple[Method, ...] = ("skip", "cut")
_LOCK_WAIT_S = 2.0
_PIECE_SIZE_BYTES = 1 << 20
_EMPTY_BATCH = struct.Struct(">qiib I hiqqqhii")
_LENGTH, _MAGIC, _CHECKED_FROM = 49, 2, 21


def repair(
    path: str | os.PathLike[str], *, method: Method = "skip", dry_run: bool = True
) -> list[RepairStep]:
    """Make a damaged store open again, and say exactly what is lost by that.

    Args:
        path: of the store. No process may have it open.
        method: ``"skip"``: where batches are damaged or missing, keep the sound ones behind them; the
            offsets of lost records stay empty. ``"cut"``: a partition ends at its first damage, and
            what is behind is lost, too: what remains is a prefix, without holes.
        dry_run: only tell what would be done; nothing is changed.

    Returns:
        What is done, file by file; empty: nothing is needed. The bytes as they were are below
        ``repair/`` in the store.

    Raises:
        LockedError: a process has the store open.
        NotAStoreError: there is none, nor anything that looks like one.
        FormatVersionError: it was written by a newer eventlog.
        SettingError: no such method.
        CorruptionError: the store does not open even so.
        StorageFullError, StorageReadOnlyError, StorageError: of the operating system.

    Crashes: what was kept aside is on disk before the first change; repeat it after a crash.
    """
    if method not in METHODS:
        raise SettingError(
            f"method is {method!r}",
            hint=f"It has to be {' or '.join(METHODS)}",
            setting="method",
            value=method,
        )
    directory = Path(path).absolute()
    try:
        with _alone(directory, dry_run=dry_run):
            survey = Survey(directory, method)
            survey.run()
            if dry_run or not survey.steps:
                return survey.steps
            _Repair(survey).run()
            for step in survey.steps:
                _logger.warning("repaired %s: %s", step.path, step.action)
    except OSError as error:
        raise os_error(error.errno or 0, str(error.filename or path), "cannot repair") from error
    # What is left is recovery's work, as after any crash.
    Store(directory, create=False, maintenance=False).close()
    return survey.steps


@contextmanager
def _alone(directory: Path, *, dry_run: bool) -> Iterator[None]:
    """Nobody has the store open, and nobody opens it meanwhile."""
    if not any((directory / name).exists() for name in (FORMAT_FILE, TOPICS_FILE, "log")):
        raise NotAStoreError(
            f"there is no store in {directory}",
            hint="Name the directory of a store",
            path=str(directory),
        )
    members = Members(directory / "run", "writer", str(directory))
    try:
        mutex = members.mutex(_LOCK_WAIT_S)
        mutex.__enter__()
    except StorageReadOnlyError:
        if not dry_run:
            raise
        yield
        return
    try:
        if not members.join():
            raise LockedError(
                f"{directory} is open in another process, or in this one",
                hint="Close it everywhere, then repair it",
                path=str(directory),
            )
        yield
    finally:
        members.leave()
        mutex.__exit__(None, None, None)


class _Repair:
    """Carries a survey out."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        self.directory = survey.directory
        self.log_directory = survey.log_directory
        now = datetime.now(UTC)
        self.kept = self.directory / "repair" / f"{now:%Y%m%dT%H%M%S}-{time.time_ns() % 10**9:09d}"

    def run(self) -> None:
        survey = self.survey
        marker = self.log_directory / checkpoints.CLEAN_SHUTDOWN
        if marker.exists():
            check(lib.el_file_unlink(path_bytes(marker)))
        self._keep_aside()
        meta = self.directory / "meta"
        if meta.exists() and any(plan.steps for plan in survey.plans):  # it knows what is lost
            check(lib.el_file_rename(path_bytes(meta), path_bytes(self.kept / "meta")))
        if not survey.has_format:
            write_format(self.directory)
        if not survey.has_topics:
            file = TopicsFile(self.directory, self.log_directory)
            file.entries, file.deleted = survey.entries, survey.deleted
            file.save()
        for directory, topic_id in survey.topic_ids.items():
            (directory / checkpoints.PARTITION_METADATA).unlink()
            checkpoints.write_partition_files(directory, topic_id)
        for directory in survey.epochs:
            (directory / checkpoints.LEADER_EPOCHS).unlink()
            entry = survey.entries[directory.name.rpartition("-")[0]]
            checkpoints.write_partition_files(directory, entry.id)
        for plan in survey.plans:
            self._partition(plan)
        self._checkpoints()

    def _keep_aside(self) -> None:
        survey = self.survey
        paths = [Path(step.path) for step in survey.steps]
        for plan in survey.plans:
            bases = [*plan.removed, *(new.base for new in plan.written), *plan.indexes]
            for base in bases:
                names = (segment_name(base, suffix) for suffix in SEGMENT_SUFFIXES)
                paths += [plan.recovery.directory / name for name in names]
        for name in (checkpoints.RECOVERY_POINT, checkpoints.LOG_START):
            paths.append(self.log_directory / name)
        paths += [self.directory / LOG_STARTS_FILE, self.directory / TOPICS_FILE]
        for path in dict.fromkeys(paths):
            if path.is_file():
                target = self._kept_of(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(path, target)
        self.kept.mkdir(parents=True, exist_ok=True)
        sync_tree(self.kept.parent)
        check(lib.el_file_sync(path_bytes(self.directory)))

    def _kept_of(self, path: Path) -> Path:
        return self.kept / path.relative_to(self.directory)

    def _partition(self, plan: PartitionPlan) -> None:
        recovery = plan.recovery
        directory = recovery.directory
        for base in dict.fromkeys(plan.indexes):
            log = directory / segment_name(base)
            self._index(log, base, log.stat().st_size, recovery.options)
        if not plan.steps:
            return
        check(lib.el_file_mkdir(path_bytes(directory)))
        # It says how far the log went, and that may be what is lost.
        (self.directory / "run" / directory.name).unlink(missing_ok=True)
        for base in sorted(plan.removed, reverse=True):
            # The log first: an index without one is nothing.
            for suffix in (LOG, *SEGMENT_SUFFIXES[:-1]):
                path = directory / segment_name(base, suffix)
                if path.exists():
                    check(lib.el_file_unlink(path_bytes(path)))
        for new in plan.written:
            self._write(new, directory, recovery.options)

    def _write(self, new: NewSegment, directory: Path, options: Any) -> None:
        log = directory / segment_name(new.base)
        aside = log.with_name(log.name + TEMPORARY)
        end_position = 0
        with aside.open("wb") as file:
            for piece in new.pieces:
                if piece.kind is not Kind.HOLE:
                    _copy_range(self._kept_of(piece.path), file, piece.position, piece.end_position)
                elif piece.end > piece.first:
                    file.write(empty_batch(piece.first, piece.end))
                if piece.kind is not Kind.TORN:
                    end_position = file.tell()
            file.flush()
            os.fsync(file.fileno())
        for suffix in (INDEX, TIME_INDEX):  # no index is better than one of another log
            if log.with_suffix(suffix).exists():
                check(lib.el_file_unlink(path_bytes(log.with_suffix(suffix))))
        check(lib.el_file_rename(path_bytes(aside), path_bytes(log)))
        self._index(log, new.base, end_position, options)

    def _index(self, log: Path, base: int, end_position: int, options: Any) -> None:
        end = ffi.new("el_log_end *")
        check(lib.el_segment_index(path_bytes(log), base, end_position, True, options, end))

    def _checkpoints(self) -> None:
        starts = LogStarts(self.directory, self.log_directory)
        starts.load()
        path = self.log_directory / checkpoints.RECOVERY_POINT
        points = checkpoints.read_offsets(path)
        for place in self.survey.strays:
            points.pop(place, None)
        for plan in self.survey.plans:
            place = plan.recovery.topic, plan.recovery.partition
            if plan.start is not None:
                starts.note(*place, plan.start)
            if plan.end is not None:
                points[place] = plan.end
        starts.save()
        checkpoints.write_offsets(path, points)


def _copy_range(source: Path, target: Any, position: int, end_position: int) -> None:
    with source.open("rb") as file:
        file.seek(position)
        while position < end_position:
            data = file.read(min(_PIECE_SIZE_BYTES, end_position - position))
            if not data:
                raise StorageError(f"{source} ends at byte {position}", path=str(source))
            target.write(data)
            position += len(data)


def empty_batch(first_offset: int, end_offset: int) -> bytes:
    """A batch without records that spans offsets, as Kafka's compaction leaves them."""
    last_delta = end_offset - first_offset - 1
    data = bytearray(
        _EMPTY_BATCH.pack(first_offset, _LENGTH, 0, _MAGIC, 0, 0, last_delta, -1, -1, -1, -1, -1, 0)
    )
    checked = bytes(data[_CHECKED_FROM:])
    struct.pack_into(">I", data, _CHECKED_FROM - 4, lib.el_crc32c_of(checked, len(checked)))
    return bytes(data)
