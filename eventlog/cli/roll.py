"""``eventlog roll``: begin new segments."""

from __future__ import annotations

from typing import Annotated

import typer

from eventlog.cli.arguments import Json, StoreDirectory
from eventlog.cli.output import console, count, write_json
from eventlog.cli.store import open_to_change
from eventlog.cli.topics import TopicName


def roll(
    directory: StoreDirectory,
    topic: TopicName,
    partition: Annotated[
        int | None,
        typer.Option("-p", "--partition", help="Only this one.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Seal the newest segment of each partition and begin another one; an empty one stays."""
    with open_to_change(directory) as log:
        found = log.roll(topic, partition)
    for number, base_offset in found.items():
        if json:
            write_json({"topic": topic, "partition": number, "base_offset": base_offset})
        else:
            told = f"the newest segment of {topic}-{number} begins at offset {count(base_offset)}"
            console().print(told, soft_wrap=True)
