"""``eventlog tail``: the newest records of a topic, and those that come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eventlog.cli.arguments import Json, StoreDirectory, StoreName
from eventlog.cli.store import open_to_read

if TYPE_CHECKING:
    from eventlog import EventLog
    from eventlog.cli.showing import Printer
    from eventlog.log.record import Record


def tail(
    directory: StoreDirectory,
    store: StoreName,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what is appended, until Ctrl-C.")
    ] = False,
    count: Annotated[
        int, typer.Option("-n", "--count", min=0, help="Begin with so many of the newest.")
    ] = 10,
    partition: Annotated[
        int | None, typer.Option(min=0, help="Only this partition.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Show the newest events, in the order in which they were appended; with -f also new ones."""
    from eventlog.cli.showing import Printer

    with open_to_read(directory) as log:
        topic = log.topic(store)
        numbers = range(topic.partition_count) if partition is None else [partition]
        printer = Printer(json=json)
        ends = {number: topic.high_watermark(number) for number in numbers}
        newest: list[Record] = []
        for number, end in ends.items():
            start = max(topic.log_start_offset(number), end - count)
            newest += topic.read(number, start=start, end=end)
        if len(ends) > 1:  # no order between partitions but that of their clocks
            newest.sort(key=lambda record: (record.timestamp_ms, record.partition, record.offset))
        for record in newest[len(newest) - count :] if count else []:
            printer.add(record)
        printer.flush()
        if not follow:
            return
        try:
            _follow(log, store, ends, printer, with_new_partitions=partition is None)
        except KeyboardInterrupt:
            printer.flush()


def _follow(
    log: EventLog,
    name: str,
    positions: dict[int, int],
    printer: Printer,
    *,
    with_new_partitions: bool,
) -> None:
    """Print what comes, from these offsets on; also of partitions that the topic gets."""
    while True:
        ticket = log.activity.ticket()
        topic = log.topic(name)
        if with_new_partitions:
            for number in range(topic.partition_count):
                positions.setdefault(number, topic.log_start_offset(number))
        for number, position in positions.items():
            start = max(position, topic.log_start_offset(number))
            for record in topic.read(number, start=start):
                printer.add(record)
                positions[number] = record.offset + 1
        printer.flush()
        log.activity.wait(ticket)
