"""The typer application: the commands in the order of ``eventlog --help``, and its errors."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from eventlog.cli import (
    backup,
    bench,
    compact,
    consume,
    demo,
    dump,
    export_kafka,
    groups,
    import_kafka,
    import_lines,
    init,
    produce,
    read,
    repair,
    replay,
    retention,
    roll,
    stats,
    streams,
    tail,
    topics,
    verify,
)
from eventlog.cli.output import print_error
from eventlog.cli.version import version_text
from eventlog.errors import EventLogError

EXIT_ERROR = 2


class _Group(TyperGroup):
    """Turns what a command raises into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `eventlog read ... | head`: the reader has had enough
            # Python would try to flush what nobody reads, and complain, at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (EventLogError, OSError) as error:
            print_error(error)
            raise typer.Exit(EXIT_ERROR) from None


app = typer.Typer(
    name="eventlog",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="New here? [bold]eventlog demo[/bold] shows it at work in a few seconds.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version_text())
        raise typer.Exit


@app.callback()
def _eventlog(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """A durable, embedded event log and event store, on disk in Kafka's own format."""


_FIRST = "First steps"
_READ = "Read"
_TOPICS = "Topics and groups"
_MAINTAIN = "Maintain"
_MOVE = "Move to Kafka and back"
_INSPECT = "Inspect"


def _group(help_: str) -> typer.Typer:
    """Several commands under one name."""
    return typer.Typer(help=help_, no_args_is_help=True)


_topics = _group("Topics: list, create, alter, delete, describe, delete-records.")
_topics.command("list")(topics.list_topics)
_topics.command("create")(topics.create)
_topics.command("alter")(topics.alter)
_topics.command("delete")(topics.delete)
_topics.command("describe")(topics.describe)
_topics.command("delete-records")(topics.delete_records)

_retention = _group("Retention: what goes by the topics' settings: plan, apply.")
_retention.command("plan")(retention.plan)
_retention.command("apply")(retention.apply)

_groups = _group("Consumer groups: list, describe, reset, delete, export, import.")
_groups.command("list")(groups.list_groups)
_groups.command("describe")(groups.describe)
_groups.command("reset")(groups.reset)
_groups.command("delete")(groups.delete)
_groups.command("export")(groups.export)
_groups.command("import")(groups.import_offsets)

app.command("demo", rich_help_panel=_FIRST)(demo.demo)
app.command("init", rich_help_panel=_FIRST)(init.init)
app.command("import", rich_help_panel=_FIRST)(import_lines.import_lines)
app.command("streams", rich_help_panel=_READ)(streams.streams)
app.command("read", rich_help_panel=_READ)(read.read)
app.command("tail", rich_help_panel=_READ)(tail.tail)
app.command("replay", rich_help_panel=_READ)(replay.replay)
app.command("produce", rich_help_panel=_TOPICS)(produce.produce)
app.command("consume", rich_help_panel=_TOPICS)(consume.consume)
app.add_typer(_topics, name="topics", rich_help_panel=_TOPICS)
app.add_typer(_groups, name="groups", rich_help_panel=_TOPICS)
app.add_typer(_retention, name="retention", rich_help_panel=_MAINTAIN)
app.command("compact", rich_help_panel=_MAINTAIN)(compact.compact)
app.command("roll", rich_help_panel=_MAINTAIN)(roll.roll)
app.command("export-kafka", rich_help_panel=_MOVE)(export_kafka.export_kafka)
app.command("import-kafka", rich_help_panel=_MOVE)(import_kafka.import_kafka)
app.command("backup", rich_help_panel=_MAINTAIN)(backup.backup)
app.command("restore", rich_help_panel=_MAINTAIN)(backup.restore)
app.command("repair", rich_help_panel=_MAINTAIN)(repair.repair)
app.command("stats", rich_help_panel=_INSPECT)(stats.stats)
app.command("verify", rich_help_panel=_INSPECT)(verify.verify)
app.command("dump", rich_help_panel=_INSPECT)(dump.dump)
app.command("bench", rich_help_panel=_INSPECT)(bench.bench)
