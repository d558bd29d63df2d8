"""``eventlog replay``: fold streams to the last value of a field, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventlog.cli.arguments import StoreDirectory, StoreName
from eventlog.cli.output import CommandError, console, duration, plural, rate, write_bytes
from eventlog.cli.store import open_to_read

if TYPE_CHECKING:
    from eventlog.cli.folding import Fold

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def replay(
    directory: StoreDirectory,
    store: StoreName,
    stream: Annotated[
        str | None, typer.Argument(metavar="STREAM", help="One stream.", show_default=False)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every stream.")] = False,
    last: Annotated[
        str, typer.Option(metavar="FIELD", help="Field of the data to keep.", show_default=False)
    ] = "",
    delete_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="A stream that ends with this type is gone.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write here.", show_default=False),
    ] = None,
) -> None:
    """Replay streams to their current state: the last value of FIELD, one line a stream.

    Lines are `stream TAB value`, sorted by the stream's bytes; a value that is no string is
    written as JSON, and tab, newline and backslash as \\\\t, \\\\n and \\\\\\\\.
    """
    import time

    if not last:
        raise CommandError("--last is missing", hint="Name the field to keep: --last FIELD")
    if (stream is None) == (not all_):
        raise CommandError("give either one STREAM or --all")
    from eventlog.cli.folding import Fold, fold_all, fold_stream

    started = time.perf_counter()
    fold = Fold(last, delete_type)
    with open_to_read(directory) as log:
        events = log.event_store(store)
        if stream is None:
            fold_all(fold, events)
        else:
            fold_stream(fold, events, stream)
    data = tab_separated(fold)
    if output is None:
        write_bytes(data)
        return
    output.write_bytes(data)
    seconds = time.perf_counter() - started
    console(stderr=True).print(
        f"[green]replayed[/green] {plural(fold.event_count, 'event')} of "
        f"{plural(len(fold.last), 'stream')} to {output}, in {duration(seconds)} "
        f"({rate(fold.event_count, seconds)})",
        soft_wrap=True,
    )


def tab_separated(fold: Fold) -> bytes:
    """The state of a fold as lines ``stream TAB value``, sorted by the bytes of the stream."""
    lines = [
        f"{stream.translate(_ESCAPES)}\t{value.translate(_ESCAPES)}\n".encode()
        for stream, value in sorted(
            fold.state().items(), key=lambda pair: pair[0].encode("utf-8", "surrogatepass")
        )
    ]
    return b"".join(lines)
