"""What moving to Kafka and moving back have in common on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventlog.cli.output import console, count, size, table

if TYPE_CHECKING:
    from rich.table import Table

    from eventlog.transfer import Finding, PartitionSurvey

Topics = Annotated[
    list[str] | None,
    typer.Option("-t", "--topic", help="Only these; may be repeated.", show_default=False),
]
HardLink = Annotated[
    bool, typer.Option("--link", help="Hard links instead of copies of sealed segments.")
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Go on in spite of findings of that name.", show_default=False
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")]


def partition_table(partitions: Iterable[PartitionSurvey]) -> Table:
    """A line for each partition."""
    shown = table("partition", ">first offset", ">log end", ">segments", ">size")
    for each in partitions:
        shown.add_row(
            each.name,
            count(each.log_start_offset),
            count(each.log_end_offset),
            count(len(each.segments)),
            size(each.size_bytes),
        )
    return shown


def print_findings(findings: Iterable[Finding]) -> None:
    """A line for each finding, and what to do."""
    from rich.markup import escape

    speak = console()
    for each in findings:
        colour = "bold red" if each.is_error else "yellow"
        place = f"{each.place}: " if each.place else ""
        told = f"[{colour}]{each.name}[/{colour}]  {escape(place + each.detail)}"
        speak.print(told, soft_wrap=True)
        if each.hint:
            speak.print(f"  {escape(each.hint)}", style="dim", soft_wrap=True)


def partitions_json(partitions: Iterable[PartitionSurvey]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [
        {
            "topic": each.topic,
            "partition": each.partition,
            "log_start_offset": each.log_start_offset,
            "log_end_offset": each.log_end_offset,
            "segments": len(each.segments),
            "size_bytes": each.size_bytes,
            "has_gaps": each.has_gaps,
        }
        for each in partitions
    ]


def findings_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [
        {
            "name": each.name,
            "is_error": each.is_error,
            "topic": each.topic or None,
            "partition": each.partition if each.partition >= 0 else None,
            "detail": each.detail,
            "hint": each.hint,
        }
        for each in findings
    ]
