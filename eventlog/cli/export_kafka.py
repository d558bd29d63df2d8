"""``eventlog export-kafka``: lay a store out for a Kafka broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventlog.cli.arguments import Json, StoreDirectory
from eventlog.cli.moving import (
    Accept,
    DryRun,
    HardLink,
    Topics,
    findings_json,
    partition_table,
    partitions_json,
    print_findings,
)
from eventlog.cli.output import console, plural, write_json
from eventlog.cli.store import open_to_read

if TYPE_CHECKING:
    from eventlog.transfer import ExportReport


def export_kafka(
    directory: StoreDirectory,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET",
            help="A new directory, or the data directory (log.dirs) of a stopped broker.",
            show_default=False,
        ),
    ],
    topic: Topics = None,
    hard_link: HardLink = False,
    accept: Accept = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Lay topics out so that a stopped Kafka broker takes them over.

    Writes partition directories, checkpoints, committed offsets as CSV, and eventlog-steps.md, which says
    what is left to do. Refuses what Kafka would lose. Exit code 1: `--dry-run` found something like that.
    """
    from eventlog.transfer import export_kafka as export

    with open_to_read(directory) as log:
        report = export(
            log, target, topics=topic, hard_link=hard_link, accept=accept or (), dry_run=dry_run
        )
    if json:
        write_json(
            {
                "target": str(report.target),
                "partitions": partitions_json(report.partitions),
                "findings": findings_json(report.findings),
                "offsets_csv": report.offsets_csv,
                "steps": report.steps,
            }
        )
    else:
        _print(report, dry_run=dry_run)
    if dry_run and any(each.is_error for each in report.findings):
        raise typer.Exit(1)


def _print(report: ExportReport, *, dry_run: bool) -> None:
    speak = console()
    speak.print(partition_table(report.partitions))
    print_findings(report.findings)
    if dry_run:
        speak.print(report.steps, markup=False, soft_wrap=True)
        return
    told = f"{plural(len(report.partitions), 'partition')} in {report.target}"
    speak.print(f"[green]exported[/green] {told}", soft_wrap=True)
    speak.print(f"next:  {report.target / 'eventlog-steps.md'}", style="dim", soft_wrap=True)
