"""Helpers of the tests of eventlog.aio: coroutines as plain tests."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import AsyncIterable, Callable, Coroutine
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
WITHIN_S = 60


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A coroutine function as a test of its own loop, in which nothing hangs unnoticed."""

    @functools.wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        async def limited() -> None:
            await asyncio.wait_for(test(*arguments, **options), WITHIN_S)

        asyncio.run(limited())

    return run


async def until(condition: Callable[[], object]) -> None:
    """Let the loop go on until something holds."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.001)


async def take(items: AsyncIterable[Item], count: int) -> list[Item]:
    """The first so many."""
    taken: list[Item] = []
    async for item in items:
        taken.append(item)
        if len(taken) == count:
            break
    return taken


async def listed(items: AsyncIterable[Item]) -> list[Item]:
    return [item async for item in items]


async def cancelled(task: asyncio.Task[Any]) -> bool:
    """Cancel it and wait for its end; whether it was cancelled."""
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


@contextmanager
def child(function: Callable[[], object]) -> Any:
    """A forked child that runs the function while the body runs; what it asserts counts at the end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    try:
        yield pid
    finally:
        _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status}"
