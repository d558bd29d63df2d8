"""A consumer whose calls are awaited."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from eventlog.aio.asking import Request, Requests
from eventlog.aio.handle import Handle
from eventlog.aio.host import Host
from eventlog.aio.waiting import Watch
from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.group import OffsetAndMetadata
from eventlog.consumer.reader import Chunk
from eventlog.consumer.subscription import Topics
from eventlog.errors import ClosedError, LogError
from eventlog.log.record import Record

_Result = TypeVar("_Result")
Units = frozenset[TopicPartition]
Callback = Callable[["Consumer", Units], Awaitable[object] | object]

_PAUSES_S = (0.0, 0.0, 0.0, 0.001, 0.002, 0.004, 0.008)
"""After looking in vain several times in a row: topics of others that are filled fast must not keep this
consumer busy."""


class Consumer(Handle[Requests], AsyncIterator[Record]):
    """As :class:`eventlog.consumer.consumer.Consumer`: reads topics, alone or as a member of a group. Made by
    ``log.consumer(...)``; use it as ``async with log.consumer(...) as consumer``.

    A waiting consumer costs no thread. (A member of a group has one for its heartbeats.) Records are for one
    task at a time, a second one waits; the other methods are for any task.

    A request for records (:meth:`poll`, or a step of the iteration) that is cancelled loses none: they come with
    the next one, and no commit counts them until then.

    Args:
        host: of the log.
        group: its name, or None.
        topics: what is read.
        callbacks: ``on_assigned``, ``on_revoked`` and ``on_lost``.
        options: of the consumer.

    Attributes:
        group: see above.
        timeout_s: iterating ends when nothing came for so many seconds; None: it never ends.
    """

    def __init__(
        self,
        host: Host,
        group: str | None,
        topics: Topics,
        callbacks: Mapping[str, Callback | None],
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(host, group or "", self._made)
        self.group = group
        self.timeout_s: float | None = options.get("timeout_s")
        self._topics = topics
        self._callbacks = callbacks
        self._options = options
        self._asking = asyncio.Lock()
        self._asked_by: weakref.ref[asyncio.Task[Any]] | None = None
        self._called: set[asyncio.Task[Any]] = set()  # callbacks that are under way
        self._chunk: Chunk | None = None
        self._left: Iterator[Record] = iter(())
        self._left_over: Future[Any] | None = None
        self._watch: Watch | None = None
        self._is_closed = False
        self._closing: Future[None] | None = None
        host.consumers.add(self)

    def _made(self) -> Requests:
        core = self._host.core
        return Requests(
            core,
            core.groups,
            self.group,
            self._topics,
            on_assigned=self._bridge(self._callbacks["on_assigned"]),
            on_revoked=self._bridge(self._callbacks["on_revoked"]),
            on_lost=self._bridge(self._callbacks["on_lost"]),
            **self._options,
        )

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self.end(is_done=kind is None)

    # -- callbacks ------------------------------------------------------------------------------

    def _bridge(self, callback: Callback | None) -> Callable[[Any, Units], None] | None:
        """The callback as a thread calls it: it runs in the loop, and the thread waits for it."""
        if callback is None:
            return None
        itself = weakref.ref(self)  # the synchronous consumer holds it

        async def call(consumer: Consumer, units: Units) -> None:
            task = asyncio.current_task()
            assert task is not None
            consumer._called.add(task)
            try:
                outcome = callback(consumer, units)
                if inspect.isawaitable(outcome):
                    await outcome
            finally:
                consumer._called.discard(task)

        def bridge(_: Any, units: Units) -> None:
            consumer = itself()
            if consumer is not None:
                _in_loop(consumer._host.loop, call(consumer, units))

        return bridge

    def _check_caller(self) -> None:
        if asyncio.current_task() in self._called:
            raise LogError(
                "a callback asks for records, or closes its consumer",
                hint="Do it after the poll that called it has returned",
            )

    # -- records --------------------------------------------------------------------------------

    async def poll(
        self, timeout_s: float | None = 0.0, max_records: int | None = None
    ) -> list[Record]:
        """The next records, waiting for some if there are none; does what the group asks for, too.

        Arguments, result and errors are those of :meth:`eventlog.consumer.consumer.Consumer.poll`. Callbacks
        are called in the loop, and awaited if they are coroutines; they may commit and seek.
        """
        records = await self._ask(
            timeout_s, lambda core, request: core.records(request, max_records)
        )
        return records or []

    def __aiter__(self) -> Self:
        """Records one by one, on and on; see :meth:`eventlog.consumer.consumer.Consumer.__iter__`."""
        return self

    async def __anext__(self) -> Record:
        chunk = self._chunk
        if chunk is not None and not chunk.is_interrupted:
            for record in self._left:
                chunk.last = record
                return record
            chunk.is_exhausted = True
        self._chunk = None
        chunk = await self._ask(self.timeout_s, Requests.chunk)
        if chunk is not None:
            self._chunk, self._left = chunk, iter(chunk.records)
            for record in self._left:
                chunk.last = record
                return record
        raise StopAsyncIteration

    async def _ask(
        self, timeout_s: float | None, ask: Callable[[Requests, Request], _Result]
    ) -> _Result | None:
        """Ask until there is something. None, or what is empty: the time is up, or it was closed."""
        self._check_caller()
        if self._is_closed:
            raise _closed()
        core = await self._opened()
        until_s = None if timeout_s is None else self._host.loop.time() + timeout_s
        in_vain_count = 0
        async with self._asking:
            try:
                while True:
                    found, is_more = await self._request(core, ask)
                    left_s = core.heartbeat_interval_s
                    if until_s is not None:
                        left_s = min(left_s, until_s - self._host.loop.time())
                    if found or left_s <= 0 or self._is_closed:
                        return found
                    if is_more:
                        continue
                    if self._watch is not None:
                        is_told = await self._host.waiter.wait_for(self._watch, left_s)
                        in_vain_count = in_vain_count + 1 if is_told else 0
                    # What happens from here on is not slept over.
                    self._end_watch()
                    self._watch = self._host.waiter.watch()
                    await asyncio.sleep(_PAUSES_S[min(in_vain_count, len(_PAUSES_S) - 1)])
            finally:
                self._end_watch()

    def _end_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            self._host.waiter.end_watch(watch)

    async def _request(
        self, core: Requests, ask: Callable[[Requests, Request], _Result]
    ) -> tuple[_Result | None, bool]:
        """What there is now, and whether there may be more to be looked through."""
        if self._is_closed:
            return None, False
        await self._let_end()
        task = asyncio.current_task()
        self._asked_by = None if task is None else weakref.ref(task)
        request = Request()
        self._host.check()
        job = self._host.submit_poll(ask, core, request)
        try:
            return await asyncio.wrap_future(job), request.is_more
        except asyncio.CancelledError:
            request.is_cancelled = True
            self._left_over = job
            raise

    async def _let_end(self) -> None:
        """Wait for a request that was cancelled: one at a time takes up a thread. What it raised (a callback,
        perhaps) is raised by the next one."""
        left_over = self._left_over
        if left_over is not None and not left_over.cancelled():
            try:
                await asyncio.shield(asyncio.wrap_future(left_over))
            except Exception:
                self._left_over = None
                raise
        self._left_over = None

    # -- positions ------------------------------------------------------------------------------

    @property
    def assignment(self) -> Units:
        """What this consumer reads now."""
        return frozenset() if self._core is None else self._core.assignment

    async def paused(self) -> Units:
        """What of it is paused."""
        return await self._settled(lambda core: core.paused)

    async def position(self, unit: TopicPartition) -> int:
        """Next offset to be handed out; see :meth:`eventlog.consumer.consumer.Consumer.position`."""
        return await self._settled(lambda core: core.position(unit))

    async def seek(self, unit: TopicPartition, offset: int) -> None:
        """Go on at another offset; see :meth:`eventlog.consumer.consumer.Consumer.seek`."""
        await self._settled(lambda core: core.seek(unit, offset))

    async def seek_to_time(self, timestamp_ms: int, *units: TopicPartition) -> None:
        """Go to the first record with that time or a later one; see
        :meth:`eventlog.consumer.consumer.Consumer.seek_to_time`."""
        await self._settled(lambda core: core.seek_to_time(timestamp_ms, *units))

    async def seek_to_beginning(self, *units: TopicPartition) -> None:
        """Go to the log start; without units: with all that are assigned."""
        await self._settled(lambda core: core.seek_to_beginning(*units))

    async def seek_to_end(self, *units: TopicPartition) -> None:
        """Go to the high watermark; without units: with all that are assigned."""
        await self._settled(lambda core: core.seek_to_end(*units))

    async def pause(self, *units: TopicPartition) -> None:
        """Hand out nothing of these until :meth:`resume`; see
        :meth:`eventlog.consumer.consumer.Consumer.pause`."""
        await self._settled(lambda core: core.pause(*units))

    async def resume(self, *units: TopicPartition) -> None:
        """Go on with these; without units: with all that are assigned."""
        await self._settled(lambda core: core.resume(*units))

    async def lag(self) -> dict[TopicPartition, int]:
        """How many offsets lie between each assigned unit's position and what can be read."""
        return await self._settled(lambda core: core.lag())

    # -- committed offsets ----------------------------------------------------------------------

    async def commit(
        self,
        offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None = None,
        metadata: str = "",
    ) -> None:
        """Commit the next offsets to read, all of them or none; durable when this returns.

        Arguments and errors are those of :meth:`eventlog.consumer.consumer.Consumer.commit`. Cancelled, all of
        them are committed or none.
        """
        chosen = None if offsets is None else dict(offsets)
        await self._settled(lambda core: core.commit(chosen, metadata))

    async def committed(self, unit: TopicPartition) -> OffsetAndMetadata | None:
        """What the group has committed for a unit, whoever did; None: nothing."""
        return await self._settled(lambda core: core.committed(unit))

    async def _settled(self, call: Callable[[Requests], _Result]) -> _Result:
        if self._is_closed and self._core is None:
            raise _closed()
        core = await self._opened()
        return await self._host.run(core.settled, call, core)

    # -- the end --------------------------------------------------------------------------------

    async def close(self) -> None:
        """Give everything up, calling ``on_revoked``; with auto commit, commit; leave the group. Twice is fine.

        It ends a poll or an iteration that waits in another task; what another task was given last then
        counts as not done. Cancelled, it goes on without anyone who looks.

        Raises:
            What ``on_revoked`` raised; it is closed all the same.
        """
        task = None if self._asked_by is None else self._asked_by()
        await self.end(is_done=self._asked_by is None or task is asyncio.current_task())

    async def end(self, *, is_done: bool) -> None:
        """As :meth:`close`.

        Args:
            is_done: the application is done with what it was given.
        """
        self._check_caller()
        self._is_closed = True
        self._end_watch()
        if self._core is None and self._opening is None:
            return
        if self._closing is None:
            core = await asyncio.wrap_future(self._opening) if self._opening else self.core
            self._closing = self._host.submit_poll(core.end, is_done=is_done)
        await asyncio.shield(asyncio.wrap_future(self._closing))


def _in_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it in the loop and wait for it, in a thread."""
    try:
        done = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:  # the loop has ended
        coroutine.close()
        raise
    while True:
        try:
            done.result(0.25)
            return
        except TimeoutError:
            if done.done():
                raise
            if loop.is_closed():  # and with it the coroutine
                raise ClosedError("the event loop was closed", hint="Open the log again") from None


def _closed() -> ClosedError:
    return ClosedError("the consumer was closed", hint="Make a new one")
