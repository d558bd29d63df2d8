"""``eventlog tail``: the newest records of a topic, and those that come."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from eventlog.cli.arguments import Json, StoreDirectory, StoreName
from eventlog.cli.store import open_to_read

if TYPE_CHECKING:
    from eventlog.cli.showing import Printer
    from eventlog.log.record import Record
    from eventlog.log.topic import Topic

_LOOK_SECONDS = 0.2


def tail(
    directory: StoreDirectory,
    store: StoreName,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what is appended, until Ctrl-C.")
    ] = False,
    count: Annotated[
        int, typer.Option("-n", "--count", min=0, help="Begin with so many of the newest.")
    ] = 10,
    json: Json = False,
) -> None:
    """Show the newest events, in the order in which they were appended."""
    from eventlog.cli.showing import Printer

    with open_to_read(directory) as log:
        topic = log.topic(store)
        printer = Printer(json=json)
        ends = [topic.high_watermark(number) for number in range(topic.partition_count)]
        newest: list[Record] = []
        for number, end in enumerate(ends):
            start = max(topic.log_start_offset(number), end - count)
            newest += topic.read(number, start=start, end=end)
        if topic.partition_count > 1:  # no order between partitions but that of their clocks
            newest.sort(key=lambda record: (record.timestamp_ms, record.partition, record.offset))
        for record in newest[len(newest) - count :] if count else []:
            printer.add(record)
        printer.flush()
        if follow:
            _follow(topic, ends, printer)


def _follow(topic: Topic, starts: list[int], printer: Printer) -> None:
    try:
        if topic.partition_count == 1:
            for record in topic.tail(0, start=starts[0]):
                printer.add(record)
                printer.flush()
            return
        arrived: queue.SimpleQueue[Record | BaseException] = queue.SimpleQueue()
        is_over = threading.Event()
        threads = [
            threading.Thread(target=_collect, args=(topic, number, start, arrived, is_over))
            for number, start in enumerate(starts)
        ]
        for thread in threads:
            thread.start()
        try:
            while True:
                try:  # a signal just before the wait does not end it: look up now and then
                    item = arrived.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(item, BaseException):
                    raise item
                printer.add(item)
                if arrived.empty():
                    printer.flush()
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
    except KeyboardInterrupt:
        printer.flush()


def _collect(
    topic: Topic,
    partition: int,
    start: int,
    arrived: queue.SimpleQueue[Record | BaseException],
    is_over: threading.Event,
) -> None:
    try:
        while not is_over.is_set():
            for record in topic.tail(partition, start=start, timeout_s=_LOOK_SECONDS):
                arrived.put(record)
                start = record.offset + 1
                if is_over.is_set():
                    return
    except BaseException as error:  # noqa: BLE001  handed to the thread that waits
        arrived.put(error)
