"""``eventlog bench``: this machine's own limits, and how close to them eventlog comes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventlog.cli.arguments import Json
from eventlog.cli.output import console, duration, short, table, write_json

if TYPE_CHECKING:
    from eventlog.cli.measuring import Measured


def bench(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="Measure the disk of this directory; what is written is removed.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="How long to measure, about.")
    ] = 8.0,
    json: Json = False,
) -> None:
    """Measure appending, durable appending, scanning and replaying on this machine.

    Each number stands beside what the machine gives a bare loop over the file: `ratio` is
    eventlog's rate over that one's.
    """
    from eventlog.cli.machine import machine
    from eventlog.cli.measuring import KEY, VALUE, measurements

    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="eventlog-bench-", dir=directory))
    speak = console()
    told = machine(place)
    results: list[Measured] = []
    try:
        if not json:
            speak.print(
                f"[dim]{told['system']}, {told['cpu_count']} processors, {told['python']}, "
                f"{told['file_system']} at {place.parent}; values of {len(VALUE)} bytes, keys of "
                f"{len(KEY)}[/dim]",
                soft_wrap=True,
            )
            if told["file_system"] == "tmpfs":
                speak.print(
                    "[yellow]this is memory, not a disk: durable numbers mean nothing here; "
                    "name a directory on a disk[/yellow]"
                )
        with speak.status("[dim]measuring[/dim]") if speak.is_terminal and not json else _Quiet():
            results += measurements(place, seconds)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if json:
        write_json({"machine": told, "results": [_as_json(result) for result in results]})
        return
    shown = table("work", ">a second", ">each", ">ratio", ">of a bare", "loop of")
    for result in results:
        ratio = result.ratio
        shown.add_row(
            result.work,
            short(result.rate),
            duration(1 / result.rate) if result.rate < 1e6 else f"{1e9 / result.rate:.0f} ns",
            "" if ratio is None else f"{ratio:.2f}",
            short(result.limit_rate) if result.limit else "",
            result.limit,
        )
    speak.print(shown)


def _as_json(result: Measured) -> dict[str, Any]:
    return {
        "work": result.work,
        "unit": result.unit,
        "rate": result.rate,
        "limit": result.limit,
        "limit_rate": result.limit_rate or None,
        "ratio": result.ratio,
    }


class _Quiet:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
