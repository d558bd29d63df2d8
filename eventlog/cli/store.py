"""Opening a store for a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eventlog.cli.output import CommandError

if TYPE_CHECKING:
    from eventlog import EventLog


def open_to_read(directory: Path) -> EventLog:
    """The store, read-only: works beside a process that writes to it."""
    import eventlog

    _check_there(directory)
    return eventlog.open(directory, read_only=True)


def open_to_write(directory: Path, *, durability: str = "sync") -> EventLog:
    """The store, for writing; made if it is not there."""
    import eventlog

    return eventlog.open(directory, durability=durability)


def open_to_change(directory: Path) -> EventLog:
    """The store, for writing beside the processes that use it; never made."""
    import eventlog

    _check_there(directory)
    return eventlog.open(directory, create=False, maintenance=False)


def _check_there(directory: Path) -> None:
    if not directory.is_dir():
        raise CommandError(
            f"there is no store at {directory}", hint=f"`eventlog init {directory}` makes one"
        )
