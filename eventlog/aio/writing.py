"""Appends from the loop: at once where that takes microseconds, else in the writer's thread.

To hand something to a thread and to be woken by it costs more than most appends take: measured, an append to
the page cache takes about 10 us in the loop and 60 to 250 us by way of a thread (docs/guide/asyncio.md). So small ones are made at
once, and nothing waits for the disk: that is the syncer's work. What is known to take long goes to the thread:
much data, data that has to be compressed, an append that may end a segment, and one that would have to wait
because too much is unsynced. As long as the thread is at it, all others of the topic follow it there: they
stay in order, and the loop does not meet a lock that the thread holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from eventlog._native import check, ffi, lib
from eventlog.aio.loops import call_soon
from eventlog.log.partition import Partition
from eventlog.settings import TopicSettings, check_durability

AT_ONCE_BYTES_MAX = 64 * 1024
AT_ONCE_COUNT_MAX = 1024
ROOM_BYTES_MIN = 4 * AT_ONCE_BYTES_MAX
UNSYNCED_BYTES_MAX = lib.EL_UNSYNCED_BYTES_MAX // 2

_Result = TypeVar("_Result")


class Writes:
    """How appends to one topic are made. For the loop's thread.

    Args:
        loop: where the tasks are.
        writer: an executor of one thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, writer: ThreadPoolExecutor) -> None:
        self._loop = loop
        self._writer = writer
        self._pending_count = 0
        self._tight: set[int] = set()
        self._unsynced: dict[int, _Unsynced] = {}
        self._state = ffi.new("el_partition_state *")

    def is_quick(self, settings: TopicSettings, size_bytes: int, count: int) -> bool:
        """Can so much be appended at once?"""
        return (
            not self._pending_count
            and not self._tight
            and size_bytes <= AT_ONCE_BYTES_MAX
            and count <= AT_ONCE_COUNT_MAX
            and (settings.compression == "none" or size_bytes < settings.compression_size_bytes_min)
        )

    async def in_thread(self, call: Callable[[], _Result]) -> _Result:
        """Call it in the writer's thread, one after the other.

        Cancelled, it is not begun at all, or ends without anyone who looks.
        """
        self._pending_count += 1
        job = self._writer.submit(call)
        job.add_done_callback(self._ended)
        return await asyncio.wrap_future(job)

    def _ended(self, _: Future[_Result]) -> None:
        """In the writer's thread, or in the loop where it was cancelled."""
        call_soon(self._loop, self._count_down)

    def _count_down(self) -> None:
        self._pending_count -= 1

    def look(self, partition: Partition) -> None:
        """After an append: may the next one take long?"""
        state, number, settings = self._state, partition.number, partition.settings
        check(lib.el_partition_state_read(partition.handle, state))
        is_tight = settings.segment_size_bytes_max - state.active_position < ROOM_BYTES_MIN
        if settings.durability == "sync":
            unsynced = self._unsynced.get(number)
            if unsynced is None:
                unsynced = self._unsynced[number] = _Unsynced(state)
            is_tight |= unsynced.bytes_at_most(state) > UNSYNCED_BYTES_MAX
        if is_tight:
            self._tight.add(number)
        else:
            self._tight.discard(number)


class _Unsynced:
    """How much of a partition may be unsynced: what came since a moment whose log end is known to be
    durable. One such moment is asked about at a time."""

    def __init__(self, state: Any) -> None:
        self._durable_bytes: int = state.appended_bytes
        self._ask(state)

    def _ask(self, state: Any) -> None:
        self._asked_bytes: int = state.appended_bytes
        self._asked_offset: int = state.log_end_offset

    def bytes_at_most(self, state: Any) -> int:
        if state.durable_end_offset >= self._asked_offset:
            self._durable_bytes = self._asked_bytes
            self._ask(state)
        return int(state.appended_bytes) - self._durable_bytes


def how_durable(settings: TopicSettings, durability: str | None) -> tuple[str, bool]:
    """How to write, and whether to wait for the disk afterwards.

    Args:
        settings: of the topic.
        durability: that was asked for; None: the topic's.

    Raises:
        SettingError: there is no such durability.
    """
    wanted = settings.durability if durability is None else check_durability(durability)
    return ("os", True) if wanted == "sync" else (wanted, False)


def size_bytes(item: object) -> int:
    """Of a key or value; 0 of what is none, which is refused later."""
    return len(item) if isinstance(item, bytes | bytearray | memoryview) else 0
