"""Read a whole log from the page cache: how fast it comes to C, and how fast to Python."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import alternatives as other
import ceilings
import harness
import pytest
from eventsourcing.persistence import StoredEvent
from harness import Race, Run

import eventlog
from eventlog.log.cursor import Take
from eventlog.log.segment import scan

EVENTS = 1_000_000
EVENTS_EVENTSOURCING = 100_000
BATCH_COUNT = 1000
PAGE_COUNT = 1024  # rows fetched at a time


@dataclass
class Data:
    """The same events in everybody's files."""

    directory: Path
    events: int
    events_eventsourcing: int
    log: eventlog.EventLog

    @property
    def segment(self) -> Path:
        return next(self.directory.glob("store/log/scan-0/*.log"))


def fill_sqlite(path: Path, events: int) -> None:
    connection = other.connect(path, "OFF")
    connection.execute(other.EVENTS_TABLE)
    connection.execute("BEGIN")
    for values, keys in harness.batches(BATCH_COUNT, events):
        rows = ((1, key, value) for value, key in zip(values, keys, strict=True))
        connection.executemany(other.INSERT_EVENT, rows)
    connection.execute("COMMIT")
    connection.close()


def fill_lmdb(path: Path, events: int) -> None:
    offset = 0
    with other.open_lmdb(path, is_durable=False) as environment:
        for values, keys in harness.batches(BATCH_COUNT, events):
            with environment.begin(write=True) as transaction:
                for value, key in zip(values, keys, strict=True):
                    transaction.put(offset.to_bytes(8, "big"), key + value, append=True)
                    offset += 1


def fill_eventsourcing(path: Path, events: int) -> None:
    with other.open_recorder(path) as recorder:
        for batch, (values, _) in enumerate(harness.batches(BATCH_COUNT, events)):
            recorder.insert_events(
                [
                    StoredEvent(UUID(int=i), batch + 1, "happened", value)
                    for i, value in enumerate(values)
                ]
            )


@pytest.fixture(scope="module")
def data(data_directory: Path, scale: harness.Scale) -> Iterator[Data]:
    events, fewer = scale.of(EVENTS), scale.of(EVENTS_EVENTSOURCING)
    with harness.scratch(data_directory) as directory:
        log = eventlog.open(directory / "store")
        topic = log.topic("scan", durability="os")
        for values, keys in harness.batches(BATCH_COUNT, events):
            topic.append_many(values, keys=keys)
        log.close()  # cuts the reserved room
        fill_sqlite(directory / "sqlite", events)
        fill_lmdb(directory / "lmdb", events)
        fill_eventsourcing(directory / "eventsourcing", fewer)
        with eventlog.open(directory / "store") as log:
            yield Data(directory, events, fewer, log)


def limit(data: Data) -> Callable[[], int]:
    path = data.segment

    def run() -> int:
        ceilings.map_read(path)
        return data.events

    return run


def verify(data: Data) -> Callable[[], int]:
    path = data.segment
    return lambda: int(scan(path, 0).records)


def taking(take: Take) -> Callable[[Data], Callable[[], int]]:
    def make(data: Data) -> Callable[[], int]:
        topic = data.log.topic("scan")

        def run() -> int:
            count = 0
            for batch in topic.read_batches(take=take):
                count += len(batch)
            return count

        return run

    return make


def read(data: Data) -> Callable[[], int]:
    topic = data.log.topic("scan")

    def run() -> int:
        last = deque(topic.read(), maxlen=1)
        return last[0].offset + 1

    return run


def sqlite(data: Data) -> Callable[[], int]:
    def run() -> int:
        connection = other.connect(data.directory / "sqlite", "NORMAL")
        rows = connection.execute(
            "SELECT offset, timestamp, key, value FROM events ORDER BY offset"
        )
        count = 0
        while page := rows.fetchmany(PAGE_COUNT):
            count += len(page)
        connection.close()
        return count

    return run


def lmdb(*, keys: bool) -> Callable[[Data], Callable[[], int]]:
    def make(data: Data) -> Callable[[], int]:
        def run() -> int:
            path = data.directory / "lmdb"
            with (
                other.open_lmdb(path, is_durable=True) as environment,
                environment.begin() as transaction,
            ):
                deque(transaction.cursor().iternext(keys=keys, values=True), maxlen=0)
                return int(transaction.stat()["entries"])

        return run

    return make


def eventsourcing(data: Data) -> Callable[[], int]:
    def run() -> int:
        count, start = 0, 1
        with other.open_recorder(data.directory / "eventsourcing") as recorder:
            while page := recorder.select_notifications(start, PAGE_COUNT):
                count += len(page)
                start = page[-1].id + 1
        return count

    return run


CONTENDERS = {
    harness.LIMIT: limit,
    "eventlog, verify in C": verify,
    "eventlog, values": taking("values"),
    "eventlog, tuples": taking("tuples"),
    "eventlog, records": taking("records"),
    "eventlog, read()": read,
    "SQLite, rows": sqlite,
    "LMDB, values": lmdb(keys=False),
    "LMDB, keys and values": lmdb(keys=True),
    other.EVENTSOURCING: eventsourcing,
}


@pytest.mark.parametrize("contender", CONTENDERS)
def test_whole_log(race: Race, data: Data, contender: str) -> None:
    events = data.events_eventsourcing if contender == other.EVENTSOURCING else data.events

    @contextmanager
    def checked() -> Iterator[Run]:
        counted = CONTENDERS[contender](data)
        seen = 0

        def run() -> None:
            nonlocal seen
            seen = counted()

        yield run
        assert seen == events

    race.measure("scan", contender, checked(), events, touches=False)
