"""``eventlog produce``: records into a topic, from lines or from the command line."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from eventlog.cli.arguments import Durability, Json, StoreDirectory
from eventlog.cli.output import CommandError, console, plural, write_json
from eventlog.cli.store import open_to_change
from eventlog.cli.topics import TopicName, existing_topic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventlog.cli.producing import LineParser, OutgoingRecord
    from eventlog.log.record import Headers, Receipt


class Input(StrEnum):
    """What the lines of standard input are."""

    TEXT = "text"
    JSON = "json"


KeySeparator = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Between key and value of a line; \\t is a tab.",
        show_default=False,
    ),
]


def produce(
    directory: StoreDirectory,
    topic: TopicName,
    value: Annotated[
        list[str] | None,
        typer.Option(
            "--value", help="This value; may be repeated. Without it: lines of standard input."
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Key of all records.", show_default=False)] = None,
    key_separator: KeySeparator = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A header of all records; may be repeated.",
            show_default=False,
        ),
    ] = None,
    partition: Annotated[
        int | None,
        typer.Option(min=0, help="Go there, whatever the key.", show_default=False),
    ] = None,
    input_: Annotated[
        Input,
        typer.Option(
            "--input", help="Lines are values, or JSON objects as `read --json` prints them."
        ),
    ] = Input.TEXT,
    durability: Annotated[
        Durability | None,
        typer.Option(help="Other than the topic's.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Append records to a topic, as they come; lines that arrive together are appended together.

    --json prints a receipt for each batch: topic, partition, offset of its first record, count.
    """
    from eventlog.cli.producing import append
    from eventlog.cli.stream_checking import is_event_store

    parser = _parser(key, key_separator, header, partition, input_, has_values=bool(value))
    with open_to_change(directory) as log:
        found = existing_topic(log, topic)
        if is_event_store(found):
            raise CommandError(
                f"{topic} is an event store, and plain records are no events",
                hint="`eventlog import` appends events",
            )
        total = _Sum(topic)
        try:
            for records in _records(parser, value):
                how = None if durability is None else durability.value
                for receipt in append(found, records, durability=how):
                    total.add(receipt)
                    if json:
                        write_json({"topic": topic, **receipt._asdict()})
        finally:  # also what came before a bad line is kept, and said
            if not json:
                total.print()


def _parser(
    key: str | None,
    key_separator: str | None,
    header: list[str] | None,
    partition: int | None,
    input_: Input,
    *,
    has_values: bool,
) -> LineParser:
    from eventlog.cli.producing import LineParser

    is_json = input_ is Input.JSON
    if key_separator is not None and (key is not None or is_json or has_values):
        raise CommandError(
            "--key-separator is for lines of text that bring their keys",
            hint="Leave out --key, --value and --input json",
        )
    return LineParser(
        is_json=is_json,
        key=None if key is None else _bytes(key),
        key_separator=None if key_separator is None else separator_bytes(key_separator),
        headers=_headers(header),
        partition=partition,
    )


def separator_bytes(text: str) -> bytes:
    """The separator that ``--key-separator`` names.

    Raises:
        CommandError: it is empty.
    """
    if not text:
        raise CommandError("the key separator is empty", hint="Give one character or more")
    return _bytes(text.replace("\\t", "\t"))


def _headers(pairs: list[str] | None) -> Headers:
    headers = []
    for pair in pairs or ():
        name, sign, value = pair.partition("=")
        if not sign:
            raise CommandError(f"{pair!r} is no header", hint="Write it NAME=VALUE")
        headers.append((name, _bytes(value)))
    return tuple(headers)


def _bytes(text: str) -> bytes:
    """As they were on the command line, UTF-8 or not."""
    return text.encode("utf-8", "surrogateescape")


def _records(parser: LineParser, values: list[str] | None) -> Iterator[Iterator[OutgoingRecord]]:
    from eventlog.cli.producing import standard_input_lines

    if values:
        lines = [(number, _bytes(value)) for number, value in enumerate(values, 1)]
        yield _parsed(parser, lines)
        return
    for lines in standard_input_lines():
        yield _parsed(parser, lines)


def _parsed(parser: LineParser, lines: list[tuple[int, bytes]]) -> Iterator[OutgoingRecord]:
    for number, line in lines:
        record = parser.parse(number, line)
        if record is not None:
            yield record


class _Sum:
    """What was appended, in one line."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._batch_count = 0
        self._record_count = 0
        self._place = ""

    def add(self, receipt: Receipt) -> None:
        self._batch_count += 1
        self._record_count += receipt.count
        self._place = f": partition {receipt.partition}, offset {receipt.offset}"
        if receipt.count > 1:
            self._place += f" to {receipt.end_offset - 1}"

    def print(self) -> None:
        place = self._place if self._batch_count == 1 else ""
        console().print(
            f"[green]appended[/green] {plural(self._record_count, 'record')} to "
            f"{self._topic}{place}",
            soft_wrap=True,
        )
