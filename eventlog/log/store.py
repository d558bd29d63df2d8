"""A store: a directory of topics, open in this process."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
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
    LockedError,
    SettingError,
    StorageError,
    StorageReadOnlyError,
    UnknownTopicError,
)
from eventlog.locks import Members
from eventlog.log import checkpoints, compaction
from eventlog.log.activity import Activity
from eventlog.log.background import start_flusher
from eventlog.log.compaction import CompactionPlan, CompactionResult
from eventlog.log.figures import partition_figures
from eventlog.log.log_starts import LogStarts
from eventlog.log.maintenance import INTERVAL_S, RATE_BYTES_S, Maintenance
from eventlog.log.partition import Partition, native_options, out_of_range
from eventlog.log.producer_ids import ProducerIds
from eventlog.log.recovery import PartitionRecovery, RecoveryReport
from eventlog.log.retention import RetentionPlan, set_aside
from eventlog.log.store_directory import has_format, make_directory, write_format
from eventlog.log.topic import Topic
from eventlog.log.topics_file import (
    PARTITIONS_MAX,
    TopicEntry,
    TopicsFile,
    check_topic_name,
    partition_directories,
)
from eventlog.metrics import Metrics
from eventlog.settings import Durability, TopicSettings, check_durability

_logger = logging.getLogger("eventlog.log")

PRODUCER_IDS_FILE = "producer-ids.json"


class Store:
    """A directory of topics. Thread-safe; any number of processes may have it open.

    Args:
        path: the directory.
        read_only: change nothing on disk. Works beside a writer, and without write permission.
        create: make the store if the directory does not exist or is empty.
        durability: of topics that do not set it: ``"sync"``, ``"interval"`` or ``"os"``; see
            :class:`eventlog.settings.TopicSettings`.
        clock: where record times come from; None: the machine's clock.
        maintenance: delete and compact in the background what the topics' settings say.
        maintenance_interval_s: how often that is looked after; seconds, more than 0.
        maintenance_rate_bytes_s: most bytes a second that compaction copies; 0: any number.

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
        maintenance: bool = True,
        maintenance_interval_s: float = INTERVAL_S,
        maintenance_rate_bytes_s: int = RATE_BYTES_S,
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
        self._closed = False
        self._producer_ids = ProducerIds(self.path / PRODUCER_IDS_FILE)
        self._members = Members(self.run_directory, "writer", str(self.path))
        self._topics_file = TopicsFile(self.path, self.log_directory)
        self._log_starts = LogStarts(self.path, self.log_directory)
        self.metrics = Metrics()
        store = weakref.ref(self)
        self.metrics.collect(
            lambda: (
                () if (found := store()) is None else partition_figures(found._open_partitions())
            )
        )
        self._stop = threading.Event()
        self._flusher: threading.Thread | None = None
        self._maintenance = Maintenance(
            self,
            is_on=maintenance,
            interval_s=maintenance_interval_s,
            rate_bytes_s=maintenance_rate_bytes_s,
        )
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
            self._maintenance.stop()
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
        if not has_format(self.path):
            make_directory(self.path, self.run_directory, may_create=create and not self.read_only)
        if self.read_only:
            self.activity = Activity(self.run_directory / "activity", writable=False)
            self._refresh_topics()
            return
        with self._members.mutex():
            if not has_format(self.path):
                write_format(self.path)
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
        self._flusher = start_flusher(self, self._stop)

    def _recover(self) -> None:
        """Nobody else has the store open for writing: see what the last one left."""
        checkpoints.write_meta_properties(self.log_directory)
        self._recovery_points = self._read_checkpoint(checkpoints.RECOVERY_POINT)
        self._load_topics()
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
        self._log_starts.save()
        self._write_recovery_points()

    def _load_topics(self) -> None:
        """What there is, and what came from a broker meanwhile, which is taken in."""
        self._log_starts.load()
        taken_in = self._topics_file.load()
        self._log_starts.take_in(taken_in)
        if taken_in and not self.read_only:
            self._log_starts.save()  # first: Kafka's file is believed only now
            self._topics_file.save()

    def _refresh_topics(self) -> None:
        """Take over what other processes did to the topics: made, changed, or deleted some."""
        if not self._topics_file.has_changed():
            return
        if self.read_only:
            self._take_over_topics()
            return
        with self._members.mutex():
            self._take_over_topics()

    def _take_over_topics(self) -> None:
        self._load_topics()
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
            self._log_starts.find(topic, number),
            written,
            live is not None and live.poisoned_errno != 0,
            not self.read_only,
            self.path / "cut" / directory.name,
            time.time_ns() // 1_000_000,
            segments_meet=entry.segments_meet or not entry.has_gaps,
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
            self._log_starts.note(topic, number, int(end.log_start_offset))
        return partition

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
            self._log_starts.load()
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
        compacts = self._defaults.changed(**settings).compacts  # refuses before anything is made
        self._remove_deleted()  # perhaps one of that name, whose deletion was interrupted
        entry = TopicEntry(uuid.uuid4(), partitions, dict(settings)).compacted(compacts)
        directories = [self.log_directory / f"{name}-{number}" for number in range(partitions)]
        made = [directory for directory in directories if not directory.exists()]
        self._topics_file.entries[name] = entry
        topic = None
        try:
            self._topics_file.save()
            topic = self._open_topic(name, entry)
            self._log_starts.save()
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
        self._log_starts.forget([name])
        try:
            self._topics_file.save()
            self._log_starts.save()
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
            self._log_starts.save()
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
            # A new topic of that name must not be measured by what was known of this one.
            self._log_starts.forget(gone)
            compaction.forget(self.log_directory, gone)
            for place in [place for place in self._recovery_points if place[0] in gone]:
                del self._recovery_points[place]
            self._log_starts.save()
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
            entry = self._topics_file.entries[name]
            changed = {**entry.settings, **changes}
            settings = self._defaults.changed(**changed)
            if settings.compacts and entry.is_event_store:
                raise _not_compactable(name)
            entry = entry.compacted(settings.compacts)
            self._topics_file.change(
                name, settings=changed, has_gaps=entry.has_gaps, segments_meet=entry.segments_meet
            )
            self._use_settings(topic, settings)
            self.activity.wake()

    def _check_keeps_events(self, name: str, settings: Mapping[str, Any]) -> None:
        """Of a topic that is to be made as an event store."""
        if self._defaults.changed(**settings).compacts:
            raise _not_compactable(name)

    def _keep_partitions(self, name: str) -> None:
        """Note that the topic is an event store: its partitions stay as many as they are."""
        if self._known_topic(name).settings.compacts:
            raise _not_compactable(name)
        if not self.read_only and not self._topics_file.entries[name].is_event_store:
            with self._change():
                self._topics_file.change(name, is_event_store=True)

    def _use_settings(self, topic: Topic, settings: TopicSettings) -> None:
        topic.settings = settings
        for partition in topic.partitions:
            partition.configure(settings, has_gaps=self._topics_file.entries[topic.name].has_gaps)

    # -- segments -------------------------------------------------------------------------------

    def delete_records(self, topic: str, partition: int = 0, *, before: int) -> int:
        """Delete the records of a partition below an offset, in all processes.

        They cannot be read from then on. What they take on disk is given back segment by segment: once all
        of a segment is below. Offsets are never used again.

        Args:
            topic: its name.
            partition: number of the partition.
            before: the first offset to keep, up to the high watermark.

        Returns:
            The first offset kept: ``before``, or where the log began already if that is higher.

        Raises:
            UnknownTopicError, PartitionMismatchError: there is no such partition.
            OffsetOutOfRangeError: ``before`` is below 0 or past the high watermark.
            StorageReadOnlyError: the store is open for reading only.
            PoisonedError, StorageError: whether they are gone shows at the next opening.

        Crashes: durable when this returns; a crash before leaves all of them, or none.
        """
        self._check_process()
        self._check_writable("records cannot be deleted")
        found = self._existing_topics(topic)[0]
        target = found.partition(partition)
        state = target.state()
        if type(before) is not int or not 0 <= before <= state.high_watermark:
            raise out_of_range(before, state)
        if before > state.durable_end_offset:
            target.sync()  # a power cut must not leave a log that ends before it begins
        if before > state.log_start_offset:
            self._maintenance.delete_records(found, target, before)
        return target.log_start_offset

    def retention_plan(self, topic: str | None = None) -> list[RetentionPlan]:
        """What retention would delete now, why, and which groups hold it up. Changes nothing.

        Segments whose age decides are read and verified before they are put down to go.

        Args:
            topic: its name; None: all.

        Returns:
            One for each partition, also where nothing goes.

        Raises:
            UnknownTopicError: there is no such topic.
            CorruptionError: the newest segment of a partition, or ``groups/``, is damaged.
        """
        self._check_process()
        return [
            plan
            for found in self._existing_topics(topic)
            for plan in self._maintenance.plan_retention(found)
        ]

    def apply_retention(self, topic: str | None = None) -> list[RetentionPlan]:
        """Delete what :meth:`retention_plan` says, as it is now, without waiting for the background.

        Args:
            topic: its name; None: all.

        Returns:
            What went, one for each partition.

        Raises:
            UnknownTopicError: there is no such topic.
            LockedError: another process or thread is deleting or compacting, for half a minute already.
            StorageReadOnlyError: the store is open for reading only.
            CorruptionError, PoisonedError, StorageFullError, StorageError: the rest stays until the next
                time.

        Crashes: each partition is as before or as afterwards.
        """
        self._check_process()
        self._check_writable("nothing can be deleted")
        return [
            plan
            for found in self._existing_topics(topic)
            for plan in self._maintenance.retain(found)
        ]

    def compaction_plan(self, topic: str | None = None) -> list[CompactionPlan]:
        """What there is to compact, and whether it is due. Changes nothing.

        Args:
            topic: its name; None: all that are compacted.

        Returns:
            One for each partition.

        Raises:
            UnknownTopicError: there is no such topic.
        """
        self._check_process()
        return [
            plan
            for found in self._compacted_topics(topic)
            for plan in self._maintenance.plan_compaction(found)
        ]

    def compact(self, topic: str | None = None) -> list[CompactionResult]:
        """Compact now, due or not, without waiting for the background: of each key the last record stays.

        Args:
            topic: its name; None: all that are compacted.

        Returns:
            What was done, one for each partition. If its keys had no room in memory the rest waits for the
            next call.

        Raises:
            UnknownTopicError: there is no such topic.
            SettingError: its ``cleanup_policy`` is another one.
            LockedError: another process or thread is deleting or compacting, for half a minute already.
            StorageReadOnlyError: the store is open for reading only.
            CorruptionError: a segment is damaged: it stays as it is, and so does all behind it.
            StorageFullError, StorageError: what is compacted so far is.

        Crashes: each segment is as before or as afterwards. Writers and readers go on meanwhile.
        """
        self._check_process()
        self._check_writable("nothing can be compacted")
        return [
            done
            for found in self._compacted_topics(topic)
            for done in self._maintenance.compact(found)
        ]

    def _compacted_topics(self, name: str | None) -> list[Topic]:
        found = self._existing_topics(name)
        return found if name is not None else [each for each in found if each.settings.compacts]

    def roll(self, topic: str, partition: int | None = None) -> dict[int, int]:
        """Seal the newest segment of partitions and begin another one. An empty one stays.

        Only sealed segments are compacted; retention does this by itself.

        Args:
            topic: its name.
            partition: number of the partition; None: all.

        Returns:
            The base offset of the newest segment, by partition.

        Raises:
            UnknownTopicError, PartitionMismatchError: there is no such partition.
            StorageReadOnlyError: the store is open for reading only.
            PoisonedError, StorageFullError, StorageError: the newest segment stays.

        Crashes: all that was appended is durable when this returns.
        """
        self._check_process()
        self._check_writable("nothing can be rolled")
        found = self._existing_topics(topic)[0]
        chosen = found.partitions if partition is None else [found.partition(partition)]
        return {each.number: each.roll() for each in chosen}

    def _existing_topics(self, name: str | None) -> list[Topic]:
        with self._lock:
            self._check_open()
            self._refresh_topics()
            if name is None:
                return [self._topics[known] for known in sorted(self._topics)]
            return [self._known_topic(name)]

    def _group_positions(self, topic: str) -> Mapping[int, Mapping[str, int]]:
        """By partition, the next offset that each group reads. Groups are of a layer above."""
        return {}

    @contextmanager
    def _kept(self, topic: Topic) -> Iterator[None]:
        """Nobody can delete the topic, and make another one of that name, meanwhile.

        Raises:
            UnknownTopicError: it was deleted.
        """
        with self._change():
            if self._topics.get(topic.name) is not topic:
                raise UnknownTopicError(
                    f"topic {topic.name!r} was deleted", hint="Ask for it anew", topic=topic.name
                )
            yield

    def _begin_deletion(self, topic: Topic, plans: Sequence[RetentionPlan]) -> None:
        """Steps 1 to 3 of :mod:`eventlog.log.retention`, while nobody can make another topic of that name.

        Raises:
            UnknownTopicError: the topic was deleted.
        """
        with self._kept(topic):
            for plan in plans:
                topic.partition(plan.partition).move_start(plan.new_log_start_offset)
                self._log_starts.note(topic.name, plan.partition, plan.new_log_start_offset)
            self._log_starts.save()
            for plan in plans:
                bases = [each.base_offset for each in plan.segments]
                set_aside(topic.partition(plan.partition), bases)

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

    def _open_partitions(self) -> list[Partition]:
        """Of all topics that this process knows."""
        return [each for topic in self._open_topics() for each in topic.partitions]

    def _open_topics(self) -> list[Topic]:
        return list(self._topics.values())

    def _keep_up(self) -> None:
        """Once a second: what other processes did to the topics, and the recovery points."""
        with self._lock:
            if self._closed:
                return
            self._refresh_topics()
            self._note_recovery_points()
            if self._recovery_points != self._written_points:
                self._checkpoint()
        self._maintenance.start_if_wanted()

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
        self._maintenance.stop()
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
        self._maintenance.stop()
        for topic in self._topics.values():
            for partition in topic.partitions:
                try:
                    partition.close(clean=False)
                except EventLogError:
                    _logger.exception("closing %s-%d", topic.name, partition.number)
        self._members.leave()


def _not_compactable(name: str) -> SettingError:
    return SettingError(
        f"event store {name!r} cannot be compacted: of each stream only the last event would be left",
        hint="Leave cleanup_policy as it is, or use a topic",
        setting="cleanup_policy",
        value="compact",
    )


_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _close_at_exit() -> None:
    for store in list(_open_stores):
        try:
            store.close()
        except EventLogError:
            _logger.exception("closing %s at exit", store.path)


atexit.register(_close_at_exit)
