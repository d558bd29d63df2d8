"""``eventlog backup`` and ``eventlog restore``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventlog.cli.arguments import Json, StoreDirectory
from eventlog.cli.output import console, duration, plural, size, write_json
from eventlog.cli.store import open_to_read

if TYPE_CHECKING:
    from eventlog.log.backup import BackupReport, RestoreReport


def backup(
    directory: StoreDirectory,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET",
            help="Where backups are made: each in a directory of its own.",
            show_default=False,
        ),
    ],
    full: Annotated[
        bool,
        typer.Option("--full", help="Copy everything: share no file with the store or a backup."),
    ] = False,
    json: Json = False,
) -> None:
    """Back up a store, whoever is using it: the log, the topics, and what groups have committed.

    The backup holds at least what was durable when the command began. What does not change any more is
    shared with the backup before, and with the store on the same file system (hard links).
    """
    import time

    begun_s = time.monotonic()
    with open_to_read(directory) as log:
        made = log.backup(target, incremental=not full)
    if json:
        write_json(_backup_json(made))
        return
    shared = size(made.shared_size_bytes)
    console().print(
        f"[green]backed up[/green]  {made.path}  {plural(len(made.ends), 'partition')}, "
        f"{size(made.size_bytes)}, {shared} of it shared, in {duration(time.monotonic() - begun_s)}",
        soft_wrap=True,
    )


def restore(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="BACKUP",
            help="A backup, or the directory that backups were made in: then the newest one.",
            show_default=False,
        ),
    ],
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="New or empty directory of the store.", show_default=False
        ),
    ],
    json: Json = False,
) -> None:
    """Make a store of a backup. Every file is copied and checked; nothing is ever restored over a store."""
    import eventlog

    made = eventlog.restore(source, directory)
    if json:
        write_json(_restore_json(made))
        return
    console().print(
        f"[green]restored[/green]  {made.path}  {plural(len(made.ends), 'partition')}, "
        f"{size(made.size_bytes)}, from {made.backup}",
        soft_wrap=True,
    )


def _backup_json(made: BackupReport) -> dict[str, object]:
    return {
        "path": str(made.path),
        "files": made.file_count,
        "size_bytes": made.size_bytes,
        "shared_size_bytes": made.shared_size_bytes,
        "ends": {f"{topic}-{number}": end for (topic, number), end in made.ends.items()},
    }


def _restore_json(made: RestoreReport) -> dict[str, object]:
    return {
        "path": str(made.path),
        "backup": str(made.backup),
        "size_bytes": made.size_bytes,
        "ends": made.ends,
    }
