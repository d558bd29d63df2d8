"""What the objects of one open log share: the loop it belongs to, and its few threads.

However many tasks wait, there are at most: one thread that waits for what happens in the store
(waiting.py), one that syncs (syncing.py), one that makes long appends, in order (writing.py), and
``READING_THREADS`` + ``POLLING_THREADS`` that do what may read or write a disk. Each is started when it is
first needed. Those of the last kind call the application back and wait for it, so that nothing else may
depend on them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

from eventlog import engine
from eventlog.aio.syncing import Syncer
from eventlog.aio.waiting import Waiter
from eventlog.aio.writing import Writes
from eventlog.errors import ClosedError, ForkedError, WrongLoopError

_logger = logging.getLogger("eventlog.aio")

READING_THREADS = 4
POLLING_THREADS = 4

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Ending(Protocol):
    """What has to end before the log does: a consumer."""

    async def end(self, *, is_done: bool) -> None:
        """Close; ``is_done``: the application is done with what it was given."""
        ...


class Host:
    """See the module. All of it is for the loop's thread, but for what says otherwise.

    Args:
        core: the log, as the synchronous API has it.
        loop: that it belongs to.
    """

    def __init__(self, core: engine.EventLog, loop: asyncio.AbstractEventLoop) -> None:
        self.core = core
        self.loop = loop
        self.is_closed = False  # nothing can be begun any more
        self.syncer = Syncer(loop)
        self.waiter = Waiter(core.activity, loop)
        self._writes: dict[str, Writes] = {}
        self._pid = os.getpid()
        self.consumers: weakref.WeakSet[Ending] = weakref.WeakSet()
        self._append_count = 0
        self._drained: asyncio.Future[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._ended: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, "eventlog-aio-writer")
        self._readers = ThreadPoolExecutor(READING_THREADS, "eventlog-aio-reader")
        self._pollers = ThreadPoolExecutor(POLLING_THREADS, "eventlog-aio-poller")

    def __del__(self) -> None:
        """Forgotten without close (of which the store itself warns): no thread stays behind."""
        if os.getpid() == self._pid:
            self.waiter.stop()
            self.syncer.stop()

    def check(self) -> None:
        """Refuse a forked child, another loop, and a closed log.

        Raises:
            ForkedError, WrongLoopError, ClosedError: see there.
        """
        if os.getpid() != self._pid:
            raise ForkedError(
                f"{self.core.path} was opened before a fork and belongs to the parent process",
                hint="Open it again in the child",
                path=str(self.core.path),
            )
        if asyncio.get_running_loop() is not self.loop:
            raise WrongLoopError(
                f"{self.core.path} was opened in another event loop",
                hint="Use it where it was opened, or open it in this loop, too",
            )
        if self.is_closed:
            raise ClosedError(
                f"{self.core.path} was closed", hint="Open it again", path=str(self.core.path)
            )

    async def run(
        self,
        call: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> _Result:
        """Call it in a thread. Cancelled, it is not begun, or goes on to its end without anyone who looks."""
        return await asyncio.wrap_future(self.submit(call, *arguments, **options))

    def submit(
        self,
        call: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> Future[_Result]:
        """Have it called in a thread. It must not wait for the loop."""
        self.check()
        return self._readers.submit(call, *arguments, **options)

    def submit_poll(
        self,
        call: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> Future[_Result]:
        """The same for what may call the application back and wait for it. The caller checks."""
        return self._pollers.submit(call, *arguments, **options)

    def writes(self, topic: str) -> Writes:
        """How appends to a topic are made."""
        writes = self._writes.get(topic)
        if writes is None:
            writes = self._writes[topic] = Writes(self.loop, self._writer)
        return writes

    # -- the end --------------------------------------------------------------------------------

    def begin(self) -> None:
        """An append begins; :meth:`end` has to follow. Closing waits for it."""
        self.check()
        self._append_count += 1

    def end(self) -> None:
        """It ended."""
        self._append_count -= 1
        if not self._append_count and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    @property
    def has_close_begun(self) -> bool:
        """Is it closed, or about to be?"""
        return self._draining is not None

    async def close(self) -> None:
        """End all: what is under way is waited for. Cancelled, it goes on without anyone who looks.

        Raises:
            What closing the store raises.
        """
        if self._draining is None:
            self._draining = self.loop.create_task(self._drain())
            self._draining.add_done_callback(self._close_core)
        if self._ended is None:
            await asyncio.wait([self._draining])
        assert self._ended is not None
        await asyncio.shield(asyncio.wrap_future(self._ended))

    async def _drain(self) -> None:
        while self.consumers:  # they may commit
            try:
                await self.consumers.pop().end(is_done=False)
            except Exception:
                _logger.exception("closing a consumer")
        self.is_closed = True
        self.waiter.stop()
        if self._append_count:
            self._drained = self.loop.create_future()
            await self._drained

    def _close_core(self, _: asyncio.Task[None]) -> None:
        """Everything is drained; or the loop is coming to its end, and has cancelled that."""
        self.is_closed = True
        self.waiter.stop()
        self._ended = self._readers.submit(self._close_in_thread)
        self._readers.shutdown(wait=False)

    def _close_in_thread(self) -> None:
        self._writer.shutdown()
        self._pollers.shutdown()
        self.syncer.stop()
        self.syncer.join()
        self.waiter.join()
        self.core.close()
