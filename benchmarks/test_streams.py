"""Read one stream of 100 events, at random out of many that were written side by side."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
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
from eventlog.sourcing import Event, EventStore

STREAM_COUNT = 10_000
STREAM_COUNT_EVENTSOURCING = 1_000
EVENTS_A_STREAM = 100
READS = 4_000
READS_SLOWER = 500
TYPE = "happened"
HEAD = b"\0" * 24 + TYPE.encode()  # id, time and type, where a value holds all of an event


@dataclass
class Data:
    """Round by round every stream got one event, each in a call of its own."""

    directory: Path
    stream_count: int
    eventsourcing_count: int
    store: EventStore

    def picks(self, count: int, stream_count: int, turn_seed: int = 1) -> list[int]:
        """Streams at random."""
        return random.Random(turn_seed).choices(range(stream_count), k=count)


def name(stream: int) -> str:
    return f"order-{stream:010}"


def rounds(stream_count: int) -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
    """Version, and the event of each stream."""
    values, _ = harness.pool()
    for version in range(1, EVENTS_A_STREAM + 1):
        yield version, [(i, values[(i + version) % len(values)]) for i in range(stream_count)]


def fill_store(store: EventStore, stream_count: int) -> None:
    for version, events in rounds(stream_count):
        for stream, value in events:
            store.append(name(stream), Event(value, type=TYPE), expected_version=version - 1)


def fill_sqlite(path: Path, stream_count: int) -> None:
    with closing(other.connect(path, "OFF")) as connection:
        connection.execute(other.STREAMS_TABLE)
        for version, events in rounds(stream_count):
            connection.execute("BEGIN")
            rows = ((name(stream), version, TYPE, b"\0" * 16, 1, value) for stream, value in events)
            connection.executemany(other.INSERT_STREAM_EVENT, rows)
            connection.execute("COMMIT")


def fill_lmdb(path: Path, stream_count: int) -> None:
    """Twice: `log` and `index` keep the order of all events, `clustered` that of streams only."""
    offset = 0
    with other.open_lmdb(path, is_durable=False, databases=3) as environment:
        log, index, clustered = (environment.open_db(n) for n in (b"log", b"index", b"clustered"))
        for version, events in rounds(stream_count):
            with environment.begin(write=True) as transaction:
                for stream, value in events:
                    place, key = offset.to_bytes(8, "big"), lmdb_key(stream, version)
                    transaction.put(place, HEAD + value, append=True, db=log)
                    transaction.put(key, place, db=index)
                    transaction.put(key, HEAD + value, db=clustered)
                    offset += 1


def lmdb_key(stream: int, version: int) -> bytes:
    return name(stream).encode() + version.to_bytes(8, "big")


def fill_eventsourcing(path: Path, stream_count: int) -> None:
    with other.open_recorder(path) as recorder:
        for version, events in rounds(stream_count):
            recorder.insert_events(
                [StoredEvent(UUID(int=stream), version, TYPE, value) for stream, value in events]
            )


@pytest.fixture(scope="module")
def data(data_directory: Path, scale: harness.Scale) -> Iterator[Data]:
    stream_count, fewer = scale.of(STREAM_COUNT), scale.of(STREAM_COUNT_EVENTSOURCING)
    with harness.scratch(data_directory) as directory:
        with eventlog.open(directory / "store") as log:
            fill_store(log.event_store("orders", durability="os"), stream_count)
        fill_sqlite(directory / "sqlite", stream_count)
        fill_lmdb(directory / "lmdb", stream_count)
        fill_eventsourcing(directory / "eventsourcing", fewer)
        with eventlog.open(directory / "store") as log:
            yield Data(directory, stream_count, fewer, log.event_store("orders"))


Read = Callable[[int], int]


@contextmanager
def limit(data: Data) -> Iterator[Read]:
    """The bytes of 100 events at known places."""
    path = next(data.directory.glob("store/log/orders-0/*.log"))
    size_bytes = path.stat().st_size // (data.stream_count * EVENTS_A_STREAM)
    file = ceilings.MappedFile(path)

    def read(stream: int) -> int:
        places = range(stream * size_bytes, path_size, data.stream_count * size_bytes)
        file.gather(array("q", places[:EVENTS_A_STREAM]), size_bytes)
        return len(places[:EVENTS_A_STREAM])

    path_size = path.stat().st_size - size_bytes + 1
    yield read
    file.close()


@contextmanager
def store(data: Data) -> Iterator[Read]:
    read_stream = data.store.read_stream
    yield lambda stream: len(list(read_stream(name(stream))))


@contextmanager
def sqlite(data: Data) -> Iterator[Read]:
    query = (
        "SELECT version, type, id, timestamp, data FROM events WHERE stream = ? ORDER BY version"
    )
    with closing(other.connect(data.directory / "sqlite", "NORMAL")) as connection:
        yield lambda stream: len(connection.execute(query, (name(stream),)).fetchall())


def lmdb(*, is_clustered: bool) -> Callable[[Data], AbstractContextManager[Read]]:
    @contextmanager
    def make(data: Data) -> Iterator[Read]:
        with ExitStack() as stack:
            path = data.directory / "lmdb"
            environment = stack.enter_context(other.open_lmdb(path, is_durable=True, databases=3))
            log = environment.open_db(b"log", create=False)
            names = environment.open_db(b"clustered" if is_clustered else b"index", create=False)

            def read(stream: int) -> int:
                prefix, events = name(stream).encode(), []
                with environment.begin() as transaction:
                    cursor = transaction.cursor(names)
                    cursor.set_range(prefix)
                    for key, value in cursor:
                        if not key.startswith(prefix):
                            break
                        events.append(value if is_clustered else transaction.get(value, db=log))
                return len(events)

            yield read

    return make


@contextmanager
def eventsourcing(data: Data) -> Iterator[Read]:
    with other.open_recorder(data.directory / "eventsourcing") as recorder:
        yield lambda stream: len(recorder.select_events(UUID(int=stream)))


CONTENDERS = {
    harness.LIMIT: (limit, READS),
    harness.EVENTLOG: (store, READS),
    "SQLite": (sqlite, READS_SLOWER),
    "LMDB, order of all events kept": (lmdb(is_clustered=False), READS_SLOWER),
    "LMDB, order of streams only": (lmdb(is_clustered=True), READS_SLOWER),
    other.EVENTSOURCING: (eventsourcing, READS_SLOWER),
}


@pytest.mark.parametrize("contender", CONTENDERS)
def test_read_stream(race: Race, data: Data, turn: int, contender: str) -> None:
    make, reads = CONTENDERS[contender]
    count = data.eventsourcing_count if contender == other.EVENTSOURCING else data.stream_count
    picks = data.picks(race.scale.of(reads), count, turn)

    @contextmanager
    def reading() -> Iterator[Run]:
        with make(data) as read:

            def run() -> None:
                for stream in picks:
                    assert read(stream) == EVENTS_A_STREAM

            yield run

    race.measure("streams", contender, reading(), len(picks) * EVENTS_A_STREAM, touches=False)
