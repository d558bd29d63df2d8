"""``eventlog import``: events from JSON lines into an event store, as often as you like.

Running it again appends nothing twice. An event's place in its stream is known beforehand: its
version in the file or, where the file has none, how many events of that stream came before it.
What the store already holds up to that version is skipped.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from eventlog.cli.arguments import Durability, StoreDirectory, StoreName
from eventlog.cli.output import CommandError, console, count, duration, plural, rate
from eventlog.cli.store import open_to_write

if TYPE_CHECKING:
    from rich.progress import Progress

    from eventlog.cli.importing import Importer

_REFRESH_SECONDS = 0.1


def import_lines(
    directory: StoreDirectory,
    store: StoreName,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="JSON lines, plain or zstd; - reads standard input.",
            show_default=False,
        ),
    ],
    stream: Annotated[str, typer.Option(help="Field with the stream's id.")] = "stream",
    type_: Annotated[str, typer.Option("--type", help="Field with the event's type.")] = "type",
    time_: Annotated[
        str,
        typer.Option(
            "--time", help="Field with the time: epoch seconds or milliseconds, or ISO 8601."
        ),
    ] = "time",
    version: Annotated[
        str, typer.Option(help="Field with the event's version in its stream, from 1.")
    ] = "version",
    durability: Annotated[
        Durability,
        typer.Option(help="sync: each batch is on disk before the next; os: at the end."),
    ] = Durability.SYNC,
) -> None:
    """Import events from JSON lines. Can be stopped and run again: nothing is appended twice.

    Four fields of each line's object say where the event belongs; the rest is the event's data.
    """
    from eventlog.cli.importing import Importer
    from eventlog.cli.jsonlines import Fields, LineReader

    fields = Fields(stream, type_, time_, version)
    if len(set(fields)) < len(fields):
        raise CommandError(
            f"one field cannot serve two purposes: {', '.join(fields)}",
            hint="Give --stream, --type, --time and --version different names",
        )
    reader = LineReader(file)
    try:
        with open_to_write(directory, durability=durability.value) as log:
            importer = Importer(log.event_store(store))
            with _progress() as progress:
                task = progress.add_task("importing", total=reader.size_bytes, events="", rate="")
                started = redrawn = time.monotonic()
                try:
                    for _ in importer.run(reader, fields):
                        now = time.monotonic()
                        if now - redrawn > _REFRESH_SECONDS:
                            redrawn = now
                            progress.update(
                                task,
                                completed=reader.position_bytes,
                                events=count(importer.line_count),
                                rate=rate(importer.line_count, now - started),
                            )
                finally:  # also what came before a bad line is kept, and said
                    importer.store.topic.sync()
                    seconds = time.monotonic() - started
                    progress.stop()
                    _print_sum(importer, store, seconds)
    finally:
        reader.close()


def _progress() -> Progress:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    speak = console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TextColumn("{task.fields[events]} events  [dim]{task.fields[rate]}[/dim]"),
        TimeRemainingColumn(),
        console=speak,
        transient=True,
        disable=not speak.is_terminal,
    )


def _print_sum(importer: Importer, name: str, seconds: float) -> None:
    speak = console()
    speak.print(
        f"[green]imported[/green] {plural(importer.appended_count, 'event')} into {name}, "
        f"in {duration(seconds)} ({rate(importer.line_count, seconds)})",
        soft_wrap=True,
    )
    if importer.skipped_count:
        speak.print(f"{plural(importer.skipped_count, 'line')} skipped: in the store already")
