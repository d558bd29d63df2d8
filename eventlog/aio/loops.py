"""From a thread into the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVarTuple

_Arguments = TypeVarTuple("_Arguments")


def call_soon(
    loop: asyncio.AbstractEventLoop,
    call: Callable[[*_Arguments], object],
    *arguments: *_Arguments,
) -> None:
    """Have it called in the loop; where the loop has ended, nobody is there to be told."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)
