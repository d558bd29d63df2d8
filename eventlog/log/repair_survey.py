"""What is wrong with a store, as :mod:`eventlog.log.repair` sees it. Nothing is changed here.

The store's own files come first: what they say of topics decides how partitions are looked at.
"""

from __future__ import annotations

import logging
import tempfile
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from eventlog._native import check, ffi, last_error, lib, path_bytes
from eventlog.errors import (
    CorruptionError,
    FormatVersionError,
    NotAStoreError,
    SettingError,
    StorageError,
)
from eventlog.log import checkpoints, segment
from eventlog.log.log_starts import LogStarts
from eventlog.log.partition import native_options
from eventlog.log.recovery import PartitionRecovery
from eventlog.log.repair_plan import Method, PartitionPlan, RepairStep, plan_partition
from eventlog.log.segment import INDEX, TIME_INDEX, segment_name
from eventlog.log.store_directory import FORMAT_FILE, has_format
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


@dataclass
class Survey:
    """What is wrong. :meth:`run` fills it.

    Attributes:
        directory: of the store.
        method: what to do with damaged partitions.
        steps: all that there is to do, for people.
        plans: what to do with partitions.
        entries, deleted: as topics.json has or shall have them.
        topic_ids: of partitions that name another one or none.
        epochs: partitions whose leader epochs cannot be read.
        strays: partitions that the recovery point names and that there are not.
        has_format, has_topics: False: that file has to be written anew.
    """

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
        """Where the partitions are."""
        return self.directory / "log"

    def run(self) -> None:
        """Look at everything."""
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
