"""``eventlog read``: the events of a store, or of one stream; the records of a topic."""

from __future__ import annotations

from typing import Annotated

import typer

from eventlog.cli.arguments import Json, StoreDirectory, StoreName
from eventlog.cli.output import CommandError, console
from eventlog.cli.showing import Printer
from eventlog.cli.store import open_to_read


def read(
    directory: StoreDirectory,
    store: StoreName,
    stream: Annotated[
        str | None, typer.Option(help="Only this stream.", show_default=False)
    ] = None,
    partition: Annotated[
        int | None, typer.Option(min=0, help="Only this partition.", show_default=False)
    ] = None,
    start: Annotated[
        int | None,
        typer.Option(help="From this offset on; with --stream: version.", show_default=False),
    ] = None,
    end: Annotated[
        int | None,
        typer.Option(help="Up to, not including, this offset or version.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="At most so many.", show_default=False)
    ] = None,
    backwards: Annotated[
        bool, typer.Option("--backwards", help="Newest first; with --stream.")
    ] = False,
    json: Json = False,
) -> None:
    """Show events: time, stream, version, type, data. Records of other topics: time, key, value."""
    with open_to_read(directory) as log:
        topic = log.topic(store)
        printer = Printer(json=json)
        if stream is not None:
            events = log.event_store(store)
            if events.stream_version(stream) == 0:
                raise CommandError(
                    f"there is no stream {stream!r} in {store}",
                    hint=f"`eventlog streams {directory} {store}` lists them",
                )
            for event in events.read_stream(
                stream, start=start or 1, end=end, backwards=backwards, limit=limit
            ):
                printer.add(event)
            printer.flush()
            return
        if backwards:
            raise CommandError(
                "--backwards needs --stream", hint="`eventlog tail` shows the newest of a topic"
            )
        for number in range(topic.partition_count) if partition is None else [partition]:
            left = None if limit is None else limit - printer.count
            first = topic.log_start_offset(number) if start is None else start
            for record in topic.read(number, start=first, end=end, limit=left):
                printer.add(record)
        printer.flush()
        if not printer.count and not json:
            console(stderr=True).print("no events in this range", style="dim")
