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
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from eventlog._native import check, ffi, last_error, lib, os_error, path_bytes
from eventlog.errors import (
    CorruptionError,
    FormatVersionError,
    LockedError,
    NotAStoreError,
    SettingError,
    StorageError,
    StorageReadOnlyError,
)
from eventlog.locks import Members
from eventlog.log import checkpoints, segment
from eventlog.log.log_starts import LOG_STARTS_FILE, LogStarts
from eventlog.log.partition import native_options
from eventlog.log.partition_files import SEGMENT_SUFFIXES, link_or_copy, sync_tree
from eventlog.log.recovery import PartitionRecovery
from eventlog.log.repair_plan import (
    Kind,
    Method,
    NewSegment,
    PartitionPlan,
    RepairStep,
    plan_partition,
)
from eventlog.log.segment import INDEX, LOG, TEMPORARY, TIME_INDEX, segment_name
from eventlog.log.store import Store
from eventlog.log.store_directory import FORMAT_FILE, has_format, write_format
from eventlog.log.topics_file import (
    PARTITIONS_MAX,
    TOPICS_FILE,
    TopicEntry,
    TopicsFile,
    is_topic_name,
    partition_directories,
)
from eventlog.settings import TopicSettings

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
            survey = _Survey(directory, method)
            survey.run()
            if dry_run or not survey.steps:
                return survey.steps
            _Repair(survey).run()
    except OSError as error:
        raise os_error(error.errno or 0, str(error.filename or path), "cannot repair") from error
    Store(
        directory, create=False, maintenance=False
    ).close()  # recovers: what is left is its work, as after any crash
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


@dataclass
class _Survey:
    """What is wrong. Changes nothing."""

    directory: Path
    method: Method
    steps: list[RepairStep] = field(default_factory=list)
    plans: list[PartitionPlan] = field(default_factory=list)
    entries: dict[str, TopicEntry] = field(default_factory=dict)
    deleted: dict[str, TopicEntry] = field(default_factory=dict)
    topic_ids: dict[Path, uuid.UUID] = field(default_factory=dict)
    epochs: list[Path] = field(default_factory=list)
    strays: set[tuple[str, int]] = field(default_factory=set)
    has_format: bool = True
    has_topics: bool = True

    @property
    def log_directory(self) -> Path:
        return self.directory / "log"

    def run(self) -> None:
        self._format()
        self._topics()
        self._settings()
        starts = LogStarts(self.directory, self.log_directory)
        starts.load()
        points = checkpoints.read_offsets(self.log_directory / checkpoints.RECOVERY_POINT)
        self._strays(points)
        is_clean = (self.log_directory / checkpoints.CLEAN_SHUTDOWN).exists()
        for name, entry in sorted(self.entries.items()):
            made = entry.partitions if entry.growing_from is None else entry.growing_from
            for number in range(entry.partitions):
                directory = self.log_directory / f"{name}-{number}"
                if not directory.is_dir() and number >= made:
                    continue  # being made
                options = native_options(
                    TopicSettings().changed(**entry.settings), has_gaps=entry.has_gaps
                )
                written, was_poisoned = self._live(directory, options)
                recovery = PartitionRecovery(
                    directory=directory,
                    topic=name,
                    partition=number,
                    settings=TopicSettings().changed(**entry.settings),
                    options=options,
                    is_clean=is_clean,
                    recovery_point=points.get((name, number), 0),
                    log_start=starts.find(name, number),
                    written_end=written,
                    was_poisoned=was_poisoned,
                    is_writable=False,
                    cut_directory=directory,
                    stamp=0,
                    segments_meet=entry.segments_meet or not entry.has_gaps,
                )
                self._partition(recovery, entry)

    def _note(
        self, path: Path, action: str, case: str = "", topic: str = "", number: int = -1
    ) -> None:
        self.steps.append(RepairStep(case, topic, number, str(path), action))

    # -- the store's own files ------------------------------------------------------------------

    def _format(self) -> None:
        path = self.directory / FORMAT_FILE
        try:
            self.has_format = has_format(self.directory)
        except NotAStoreError:
            self.has_format = False
        if not self.has_format:
            self._note(path, "is missing or cannot be understood: made anew")

    def _topics(self) -> None:
        file = TopicsFile(self.directory, self.log_directory)
        try:
            file.load()
        except FormatVersionError:
            raise
        except StorageError as error:
            _logger.debug("topics.json is repaired: %s", error)
        else:
            self.entries, self.deleted = file.entries, file.deleted
            return
        self.has_topics = False
        try:
            known = file._read()
        except FormatVersionError:
            raise
        except StorageError:
            known = {}
            self._note(
                file.path,
                "cannot be understood: topics are found by their directories; they have default settings",
            )
        noted = checkpoints.read_offsets(self.log_directory / checkpoints.LOG_START)
        found: dict[str, dict[int, Path]] = {}
        for name, number, directory in partition_directories(self.log_directory):
            found.setdefault(name, {})[number] = directory
        for name in sorted({*found, *known}):
            entry = known.get(name)
            if entry is not None and entry.is_deleted:
                self.deleted[name] = entry
                continue
            directories = found.get(name, {})
            numbers = {*directories, *(n for topic, n in noted if topic == name)}
            count = 1 + max(numbers, default=-1)
            if not is_topic_name(name) or not 1 <= count <= PARTITIONS_MAX:
                self._note(file.path, f"topic {name!r} has no partition and is taken out")
                continue
            if entry is None:
                entry = TopicEntry(_topic_id(directories), count, has_gaps=_has_gaps(directories))
            elif entry.partitions != count:
                self._note(
                    file.path, f"topic {name!r} has {count} partitions, not {entry.partitions}"
                )
                entry = msgspec.structs.replace(entry, partitions=count, growing_from=None)
            self.entries[name] = entry

    def _settings(self) -> None:
        for name, entry in self.entries.items():
            settings = dict(entry.settings)
            for setting in entry.settings:
                try:
                    TopicSettings().changed(**{setting: entry.settings[setting]})
                except SettingError as error:
                    del settings[setting]
                    self.has_topics = False
                    self._note(
                        self.directory / TOPICS_FILE, f"topic {name!r}: {error.message}: left out"
                    )
            self.entries[name] = msgspec.structs.replace(entry, settings=settings)

    def _live(self, directory: Path, options: Any) -> tuple[int | None, bool]:
        """How far the last process of this boot had written, and whether an fdatasync of it failed."""
        page = self.directory / "run" / directory.name
        if not page.exists():
            return None, False
        handle = lib.el_partition_open(
            path_bytes(directory), path_bytes(page), False, options, ffi.NULL
        )
        if handle == ffi.NULL:
            raise last_error(lib.EL_ERR_OS)
        try:
            state = ffi.new("el_partition_state *")
            if lib.el_partition_state_read(handle, state) != lib.EL_OK:
                return None, False
            is_poisoned = state.poisoned_errno != 0
            end = state.durable_end_offset if is_poisoned else state.log_end_offset
            return int(end), is_poisoned
        finally:
            lib.el_partition_free(handle)

    def _strays(self, points: checkpoints.Offsets) -> None:
        """A damaged checkpoint that can be read all the same."""
        known = {
            (name, number)
            for name, entry in {**self.entries, **self.deleted}.items()
            for number in range(entry.partitions)
        }
        for topic, number in sorted(points.keys() - known):
            self.strays.add((topic, number))
            self._note(
                self.log_directory / checkpoints.RECOVERY_POINT,
                f"names {topic}-{number}, which there is not: taken out",
            )

    # -- partitions -----------------------------------------------------------------------------

    def _partition(self, recovery: PartitionRecovery, entry: TopicEntry) -> None:
        directory = recovery.directory
        plan = plan_partition(recovery, self.method)
        self.steps += plan.steps
        self._indexes(plan)
        if plan.steps or plan.indexes:
            self.plans.append(plan)
        if not directory.is_dir():
            return
        place = recovery.topic, recovery.partition
        metadata = directory / checkpoints.PARTITION_METADATA
        if metadata.exists() and checkpoints.read_topic_id(directory) != entry.id:
            self.topic_ids[directory] = entry.id
            self._note(metadata, "does not name the topic's id: made anew", "", *place)
        epochs = directory / checkpoints.LEADER_EPOCHS
        if epochs.exists() and not checkpoints.are_leader_epochs(epochs):
            self.epochs.append(directory)
            self._note(epochs, "cannot be understood: made anew", "", *place)

    def _indexes(self, plan: PartitionPlan) -> None:
        """Indexes that mislead; opening does not look closely at those of sealed segments."""
        recovery = plan.recovery
        bases = segment.base_offsets(recovery.directory) if recovery.directory.is_dir() else []
        if not recovery.is_clean:
            bases = bases[:-1]  # those of the newest segment are made anew anyway
        touched = {*plan.removed, *(new.base for new in plan.written)}
        with tempfile.TemporaryDirectory() as scratch:
            for base in bases:
                if base in touched:
                    continue
                log = recovery.directory / segment_name(base)
                for suffix in _wrong_indexes(log, base, recovery.options, Path(scratch)):
                    plan.indexes.append(base)
                    place = recovery.topic, recovery.partition
                    self._note(
                        log.with_suffix(suffix),
                        "does not fit its segment: made anew",
                        "C-E",
                        *place,
                    )


def _wrong_indexes(log: Path, base: int, options: Any, scratch: Path) -> list[str]:
    """Suffixes of the index files of a sound segment that are missing, short, or hold entries that no
    batch gives. (How many there are depends on settings, which may have been others then.)"""
    try:
        due = _indexes_of(log, base, options, scratch)
        every = native_options(TopicSettings(index_interval_bytes=0), has_gaps=True)
        possible = _indexes_of(log, base, every, scratch)
    except CorruptionError:  # a torn tail, then: opening cuts it and makes them anew
        return []
    wrong = []
    for suffix, size in ((INDEX, 8), (TIME_INDEX, 12)):
        path = log.with_suffix(suffix)
        data = path.read_bytes() if path.exists() else b"?"
        is_short = data != due[suffix] and due[suffix].startswith(data)
        entries = iter(_chunks(possible[suffix], size))
        if is_short or not all(entry in entries for entry in _chunks(data, size)):  # in that order
            wrong.append(suffix)
    return wrong


def _indexes_of(log: Path, base: int, options: Any, scratch: Path) -> dict[str, bytes]:
    """What they have to hold, made elsewhere."""
    twin = scratch / log.name
    twin.symlink_to(log)
    end = ffi.new("el_log_end *")
    size = log.stat().st_size
    try:
        check(lib.el_segment_index(path_bytes(twin), base, size, True, options, end))
    finally:
        twin.unlink()
    return {suffix: twin.with_suffix(suffix).read_bytes() for suffix in (INDEX, TIME_INDEX)}


def _chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _topic_id(directories: dict[int, Path]) -> uuid.UUID:
    """That most of the partitions name; a new one if none does."""
    found = (checkpoints.read_topic_id(directory) for directory in directories.values())
    counts = Counter(topic_id for topic_id in found if topic_id is not None)
    return counts.most_common(1)[0][0] if counts else uuid.uuid4()


def _has_gaps(directories: dict[int, Path]) -> bool:
    """Is there a segment that is whole if only offsets may be missing?"""
    for directory in directories.values():
        for base in segment.base_offsets(directory):
            path = directory / segment_name(base)
            loose = segment.scan(path, base, has_gaps=True)
            if loose.stop == lib.EL_SCAN_END and segment.scan(path, base).stop != lib.EL_SCAN_END:
                return True
    return False


class _Repair:
    """Carries a survey out."""

    def __init__(self, survey: _Survey) -> None:
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
