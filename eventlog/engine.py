"""What ``eventlog.open`` returns: the topics of a store, and a door to each layer above them."""

from __future__ import annotations

import os

from eventlog.clock import Clock
from eventlog.log.store import Store


class EventLog(Store):
    """A store with everything that is built on it."""


def open(  # noqa: A001  eventlog.open, as in shelve.open
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    create: bool = True,
    durability: str = "sync",
    clock: Clock | None = None,
) -> EventLog:
    """Open a store, making it if there is none: see :class:`eventlog.log.store.Store`."""
    return EventLog(path, read_only=read_only, create=create, durability=durability, clock=clock)
