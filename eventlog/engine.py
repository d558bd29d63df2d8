"""What ``eventlog.open`` returns: the topics of a store, and a door to each layer above them."""

from __future__ import annotations

import logging
import os
import re
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from eventlog.clock import Clock
from eventlog.consumer.consumer import Consumer
from eventlog.consumer.group import Groups
from eventlog.consumer.session import Callback
from eventlog.consumer.waiting_for import group_positions
from eventlog.log.backup import BackupReport, make_backup
from eventlog.log.maintenance import INTERVAL_S, RATE_BYTES_S
from eventlog.log.store import Store
from eventlog.meta import Environment
from eventlog.metrics import Metric, gauge
from eventlog.settings import SEGMENT_MS_MAX, Durability
from eventlog.sourcing import Codec, EventStore

_logger = logging.getLogger("eventlog")
_READERS_CHECKED_EVERY = 10  # seconds, about


class EventLog(Store):
    """A store with all that is built on it. Arguments and errors are those of
    :class:`eventlog.log.store.Store`; made by :func:`open`.

    Attributes:
        groups: the consumer groups, to look at and to administer; see
            :class:`eventlog.consumer.group.Groups`.
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
        self._environment: Environment | None = None
        self._event_stores: dict[str, EventStore] = {}
        self._consumers: weakref.WeakSet[Consumer] = weakref.WeakSet()
        self._beats = 0
        self.groups = Groups(self)
        super().__init__(
            path,
            read_only=read_only,
            create=create,
            durability=durability,
            clock=clock,
            maintenance=maintenance,
            maintenance_interval_s=maintenance_interval_s,
            maintenance_rate_bytes_s=maintenance_rate_bytes_s,
        )
        log = weakref.ref(self)
        self.metrics.collect(lambda: () if (found := log()) is None else found._lags())

    def event_store(
        self,
        name: str,
        *,
        partitions: int | None = None,
        codec: Codec | None = None,
        durability: Durability | None = None,
        **settings: Any,
    ) -> EventStore:
        """The event store of that name; made if there is none.

        Args:
            name: of the store and of the topic that holds its events.
            partitions: of a new one, None: 1. One partition is one order of all events; more are for
                throughput, and expected versions and atomic appends then hold inside each.
            codec: of typed data; None: JSON by msgspec. Asked for once: later calls with None (or the
                same codec) give the same object.
            durability, **settings: of the topic, see :class:`eventlog.settings.TopicSettings`. A new
                event store's segments are not rolled by time: events are kept, and a history that is
                imported may span decades.

        Raises:
            ValueError: it is open with another codec.
            SettingError: its ``cleanup_policy`` would compact it.
            And what :meth:`eventlog.log.store.Store.topic` raises.
        """
        if not self.has_topic(name):
            settings.setdefault("segment_ms", SEGMENT_MS_MAX)
            self._check_keeps_events(name, settings)
        topic = self.topic(name, partitions=partitions, durability=durability, **settings)
        with self._lock:
            self._keep_partitions(name)
            store = self._event_stores.get(name)
            if store is not None and store.topic is not topic:
                store = None  # of a topic that another process deleted
            if store is None:
                if self._environment is None:
                    self._environment = Environment.open(
                        self.meta_directory, read_only=self.read_only
                    )
                store = EventStore(topic, self._environment, codec, clock=self._clock)
                self._event_stores[name] = store
            elif codec is not None and codec is not store.codec:
                raise ValueError(
                    f"event store {name!r} is open with another codec; use store.codec"
                )
            return store

    def consumer(
        self,
        group: str | None,
        topics: str | Sequence[str] | re.Pattern[str],
        *,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        **options: Any,
    ) -> Consumer:
        """A consumer: reads topics, and shares them with the others of its group.

        Args:
            group: its name; made if there is none. None: read all partitions, without a group.
            topics: a name, several, or a compiled pattern that whole names match.
            on_assigned, on_revoked, on_lost: called as ``(consumer, units)`` when it is given
                partitions, has to give some up, or has lost some.
            **options: ``auto_offset_reset``, ``auto_commit_interval_ms``, ``instance_id``,
                ``assignors``, ``sharing``, ... : see
                :class:`eventlog.consumer.options.ConsumerOptions`.

        Raises:
            SettingError: an option outside its limits.
            InvalidNameError: not a name that a topic can have.
            StorageReadOnlyError: a group in a store that is open for reading only.
        """
        self._check_process()
        self._check_open()
        if group is not None:
            self._check_writable("a group cannot be joined")
        consumer = Consumer(
            self,
            self.groups,
            group,
            topics,
            on_assigned=on_assigned,
            on_revoked=on_revoked,
            on_lost=on_lost,
            **options,
        )
        self._consumers.add(consumer)
        return consumer

    def backup(
        self, directory: str | os.PathLike[str], *, incremental: bool = True
    ) -> BackupReport:
        """Make a backup while everybody goes on: at least all that was durable when the call was made,
        and the committed offsets, never ahead of it. :func:`eventlog.restore` makes a store of it.

        Each call makes a directory of its own inside ``directory``, whole in itself, so any of them can
        be deleted. One that was interrupted is not taken for one, and the next call removes it.

        Args:
            directory: where backups are made; not inside the store. Made if it is missing.
            incremental: share sealed segments, which never change, with the backup before and with the
                store if that is on the same file system (hard links): fast, and only new bytes need
                room. A disk that fails takes both, so have ``directory`` on another one: there the
                first backup copies, and later ones share with it. False: copy everything.

        Raises:
            CorruptionError: what is to be backed up is damaged; earlier backups stay as they are.
            LockedError: another backup is being made in the same directory.
            StorageFullError, StorageReadOnlyError, StorageError: of the operating system, or a
                directory that cannot be one for backups.

        Crashes: the backup is on disk when this returns. Threads and other processes may do with the
        store what they like meanwhile; also in a store that is open for reading only.
        """
        self._check_process()
        self._check_open()
        return make_backup(self, directory, incremental=incremental, copy_groups=self.groups.copy)

    def _lags(self) -> Iterable[Metric]:
        """Of every group, for the metrics."""
        if self.closed or not (self.path / "groups").exists():
            return
        for group in self.groups.list():
            for unit, lag in self.groups.lag(group).items():
                yield gauge(
                    "eventlog_consumer_lag",
                    "Records that a group has not read yet",
                    lag,
                    group=group,
                    topic=unit.topic,
                    partition=str(unit.partition),
                )

    def _group_positions(self, topic: str) -> dict[int, dict[str, int]]:
        if not (self.path / "groups").exists():
            return {}
        return group_positions(self.groups, topic)

    def delete_topic(self, name: str) -> None:
        """Delete a topic, its records, and what is kept of it for speed."""
        super().delete_topic(name)
        with self._lock:
            store = self._event_stores.pop(name, None)
        if (
            store is not None
        ):  # outside the lock: an append at its checkpoint takes them the other way
            store.forget()

    def _keep_up(self) -> None:
        super()._keep_up()
        self._beats += 1
        if self._beats % _READERS_CHECKED_EVERY == 0 and self._environment is not None:
            self._environment.check_readers()

    def close(self) -> None:
        """Close the consumers, checkpoint the indexes, make everything durable, close the files. Twice is fine.

        Raises:
            PoisonedError, StorageError: something could not be made durable. All is closed all the
                same; opening it again recovers.
        """
        if self.closed or os.getpid() != self._pid:
            super().close()
            return
        self._maintenance.stop()  # it asks the groups
        for consumer in list(self._consumers):
            try:
                consumer.close()
            except Exception:
                _logger.exception("closing a consumer of group %s", consumer.group)
        try:
            for store in self._event_stores.values():
                store.close()
        finally:
            try:
                self.groups.close()
                super().close()
            finally:
                if self._environment is not None:
                    self._environment.close()


def open(  # noqa: A001  eventlog.open, as in shelve.open
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    create: bool = True,
    durability: str = "sync",
    clock: Clock | None = None,
    maintenance: bool = True,
    maintenance_interval_s: float = INTERVAL_S,
    maintenance_rate_bytes_s: int = RATE_BYTES_S,
) -> EventLog:
    """Open a store, making it if there is none.

    Args:
        path: its directory; made with its parents if it does not exist.
        read_only: change nothing on disk. Works beside a writer, and without write permission.
        create: make a store in a new or empty directory; False: only open one.
        durability: what ``append`` waits for where neither topic nor call say otherwise: ``"sync"``
            (an fdatasync), ``"interval"`` or ``"os"`` (the page cache); see
            :class:`eventlog.settings.TopicSettings`.
        clock: labels records; None: the machine's clock.
        maintenance: delete and compact in the background what the topics' settings say. Of all processes
            one does it at a time; without such settings nothing is done.
        maintenance_interval_s: how often that is looked after; seconds.
        maintenance_rate_bytes_s: most bytes a second that compaction copies; 0: any number.

    Raises:
        NotAStoreError, FormatVersionError, LockedError, CorruptionError, StorageReadOnlyError,
        StorageFullError, StorageError: see :class:`eventlog.log.store.Store`.

    Crashes: opening recovers; ``log.recovery`` tells what was found. Threads may share the store; a child
    of ``fork`` may not use it (ForkedError) and opens its own.
    """
    return EventLog(
        path,
        read_only=read_only,
        create=create,
        durability=durability,
        clock=clock,
        maintenance=maintenance,
        maintenance_interval_s=maintenance_interval_s,
        maintenance_rate_bytes_s=maintenance_rate_bytes_s,
    )
