"""A store: a directory of topics, open in this process."""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec

from eventlog._native import check, lib, os_error, path_bytes
from eventlog.clock import Clock, SystemClock
from eventlog.errors import (
    ClosedError,
    EventLogError,
    ForkedError,
    FormatVersionError,
    LockedError,
    NotAStoreError,
    SettingError,
    StorageError,
    StorageReadOnlyError,
    UnknownTopicError,
)
from eventlog.locks import Members
from eventlog.log import checkpoints
from eventlog.log.activity import Activity
from eventlog.log.figures import partition_figures
from eventlog.log.partition import Partition, native_options
from eventlog.log.producer_ids import ProducerIds
from eventlog.log.recovery import PartitionRecovery, RecoveryReport
from eventlog.log.topic import Topic
from eventlog.log.topics_file import (
    FORMAT_VERSION,
    PARTITIONS_MAX,
    TopicEntry,
    TopicsFile,
    check_topic_name,
    partition_directories,
)
from eventlog.metrics import Metrics
from eventlog.settings import Durability, TopicSettings, check_durability

_logger = logging.getLogger("eventlog.log")

FORMAT_FILE = "eventlog.json"
PRODUCER_IDS_FILE = "producer-ids.json"
_TICK_S_MAX = 1.0


class Store:
    """A directory of topics. Thread-safe; any number of processes may have it open.

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
        recovery: what opening found and did, partition by partition; only the first process to open a
            store recovers it.
        activity: tells when something happened in the store; see
            :class:`eventlog.log.activity.Activity`.
        metrics: counters and latencies; see :class:`eventlog.metrics.Metrics`.

    Raises:
        NotAStoreError: the directory holds something else, or nothing and ``create`` is False.
        FormatVersionError: written by a newer eventlog (C-K).
        LockedError: another process is opening or closing it, for half a minute already;
            ``holder_pid`` names it.
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
        self._recovery_points: checkpoints.Offsets = {}
        self._written_points: checkpoints.Offsets = {}
        self._log_starts: checkpoints.Offsets = {}
        self._closed = False
        self._producer_ids = ProducerIds(self.path / PRODUCER_IDS_FILE)
        self._members = Members(self.run_directory, "writer", str(self.path))
        self._topics_file = TopicsFile(self.path, self.log_directory)
        self.metrics = Metrics()
        store = weakref.ref(self)
        self.metrics.collect(lambda: partition_figures(_partitions_of(store())))
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
            self._members.leave()

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
        if not self._has_format():
            self._make_directory(create)
        if self.read_only:
            self.activity = Activity(self.run_directory / "activity", writable=False)
            self._refresh_topics()
            return
        with self._members.mutex():
            if not self._has_format():
                self._write_format()
            for directory in (self.log_directory, self.run_directory):
                check(lib.el_file_mkdir(path_bytes(directory)))
            self.activity = Activity(self.run_directory / "activity", writable=True)
            try:
                if self._members.join():
                    self._recover()
                else:
                    self._refresh_topics()
            except BaseException:
                self._abandon()  # under the mutex: who comes next is the first again
                raise
        self._flusher = threading.Thread(
            target=_flush,
            args=(weakref.ref(self), self._stop),
            name="eventlog-flusher",
            daemon=True,
        )
        self._flusher.start()

    def _recover(self) -> None:
        """Nobody else has the store open for writing: see what the last one left."""
        checkpoints.write_meta_properties(self.log_directory)
        self._recovery_points = self._read_checkpoint(checkpoints.RECOVERY_POINT)
        self._log_starts = self._read_checkpoint(checkpoints.LOG_START)
        if self._topics_file.load():
            self._topics_file.save()
        try:
            self._remove_deleted()
        except StorageError as error:  # it is tried again by the next opening
            _logger.warning("ending a deletion in %s: %s", self.path, error)
        marker = self.log_directory / checkpoints.CLEAN_SHUTDOWN
        is_clean = marker.exists()
        if is_clean:  # from here on the store is not cleanly closed, whatever happens
            check(lib.el_file_unlink(path_bytes(marker)))
        for name, entry in self._topics_file.entries.items():
            self._topics[name] = self._open_topic(name, entry, is_first=True, is_clean=is_clean)
        self._write_log_starts()
        self._write_recovery_points()

    def _has_format(self) -> bool:
        """Is this a store that we know? False: there is none."""
        path = self.path / FORMAT_FILE
        try:
            found = json.loads(path.read_bytes())["format"]
            if type(found) is not int or found < 1:
                raise ValueError(f"format {found!r}")
        except FileNotFoundError:
            return False
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
        return True

    def _make_directory(self, create: bool) -> None:
        """The place for a new store, if it can be one."""
        try:
            others = [
                name
                for name in os.listdir(self.path)
                if not name.startswith(FORMAT_FILE) and name != self.run_directory.name
            ]
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
        if others and not self._has_format():  # another process may just have made it
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
        for directory in reversed([self.run_directory, self.path, *self.path.parents]):
            if not directory.exists():
                check(lib.el_file_mkdir(path_bytes(directory)))

    def _write_format(self) -> None:
        """It comes first: everything else is made where it is missing, so a crash at any point leaves
        something that the next opening completes."""
        checkpoints.replace_file(
            self.path / FORMAT_FILE, json.dumps({"format": FORMAT_VERSION}).encode() + b"\n"
        )

    def _refresh_topics(self) -> None:
        """Take over what other processes did to the topics: made, changed, or deleted some."""
        if not self._topics_file.has_changed():
            return
        if self.read_only:
            self._take_over_topics()
            return
        with self._members.mutex():
            self._log_starts = self._read_checkpoint(checkpoints.LOG_START)
            self._take_over_topics()

    def _take_over_topics(self) -> None:
        if self._topics_file.load() and not self.read_only:
            self._topics_file.save()
        for name, topic in list(self._topics.items()):
            entry = self._topics_file.entries.get(name)
            if entry is None or entry.id != topic.topic_id:
                del self._topics[name]
                for partition in topic.partitions:
                    self._recovery_points.pop((name, partition.number), None)
                    if not self.read_only:
                        partition.delete()  # who deleted it may have been killed before telling
                    partition.close(clean=False)
        for name, entry in self._topics_file.entries.items():
            known = self._topics.get(name)
            if known is None:
                self._topics[name] = self._open_topic(name, entry)
                continue
            if len(known.partitions) < entry.partitions:
                self._open_more_partitions(known, entry)
            settings = self._settings_of(entry)
            if settings != known.settings:
                self._use_settings(known, settings)

    def _settings_of(self, entry: TopicEntry) -> TopicSettings:
        return self._defaults.changed(**entry.settings)

    def _open_topic(
        self, name: str, entry: TopicEntry, *, is_first: bool = False, is_clean: bool = False
    ) -> Topic:
        topic = Topic(name, entry.id, [], self._settings_of(entry), self.new_producer_id)
        try:
            self._open_more_partitions(topic, entry, is_first=is_first, is_clean=is_clean)
        except BaseException:
            for partition in topic.partitions:
                partition.close(clean=False)
            raise
        return topic

    def _open_more_partitions(
        self, topic: Topic, entry: TopicEntry, *, is_first: bool = False, is_clean: bool = False
    ) -> None:
        for number in range(len(topic.partitions), entry.partitions):
            topic.add_partition(
                self._open_partition(topic.name, number, entry, topic.settings, is_first, is_clean)
            )

    def _open_partition(
        self,
        topic: str,
        number: int,
        entry: TopicEntry,
        settings: TopicSettings,
        is_first: bool,
        is_clean: bool,
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
            activity=self.activity,
        )
        live = partition.live_state()
        if self.read_only and live is not None:
            return partition  # the writers' page says how far the log goes
        if not self.read_only and not is_first and partition.attach():
            return partition
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
            self._refresh_topics()
            return sorted(self._topics)

    def has_topic(self, name: str) -> bool:
        """Is there a topic of that name?"""
        return self.find_topic(name) is not None

    def find_topic(self, name: str) -> Topic | None:
        """The topic of that name, or None. Unlike :meth:`topic` it makes none."""
        self._check_process()
        with self._lock:
            self._check_open()
            self._refresh_topics()
            return self._topics.get(name)

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
            self._refresh_topics()
            topic = self._topics.get(name)
            if topic is None:
                with self._change():
                    topic = self._topics.get(name)  # another process may just have made it
                    if topic is None:
                        count = 1 if partitions is None else partitions
                        return self._create_topic(name, count, settings)
            if partitions is not None and partitions != topic.partition_count:
                raise SettingError(
                    f"topic {name!r} has {topic.partition_count} partitions, not {partitions!r}",
                    hint="Leave partitions out, use another topic, or see add_partitions(): keys then "
                    "go to other partitions",
                    setting="partitions",
                    value=partitions,
                )
            if settings:
                self._change_settings(name, topic, settings)
            return topic

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Alone among all processes, with what the others did taken over. Not in a reader."""
        if self.read_only:
            yield
            return
        with self._lock, self._members.mutex():
            self._check_open()
            self._refresh_topics()
            try:
                yield
            except BaseException:
                # What is written down counts: the next call reads it again.
                self._topics_file.look_again()
                raise

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
        self._remove_deleted()  # perhaps one of that name, whose deletion was interrupted
        entry = TopicEntry(uuid.uuid4(), partitions, dict(settings))
        directories = [self.log_directory / f"{name}-{number}" for number in range(partitions)]
        made = [directory for directory in directories if not directory.exists()]
        self._topics_file.entries[name] = entry
        topic = None
        try:
            self._topics_file.save()
            topic = self._open_topic(name, entry)
            self._write_log_starts()
        except BaseException:
            for partition in topic.partitions if topic else ():
                partition.close(clean=False)
            self._unmake_topic(name, made)
            raise
        self._topics[name] = topic
        self.activity.wake()
        return topic

    def _unmake_topic(self, name: str, made: list[Path]) -> None:
        """A topic that could not be made leaves nothing behind that would stop the next opening.

        Args:
            name: of the topic.
            made: the directories that were made for it: nobody has been told of a record in them.
        """
        entry = self._topics_file.entries.pop(name)
        for number in range(entry.partitions):
            self._recovery_points.pop((name, number), None)
            self._log_starts.pop((name, number), None)
        try:
            self._topics_file.save()
            self._write_log_starts()
        except EventLogError:
            return  # what is written down and what is there still agree: an empty topic
        for directory in made:
            (self.run_directory / directory.name).unlink(missing_ok=True)
            shutil.rmtree(directory, ignore_errors=True)

    def add_partitions(self, name: str, count: int) -> Topic:
        """Give a topic more partitions. Keys may then go to other ones than before (as in Kafka).

        Args:
            name: of the topic.
            count: how many it has afterwards, up to 10,000.

        Raises:
            UnknownTopicError: no such topic.
            SettingError: not more than it has, too many, or it is an event store: there each stream
                has to stay in its partition.
            StorageReadOnlyError: the store is open for reading only.
        """
        self._check_process()
        self._check_writable("partitions cannot be added")
        with self._change():
            topic = self._known_topic(name)
            former = self._topics_file.entries[name]
            if type(count) is not int or not topic.partition_count < count <= PARTITIONS_MAX:
                hint = f"It has to be {topic.partition_count + 1:,} .. {PARTITIONS_MAX:,}"
            elif former.is_event_store:
                hint = "It is an event store, whose streams stay in their partitions"
            else:
                hint = ""
            if hint:
                raise SettingError(
                    f"topic {name!r} cannot have {count!r} partitions",
                    hint=hint,
                    setting="partitions",
                    value=count,
                )
            changed = self._topics_file.change(
                name, partitions=count, growing_from=former.partitions
            )
            self._open_more_partitions(topic, changed)
            self._write_log_starts()
            self._topics_file.change(name, growing_from=None)
            self.activity.wake()
            return topic

    def delete_topic(self, name: str) -> None:
        """Delete a topic and all its records, in all processes: what uses it there meets
        UnknownTopicError. A crash in the middle is ended by the next opening.

        Raises:
            UnknownTopicError: no such topic.
            StorageReadOnlyError: the store is open for reading only.
        """
        self._check_process()
        self._check_writable("topics cannot be deleted")
        with self._change():
            topic = self._known_topic(name)
            self._topics_file.deleted[name] = msgspec.structs.replace(
                self._topics_file.entries.pop(name), is_deleted=True
            )
            self._topics_file.save()
            for partition in topic.partitions:
                partition.delete()
                partition.close(clean=False)
            del self._topics[name]
            self._remove_deleted()
            self.activity.wake()

    def _remove_deleted(self) -> None:
        """End what deletions began: only then topics.json forgets the topics. (A directory that it does
        not know would be taken in as a new topic.)"""
        deleted = self._topics_file.deleted
        gone, failed = dict(deleted), None
        for name, _, directory in partition_directories(self.log_directory) if deleted else ():
            if name in deleted:
                # First the page: a new topic of that name must not go on with it, wherever this ends.
                (self.run_directory / directory.name).unlink(missing_ok=True)
                try:
                    shutil.rmtree(directory)
                except OSError as error:
                    gone.pop(name, None)
                    failed = os_error(error.errno or 0, str(directory), "cannot delete the topic")
        if gone:
            check(lib.el_file_sync(path_bytes(self.log_directory)))
            for offsets in (self._log_starts, self._recovery_points):
                for place in [place for place in offsets if place[0] in gone]:
                    del offsets[place]
            # A new topic of that name must not be measured by what was known of this one.
            self._write_log_starts()
            self._write_recovery_points()
            for name in gone:
                del deleted[name]
            self._topics_file.save()
        if failed is not None:
            raise failed

    def new_producer_id(self) -> int:
        """An id for an idempotent producer that nobody has had, in any process; 2^62 or more.

        Raises:
            StorageReadOnlyError: the store is open for reading only.
            StorageFullError, StorageError: the counter cannot be written down.
        """
        self._check_process()
        with self._lock:
            self._check_open()
            self._check_writable("there are no producers")
            if self._producer_ids.is_empty:
                with self._change():
                    self._producer_ids.take_block()
            return self._producer_ids.next()

    def _known_topic(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            raise UnknownTopicError(
                f"there is no topic {name!r} in {self.path}",
                hint=f"Known are: {', '.join(sorted(self._topics)) or 'none'}",
                topic=name,
            )
        return topic

    def _check_writable(self, what: str) -> None:
        if self.read_only:
            raise StorageReadOnlyError(
                f"{what} in a store that is open for reading only",
                hint="Open it without read_only=True",
                path=str(self.path),
            )

    def _change_settings(self, name: str, topic: Topic, changes: Mapping[str, Any]) -> None:
        changed = {**self._topics_file.entries[name].settings, **changes}
        settings = self._defaults.changed(**changed)
        if settings == topic.settings and changed == self._topics_file.entries[name].settings:
            return
        self._check_writable("settings cannot be changed")
        with self._change():
            changed = {**self._topics_file.entries[name].settings, **changes}
            self._topics_file.change(name, settings=changed)
            self._use_settings(topic, self._defaults.changed(**changed))
            self.activity.wake()

    def _keep_partitions(self, name: str) -> None:
        """Note that the topic is an event store: its partitions stay as many as they are."""
        if not self.read_only and not self._topics_file.entries[name].is_event_store:
            with self._change():
                self._topics_file.change(name, is_event_store=True)

    def _use_settings(self, topic: Topic, settings: TopicSettings) -> None:
        topic.settings = settings
        for partition in topic.partitions:
            partition.configure(settings)

    # -- durable in the background --------------------------------------------------------------

    def _checkpoint_partition(self, partition: Partition) -> None:
        with self._lock:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Write the recovery points of the topics that there are now, whoever made or deleted some."""
        with self._members.mutex():
            self._refresh_topics()
            self._note_recovery_points()
            self._write_recovery_points()

    def _note_recovery_points(self) -> None:
        """From the pages that all processes share, so whoever writes them writes the newest."""
        for topic in self._topics.values():
            for partition in topic.partitions:
                self._recovery_points[topic.name, partition.number] = partition.durable_end_offset

    def _write_recovery_points(self) -> None:
        if self._recovery_points != self._read_checkpoint(checkpoints.RECOVERY_POINT):
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
                # Who was killed may have made durable what it did not come to tell the readers.
                told = min(state.durable_end_offset, state.high_watermark)
                if told < state.log_end_offset and (
                    partition.settings.durability == "interval" or is_idle
                ):
                    partition.sync()
            except (ClosedError, UnknownTopicError):
                continue  # deleted meanwhile
            except EventLogError as error:
                _logger.warning(
                    "background sync of %s-%d: %s",
                    partition.topic,
                    partition.number,
                    error,
                    extra={"topic": partition.topic, "partition": partition.number},
                )
        return shortest

    def _keep_up(self) -> None:
        """Once a second: what other processes did to the topics, and the recovery points."""
        with self._lock:
            if self._closed:
                return
            self._refresh_topics()
            self._note_recovery_points()
            if self._recovery_points != self._written_points:
                self._checkpoint()

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
        with self._lock:
            if self.read_only:
                self._close_all(errors, is_last=False)
            else:
                try:
                    with self._members.mutex():
                        self._close_as_member(errors)
                except EventLogError as error:  # no clean end then, but a durable one
                    if isinstance(error, LockedError):  # somebody hangs, which is not our failure
                        _logger.warning("closing %s: %s", self.path, error)
                    else:
                        errors.append(error)
                    self._close_all(errors, is_last=False)
        self._abandon()
        if errors:
            raise errors[0]

    def _close_as_member(self, errors: list[EventLogError]) -> None:
        try:
            self._close_shared(errors)
        finally:
            self._members.leave()  # under the mutex: who comes next is the first, or another one is last

    def _close_shared(self, errors: list[EventLogError]) -> None:
        is_last = False
        try:
            self._refresh_topics()  # the last one closes also what others have made
            is_last = self._members.is_last()
        except EventLogError as error:
            errors.append(error)
        self._close_all(errors, is_last=is_last)
        if errors:
            return
        try:
            if is_last:
                self._mark_clean()
        except EventLogError as error:
            errors.append(error)

    def _close_all(self, errors: list[EventLogError], *, is_last: bool) -> None:
        for topic in self._topics.values():
            for partition in topic.partitions:
                try:
                    partition.close(is_last=is_last)
                except EventLogError as error:
                    errors.append(error)

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
        self._members.leave()


def _partitions_of(store: Store | None) -> list[Partition]:
    return [] if store is None else [p for t in list(store._topics.values()) for p in t.partitions]


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
                store._keep_up()
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
