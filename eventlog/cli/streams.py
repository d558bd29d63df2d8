"""``eventlog streams``: the streams of an event store and their versions."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from eventlog.cli.arguments import Json, StoreDirectory, StoreName
from eventlog.cli.output import bytes_text, write_bytes
from eventlog.cli.store import open_to_read


def streams(
    directory: StoreDirectory,
    store: StoreName,
    prefix: Annotated[str, typer.Option(help="Only streams that begin so.")] = "",
    limit: Annotated[
        int | None, typer.Option(min=0, help="At most so many.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """List streams with their versions, one a line: stream, tab, version."""
    import msgspec

    with open_to_read(directory) as log:
        found = log.event_store(store)
        chunk: list[bytes] = []
        for stream in islice(found.streams(prefix=prefix), limit):
            version = found.stream_version(stream)
            if json:
                line = msgspec.json.encode({"stream": stream, "version": version})
            else:
                line = f"{bytes_text(stream.encode())}\t{version}".encode()
            chunk.append(line)
            if len(chunk) == 4096:
                write_bytes(b"\n".join(chunk) + b"\n")
                chunk.clear()
        if chunk:
            write_bytes(b"\n".join(chunk) + b"\n")
