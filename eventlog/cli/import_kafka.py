"""``eventlog import-kafka``: take the partitions of a stopped Kafka broker into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from eventlog.cli.output import CommandError, console, plural, write_json
from eventlog.cli.store import open_to_change, open_to_write


def import_kafka(
    directory: StoreDirectory,
    source: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE",
            help="Data directories (log.dirs) of a stopped broker, or partition directories.",
            show_default=False,
        ),
    ],
    topic: Topics = None,
    offsets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Committed offsets: CSV of kafka-consumer-groups.sh --export.",
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("-g", "--group", help="Of lines of FILE that name none.", show_default=False),
    ] = None,
    hard_link: HardLink = False,
    accept: Accept = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Take partition directories of a stopped Kafka broker into a store: all of them or none.

    The store is made if it is not there. Topics of the broker's own are left out. Exit code 1:
    `--dry-run` found something that forbids it.
    """
    from eventlog.transfer import import_kafka as import_

    text = _read(offsets) if offsets is not None else None
    # Looking makes no store.
    with open_to_change(directory) if dry_run else open_to_write(directory) as log:
        report = import_(
            log,
            source,
            topics=topic,
            committed_offsets=text,
            group=group,
            hard_link=hard_link,
            accept=accept or (),
            dry_run=dry_run,
        )
    if json:
        write_json(
            {
                "partitions": partitions_json(report.partitions),
                "findings": findings_json(report.findings),
                "skipped": report.skipped,
                "offsets": [
                    {"group": name, "topic": unit.topic, "partition": unit.partition, "offset": to}
                    for name, plan in report.offsets.items()
                    for unit, to in plan.items()
                ],
            }
        )
    else:
        speak = console()
        speak.print(partition_table(report.partitions))
        print_findings(report.findings)
        if report.skipped:
            speak.print(f"left out: {', '.join(report.skipped)}", style="dim", soft_wrap=True)
        told = plural(len(report.partitions), "partition")
        if report.offsets:
            told += f", committed offsets of {plural(len(report.offsets), 'group')}"
        if not dry_run:
            speak.print(f"[green]imported[/green] {told}", soft_wrap=True)
    if dry_run and any(each.is_error for each in report.findings):
        raise typer.Exit(1)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is no text: {error}") from None
