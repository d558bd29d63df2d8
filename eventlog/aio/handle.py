"""What stands for an object of the synchronous API that may have to be made first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, Self, TypeVar

from eventlog.aio.host import Host
from eventlog.errors import LogError

_Core = TypeVar("_Core")


class Handle(Generic[_Core]):
    """Opened when it is awaited, or first used.

    Args:
        host: of the log.
        name: for messages.
        make: opens it; called in a thread.
    """

    def __init__(self, host: Host, name: str, make: Callable[[], _Core]) -> None:
        self._host = host
        self._name = name
        self._make = make
        self._core: _Core | None = None
        self._opening: Future[_Core] | None = None

    def __repr__(self) -> str:
        return f"aio.{type(self).__name__}({self._name!r})"

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open_self().__await__()

    async def _open_self(self) -> Self:
        await self._opened()
        return self

    @property
    def core(self) -> _Core:
        """The same of the synchronous API: its calls wait for the disk, and the loop with them.

        Raises:
            LogError: it is not open yet.
        """
        if self._core is None:
            raise LogError(f"{self!r} is not open yet", hint="Await it first")
        return self._core

    async def _opened(self) -> _Core:
        """Open it if need be. Cancelled, it is opened all the same, and the next one has it."""
        self._host.check()
        if self._core is None:
            opening = self._opening
            if opening is None:
                opening = self._opening = self._host.submit(self._make)
            try:
                self._core = await asyncio.shield(asyncio.wrap_future(opening))
            except Exception:
                if self._opening is opening:
                    self._opening = None  # the next one tries again
                raise
        return self._core
