"""A store: a directory of topics, open in this process."""

from __future__ import annotations

import atexit
import itertools
import json
import logging
import os
import re
import shutil
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from eventlog._native import check, ffi, lib, os_error, path_bytes
from eventlog.clock import Clock, SystemClock
from eventlog.errors import (
    ClosedError,
    EventLogError,
    ForkedError,
    FormatVersionError,
    InvalidNameError,
    LockedError,
    NotAStoreError,
    SettingError,
    StorageError,
    StorageReadOnlyError,
    UnknownTopicError,
)
from eventlog.log import checkpoints, segment
from eventlog.log.partition import Partition, native_options
from eventlog.log.recovery import PartitionRecovery, RecoveryReport
from eventlog.log.topic import Topic
from eventlog.settings import Durability, TopicSettings, check_durability

_logger = logging.getLogger("eventlog.log")

FORMAT_VERSION = 1
FORMAT_FILE = "eventlog.json"
TOPICS_FILE = "topics.json"
PARTITIONS_MAX = 10_000
_TICK_S_MAX = 1.0
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_PARTITION_DIRECTORY = re.compile(r"(?P<topic>[A-Za-z0-9._-]{1,249})-(?P<number>0|[1-9][0-9]{0,8})")


class _TopicEntry(msgspec.Struct):
    """A topic as topics.json has it: what cannot be found out from the log itself."""

    id: uuid.UUID
    partitions: int
    settings: dict[str, Any] = {}
    has_gaps: bool = False


class _TopicsFile(msgspec.Struct):
    version: int
    topics: dict[str, _TopicEntry]


class Store:
    """A directory of topics. Thread-safe; one process at a time may have it open for writing.

    Args:
        path: the directory.
        read_only: change nothing on disk. Works beside a writer, and without write permission.
        create: make the store if the directory does not exist or is empty.
        durability: of topics that do not set it: ``"sync"``, ``"interval"`` or ``"os"``; see
            :class:`eventlog.settings.TopicSettings`.
        clock: where record times come from; None: the machine's clock.

    Attributes:
        path: the directory.
        read_only: see above.
        recovery: what opening found and did, partition by partition.

    Raises:
        NotAStoreError: the directory holds something else, or nothing and ``create`` is False.
        FormatVersionError: written by a newer eventlog (C-K).
        LockedError: open for writing elsewhere; ``holder_pid`` names the process.
        CorruptionError: damage that no crash explains (C-D, C-J); open with ``read_only=True`` to read
            what lies before it.
        StorageReadOnlyError: no permission to write, or a read-only file system.
        StorageFullError, StorageError: no room; other errors of the operating system.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        create: bool = True,
        durability: str = "sync",
        clock: Clock | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self.read_only = read_only
        self.recovery: list[RecoveryReport] = []
        self._defaults = TopicSettings(durability=check_durability(durability))
        self._clock = clock or SystemClock()
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._topics: dict[str, Topic] = {}
        self._entries: dict[str, _TopicEntry] = {}
        self._recovery_points: checkpoints.Offsets = {}
        self._written_points: checkpoints.Offsets = {}
        self._log_starts: checkpoints.Offsets = {}
        self._closed = False
        self._lock_fd = -1
        self._stop = threading.Event()
        self._flusher: threading.Thread | None = None
        try:
            self._open(create)
        except BaseException:
            self._abandon()
            raise
        _open_stores.add(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}{', read_only=True' if self.read_only else ''})"

    def __del__(self) -> None:
        """Only the lock is let go of: partitions are freed by themselves, and may be already."""
        if not getattr(self, "_closed", True) and os.getpid() == self._pid:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)
            self._closed = True
            self._stop.set()
            self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- directories ----------------------------------------------------------------------------

    @property
    def log_directory(self) -> Path:
        """A Kafka log.dirs: partition directories and Kafka's plain files, nothing of ours."""
        return self.path / "log"

    @property
    def meta_directory(self) -> Path:
        """LMDB: whatever is kept for speed; can be deleted while nobody has the store open."""
        return self.path / "meta"

    @property
    def run_directory(self) -> Path:
        """Control pages and the writer lock; can be deleted while nobody has the store open."""
        return self.path / "run"

    # -- opening --------------------------------------------------------------------------------

    def _open(self, create: bool) -> None:
        self._check_format(create)
        if self.read_only:
            self._load_topics()
            for name, entry in self._entries.items():
                self._topics[name] = self._open_topic(name, entry, is_clean=False)
            return
        for directory in (self.log_directory, self.run_directory):
            check(lib.el_file_mkdir(path_bytes(directory)))
        self._take_lock()
        checkpoints.write_meta_properties(self.log_directory)
        self._load_topics()
        marker = self.log_directory / checkpoints.CLEAN_SHUTDOWN
        is_clean = marker.exists()
        self._recovery_points = self._read_checkpoint(checkpoints.RECOVERY_POINT)
        self._log_starts = self._read_checkpoint(checkpoints.LOG_START)
        if is_clean:  # from here on the store is not cleanly closed, whatever happens
            check(lib.el_file_unlink(path_bytes(marker)))
        for name, entry in self._entries.items():
            self._topics[name] = self._open_topic(name, entry, is_clean=is_clean)
        self._write_log_starts()
        self._write_recovery_points()
        self._flusher = threading.Thread(
            target=_flush,
            args=(weakref.ref(self), self._stop),
            name="eventlog-flusher",
            daemon=True,
        )
        self._flusher.start()

    def _check_format(self, create: bool) -> None:
        """Is this a store that we know, or a place where one can be made?"""
        path = self.path / FORMAT_FILE
        try:
            found = json.loads(path.read_bytes())["format"]
            if type(found) is not int or found < 1:
                raise ValueError(f"format {found!r}")
        except FileNotFoundError:
            self._create(create)
            return
        except NotADirectoryError:
            raise NotAStoreError(
                f"{self.path} is a file", hint="Name a directory", path=str(self.path)
            ) from None
        except OSError as error:
            raise os_error(error.errno or 0, str(path), "cannot read the store's format") from error
        except (ValueError, KeyError, TypeError) as error:
            raise NotAStoreError(
                f"{path} is not the format file of a store: {error}",
                hint="Restore it from a backup, or name another directory",
                path=str(path),
            ) from error
        if found > FORMAT_VERSION:
            raise FormatVersionError(
                f"C-K: {self.path} has format {found}, this eventlog knows up to {FORMAT_VERSION}",
                hint="Upgrade eventlog-engine",
                found=found,
                known=FORMAT_VERSION,
                path=str(self.path),
            )

    def _create(self, create: bool) -> None:
        try:
            others = [name for name in os.listdir(self.path) if not name.startswith(FORMAT_FILE)]
        except FileNotFoundError:
            others = []
        except NotADirectoryError:
            raise NotAStoreError(
                f"{self.path} is a file", hint="Name a directory", path=str(self.path)
            ) from None
        except OSError as error:
            raise os_error(
                error.errno or 0, str(self.path), "cannot look into the directory"
            ) from error
        if others:
            raise NotAStoreError(
                f"{self.path} holds {sorted(others)[0]!r} and is not an eventlog store",
                hint="Name an empty or new directory",
                path=str(self.path),
            )
        if self.read_only or not create:
            raise NotAStoreError(
                f"there is no store in {self.path}",
                hint="Open it for writing with create=True, or run `eventlog init`",
                path=str(self.path),
            )
        # The format file comes first: everything else is made where it is missing, so a crash at any
        # point leaves something that the next opening completes.
        for directory in reversed([self.path, *self.path.parents]):
            if not directory.exists():
                check(lib.el_file_mkdir(path_bytes(directory)))
        checkpoints.replace_file(
            self.path / FORMAT_FILE, json.dumps({"format": FORMAT_VERSION}).encode() + b"\n"
        )

    def _take_lock(self) -> None:
        path = self.run_directory / "writer.lock"
        fd, holder = ffi.new("int32_t *", -1), ffi.new("int32_t *")
        result = lib.el_file_lock(path_bytes(path), fd, holder)
        if result == lib.EL_ERR_LOCKED:
            pid = int(holder[0])
            raise LockedError(
                f"{self.path} is open for writing in process {pid or 'unknown'}"
                + (" (this one)" if pid == os.getpid() else ""),
                hint="Close it there, or open with read_only=True",
                path=str(self.path),
                holder_pid=pid,
            )
        check(result)
        self._lock_fd = int(fd[0])

    def _load_topics(self) -> None:
        """What topics.json says, and partition directories that it does not know (brought from a
        Kafka broker, or left by a lost topics.json): they are taken in with default settings."""
        path = self.path / TOPICS_FILE
        try:
            known = msgspec.json.decode(path.read_bytes(), type=_TopicsFile)
        except FileNotFoundError:
            known = _TopicsFile(FORMAT_VERSION, {})
        except OSError as error:
            raise os_error(error.errno or 0, str(path), "cannot read the topics") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(
                f"{path} cannot be understood: {error}",
                hint="Restore it from a backup, or move it away: the topics are then found by their "
                "directories and have default settings",
                path=str(path),
            ) from error
        if known.version > FORMAT_VERSION:
            raise FormatVersionError(
                f"C-K: {path} has format {known.version}, this eventlog knows up to {FORMAT_VERSION}",
                hint="Upgrade eventlog-engine",
                found=known.version,
                known=FORMAT_VERSION,
                path=str(path),
            )
        self._entries = dict(known.topics)
        found: dict[str, dict[int, Path]] = {}
        if self.log_directory.is_dir():
            for directory in self.log_directory.iterdir():
                match = _PARTITION_DIRECTORY.fullmatch(directory.name)
                if match and directory.is_dir():
                    found.setdefault(match["topic"], {})[int(match["number"])] = directory
        for name, entry in self._entries.items():
            self._check_entry(name, entry, set(found.pop(name, ())))
        for name, directories in sorted(found.items()):
            first = directories[min(directories)]
            topic_id = checkpoints.read_topic_id(first) or uuid.uuid4()
            has_gaps = any(map(_has_gaps, directories.values()))
            entry = _TopicEntry(topic_id, 1 + max(directories), has_gaps=has_gaps)
            self._check_entry(name, entry, set(directories))
            self._entries[name] = entry
        if found and not self.read_only:
            self._save_topics()

    def _check_entry(self, name: str, entry: _TopicEntry, directories: set[int]) -> None:
        """topics.json has no checksum: see whether what it says of a topic fits what is there. Too few
        partitions would hide records, too many would send keys elsewhere."""
        noted = {
            number
            for topic, number in self._read_checkpoint(checkpoints.LOG_START)
            if topic == name
        }
        missing = set(range(min(entry.partitions, PARTITIONS_MAX))) - directories - noted
        if not 1 <= entry.partitions <= PARTITIONS_MAX:
            what = f"has {entry.partitions} partitions"
        elif not _NAME.fullmatch(name) or name in (".", ".."):
            what = "has a name that cannot be one"
        elif max(directories, default=0) >= entry.partitions:
            what = f"has {entry.partitions} partitions, but a directory {name}-{max(directories)}"
        elif noted and missing:
            what = f"has {entry.partitions} partitions, but never had one {name}-{min(missing)}"
        else:
            return
        raise StorageError(
            f"topic {name!r} {what}: {self.path / TOPICS_FILE} or {self.log_directory} is damaged",
            hint="Restore the file from a backup, or move it away: the topics are then found by their "
            "directories and have default settings",
            path=str(self.path / TOPICS_FILE),
        )

    def _save_topics(self) -> None:
        data = msgspec.json.encode(_TopicsFile(FORMAT_VERSION, self._entries))
        checkpoints.replace_file(
            self.path / TOPICS_FILE, msgspec.json.format(data, indent=1) + b"\n"
        )

    def _settings_of(self, entry: _TopicEntry) -> TopicSettings:
        return self._defaults.changed(**entry.settings)

    def _open_topic(self, name: str, entry: _TopicEntry, *, is_clean: bool) -> Topic:
        settings = self._settings_of(entry)
        partitions: list[Partition] = []
        try:
            for number in range(entry.partitions):
                partition = self._open_partition(name, number, entry, settings, is_clean)
                partitions.append(partition)
        except BaseException:
            for partition in partitions:
                partition.close(clean=False)
            raise
        return Topic(name, entry.id, partitions, settings)

    def _open_partition(
        self, topic: str, number: int, entry: _TopicEntry, settings: TopicSettings, is_clean: bool
    ) -> Partition:
        directory = self.log_directory / f"{topic}-{number}"
        if not self.read_only:
            check(lib.el_file_mkdir(path_bytes(directory)))
            checkpoints.write_partition_files(directory, entry.id)
        partition = Partition(
            topic,
            number,
            directory,
            self.run_directory / directory.name,  # no suffix: a topic may use up all of a file name
            settings,
            self._clock,
            writable=not self.read_only,
            has_gaps=entry.has_gaps,
            checkpoint=self._checkpoint_partition,
        )
        live = partition.live_state()
        if self.read_only and live is not None:
            return partition  # the writer's page says how far the log goes
        starts = self._log_starts
        if self.read_only:
            starts = self._read_checkpoint(checkpoints.LOG_START)
        points = self._recovery_points or self._read_checkpoint(checkpoints.RECOVERY_POINT)
        written = None
        if live is not None:
            # After a failed fdatasync the page cache proves nothing.
            written = live.durable_end_offset if live.poisoned_errno else live.log_end_offset
            if live.poisoned_errno:
                self._drop_cache(directory)
        recovery = PartitionRecovery(
            directory,
            topic,
            number,
            settings,
            native_options(settings, has_gaps=entry.has_gaps),
            is_clean,
            points.get((topic, number), 0),
            starts.get((topic, number)),
            written,
            live is not None and live.poisoned_errno != 0,
            not self.read_only,
            self.path / "cut" / directory.name,
            time.time_ns() // 1_000_000,
        )
        try:
            end = recovery.run()
            partition.begin(end)
        except BaseException:
            partition.close(clean=False)
            raise
        finally:
            self.recovery += recovery.reports
        if not self.read_only:  # all that recovery kept is durable now
            self._recovery_points[topic, number] = int(end.log_end_offset)
            self._log_starts[topic, number] = int(end.log_start_offset)
        return partition

    def _write_log_starts(self) -> None:
        """Of every partition, unlike Kafka: a first segment that is gone is missed by this."""
        path = self.log_directory / checkpoints.LOG_START
        if self._log_starts != checkpoints.read_offsets(path):
            checkpoints.write_offsets(path, self._log_starts)

    def _drop_cache(self, directory: Path) -> None:
        """Read again what the disk has, not what a failed fdatasync left in the page cache."""
        for path in directory.glob("*.log"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _read_checkpoint(self, name: str) -> checkpoints.Offsets:
        return checkpoints.read_offsets(self.log_directory / name)

    # -- topics ---------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        self._check_process()
        with self._lock:
            self._check_open()
            return sorted(self._topics)

    def topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        durability: Durability | None = None,
        **settings: Any,
    ) -> Topic:
        """The topic of that name; made if there is none.

        Args:
            name: 1 .. 249 of ``A-Z a-z 0-9 . _ -`` (Kafka's rule).
            partitions: of a new topic (None: 1), 1 .. 10,000; of an existing one the number it has.
            durability: see :class:`eventlog.settings.TopicSettings`.
            **settings: others of :class:`eventlog.settings.TopicSettings`; on an existing topic they
                are changed from now on, and kept.

        Raises:
            UnknownTopicError: no such topic, and the store is open for reading only.
            InvalidNameError: not a name that Kafka would take.
            SettingError: an unknown setting, or a value outside its limits.
        """
        if durability is not None:
            settings["durability"] = durability
        self._check_process()
        with self._lock:
            self._check_open()
            check_topic_name(name)
            topic = self._topics.get(name)
            if topic is None:
                return self._create_topic(name, 1 if partitions is None else partitions, settings)
            if partitions is not None and partitions != topic.partition_count:
                raise SettingError(
                    f"topic {name!r} has {topic.partition_count} partitions, not {partitions!r}",
                    hint="Leave partitions out, or use another topic: changing it would send keys to "
                    "other partitions",
                    setting="partitions",
                    value=partitions,
                )
            if settings:
                self._change_settings(name, topic, settings)
            return topic

    def _create_topic(self, name: str, partitions: int, settings: Mapping[str, Any]) -> Topic:
        if self.read_only:
            raise UnknownTopicError(
                f"there is no topic {name!r} in {self.path}",
                hint=f"Known are: {', '.join(sorted(self._topics)) or 'none'}; only a writer makes new ones",
                topic=name,
            )
        if type(partitions) is not int or not 1 <= partitions <= PARTITIONS_MAX:
            raise SettingError(
                f"partitions is {partitions!r}",
                hint=f"It has to be 1 .. {PARTITIONS_MAX:,}",
                setting="partitions",
                value=partitions,
            )
        self._defaults.changed(**settings)  # refuses before anything is made
        entry = _TopicEntry(uuid.uuid4(), partitions, dict(settings))
        directories = [self.log_directory / f"{name}-{number}" for number in range(partitions)]
        made = [directory for directory in directories if not directory.exists()]
        self._entries[name] = entry
        topic = None
        try:
            self._save_topics()
            topic = self._open_topic(name, entry, is_clean=False)
            self._write_log_starts()
        except BaseException:
            for partition in topic.partitions if topic else ():
                partition.close(clean=False)
            self._unmake_topic(name, made)
            raise
        self._topics[name] = topic
        return topic

    def _unmake_topic(self, name: str, made: list[Path]) -> None:
        """A topic that could not be made leaves nothing behind that would stop the next opening.

        Args:
            name: of the topic.
            made: the directories that were made for it: nobody has been told of a record in them.
        """
        entry = self._entries.pop(name)
        for number in range(entry.partitions):
            self._recovery_points.pop((name, number), None)
            self._log_starts.pop((name, number), None)
        try:
            self._save_topics()
            self._write_log_starts()
        except EventLogError:
            return  # what is written down and what is there still agree: an empty topic
        for directory in made:
            shutil.rmtree(directory, ignore_errors=True)

    def _change_settings(self, name: str, topic: Topic, changes: Mapping[str, Any]) -> None:
        former = self._entries[name]
        changed = {**former.settings, **changes}
        settings = self._defaults.changed(**changed)
        if settings == topic.settings and changed == former.settings:
            return
        if self.read_only:
            raise StorageReadOnlyError(
                "settings cannot be changed in a store that is open for reading only",
                hint="Open it without read_only=True",
                path=str(self.path),
            )
        self._entries[name] = _TopicEntry(former.id, former.partitions, changed, former.has_gaps)
        try:
            self._save_topics()
        except BaseException:
            self._entries[name] = former
            raise
        topic.settings = settings
        for partition in topic.partitions:
            partition.configure(settings)

    # -- durable in the background --------------------------------------------------------------

    def _checkpoint_partition(self, partition: Partition) -> None:
        with self._lock:
            point = partition.durable_end_offset
            self._recovery_points[partition.topic, partition.number] = point
            self._write_recovery_points()

    def _write_recovery_points(self) -> None:
        if self._recovery_points != self._written_points:
            checkpoints.write_offsets(
                self.log_directory / checkpoints.RECOVERY_POINT, self._recovery_points
            )
            self._written_points = dict(self._recovery_points)

    def _tick(self, seen: dict[tuple[str, int], int]) -> float:
        """Sync what is due, note the recovery points; returns seconds to the next tick."""
        with self._lock:
            if self._closed:
                return _TICK_S_MAX
            partitions = [p for topic in self._topics.values() for p in topic.partitions]
        shortest = _TICK_S_MAX
        for partition in partitions:
            if partition.settings.durability == "interval":
                shortest = min(shortest, partition.settings.interval_ms / 1000)
            try:
                state = partition.state()
                if state.poisoned_errno:
                    continue
                place = (partition.topic, partition.number)
                is_idle = seen.get(place) == state.log_end_offset
                seen[place] = state.log_end_offset
                if state.durable_end_offset < state.log_end_offset and (
                    partition.settings.durability == "interval" or is_idle
                ):
                    partition.sync()
                with self._lock:
                    self._recovery_points[place] = partition.durable_end_offset
            except EventLogError as error:
                _logger.warning(
                    "background sync of %s-%d: %s", partition.topic, partition.number, error
                )
        return shortest

    def _note_recovery_points(self) -> None:
        with self._lock:
            if not self._closed:
                self._write_recovery_points()

    # -- closing --------------------------------------------------------------------------------

    def _check_process(self) -> None:
        """Before any lock is taken: one that another thread held at the fork stays held in the child."""
        if os.getpid() != self._pid:
            raise ForkedError(
                f"{self.path} was opened before a fork and belongs to the parent process",
                hint="Open it again in the child",
                path=str(self.path),
            )

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.path} was closed", hint="Open it again", path=str(self.path))

    @property
    def closed(self) -> bool:
        """Was it closed?"""
        return self._closed

    def close(self) -> None:
        """Make everything durable and close the files. Twice is fine.

        Raises:
            PoisonedError, StorageError: something could not be made durable. The store is closed all
                the same; opening it again recovers.
        """
        if os.getpid() != self._pid:
            return  # a forked child: nothing here is its own
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._stop.set()
        if self._flusher is not None and self._flusher is not threading.current_thread():
            self._flusher.join()
        errors: list[EventLogError] = []
        for topic in self._topics.values():
            for partition in topic.partitions:
                try:
                    partition.close()
                except EventLogError as error:
                    errors.append(error)
        try:
            if not self.read_only and not errors:
                self._mark_clean()
        except EventLogError as error:
            errors.append(error)
        self._abandon()
        if errors:
            raise errors[0]

    def _mark_clean(self) -> None:
        for topic in self._topics.values():
            for partition in topic.partitions:
                place = (topic.name, partition.number)
                self._recovery_points[place] = partition.closed_end_offset
        self._write_recovery_points()
        checkpoints.replace_file(
            self.log_directory / checkpoints.CLEAN_SHUTDOWN, b'{"version":0,"brokerEpoch":-1}'
        )

    def _abandon(self) -> None:
        """Let go of everything without a promise."""
        self._closed = True
        self._stop.set()
        for topic in self._topics.values():
            for partition in topic.partitions:
                try:
                    partition.close(clean=False)
                except EventLogError:
                    _logger.exception("closing %s-%d", topic.name, partition.number)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            lib.el_file_unlock(self._lock_fd)
            self._lock_fd = -1


def check_topic_name(name: str) -> None:
    """Kafka's rule for topic names.

    Raises:
        InvalidNameError: it does not hold.
    """
    if type(name) is not str or not _NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidNameError(
            f"{name!r} cannot be the name of a topic",
            hint="Use 1 to 249 of A-Z a-z 0-9 . _ - (not . or .. alone)",
            name=name,
        )


def _has_gaps(directory: Path) -> bool:
    """Are offsets missing in a partition that came from elsewhere (a compacted topic of Kafka)?"""
    bases = segment.base_offsets(directory)
    for base, following in itertools.zip_longest(bases, bases[1:]):
        path = directory / segment.segment_name(base)
        found = segment.scan(path, base)
        if following is not None and found.end_offset < following:
            return True
        if found.end_position < segment.scan(path, base, has_gaps=True).end_position:
            return True
    return False


def _flush(reference: weakref.ref[Store], stop: threading.Event) -> None:
    """The flusher thread: it must not keep a forgotten store alive."""
    seen: dict[tuple[str, int], int] = {}
    wait_s, since_checkpoint_s = _TICK_S_MAX, 0.0
    while not stop.wait(wait_s):
        store = reference()
        if store is None:
            return
        since_checkpoint_s += wait_s
        try:
            wait_s = store._tick(seen)
            if since_checkpoint_s >= _TICK_S_MAX:
                since_checkpoint_s = 0.0
                store._note_recovery_points()
        except (EventLogError, MemoryError) as error:
            _logger.warning("background checkpoint of %s: %s", store.path, error)
        del store


_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _close_at_exit() -> None:
    for store in list(_open_stores):
        try:
            store.close()
        except EventLogError:
            _logger.exception("closing %s at exit", store.path)


atexit.register(_close_at_exit)
