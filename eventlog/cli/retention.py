"""``eventlog retention``: plan, apply."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventlog.cli.arguments import Json, StoreDirectory
from eventlog.cli.output import console, count, plural, size, table, time_text, write_json
from eventlog.cli.store import open_to_change, open_to_read

if TYPE_CHECKING:
    from eventlog.log.retention import DeletedSegment, RetentionPlan

OptionalTopic = Annotated[
    str | None,
    typer.Argument(metavar="[TOPIC]", help="None: all topics.", show_default=False),
]


def plan(directory: StoreDirectory, topic: OptionalTopic = None, json: Json = False) -> None:
    """Show which segments would go now, why, and which groups hold others back. Changes nothing."""
    with open_to_read(directory) as log:
        plans = log.retention_plan(topic)
    _tell(plans, "would go", json=json)


def apply(directory: StoreDirectory, topic: OptionalTopic = None, json: Json = False) -> None:
    """Delete what `retention plan` shows, beside whoever uses the store."""
    with open_to_change(directory) as log:
        plans = log.apply_retention(topic)
    _tell(plans, "went", json=json)


def _tell(plans: list[RetentionPlan], verb: str, *, json: bool) -> None:
    plans = [plan for plan in plans if plan.segments or plan.blocked]
    if json:
        for plan in plans:
            write_json(_as_dict(plan))
        return
    if not plans:
        console(stderr=True).print("nothing to delete", style="dim")
        return
    shown = table("partition", f">segments that {verb}", ">size", ">records", ">log start", "why")
    for plan in plans:
        shown.add_row(
            f"{plan.topic}-{plan.partition}",
            count(len(plan.segments)),
            size(plan.size_bytes),
            count(plan.record_count),
            f"{count(plan.log_start_offset)} to {count(plan.new_log_start_offset)}",
            _reasons(plan.segments),
        )
    speak = console()
    speak.print(shown)
    for plan in plans:
        for line in _waiting(plan):
            speak.print(line, soft_wrap=True)


def _reasons(segments: tuple[DeletedSegment, ...]) -> str:
    """``2 by size, 5 by age up to 2026-11-20 08:00:00.000``."""
    told = []
    for reason, group in groupby(segments, key=lambda each: each.reason):
        found = list(group)
        if reason == "log start":
            told.append(f"{len(found)} below the log start")
        elif reason == "age":
            youngest = time_text(max(each.latest_timestamp_ms for each in found))
            told.append(f"{len(found)} by age, up to {youngest}")
        else:
            told.append(f"{len(found)} by {reason}")
    return "; ".join(told) or "-"


def _waiting(plan: RetentionPlan) -> list[str]:
    """Which groups the others wait for."""
    groups: dict[str, int] = {}
    for each in plan.blocked:
        groups |= dict(each.blocked_by)
    what = f"{plural(len(plan.blocked), 'segment')} of {plan.topic}-{plan.partition}"
    return [
        f"[yellow]blocked[/yellow]: {what}, by group {group}, which comes to offset {count(offset)} next"
        for group, offset in sorted(groups.items())
    ]


def _as_dict(plan: RetentionPlan) -> dict[str, Any]:
    return {
        "topic": plan.topic,
        "partition": plan.partition,
        "log_start_offset": plan.log_start_offset,
        "new_log_start_offset": plan.new_log_start_offset,
        "record_count": plan.record_count,
        "size_bytes": plan.size_bytes,
        "segments": [_segment(each) for each in plan.segments],
        "blocked": [_segment(each) for each in plan.blocked],
    }


def _segment(each: DeletedSegment) -> dict[str, Any]:
    return {
        "base_offset": each.base_offset,
        "end_offset": each.end_offset,
        "size_bytes": each.size_bytes,
        "is_active": each.is_active,
        "reason": each.reason,
        "latest_timestamp_ms": each.latest_timestamp_ms,
        "blocked_by": [{"group": group, "offset": offset} for group, offset in each.blocked_by],
    }
