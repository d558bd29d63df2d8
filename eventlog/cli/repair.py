"""``eventlog repair``: make a damaged store open again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventlog.cli.arguments import Json, StoreDirectory
from eventlog.cli.output import console, plural, write_json

if TYPE_CHECKING:
    from eventlog.log.repair_plan import RepairStep


class Way(StrEnum):
    """What becomes of sound records behind damaged ones."""

    SKIP = "skip"
    CUT = "cut"


def repair(
    directory: StoreDirectory,
    method: Annotated[
        Way,
        typer.Option(
            "--method",
            help="skip: keep what is sound behind the damage, the lost offsets stay empty. "
            "cut: end the partition at its first damage.",
        ),
    ] = Way.SKIP,
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it. Without it nothing is changed.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what is damaged and what mending it would lose; with --apply mend it.

    No process may have the store open. The bytes as they were are kept below DIR/repair. Exit code 0:
    nothing is needed, or it is done; 1: there is something to be done.
    """
    from eventlog.log import repair as mending

    steps = mending.repair(directory, method=method.value, dry_run=not apply)
    if json:
        for step in steps:
            write_json(step._asdict())
    else:
        _print(directory, steps, is_done=apply)
    if steps and not apply:
        raise typer.Exit(1)


def _print(directory: Path, steps: list[RepairStep], *, is_done: bool) -> None:
    from rich.markup import escape

    speak = console()
    if not steps:
        speak.print("[green]nothing needs to be repaired[/green]")
        return
    root = directory.absolute()
    for step in steps:
        path = Path(step.path)
        name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
        case = f"[bold]{step.case}[/bold]  " if step.case else ""
        speak.print(f"  {case}{escape(name)}: {escape(step.action)}{_lost(step)}", soft_wrap=True)
    lost = sum(step.lost_count for step in steps)
    if is_done:
        speak.print(
            f"[green]repaired[/green]  {plural(len(steps), 'step')}, {plural(lost, 'offset')} lost; "
            f"what was there is kept below {root / 'repair'}",
            soft_wrap=True,
        )
    else:
        speak.print(
            f"{plural(len(steps), 'step')} to do, {plural(lost, 'offset')} would be lost; "
            f"--apply does it, keeping what is there below {root / 'repair'}",
            soft_wrap=True,
        )


def _lost(step: RepairStep) -> str:
    parts = []
    if step.lost_count == 1:
        parts.append(f"offset {step.first_offset}")
    elif step.lost_count:
        parts.append(f"offsets {step.first_offset} to {step.end_offset - 1}")
    if step.end_position > step.position:
        parts.append(f"bytes {step.position} to {step.end_position - 1}")
    return f"; lost: {', '.join(parts)}" if parts else ""
