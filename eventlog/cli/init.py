"""``eventlog init``: make an empty store."""

from __future__ import annotations

from eventlog.cli.arguments import StoreDirectory
from eventlog.cli.output import console, plural


def init(directory: StoreDirectory) -> None:
    """Make an empty store. A store that is there already stays as it is."""
    import eventlog

    with eventlog.open(directory) as log:
        topics = log.topics()
    speak = console()
    if topics:
        told = f"{directory} is a store already, with {plural(len(topics), 'topic')}"
        speak.print(told, soft_wrap=True)
        return
    speak.print(f"[green]made[/green] an empty store in {directory}", soft_wrap=True)
    speak.print(
        f"next:  eventlog import {directory} NAME FILE.jsonl   (JSON lines, one event a line)",
        style="dim",
        soft_wrap=True,
    )
