"""Backups: copies of a store that is in use, and the way back.

A backup is a directory that holds a store, as if the original had been closed cleanly at one moment, and
a manifest. Backups lie side by side in one directory::

    backups/000001-20261121T180512Z/   eventlog.json topics.json log/ groups/ backup.json
    backups/000002-20261122T180511Z/

Each is whole in itself. What two of them have in common, and what they have in common with the store if it
is on the same file system, is one file with several names; so any of them can be deleted. That is sound
because sealed segments are never written to (:mod:`eventlog.log.partition_files`); everything else is copied.

A backup is made under another name (``.partial``), everything in it is fsynced, and then it gets its name.
Left out is what is derived (``meta/``), of the moment (``run/``), evidence (``cut/``, ``repair/``), and
``producer-ids.json``: a store and its restored copy must not give the same id to two producers.

The committed offsets are copied before the log, so they are never ahead of it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from eventlog._native import check, lib, os_error, path_bytes
from eventlog.errors import (
    ClosedError,
    CorruptionError,
    EventLogError,
    NotAStoreError,
    StorageError,
    UnknownTopicError,
)
from eventlog.locks import Members
from eventlog.log import checkpoints
from eventlog.log.log_starts import LogStarts
from eventlog.log.manifest import (
    MANIFEST_FILE,
    MANIFEST_VERSION,
    PARTIAL_SUFFIX,
    BackupFile,
    Manifest,
    backups_in,
    checksum,
    next_name,
    read_manifest,
    write_manifest,
)
from eventlog.log.partition import Partition
from eventlog.log.partition_files import (
    bring_segments,
    check_sealed,
    copy_file,
    copy_plain_files,
    link_or_copy,
    stage_in,
    sync_tree,
)
from eventlog.log.segment import segment_name
from eventlog.log.store_directory import FORMAT_FILE
from eventlog.log.topics_file import TopicEntry, TopicsFile

if TYPE_CHECKING:
    from eventlog.log.store import Store
    from eventlog.log.topic import Topic

_logger = logging.getLogger("eventlog.log")

_CLEAN_MARKER = b'{"version":0,"brokerEpoch":-1}'
_LOCK_NAME = "backup"

CopyGroups = Callable[[Path], bool]
"""Copies the committed offsets into a new directory, durably."""


class BackupReport(NamedTuple):
    """What a backup holds.

    Attributes:
        path: of the backup.
        ends: for each (topic, partition) the offset behind the last record in it.
        file_count: how many files.
        size_bytes: of all of them.
        shared_size_bytes: of those that are names of files in the store or in an earlier backup.
    """

    path: Path
    ends: dict[tuple[str, int], int]
    file_count: int
    size_bytes: int
    shared_size_bytes: int


class RestoreReport(NamedTuple):
    """What was restored.

    Attributes:
        path: of the store.
        backup: that it was restored from.
        ends: for each ``topic-partition`` the offset behind the last record.
        size_bytes: of all files.
    """

    path: Path
    backup: Path
    ends: dict[str, int]
    size_bytes: int


class BackupProblem(NamedTuple):
    """A file of a backup that is not as it was written."""

    path: Path
    detail: str


def make_backup(
    store: Store,
    directory: str | os.PathLike[str],
    *,
    incremental: bool = True,
    copy_groups: CopyGroups = lambda _: False,
) -> BackupReport:
    """See :meth:`eventlog.engine.EventLog.backup`, which passes ``copy_groups``."""
    tree = Path(directory).absolute()
    _check_place(store, tree)
    with _typed(tree, "cannot make a backup"):
        tree.mkdir(parents=True, exist_ok=True)
        with Members(tree, _LOCK_NAME, f"the backups in {tree}").mutex(timeout_s=0):
            for left in tree.glob(f"*{PARTIAL_SUFFIX}"):
                shutil.rmtree(left)
            now = datetime.now(UTC)
            name = next_name(tree, f"{now:%Y%m%dT%H%M%SZ}")
            partial = tree / f"{name}{PARTIAL_SUFFIX}"
            former = _newest_known(tree) if incremental else None
            try:
                partial.mkdir()
                with stage_in(store.run_directory) as stage:
                    making = _Making(store, partial, incremental, former, stage)
                    manifest = making.run(copy_groups, now)
                sync_tree(partial)
                check(lib.el_file_rename(path_bytes(partial), path_bytes(tree / name)))
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    size = sum(file.size_bytes for file in manifest.files.values())
    return BackupReport(
        tree / name, making.ends, len(manifest.files), size, making.shared_size_bytes
    )


def _check_place(store: Store, tree: Path) -> None:
    path = Path(os.path.realpath(tree))
    if path.is_relative_to(os.path.realpath(store.path)):
        what, hint = f"{tree} lies inside the store", "Name a directory outside of it"
    elif (path / FORMAT_FILE).exists():
        what, hint = f"{tree} is a store", "Name a directory that backups are to be made in"
    else:
        return
    raise StorageError(what, hint=hint, path=str(tree))


def _newest_known(tree: Path) -> tuple[Path, Manifest] | None:
    """The newest backup that tells what is in it."""
    for path in reversed(backups_in(tree)):
        try:
            return path, read_manifest(path)
        except EventLogError as error:
            _logger.warning("backup %s is not built upon: %s", path, error)
    return None


@contextmanager
def _typed(path: Path, what: str) -> Iterator[None]:
    """What the operating system refuses becomes one of our errors."""
    try:
        yield
    except OSError as error:
        raise os_error(error.errno or 0, str(error.filename or path), what) from error


@dataclass
class _Making:
    """One backup in the making."""

    store: Store
    target: Path
    incremental: bool
    former: tuple[Path, Manifest] | None
    stage: Path | None
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    shared_size_bytes: int = 0
    _starts: checkpoints.Offsets = field(default_factory=dict)
    _sources: dict[str, tuple[int, int]] = field(default_factory=dict)
    _known: dict[str, int] = field(default_factory=dict)  # checksums
    _shared: set[str] = field(default_factory=set)

    def run(self, copy_groups: CopyGroups, now: datetime) -> Manifest:
        """Fill the directory; all but the fsyncs."""
        copy_groups(self.target / "groups")  # first: they must not be ahead of the log
        log_directory = self.target / "log"
        log_directory.mkdir()
        # Before the segments: if a compaction goes on meanwhile, its last part is done once more.
        cleaned = checkpoints.read_offsets(self.store.log_directory / checkpoints.CLEANER)
        topics = TopicsFile(self.target, log_directory)
        for topic, entry in self._topics():
            if self._take_topic(topic, entry, log_directory):
                topics.entries[topic.name] = msgspec.structs.replace(entry, growing_from=None)
        topics.save()
        self._write_checkpoints(log_directory, cleaned)
        copy_file(self.store.path / FORMAT_FILE, self.target / FORMAT_FILE)
        return self._write_manifest(now)

    def _topics(self) -> list[tuple[Topic, TopicEntry]]:
        store = self.store
        with store._lock:
            found = [(store.find_topic(name), name) for name in store.topics()]
            return [(topic, store._topics_file.entries[name]) for topic, name in found if topic]

    def _take_topic(self, topic: Topic, entry: TopicEntry, log_directory: Path) -> bool:
        """False: it was deleted meanwhile."""
        partitions = topic.partitions[: entry.partitions]
        try:
            for partition in partitions:
                self._take_partition(partition, entry, log_directory)
        except (UnknownTopicError, ClosedError):
            if self.store.closed or self.store.find_topic(topic.name) is topic:
                raise
            for partition in partitions:
                shutil.rmtree(log_directory / partition.directory.name, ignore_errors=True)
                self.ends.pop((partition.topic, partition.number), None)
                self._starts.pop((partition.topic, partition.number), None)
            return False
        return True

    def _take_partition(self, partition: Partition, entry: TopicEntry, log_directory: Path) -> None:
        target = log_directory / partition.directory.name
        target.mkdir()
        quiet = nullcontext if self.store.read_only else self.store._change
        found = bring_segments(partition, target, place=self._place, stage=self.stage, quiet=quiet)
        meet = entry.segments_meet or not entry.has_gaps
        for base, following in pairwise(found.base_offsets):
            if self._name_of(target / segment_name(base)) not in self._known:
                check_sealed(partition, target, base, following, segments_meet=meet)
        copy_plain_files(partition.directory, target, found.log_end_offset)
        if checkpoints.read_topic_id(target) not in (None, entry.id):  # one of that name, made anew
            raise UnknownTopicError(f"topic {partition.topic!r} was deleted", topic=partition.topic)
        where = (partition.topic, partition.number)
        self.ends[where] = found.log_end_offset
        if found.base_offsets:
            self._starts[where] = found.log_start_offset

    def _name_of(self, path: Path) -> str:
        return path.relative_to(self.target).as_posix()

    def _place(self, source: Path, target: Path) -> None:
        """Bring a file of a sealed segment; by another name of a file that is there, if allowed."""
        name = self._name_of(target)
        found = source.stat()
        self._sources[name] = found.st_ino, found.st_mtime_ns
        self._known.pop(name, None)
        self._shared.discard(name)
        if not self.incremental:
            copy_file(source, target)
            return
        if self.former is not None:
            former, manifest = self.former
            known = manifest.files.get(name)
            place = (found.st_size, found.st_ino, found.st_mtime_ns)
            if known and (known.size_bytes, known.inode, known.mtime_ns) == place:
                try:
                    os.link(former / name, target)
                except OSError as error:
                    _logger.warning("backup: %s cannot be linked again: %s", former / name, error)
                else:
                    self._known[name] = known.crc32c
                    self._shared.add(name)
                    return
        if link_or_copy(source, target):
            self._shared.add(name)

    def _write_checkpoints(self, log_directory: Path, cleaned: checkpoints.Offsets) -> None:
        """As a clean close would have left them."""
        checkpoints.write_offsets(log_directory / checkpoints.RECOVERY_POINT, self.ends)
        starts = LogStarts(self.target, log_directory)
        for (topic, number), start in self._starts.items():
            starts.note(topic, number, start)
        starts.save()
        if cleaned:
            kept = {
                place: min(cleaned[place], self.ends[place])
                for place in cleaned
                if place in self.ends
            }
            checkpoints.write_offsets(log_directory / checkpoints.CLEANER, kept)
        properties = self.store.log_directory / checkpoints.META_PROPERTIES
        if properties.exists():
            copy_file(properties, log_directory / properties.name)
        checkpoints.replace_file(log_directory / checkpoints.CLEAN_SHUTDOWN, _CLEAN_MARKER)

    def _write_manifest(self, now: datetime) -> Manifest:
        files: dict[str, BackupFile] = {}
        for path in sorted(path for path in self.target.rglob("*") if path.is_file()):
            name = self._name_of(path)
            size = path.stat().st_size
            crc = self._known.get(name)
            inode, mtime_ns = self._sources.get(name, (-1, -1))
            files[name] = BackupFile(size, checksum(path) if crc is None else crc, inode, mtime_ns)
            if name in self._shared:
                self.shared_size_bytes += size
        ends = {f"{topic}-{number}": end for (topic, number), end in self.ends.items()}
        manifest = Manifest(
            MANIFEST_VERSION,
            str(self.store.path),
            now.isoformat(timespec="milliseconds"),
            ends,
            files,
        )
        write_manifest(self.target, manifest)
        return manifest


# -- looking at backups, and back ----------------------------------------------------------------


def find_backup(path: str | os.PathLike[str]) -> Path:
    """The backup at ``path``, or the newest one of those made in that directory.

    Raises:
        NotAStoreError: there is none.
    """
    found = Path(path).absolute()
    if not (found / MANIFEST_FILE).exists():
        found = next(reversed(backups_in(found)), found)
    if not (found / MANIFEST_FILE).exists():
        raise NotAStoreError(
            f"{found} is no backup, and none was made in it",
            hint=f"A whole one has a {MANIFEST_FILE}",
            path=str(found),
        )
    return found


def verify_backup(path: str | os.PathLike[str]) -> list[BackupProblem]:
    """Read every file of a backup and compare it with the manifest.

    Args:
        path: a backup, or the directory that backups are made in: then the newest one.

    Raises:
        NotAStoreError: there is none.
        FormatVersionError: it was made by a newer eventlog.
        StorageError: it cannot be read.
    """
    backup = find_backup(path)
    try:
        manifest = read_manifest(backup)
    except CorruptionError as error:
        return [BackupProblem(backup / MANIFEST_FILE, error.message)]
    problems = []
    with _typed(backup, "cannot read the backup"):
        for name, file in manifest.files.items():
            what = _difference(backup / name, file)
            if what:
                problems.append(BackupProblem(backup / name, what))
        for path_found in sorted((backup / "log").rglob("*")):
            name = path_found.relative_to(backup).as_posix()
            if path_found.is_file() and name not in manifest.files:
                problems.append(BackupProblem(path_found, "was not in the backup when it was made"))
    return problems


def _difference(path: Path, file: BackupFile) -> str:
    """In words; empty: none. Raises OSError."""
    try:
        size = path.stat().st_size
        if size != file.size_bytes:
            return f"has {size} bytes, {file.size_bytes} were written"
        if checksum(path) != file.crc32c:
            return "its checksum does not fit"
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    return ""


def restore(backup: str | os.PathLike[str], target: str | os.PathLike[str]) -> RestoreReport:
    """Make a store of a backup: all files are copied, each checked against the manifest.

    Args:
        backup: a backup, or the directory that backups were made in: then the newest one.
        target: where the store shall be: a directory that is new or empty.

    Raises:
        NotAStoreError: there is no backup.
        CorruptionError: a file of it is damaged or missing; ``path`` names it. Nothing is restored.
        FormatVersionError: it was made by a newer eventlog.
        StorageError: the target is not empty; others of the operating system.

    Crashes: when it returns the store is on disk. An interrupted one leaves a directory that cannot be
    opened as a store (``eventlog.json`` comes last): delete it and begin again.
    """
    source = find_backup(backup)
    manifest = read_manifest(source)
    directory = Path(target).absolute()
    with _typed(directory, "cannot restore"):
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise StorageError(
                f"{directory} is not empty",
                hint="A backup is restored into a new directory, never over something",
                path=str(directory),
            )
        try:
            last = manifest.files[FORMAT_FILE]
            for name, file in manifest.files.items():
                if name != FORMAT_FILE:
                    _restore_file(source / name, directory / name, file)
            sync_tree(directory)
            _restore_file(source / FORMAT_FILE, directory / FORMAT_FILE, last)
            sync_tree(directory)
            check(lib.el_file_sync(path_bytes(directory.parent)))
        except BaseException:
            (directory / FORMAT_FILE).unlink(missing_ok=True)
            for path in directory.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            raise
    size = sum(file.size_bytes for file in manifest.files.values())
    return RestoreReport(directory, source, manifest.ends, size)


def _restore_file(source: Path, target: Path, file: BackupFile) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    what = ""
    try:
        copy_file(source, target)
    except FileNotFoundError:
        what = "is missing"
    what = what or _difference(target, file)
    if what:
        raise CorruptionError(
            f"{source} {what}",
            hint="Restore another backup; `eventlog verify --backup` lists all that is wrong with this one",
            path=str(source),
        )
