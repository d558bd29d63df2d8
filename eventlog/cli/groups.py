"""``eventlog groups``: list, describe, reset, delete, export, import."""

from __future__ import annotations

import itertools
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eventlog.cli.arguments import Json, StoreDirectory
from eventlog.cli.confirming import Yes, confirm
from eventlog.cli.output import (
    CommandError,
    console,
    count,
    duration,
    plural,
    table,
    write_bytes,
    write_json,
)
from eventlog.cli.store import open_to_change, open_to_read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventlog.consumer.assignment import TopicPartition
    from eventlog.consumer.group_admin import GroupDescription, PartitionDescription

GroupName = Annotated[
    str, typer.Argument(metavar="GROUP", help="Name of the group.", show_default=False)
]
GroupNames = Annotated[
    list[str], typer.Argument(metavar="GROUP", help="Names of groups.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")]


def list_groups(directory: StoreDirectory, json: Json = False) -> None:
    """List the groups: state, members, and how many records are still to be read."""
    with open_to_read(directory) as log:
        found = [_overview(log.groups.describe(name)) for name in log.groups.list()]
    if json:
        for group in found:
            write_json(group)
        return
    if not found:
        console(stderr=True).print("no groups yet", style="dim")
        return
    shown = table("group", "state", ">members", ">lag")
    for group in found:
        lag = "-" if group["lag"] is None else count(group["lag"])
        shown.add_row(group["group"], group["state"], count(group["member_count"]), lag)
    console().print(shown)


def describe(directory: StoreDirectory, groups: GroupNames, json: Json = False) -> None:
    """Show groups: members, who reads what, committed offsets and how far they lag."""
    with open_to_read(directory) as log:
        found = [log.groups.describe(name) for name in groups]
    for group in found:
        if json:
            write_json(_as_json(group))
        else:
            _print_description(group)


def reset(
    directory: StoreDirectory,
    group: GroupName,
    to: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="earliest, latest, an offset, or a time in ISO 8601.",
            show_default=False,
        ),
    ],
    topic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOPIC[:PARTITION]",
            help="Only there; may be repeated. A group that there is not yet needs it.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Move the committed offsets of a group that has no live members: all of them or none."""
    where = _target(to)
    topics = [_place(name) for name in topic] if topic else None
    with open_to_change(directory) as log:
        offsets = log.groups.reset(group, to=where, topics=topics, dry_run=dry_run)
    _print_offsets({group: offsets}, dry_run=dry_run, json=json)


def delete(
    directory: StoreDirectory, groups: GroupNames, yes: Yes = False, json: Json = False
) -> None:
    """Delete groups without live members, and what they committed."""
    with open_to_change(directory) as log:
        for name in groups:
            log.groups.describe(name)  # refuses a group that there is not, before any is deleted
        confirm(f"delete {plural(len(groups), 'group')}: {', '.join(groups)}", yes=yes)
        for name in groups:
            log.groups.delete(name)
            if json:
                write_json({"group": name})
            else:
                console().print(f"[green]deleted[/green] group {name}", soft_wrap=True)


def export(
    directory: StoreDirectory,
    groups: GroupNames,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write here.", show_default=False),
    ] = None,
) -> None:
    """Write committed offsets as CSV, as Kafka's own kafka-consumer-groups.sh does and reads.

    Of one group: topic,partition,offset; of several: group,topic,partition,offset.
    """
    with open_to_read(directory) as log:
        data = log.groups.export_csv(groups).encode()
    if output is None:
        write_bytes(data)
    else:
        output.write_bytes(data)


def import_offsets(
    directory: StoreDirectory,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="CSV; - reads standard input.", show_default=False),
    ],
    group: Annotated[
        str | None,
        typer.Option("-g", "--group", help="Of lines that name none.", show_default=False),
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Set committed offsets from CSV of `groups export` or Kafka's tool: all of them or none."""
    if file != "-" and not Path(file).is_file():
        raise CommandError(
            f"there is no file {file}", hint="Give a file of CSV, or - for standard input"
        )
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is no text: {error}") from None
    with open_to_change(directory) as log:
        plans = log.groups.import_csv(text, group=group, dry_run=dry_run)
    _print_offsets(plans, dry_run=dry_run, json=json)


def _target(text: str) -> Literal["earliest", "latest"] | int | datetime:
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"--to is {text!r}", hint="Give earliest, latest, an offset, or a time in ISO 8601"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _place(text: str) -> str | TopicPartition:
    from eventlog.consumer.assignment import TopicPartition

    name, colon, number = text.partition(":")
    if not colon:
        return name
    if not number.isdecimal():
        raise CommandError(f"{text!r} is no partition", hint="Write it TOPIC:NUMBER")
    return TopicPartition(name, int(number))


def _overview(group: GroupDescription) -> dict[str, Any]:
    return {
        "group": group.group,
        "state": group.state,
        "member_count": len(group.members),
        "lag": _lag(group),
    }


def _lag(group: GroupDescription) -> int | None:
    """Records that are still to be read; None where nothing was committed. Of a partition that is
    shared by key, those from the slot on that is furthest behind."""
    lags: dict[tuple[str, int], int] = {}
    for each in group.partitions:
        if each.lag is not None:
            place = each.unit[:2]
            lags[place] = max(each.lag, lags.get(place, 0))
    return sum(lags.values()) if lags else None


def _as_json(group: GroupDescription) -> dict[str, Any]:
    return {
        "group": group.group,
        "state": group.state,
        "generation": group.generation,
        "assignor": group.assignor,
        "key_slots": group.key_slots,
        "lag": _lag(group),
        "members": [
            {
                **asdict(member),
                "owned": _units_as_json(member.owned),
                "target": _units_as_json(member.target),
            }
            for member in group.members
        ],
        "partitions": [
            {
                "topic": each.unit.topic,
                "partition": each.unit.partition,
                "slot": each.unit.slot if each.unit.slot >= 0 else None,
                "member_id": each.member_id,
                "committed": each.committed,
                "metadata": each.metadata,
                "log_start_offset": each.log_start_offset,
                "log_end_offset": each.log_end_offset,
                "lag": each.lag,
                "problem": each.problem,
            }
            for each in group.partitions
        ],
    }


def _units_as_json(units: frozenset[TopicPartition]) -> list[dict[str, Any]]:
    return [unit._asdict() for unit in sorted(units)]


def _print_description(group: GroupDescription) -> None:
    from rich.markup import escape

    speak = console()
    told = f"[bold]{escape(group.group)}[/bold]  {group.state}, generation {group.generation}"
    if group.assignor:
        told += f", {group.assignor}"
    if group.key_slots:
        told += f", shared by key in {group.key_slots} slots"
    speak.print(told, soft_wrap=True)
    if group.members:
        members = table("member", "process", "topics", ">owns", ">last heard of")
        for member in group.members:
            members.add_row(
                escape(member.member_id),
                f"{escape(member.host)} {member.pid}",
                ", ".join(member.topics),
                count(len(member.owned)),
                duration(member.heartbeat_age_ms / 1000),
            )
        speak.print(members)
    if group.partitions:
        shown = table("partition", ">committed", ">log end", ">lag", "member")
        for row, units in itertools.groupby(group.partitions, _row):
            _, _, *columns = row
            shown.add_row(_units_text([each.unit for each in units]), *map(escape, columns))
        speak.print(shown)
    for problem in group.problems:
        speak.print(f"[yellow]{escape(problem)}[/yellow]", soft_wrap=True)


def _row(each: PartitionDescription) -> tuple[str, int, str, str, str, str]:
    """What is told of a unit; neighbouring key slots that are alike share a line."""
    return (
        each.unit.topic,
        each.unit.partition,
        "-" if each.committed is None else count(each.committed),
        count(each.log_end_offset),
        "-" if each.lag is None else count(each.lag),
        each.member_id or "-",
    )


def _units_text(units: list[TopicPartition]) -> str:
    first, last = units[0], units[-1]
    slots = "" if first.slot < 0 else f" slot {first.slot}"
    if len(units) > 1:
        slots = f" slots {first.slot}-{last.slot}"
    return f"{first.topic}-{first.partition}{slots}"


def _print_offsets(
    plans: Mapping[str, Mapping[TopicPartition, int]], *, dry_run: bool, json: bool
) -> None:
    rows = [
        {
            "group": group,
            "topic": unit.topic,
            "partition": unit.partition,
            "offset": offset,
            "dry_run": dry_run,
        }
        for group, plan in sorted(plans.items())
        for unit, offset in sorted(plan.items())
    ]
    if json:
        for row in rows:
            write_json(row)
        return
    speak = console()
    if not rows:
        speak.print("nothing to set: nothing was committed", soft_wrap=True)
        return
    shown = table("group", "partition", ">would begin at" if dry_run else ">begins at")
    for row in rows:
        shown.add_row(str(row["group"]), f"{row['topic']}-{row['partition']}", f"{row['offset']:,}")
    speak.print(shown)
