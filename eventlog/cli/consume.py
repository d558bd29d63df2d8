"""``eventlog consume``: records of topics, as a member of a consumer group."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventlog.cli.arguments import Json, StoreDirectory
from eventlog.cli.output import CommandError, console, write_bytes
from eventlog.cli.produce import KeySeparator, separator_bytes
from eventlog.cli.showing import Printer
from eventlog.cli.store import open_to_change
from eventlog.errors import FencedError

if TYPE_CHECKING:
    from eventlog.log.record import Record

_BATCH_COUNT_MAX = 500


def consume(
    directory: StoreDirectory,
    topics: Annotated[
        list[str], typer.Argument(metavar="TOPIC", help="Topics to read.", show_default=False)
    ],
    group: Annotated[
        str,
        typer.Option("-g", "--group", help="Group whose member this shall be.", show_default=False),
    ],
    regex: Annotated[
        bool, typer.Option("--regex", help="TOPIC is a regular expression for whole names.")
    ] = False,
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="Where nothing is committed yet: earliest, latest, or a time.",
        ),
    ] = "earliest",
    limit: Annotated[
        int | None, typer.Option(min=0, help="End after so many.", show_default=False)
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="End when nothing came for so long; without it: never.",
            show_default=False,
        ),
    ] = None,
    commit: Annotated[bool, typer.Option(help="Commit what was printed, each time it was.")] = True,
    share_keys: Annotated[
        bool,
        typer.Option("--share-keys", help="Members share partitions by key, in order per key."),
    ] = False,
    instance: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Keep this place in the group over restarts.", show_default=False
        ),
    ] = None,
    values: Annotated[
        bool, typer.Option("--values", help="Print values only, as they are, a line each.")
    ] = False,
    key_separator: KeySeparator = None,
    json: Json = False,
) -> None:
    """Read topics as a member of a group, until Ctrl-C, and commit how far it got.

    Others of the same group share the work; the next run goes on where this one ended. With
    --no-commit it begins there again. What cannot be printed is not committed.
    """
    options: dict[str, Any] = {"auto_offset_reset": _reset(from_), "instance_id": instance}
    if share_keys:
        options["sharing"] = "key"
    output = _output(values, key_separator, json=json)
    wanted = _pattern(topics) if regex else topics
    try:
        with (
            open_to_change(directory) as log,
            log.consumer(group, wanted, **options) as consumer,
        ):
            _print_records(consumer, output, limit, timeout, commit=commit)
    except KeyboardInterrupt:
        pass


def _print_records(
    consumer: Any,
    output: Printer | _ValuePrinter,
    limit: int | None,
    timeout_s: float | None,
    *,
    commit: bool,
) -> None:
    left = limit
    while left is None or left > 0:
        records = consumer.poll(timeout_s, None if left is None else min(left, _BATCH_COUNT_MAX))
        if not records:
            return
        for record in records:
            output.add(record)
        output.flush()
        if commit:
            _commit(consumer)
        if left is not None:
            left -= len(records)


def _commit(consumer: Any) -> None:
    try:
        consumer.commit()
    except FencedError as error:  # printing took too long: `consume | less`
        console(stderr=True).print(
            f"[yellow]not committed:[/yellow] {error.message}; "
            "another member prints the same records, or this one again",
            soft_wrap=True,
        )


def _reset(where: str) -> str | int:
    from eventlog.cli.jsonlines import time_ms_of

    if where in ("earliest", "latest"):
        return where
    try:
        return time_ms_of(where)
    except ValueError:
        raise CommandError(
            f"--from is {where!r}",
            hint="Give earliest, latest, or a time: ISO 8601, epoch seconds or milliseconds",
        ) from None


def _pattern(topics: list[str]) -> re.Pattern[str]:
    if len(topics) > 1:
        raise CommandError("--regex takes one TOPIC", hint="Join them: 'one|other'")
    try:
        return re.compile(topics[0])
    except re.error as error:
        raise CommandError(f"{topics[0]!r} is no regular expression: {error}") from None


def _output(values: bool, key_separator: str | None, *, json: bool) -> Printer | _ValuePrinter:
    if json and values:
        raise CommandError("--values and --json exclude each other")
    if key_separator is not None and not values:
        raise CommandError("--key-separator needs --values", hint="Other formats show the key too")
    if not values:
        return Printer(json=json, with_topic=True)
    return _ValuePrinter(None if key_separator is None else separator_bytes(key_separator))


class _ValuePrinter:
    """Prints values as they are, or key, separator and value: what ``eventlog produce`` reads."""

    def __init__(self, key_separator: bytes | None) -> None:
        self._key_separator = key_separator
        self._lines: list[bytes] = []

    def add(self, record: Record) -> None:
        value = b"null" if record.value is None else record.value
        if self._key_separator is not None:
            value = (b"null" if record.key is None else record.key) + self._key_separator + value
        self._lines.append(value + b"\n")

    def flush(self) -> None:
        write_bytes(b"".join(self._lines))
        self._lines.clear()
