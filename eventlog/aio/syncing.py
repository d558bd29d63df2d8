"""Durable appends of many tasks, few fdatasyncs."""

from __future__ import annotations

import asyncio
import threading
from copy import copy

from eventlog.aio.loops import call_soon
from eventlog.log.partition import Partition

_Futures = list["asyncio.Future[None]"]


class Syncer:
    """One thread that syncs partitions for all tasks that wait for that.

    It is told once in a round of the loop, at its end: one fdatasync serves all tasks that appended in that
    round, and in all rounds that passed during the fdatasync before.

    Args:
        loop: where the waiting tasks are.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = threading.Condition()
        self._gathered: dict[Partition, _Futures] = {}  # in this round
        self._waiting: dict[Partition, _Futures] = {}
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    async def wait(self, *partitions: Partition) -> None:
        """Return when all that was appended to them until now is on disk. In the loop's thread.

        Cancelled, it only does not wait.

        Raises:
            PoisonedError: an fdatasync failed, now or before.
            ClosedError, UnknownTopicError: the topic was closed or deleted.
        """
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        futures: _Futures = []
        for partition in partitions:
            futures.append(self._loop.create_future())
            self._gathered.setdefault(partition, []).append(futures[-1])
        if len(futures) == 1:
            await futures[0]
        else:
            await asyncio.gather(*futures)

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, {}
        with self._changed:
            for partition, futures in gathered.items():
                self._waiting.setdefault(partition, []).extend(futures)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="eventlog-aio-syncer", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """End once those who wait are served. From any thread."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()

    def join(self) -> None:
        """Return when it has ended."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._is_stopped:
                        return
                    self._changed.wait()
                waiting, self._waiting = self._waiting, {}
            for partition, futures in waiting.items():
                error: BaseException | None = None
                try:
                    partition.sync()
                except BaseException as raised:  # noqa: BLE001  raised in those who wait
                    error = raised
                call_soon(self._loop, _tell, futures, error)
            del waiting, partition, futures  # a sleeping thread keeps no store alive


def _tell(futures: _Futures, error: BaseException | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(copy(error))  # each gets a traceback of its own
