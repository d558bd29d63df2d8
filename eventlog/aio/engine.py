"""What ``aio.open`` returns: a store in an event loop."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, Self

from eventlog import engine
from eventlog.aio.consumer import Callback, Consumer
from eventlog.aio.event_store import EventStore
from eventlog.aio.groups import Groups
from eventlog.aio.host import Host
from eventlog.aio.topic import Topic
from eventlog.clock import Clock
from eventlog.log.compaction import CompactionPlan, CompactionResult
from eventlog.log.maintenance import INTERVAL_S, RATE_BYTES_S
from eventlog.log.recovery import RecoveryReport
from eventlog.log.retention import RetentionPlan
from eventlog.metrics import Metrics
from eventlog.settings import Durability
from eventlog.sourcing import Codec


class EventLog:
    """As :class:`eventlog.engine.EventLog`, made by :func:`open`. It belongs to the event loop in which it was
    opened, and to the process: elsewhere its calls raise WrongLoopError, and in a child of ``fork``
    ForkedError.

    ``topic``, ``event_store`` and ``consumer`` return at once something that is opened when it is awaited,
    or by its first call.

    Attributes:
        groups: the consumer groups, to look at and to administer.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.groups = Groups(host)

    def __repr__(self) -> str:
        return f"aio.EventLog({str(self.path)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def core(self) -> engine.EventLog:
        """The same of the synchronous API: its calls wait for the disk, and the loop with them."""
        return self._host.core

    @property
    def path(self) -> Path:
        """The directory."""
        return self.core.path

    @property
    def read_only(self) -> bool:
        """Is nothing changed on disk?"""
        return self.core.read_only

    @property
    def recovery(self) -> list[RecoveryReport]:
        """What opening found and did, partition by partition."""
        return self.core.recovery

    @property
    def metrics(self) -> Metrics:
        """Counters and latencies."""
        return self.core.metrics

    @property
    def closed(self) -> bool:
        """Was it closed, or is it being closed?"""
        return self._host.has_close_begun

    # -- topics ---------------------------------------------------------------------------------

    async def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        return await self._host.run(self.core.topics)

    async def has_topic(self, name: str) -> bool:
        """Is there a topic of that name? Makes none."""
        return await self._host.run(self.core.has_topic, name)

    def topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        durability: Durability | None = None,
        **settings: Any,
    ) -> Topic:
        """The topic of that name; made, if there is none, when it is awaited or first used.

        Arguments and errors are those of :meth:`eventlog.log.store.Store.topic`; the errors come when it is
        opened.
        """
        make = partial(
            self.core.topic, name, partitions=partitions, durability=durability, **settings
        )
        return Topic(self._host, name, make)

    def event_store(
        self,
        name: str,
        *,
        partitions: int | None = None,
        codec: Codec | None = None,
        durability: Durability | None = None,
        **settings: Any,
    ) -> EventStore:
        """The event store of that name; made, if there is none, when it is awaited or first used.

        Arguments and errors are those of :meth:`eventlog.engine.EventLog.event_store`; the errors come when it
        is opened.
        """
        make = partial(
            self.core.event_store,
            name,
            partitions=partitions,
            codec=codec,
            durability=durability,
            **settings,
        )
        return EventStore(self._host, name, make)

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

        Arguments and errors are those of :meth:`eventlog.engine.EventLog.consumer`; the errors come when it is
        opened. Callbacks are functions or coroutine functions; they are called in the loop.
        """
        callbacks = {"on_assigned": on_assigned, "on_revoked": on_revoked, "on_lost": on_lost}
        return Consumer(self._host, group, topics, callbacks, options)

    async def delete_topic(self, name: str) -> None:
        """Delete a topic and all its records, in all processes."""
        await self._host.run(self.core.delete_topic, name)

    async def add_partitions(self, name: str, count: int) -> Topic:
        """Give a topic more partitions; see :meth:`eventlog.log.store.Store.add_partitions`."""
        await self._host.run(self.core.add_partitions, name, count)
        return await self.topic(name)

    # -- segments -------------------------------------------------------------------------------

    async def delete_records(self, topic: str, partition: int = 0, *, before: int) -> int:
        """Delete records below an offset; see :meth:`eventlog.log.store.Store.delete_records`."""
        return await self._host.run(self.core.delete_records, topic, partition, before=before)

    async def retention_plan(self, topic: str | None = None) -> list[RetentionPlan]:
        """What would be deleted now; see :meth:`eventlog.log.store.Store.retention_plan`."""
        return await self._host.run(self.core.retention_plan, topic)

    async def apply_retention(self, topic: str | None = None) -> list[RetentionPlan]:
        """Delete that; see :meth:`eventlog.log.store.Store.apply_retention`."""
        return await self._host.run(self.core.apply_retention, topic)

    async def compaction_plan(self, topic: str | None = None) -> list[CompactionPlan]:
        """What there is to compact; see :meth:`eventlog.log.store.Store.compaction_plan`."""
        return await self._host.run(self.core.compaction_plan, topic)

    async def compact(self, topic: str | None = None) -> list[CompactionResult]:
        """Compact it; see :meth:`eventlog.log.store.Store.compact`."""
        return await self._host.run(self.core.compact, topic)

    async def roll(self, topic: str, partition: int | None = None) -> dict[int, int]:
        """Begin new segments; see :meth:`eventlog.log.store.Store.roll`."""
        return await self._host.run(self.core.roll, topic, partition)

    # -- the end --------------------------------------------------------------------------------

    async def close(self) -> None:
        """Wait for appends that are under way, make everything durable, close the files. Twice is fine.

        Close consumers before: whoever waits for records, in :meth:`Consumer.poll` or a ``tail``, gets
        ClosedError, as do all later calls. Cancelled, it goes on without anyone who looks.

        Raises:
            PoisonedError, StorageError: something could not be made durable. All is closed all the
                same; opening it again recovers.
        """
        await self._host.close()


class Opening(AbstractAsyncContextManager[EventLog]):
    """What :func:`open` returns: await it, or use it with ``async with``."""

    def __init__(self, open_core: partial[engine.EventLog]) -> None:
        self._open_core = open_core
        self._lock = threading.Lock()
        self._is_unwanted = False
        self._core: engine.EventLog | None = None
        self._log: EventLog | None = None

    def __await__(self) -> Generator[Any, None, EventLog]:
        return self._open().__await__()

    async def __aenter__(self) -> EventLog:
        self._log = await self._open()
        return self._log

    async def __aexit__(self, *_: object) -> None:
        assert self._log is not None
        await self._log.close()

    async def _open(self) -> EventLog:
        executor = ThreadPoolExecutor(1, "eventlog-aio-opener")
        job = executor.submit(self._open_in_thread)
        executor.shutdown(wait=False)
        try:
            core = await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            with self._lock:
                self._is_unwanted = True
                unwanted = self._core
            if unwanted is not None:
                threading.Thread(target=unwanted.close, name="eventlog-aio-closer").start()
            raise
        return EventLog(Host(core, asyncio.get_running_loop()))

    def _open_in_thread(self) -> engine.EventLog:
        core = self._open_core()
        with self._lock:
            if not self._is_unwanted:
                self._core = core
                return core
        core.close()
        return core


def open(  # noqa: A001  aio.open, as eventlog.open
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    create: bool = True,
    durability: str = "sync",
    clock: Clock | None = None,
    maintenance: bool = True,
    maintenance_interval_s: float = INTERVAL_S,
    maintenance_rate_bytes_s: int = RATE_BYTES_S,
) -> Opening:
    """Open a store in this event loop, making it if there is none.

    Arguments and errors are those of :func:`eventlog.open`. Either form does::

        async with aio.open("shop") as log:
            ...
        log = await aio.open("shop")  # and in the end: await log.close()

    Opening recovers, in a thread. Cancelled, it closes again what it opened.
    """
    return Opening(
        partial(
            engine.open,
            path,
            read_only=read_only,
            create=create,
            durability=durability,
            clock=clock,
            maintenance=maintenance,
            maintenance_interval_s=maintenance_interval_s,
            maintenance_rate_bytes_s=maintenance_rate_bytes_s,
        )
    )
