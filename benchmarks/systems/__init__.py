"""eventlog and real servers, each used as its users would to do the same work: keep records in order,
hand them to consumers, remember how far a consumer came.

A module a system; it is imported only where it is measured, as it needs the client of its server.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from tools import servers

EVENTLOG = "eventlog"
REDIS = "Redis Streams"
NATS = "NATS JetStream"
POSTGRES = "PostgreSQL"

MODULES = {EVENTLOG: "embedded", REDIS: "redis", NATS: "nats", POSTGRES: "postgres"}

Batch = tuple[Sequence[bytes], Sequence[bytes]]
"""Values and keys."""


class Client(ABC):
    """What a thread has of a system to work with."""

    @abstractmethod
    def append(self, value: bytes) -> None:
        """Append a record without a key, and tell those who wait for it."""

    @abstractmethod
    def append_each(self, values: Sequence[bytes], keys: Sequence[bytes]) -> None:
        """Append them one a call, each acknowledged before the next is sent."""

    @abstractmethod
    def append_batches(self, batches: Sequence[Batch]) -> None:
        """Append batches, each acknowledged before the next is sent."""

    @abstractmethod
    def consume(self, group: str, count: int, batch_count: int) -> None:
        """As the only consumer of a new group take so many records, with a commit after every
        ``batch_count``."""

    @abstractmethod
    def follow(self) -> Iterator[bytes]:
        """Values from the first one on; waits for more, for ever."""


class System(ABC):
    """A way to keep a log. One object a process; serves one log at a time."""

    server: ClassVar[str | None] = None
    """Its name in tools/servers.py."""

    @abstractmethod
    def serve(self, directory: Path, *, is_durable: bool) -> AbstractContextManager[str]:
        """An empty log, thrown away afterwards.

        Args:
            directory: decides which disk is used.
            is_durable: on disk before it is acknowledged; else within a second or so, by whatever
                setting the system has for it.

        Returns:
            where it is, for clients.
        """

    @abstractmethod
    def connect(self, address: str) -> AbstractContextManager[Client]:
        """A client of that log; in any process."""

    def lacks(self, *, is_durable: bool) -> str | None:
        """What is missing on this machine, and what to do; None: nothing."""
        return None if self.server is None else servers.available()[self.server]


def load(name: str) -> System:
    """A system.

    Raises:
        ModuleNotFoundError: the package that is its client is not installed.
    """
    system: System = importlib.import_module(f"systems.{MODULES[name]}").SYSTEM
    return system


def missing(name: str, *, is_durable: bool) -> str | None:
    """Why it cannot be measured here, and what to do; None: it can."""
    try:
        text = load(name).lacks(is_durable=is_durable)
    except ModuleNotFoundError as error:
        text = f"the package {error.name} is not installed: pip install --group bench"
    return f"{name} is left out: {text}" if text else None
