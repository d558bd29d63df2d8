"""What ``eventlog.open`` returns: the topics of a store, and a door to each layer above them."""

from __future__ import annotations

import os
from typing import Any

from eventlog.clock import Clock
from eventlog.log.store import Store
from eventlog.meta import Environment
from eventlog.settings import SEGMENT_MS_MAX, Durability
from eventlog.sourcing import Codec, EventStore


class EventLog(Store):
    """A store with all that is built on it. Arguments and errors are those of
    :class:`eventlog.log.store.Store`; made by :func:`open`.
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
        self._environment: Environment | None = None
        self._event_stores: dict[str, EventStore] = {}
        super().__init__(
            path, read_only=read_only, create=create, durability=durability, clock=clock
        )

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
            And what :meth:`eventlog.log.store.Store.topic` raises.
        """
        with self._lock:
            if name not in self._topics:
                settings.setdefault("segment_ms", SEGMENT_MS_MAX)
            topic = self.topic(name, partitions=partitions, durability=durability, **settings)
            store = self._event_stores.get(name)
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

    def close(self) -> None:
        """Checkpoint the indexes, make everything durable, close the files. Twice is fine.

        Raises:
            PoisonedError, StorageError: something could not be made durable. All is closed all the
                same; opening it again recovers.
        """
        if self.closed or os.getpid() != self._pid:
            super().close()
            return
        try:
            for store in self._event_stores.values():
                store.close()
        finally:
            try:
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

    Raises:
        NotAStoreError, FormatVersionError, LockedError, CorruptionError, StorageReadOnlyError,
        StorageFullError, StorageError: see :class:`eventlog.log.store.Store`.

    Crashes: opening recovers; ``log.recovery`` tells what was found. Threads may share the store; a child
    of ``fork`` may not use it (ForkedError) and opens its own.
    """
    return EventLog(path, read_only=read_only, create=create, durability=durability, clock=clock)
