"""Opening a store for a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eventlog.cli.output import CommandError

if TYPE_CHECKING:
    from eventlog import EventLog
    from eventlog.sourcing import EventStore

SEGMENT_MS_NEVER = 1 << 62


def open_to_read(directory: Path) -> EventLog:
    """The store, read-only: works beside a process that writes to it."""
    import eventlog

    if not directory.is_dir():
        raise CommandError(
            f"there is no store at {directory}", hint=f"`eventlog init {directory}` makes one"
        )
    return eventlog.open(directory, read_only=True)


def history_store(log: EventLog, name: str) -> EventStore:
    """The event store of that name to put a history into; made if it is not there.

    Segments roll by record time, as Kafka's do, which is for retention by time. A history spans
    years: it would fall into thousands of small segments, so a new store rolls by size alone.
    """
    if name in log.topics():
        return log.event_store(name)
    return log.event_store(name, segment_ms=SEGMENT_MS_NEVER)


def open_to_write(directory: Path, *, durability: str = "sync") -> EventLog:
    """The store, for writing; made if it is not there."""
    import eventlog

    return eventlog.open(directory, durability=durability)
