"""An event store whose calls are awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, overload

from eventlog._native import check, lib
from eventlog.aio.handle import Handle
from eventlog.aio.host import Host
from eventlog.aio.reading import Reading
from eventlog.aio.writing import how_durable, size_bytes
from eventlog.sourcing import (
    ANY,
    Event,
    EventReceipt,
    ExpectedVersion,
    RecordedEvent,
    StreamAppend,
)
from eventlog.sourcing import EventStore as _EventStore
from eventlog.sourcing.event_store import stream_key
from eventlog.sourcing.stream_index import StreamIndex

State = TypeVar("State")

_ROOM_MIN = 8192
"""The index has that much room before it is written down: that takes long."""
_BEHIND_COUNT_MAX = 512
"""Events of others that are taken into the index in the loop, before an append."""
_AT_ONCE_COUNT_MAX = 128


class EventStore(Handle[_EventStore]):
    """As :class:`eventlog.sourcing.EventStore`. Made by ``log.event_store(name)``; ``await
    log.event_store(name)`` also opens it, which otherwise its first call does. For any number of tasks.

    What is passed to an append must not be changed before it returned.
    """

    def __init__(self, host: Host, name: str, make: Callable[[], _EventStore]) -> None:
        super().__init__(host, name, make)
        self._writes = host.writes(name)

    @property
    def name(self) -> str:
        """Of the store and of its topic."""
        return self._name

    @property
    def codec(self) -> Any:
        """Of typed data. There once the store is open, else LogError."""
        return self.core.codec

    # -- append ---------------------------------------------------------------------------------

    async def append(
        self,
        stream: str,
        events: object,
        *,
        expected_version: ExpectedVersion | int = ANY,
        durability: str | None = None,
    ) -> EventReceipt:
        """Append events to a stream: all of them, as one batch, or none.

        Arguments, result and errors are those of :meth:`eventlog.sourcing.EventStore.append`. All tasks that
        wait for the disk share fdatasyncs. Cancelled, the events are all there or none is.
        """
        store = self._core or await self._opened()
        how, is_awaited = how_durable(store.topic.settings, durability)
        size, count = _measure(events)
        call = partial(
            store.append,
            stream,
            list(events) if type(events) is list else events,
            expected_version=expected_version,
            durability=how,
        )
        return await self._append_to(store, stream, size, count, call, is_awaited)

    async def append_raw(
        self,
        stream: str,
        type: str,  # noqa: A002
        values: Sequence[bytes],
        *,
        expected_version: ExpectedVersion | int = ANY,
        content_type: str | None = None,
        timestamps_ms: Sequence[int] | None = None,
        durability: str | None = None,
    ) -> EventReceipt:
        """Append events of one type whose data is bytes; see
        :meth:`eventlog.sourcing.EventStore.append_raw`, and :meth:`append`."""
        store = self._core or await self._opened()
        how, is_awaited = how_durable(store.topic.settings, durability)
        values = tuple(values)
        call = partial(
            store.append_raw,
            stream,
            type,
            values,
            expected_version=expected_version,
            content_type=content_type,
            timestamps_ms=None if timestamps_ms is None else tuple(timestamps_ms),
            durability=how,
        )
        size = sum(map(size_bytes, values))
        return await self._append_to(store, stream, size, len(values), call, is_awaited)

    async def append_many(
        self,
        appends: Mapping[str, object] | Iterable[StreamAppend],
        *,
        durability: str | None = None,
    ) -> list[EventReceipt]:
        """Append to several streams at once: all of it is stored, as one batch, or nothing.

        See :meth:`eventlog.sourcing.EventStore.append_many`, and :meth:`append`.
        """
        store = self._core or await self._opened()
        how, is_awaited = how_durable(store.topic.settings, durability)
        if isinstance(appends, Mapping):
            appends = [StreamAppend(stream, events) for stream, events in appends.items()]
        chosen = [StreamAppend(*append) for append in appends]
        measures = [_measure(append.events) for append in chosen]
        return await self._append(
            store,
            chosen[0].stream if chosen and store.topic.partition_count == 1 else None,
            sum(size for size, _ in measures),
            sum(count for _, count in measures),
            partial(store.append_many, chosen, durability=how),
            is_awaited,
        )

    async def _append_to(
        self,
        store: _EventStore,
        stream: str,
        size: int,
        count: int,
        call: Callable[[], EventReceipt],
        is_awaited: bool,
    ) -> EventReceipt:
        [receipt] = await self._append(store, stream, size, count, lambda: [call()], is_awaited)
        return receipt

    async def _append(
        self,
        store: _EventStore,
        stream: str | None,
        size: int,
        count: int,
        call: Callable[[], list[EventReceipt]],
        is_awaited: bool,
    ) -> list[EventReceipt]:
        """``stream``: one that it is about; None: do it in the thread."""
        self._host.begin()
        try:
            index = None if stream is None else self._at_once(store, stream, size, count)
            if index is None:
                receipts = await self._writes.in_thread(call)
            else:
                try:
                    receipts = call()
                finally:
                    index.lock.release()
            if any(receipt.count for receipt in receipts):
                target = store.topic.partitions[receipts[0].partition]
                self._writes.look(target)
                if is_awaited:
                    await self._host.syncer.wait(target)
            return receipts
        finally:
            self._host.end()

    def _at_once(
        self, store: _EventStore, stream: str, size: int, count: int
    ) -> StreamIndex | None:
        """The index of the stream's partition, locked, if an append to it takes microseconds: nobody is
        at it, and there is little to be done first."""
        if count > _AT_ONCE_COUNT_MAX or not self._writes.is_quick(
            store.topic.settings, size, count
        ):
            return None
        partition = store._partition_of(stream_key(stream))
        index = partition.index
        if index.room < _ROOM_MIN or not index.lock.acquire(blocking=False):
            return None
        is_quick = False
        try:
            check(lib.el_partition_state_read(partition.partition.handle, index.state))
            is_quick = index.state.log_end_offset - index.end_offset <= _BEHIND_COUNT_MAX
        finally:
            if not is_quick:
                index.lock.release()
        return index if is_quick else None

    # -- read -----------------------------------------------------------------------------------

    def read_stream(
        self,
        stream: str,
        *,
        start: int = 1,
        end: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Reading[RecordedEvent]:
        """The events of a stream with a version in ``[start, end)``, as far as they could be read when the
        first was asked for.

        Arguments and errors are those of :meth:`eventlog.sourcing.EventStore.read_stream`; all errors come
        from the iterator. A thread reads up to 1,024 events at a time. A cancelled ``anext`` loses none.
        """

        async def begin() -> Callable[[], Iterator[RecordedEvent]]:
            store = await self._opened()
            return partial(
                store.read_stream, stream, start=start, end=end, backwards=backwards, limit=limit
            )

        return Reading(self._host, begin)

    def read_all(
        self,
        *,
        start: int = 0,
        end: int | None = None,
        limit: int | None = None,
        partition: int = 0,
    ) -> Reading[RecordedEvent]:
        """All events of a partition in their order; see :meth:`eventlog.sourcing.EventStore.read_all` and
        :meth:`read_stream`."""

        async def begin() -> Callable[[], Iterator[RecordedEvent]]:
            store = await self._opened()
            return partial(store.read_all, start=start, end=end, limit=limit, partition=partition)

        return Reading(self._host, begin)

    def streams(self, prefix: str = "") -> Reading[str]:
        """The ids of the streams that begin with the prefix, in the order of their UTF-8 bytes."""

        async def begin() -> Callable[[], Iterator[str]]:
            return partial((await self._opened()).streams, prefix)

        return Reading(self._host, begin)

    async def stream_version(self, stream: str) -> int:
        """How many events the stream holds, 0 for one that does not exist; as far as can be read now."""
        store = await self._opened()
        return await self._host.run(store.stream_version, stream)

    # -- fold -----------------------------------------------------------------------------------

    @overload
    async def fold(
        self,
        stream: str,
        initial: Callable[[], State],
        evolve: Callable[[State, RecordedEvent], State],
        *,
        start: int = 1,
        end: int | None = None,
    ) -> State: ...
    @overload
    async def fold(
        self,
        stream: str,
        initial: State,
        evolve: Callable[[State, RecordedEvent], State],
        *,
        start: int = 1,
        end: int | None = None,
    ) -> State: ...
    async def fold(
        self,
        stream: str,
        initial: Any,
        evolve: Callable[[Any, RecordedEvent], Any],
        *,
        start: int = 1,
        end: int | None = None,
    ) -> Any:
        """The state that the stream's events come to; see :meth:`eventlog.sourcing.EventStore.fold`.

        ``evolve`` is called in the loop, for up to 1,024 events in a row.
        """
        events = self.read_stream(stream, start=start, end=end)
        state = initial() if callable(initial) else initial
        while chunk := await events.chunk():
            for event in chunk:
                state = evolve(state, event)
        return state

    async def fold_all(
        self,
        initial: Any,
        evolve: Callable[[Any, RecordedEvent], Any],
        *,
        prefix: str = "",
    ) -> AsyncIterator[tuple[str, Any]]:
        """(stream, state) of every stream that begins with the prefix, after one scan of the log; see
        :meth:`eventlog.sourcing.EventStore.fold_all`.

        ``evolve`` is called in the loop, for up to 1,024 events in a row.
        """
        store = await self._opened()
        key = prefix.encode()
        for number in range(store.topic.partition_count):
            states: dict[bytes, Any] = {}
            events = self.read_all(partition=number)
            while chunk := await events.chunk():
                for event in chunk:
                    stream = event.key
                    if stream not in states:
                        if not stream.startswith(key):
                            continue
                        states[stream] = initial() if callable(initial) else initial
                    states[stream] = evolve(states[stream], event)
            for stream, state in states.items():
                yield stream.decode("utf-8", "replace"), state

    # -- the index ------------------------------------------------------------------------------

    async def checkpoint(self) -> None:
        """Write the stream indexes down; see :meth:`eventlog.sourcing.EventStore.checkpoint`."""
        store = await self._opened()
        await self._host.run(store.checkpoint)

    async def rebuild_index(self) -> None:
        """Throw the stream indexes away and fold them from the whole log."""
        store = await self._opened()
        await self._host.run(store.rebuild_index)

    async def verify(self) -> list[str]:
        """Compare the stream indexes with a fold of the whole log; what differs, empty if nothing does."""
        store = await self._opened()
        return await self._host.run(store.verify)


def _measure(events: object) -> tuple[int, int]:
    """Size in bytes, as far as it can be told before they are encoded, and how many events they are."""
    if type(events) is Event:
        return _data_size(events), 1
    if isinstance(events, list | tuple):
        return sum(map(_data_size, events)), len(events)
    return 0, 1


def _data_size(event: object) -> int:
    data = event.data if type(event) is Event else None
    return len(data) if isinstance(data, str) else size_bytes(data)
