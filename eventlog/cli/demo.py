"""``eventlog demo``: the store at work on a real history, and after a SIGKILL."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventlog.cli.output import console, count, duration, plural, rate, size

if TYPE_CHECKING:
    from rich.console import Console

    from eventlog.cli.demo_crash import Crash
    from eventlog.cli.demo_history import History
    from eventlog.cli.demo_steps import Imported, Replayed, Scanned

_INDENT = 11


def demo(
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Make the store here and leave it to look at.", show_default=False
        ),
    ] = None,
    generated: Annotated[
        bool, typer.Option("--generated", help="Use the made-up shop even inside a git repository.")
    ] = False,
) -> None:
    """Import a real history, replay it, kill a writer and look what is left. Takes some seconds.

    The history is that of the git repository you are in, or of a made-up shop.
    """
    with _directory(keep) as directory:
        is_right = _Demo(directory, is_kept=keep is not None).run(generated=generated)
    if not is_right:
        raise typer.Exit(1)


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    from eventlog.cli.machine import file_system_of
    from eventlog.cli.output import CommandError

    if keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise CommandError(f"{keep} is not empty", hint="Give a new directory to --keep")
        yield keep
        return
    parent = Path(tempfile.gettempdir())
    if file_system_of(parent) == "tmpfs" and Path("/var/tmp").is_dir():
        parent = Path("/var/tmp")
    directory = Path(tempfile.mkdtemp(prefix="eventlog-demo-", dir=parent))
    try:
        yield directory / "store"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Demo:
    """Runs the steps and tells of them."""

    def __init__(self, directory: Path, *, is_kept: bool) -> None:
        self.directory = directory
        self.is_kept = is_kept
        self.is_right = True
        self.speak: Console = console()

    def run(self, *, generated: bool) -> bool:
        """All steps; whether all was as promised."""
        from eventlog.cli import demo_crash, demo_steps

        self._title()
        with self._working("reading the history"):
            histories = demo_steps.find_histories(Path.cwd(), generated=generated)
        stores = [f"history-{number}" for number in range(1, len(histories) + 1)]

        imported = []
        for store, history in zip(stores, histories, strict=True):
            self._say("1 Import", f"{history.title}: {count(len(history.events))} events")
            with self._working("appending"):
                imported.append(demo_steps.import_history(self.directory, store, history))
            self._tell_import(imported[-1])

        replayed = []
        for store, history in zip(stores, histories, strict=True):
            self._say("2 Replay", f"each {history.noun} from its own events to its state of today")
            with self._working("replaying"):
                replayed.append(demo_steps.replay_streams(self.directory, store, history))
            self._tell_replay(history, replayed[-1])

        self._say("3 Kill", "another process appends, one durable event at a time, until SIGKILL")
        with self._working("waiting for the right moment"):
            crash = demo_crash.run(self.directory)
        self._tell_crash(crash)

        self._say("4 Check", "the whole store after the crash")
        with self._working("checking"):
            checked = demo_steps.check(self.directory)
            again = [
                demo_steps.replay_streams(self.directory, store, history).state == history.expected
                for store, history in zip(stores, histories, strict=True)
            ]
            scanned = demo_steps.scan(self.directory, stores[-1])
        self._judge(
            not checked.problems,
            f"{plural(checked.batch_count, 'batch')}: checksums, offsets, indexes and stream "
            "index are right",
            f"{plural(len(checked.problems), 'problem')}: `eventlog verify` lists them",
        )
        self._judge(
            all(again), "the replay gives the same answer", "the replay gives another answer"
        )
        self._numbers(imported[-1], replayed[-1], scanned, crash)
        self._next()
        return self.is_right

    # -- telling --------------------------------------------------------------------------------

    def _title(self) -> None:
        from rich.rule import Rule

        self.speak.print()
        self.speak.print(Rule("[bold]eventlog[/bold]", align="left", style="dim"))
        self.speak.print(
            "A history goes in, every stream is replayed and compared, a writer is killed.\n"
            "All of it happens now, on this machine, in files of Kafka's own format.",
            style="dim",
        )
        self.speak.print()

    @contextmanager
    def _working(self, what: str) -> Iterator[None]:
        if not self.speak.is_terminal:
            yield
            return
        with self.speak.status(f"[dim]{what}[/dim]"):
            yield

    def _say(self, label: str, text: str) -> None:
        self.speak.print(f"[bold]{label:<{_INDENT}}[/bold]{text}")

    def _note(self, text: str) -> None:
        self.speak.print(f"{'':<{_INDENT + 2}}{text}", style="dim")

    def _judge(self, is_right: bool, yes: str, no: str) -> None:
        self.is_right &= is_right
        mark = "[green]✓[/green]" if is_right else "[bold red]✗[/bold red]"
        self.speak.print(f"{'':<{_INDENT}}{mark} {yes if is_right else no}")

    def _tell_import(self, imported: Imported) -> None:
        self._judge(
            True,
            f"{count(imported.event_count)} events of {count(imported.stream_count)} streams in "
            f"{duration(imported.seconds)}",
            "",
        )
        self._note(f"{plural(imported.batch_count, 'batch')}, each on disk before the next began")
        self.speak.print()

    def _tell_replay(self, history: History, replayed: Replayed) -> None:
        live = len(history.expected)
        self._judge(
            replayed.state == history.expected,
            f"{plural(live, history.noun)} alive, every one as {history.judge} has it",
            f"the result differs from {history.judge}",
        )
        self._note(
            f"{count(replayed.stream_count)} streams, {count(replayed.event_count)} events, "
            f"{duration(replayed.seconds)}"
        )
        self.speak.print()

    def _tell_crash(self, crash: Crash) -> None:
        self._judge(
            crash.lost_count == 0 and crash.wrong_count == 0,
            f"{count(crash.acknowledged_count)} acknowledged, {count(crash.found_count)} found, "
            "[bold]0 lost[/bold]",
            f"{count(crash.acknowledged_count)} acknowledged, {count(crash.found_count)} found: "
            f"{crash.lost_count} lost, {crash.wrong_count} wrong",
        )
        more = crash.found_count - crash.acknowledged_count
        if more > 0:
            self._note(f"{more} more: on disk, but killed before it could be acknowledged")
        self._note(f"reopened in {duration(crash.open_seconds)}; recovery: {crash.recovery_text}")
        self.speak.print()

    def _numbers(
        self, imported: Imported, replayed: Replayed, scanned: Scanned, crash: Crash
    ) -> None:
        from rich import box
        from rich.table import Table

        from eventlog.cli.machine import file_system_of

        numbers = Table(box=box.SIMPLE, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        numbers.add_column(style="dim")
        numbers.add_column(justify="right", style="bold")
        numbers.add_column(style="dim")
        bytes_each = scanned.size_bytes / max(1, scanned.event_count)
        rows = [
            ("events", count(imported.event_count), f"in {count(imported.stream_count)} streams"),
            ("append", rate(imported.event_count, imported.seconds), "events, in durable batches"),
            (
                "durable append",
                rate(crash.acknowledged_count, crash.seconds),
                "events, one by one, an fdatasync each",
            ),
            ("scan", rate(scanned.event_count, scanned.seconds), "events, checksums verified"),
            ("replay", rate(replayed.stream_count, replayed.seconds), "streams, folded in Python"),
            (
                "on disk",
                size(scanned.size_bytes),
                f"{bytes_each:.0f} bytes an event, {file_system_of(self.directory)}",
            ),
        ]
        for row in rows:
            numbers.add_row(*row)
        self.speak.print()
        self.speak.print(numbers)
        if not self.is_right:
            self.speak.print("[bold red]Not all was as promised: please report this.[/bold red]")

    def _next(self) -> None:
        rows = [
            ("your own events", "eventlog import DIR NAME events.jsonl"),
            ("from Python", 'eventlog.open("DIR").event_store("NAME").append(stream, events)'),
            ("this machine's limits", "eventlog bench"),
        ]
        self.speak.print("[bold]What next[/bold]")
        for label, command in rows:
            self.speak.print(f"  {label:<24}[cyan]{command}[/cyan]", soft_wrap=True)
        if self.is_kept:
            self.speak.print(
                f"  {'look at this store':<24}[cyan]eventlog stats {self.directory}[/cyan]",
                soft_wrap=True,
            )
        self.speak.print()
