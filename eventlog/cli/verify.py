"""``eventlog verify``: is everything as it was written?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventlog.cli.arguments import Json, StoreDirectory
from eventlog.cli.output import CommandError, console, count, plural, size, write_json

if TYPE_CHECKING:
    from eventlog.cli.checking import Report


def verify(
    directory: StoreDirectory,
    json: Json = False,
    backup: Annotated[
        bool,
        typer.Option(
            "--backup",
            help="DIR is a backup (or where backups are made: the newest one); check it against its "
            "manifest, too.",
        ),
    ] = False,
) -> None:
    """Check a store: checksums, order of offsets, indexes, groups, producers, stream indexes, plain files.

    Changes nothing and works beside a process that writes. Exit code 0: all is well; 1: something
    is wrong, listed place by place.
    """
    from eventlog.cli.verifying import check_backup, check_store

    if not directory.is_dir():
        raise CommandError(
            f"there is no store at {directory}", hint=f"`eventlog init {directory}` makes one"
        )
    if backup:
        from eventlog.log.backup import find_backup

        directory = find_backup(directory)
    with _progress(directory) as advance:
        report = (check_backup if backup else check_store)(directory, advance)
    if json:
        write_json(_as_json(report))
    else:
        _print(directory, report)
    if report.problems:
        raise typer.Exit(1)


@contextmanager
def _progress(directory: Path) -> Iterator[Callable[[int], None]]:
    from rich.progress import Progress

    speak = console(stderr=True)
    total = sum(path.stat().st_size for path in directory.glob("log/*/*.log"))
    with Progress(console=speak, transient=True, disable=not speak.is_terminal) as progress:
        task = progress.add_task("verifying", total=total)
        waiting = 0

        def advance(size_bytes: int) -> None:
            nonlocal waiting
            waiting += size_bytes
            if waiting > 1 << 20:
                progress.advance(task, waiting)
                waiting = 0

        yield advance


def _as_json(report: Report) -> dict[str, object]:
    return {
        "ok": not report.problems,
        "topics": report.topic_count,
        "partitions": report.partition_count,
        "segments": report.segment_count,
        "batches": report.batch_count,
        "records": report.record_count,
        "streams": report.stream_count,
        "lost_records": report.lost_count,
        "size_bytes": report.size_bytes,
        "problems": [problem._asdict() for problem in report.problems],
    }


def _print(directory: Path, report: Report) -> None:
    from rich.markup import escape

    speak = console()
    looked_at = (
        f"{plural(report.topic_count, 'topic')}, {plural(report.segment_count, 'segment')}, "
        f"{count(report.batch_count)} batches, {count(report.record_count)} records, "
        f"{count(report.stream_count)} streams, {size(report.size_bytes)}"
    )
    if report.lost_count:
        looked_at += f"; {plural(report.lost_count, 'record')} lost and skipped by a repair"
    if not report.problems:
        speak.print("[green]all is well[/green]", looked_at, sep="  ", soft_wrap=True)
        return
    speak.print(
        f"[bold red]{plural(len(report.problems), 'problem')}[/bold red]  {looked_at}",
        soft_wrap=True,
    )
    for problem in report.problems:
        path = Path(problem.path)
        shown = path.relative_to(directory.absolute()) if _is_below(path, directory) else path
        place = f", byte {problem.position}" if problem.position >= 0 else ""
        place += f", offset {problem.offset}" if problem.offset >= 0 else ""
        speak.print(
            f"  [bold]{problem.kind}[/bold]  {escape(str(shown))}{place}: {escape(problem.detail)}",
            soft_wrap=True,
        )


def _is_below(path: Path, directory: Path) -> bool:
    return path.is_relative_to(directory.absolute())
