"""``eventlog compact``: keep the last record of each key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventlog.cli.arguments import Json, StoreDirectory
from eventlog.cli.output import console, count, size, table, write_json
from eventlog.cli.retention import OptionalTopic
from eventlog.cli.store import open_to_change, open_to_read

if TYPE_CHECKING:
    from eventlog.log.compaction import CompactionPlan, CompactionResult


def compact(
    directory: StoreDirectory,
    topic: OptionalTopic = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what there is to compact.")
    ] = False,
    json: Json = False,
) -> None:
    """Compact now what is sealed, due or not; `eventlog roll` seals the newest segments."""
    if dry_run:
        with open_to_read(directory) as log:
            plans = log.compaction_plan(topic)
        _tell_plans(plans, json=json)
        return
    with open_to_change(directory) as log:
        done = log.compact(topic)
    _tell_done(done, json=json)


def _tell_plans(plans: list[CompactionPlan], *, json: bool) -> None:
    if json:
        for plan in plans:
            write_json(_plan_as_dict(plan))
        return
    shown = table("partition", ">clean", ">dirty", ">dirty ratio", ">from", ">to", "due")
    for plan in plans:
        shown.add_row(
            f"{plan.topic}-{plan.partition}",
            size(plan.clean_size_bytes),
            size(plan.dirty_size_bytes),
            f"{plan.dirty_ratio:.2f}",
            count(plan.first_dirty_offset),
            count(plan.first_uncleanable_offset),
            f"yes, by {plan.reason}" if plan.reason else "no",
        )
    _show(shown, is_empty=not plans)


def _plan_as_dict(plan: CompactionPlan) -> dict[str, Any]:
    return {
        "topic": plan.topic,
        "partition": plan.partition,
        "first_dirty_offset": plan.first_dirty_offset,
        "first_uncleanable_offset": plan.first_uncleanable_offset,
        "clean_size_bytes": plan.clean_size_bytes,
        "dirty_size_bytes": plan.dirty_size_bytes,
        "dirty_ratio": plan.dirty_ratio,
        "oldest_dirty_ms": plan.oldest_dirty_ms,
        "reason": plan.reason,
    }


def _tell_done(done: list[CompactionResult], *, json: bool) -> None:
    if json:
        for each in done:
            write_json(_result_as_dict(each))
        return
    shown = table("partition", ">up to", ">records", ">kept", ">size before", ">after", "complete")
    for each in done:
        shown.add_row(
            f"{each.topic}-{each.partition}",
            count(each.end_offset),
            count(each.records_read),
            count(each.records_kept),
            size(each.size_bytes_before),
            size(each.size_bytes_after),
            "yes" if each.is_complete else "no: run it again",
        )
    _show(shown, is_empty=not done)


def _result_as_dict(each: CompactionResult) -> dict[str, Any]:
    return {
        "topic": each.topic,
        "partition": each.partition,
        "end_offset": each.end_offset,
        "is_complete": each.is_complete,
        "records_read": each.records_read,
        "records_kept": each.records_kept,
        "segments_before": each.segments_before,
        "segments_after": each.segments_after,
        "size_bytes_before": each.size_bytes_before,
        "size_bytes_after": each.size_bytes_after,
    }


def _show(shown: Any, *, is_empty: bool) -> None:
    if is_empty:
        console(stderr=True).print("no topic is compacted", style="dim")
    else:
        console().print(shown)
