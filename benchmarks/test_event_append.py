"""Append events to streams, each call with the version that the stream is expected to have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from uuid import UUID

import alternatives as other
import harness
import pytest
from eventsourcing.persistence import StoredEvent
from harness import Race, Run

from eventlog.sourcing import Event

BATCH_COUNTS = (1, 100, 1000)
STREAM_COUNT = 1000
TYPE = "happened"
Batches = list[tuple[int, int, tuple[bytes, ...]]]  # number of the stream, its version, values
Write = Callable[[int, int, tuple[bytes, ...]], object]

# Events a run, not waiting for the disk and durable.
EVENTS = {1: 50_000, 100: 400_000, 1000: 400_000}
EVENTS_SLOWER = {1: 10_000, 100: 50_000, 1000: 50_000}
EVENTS_DURABLE = {1: 1_000, 100: 50_000, 1000: 200_000}
EVENTS_DURABLE_SLOWER = {1: 500, 100: 25_000, 1000: 50_000}


@cache
def work(batch_count: int, events: int) -> Batches:
    """The streams take turns."""
    versions = [0] * STREAM_COUNT
    batches = []
    for i, (values, _) in enumerate(harness.batches(batch_count, events)):
        stream = i % STREAM_COUNT
        batches.append((stream, versions[stream], values))
        versions[stream] += batch_count
    return batches


@cache
def stream_names() -> list[str]:
    return [f"order-{i:010}" for i in range(STREAM_COUNT)]


def doing(write: Write, batch_count: int, events: int) -> Run:
    batches = work(batch_count, events)

    def run() -> None:
        for stream, version, values in batches:
            write(stream, version, values)

    return run


@cache
def size_bytes_of_batch(batch_count: int, directory: Path) -> int:
    """How many bytes one call takes in the log."""
    with harness.fresh_store(directory, "os") as store:
        store.append_raw(stream_names()[0], TYPE, harness.pool()[0][:batch_count])
        return store.topic.partition(0).state().active_position


@contextmanager
def limit(directory: Path, batch_count: int, events: int, *, is_durable: bool) -> Iterator[Run]:
    piece_bytes, count = size_bytes_of_batch(batch_count, directory), events // batch_count
    if is_durable:
        with harness.prepared_file(directory, piece_bytes * count) as file:
            yield lambda: file.write_durable(count, piece_bytes)
    else:
        with harness.write_limit(directory, piece_bytes * count) as run:
            yield run


@contextmanager
def eventlog(directory: Path, batch_count: int, events: int, *, is_durable: bool) -> Iterator[Run]:
    """One a call: `append` of an Event; more: `append_raw` of their values."""
    names = stream_names()
    with harness.fresh_store(directory, "sync" if is_durable else "os") as store:

        def write_one(stream: int, version: int, values: tuple[bytes, ...]) -> None:
            store.append(names[stream], Event(values[0], type=TYPE), expected_version=version)

        def write_many(stream: int, version: int, values: tuple[bytes, ...]) -> None:
            store.append_raw(names[stream], TYPE, values, expected_version=version)

        yield doing(write_one if batch_count == 1 else write_many, batch_count, events)


@contextmanager
def eventlog_objects(
    directory: Path, batch_count: int, events: int, *, is_durable: bool
) -> Iterator[Run]:
    """`append` of a list of Events that is made for the call."""
    names = stream_names()
    with harness.fresh_store(directory, "sync" if is_durable else "os") as store:

        def write(stream: int, version: int, values: tuple[bytes, ...]) -> None:
            made = [Event(value, type=TYPE) for value in values]
            store.append(names[stream], made, expected_version=version)

        yield doing(write, batch_count, events)


@contextmanager
def sqlite(directory: Path, batch_count: int, events: int, *, is_durable: bool) -> Iterator[Run]:
    names, event_id = stream_names(), os.urandom(16)
    synchronous = "FULL" if is_durable else "NORMAL"
    with other.fresh_sqlite(directory, synchronous, other.STREAMS_TABLE) as connection:
        execute = connection.execute

        def write(stream: int, version: int, values: tuple[bytes, ...]) -> None:
            name = names[stream]
            execute("BEGIN IMMEDIATE")
            (found,) = execute(
                "SELECT max(version) FROM events WHERE stream = ?", (name,)
            ).fetchone()
            assert (found or 0) == version
            rows = [
                (name, version + i, TYPE, event_id, 1, value) for i, value in enumerate(values, 1)
            ]
            connection.executemany(other.INSERT_STREAM_EVENT, rows)
            execute("COMMIT")

        yield doing(write, batch_count, events)


@contextmanager
def lmdb(directory: Path, batch_count: int, events: int, *, is_durable: bool) -> Iterator[Run]:
    """Events by offset; offsets by stream and version; the version of each stream."""
    names = [name.encode() for name in stream_names()]
    head = os.urandom(16) + b"\0" * 8 + TYPE.encode()  # id, time and type
    with other.fresh_lmdb(directory, is_durable=is_durable, databases=3) as environment:
        log, index, versions = (
            environment.open_db(name) for name in (b"log", b"index", b"versions")
        )
        offset = 0

        def write(stream: int, version: int, values: tuple[bytes, ...]) -> None:
            nonlocal offset
            name = names[stream]
            with environment.begin(write=True) as transaction:
                found = transaction.get(name, db=versions)
                assert int.from_bytes(found or b"", "big") == version
                places = [(offset + i).to_bytes(8, "big") for i in range(len(values))]
                items = [
                    (place, name + head + value)
                    for place, value in zip(places, values, strict=True)
                ]
                entries = [
                    (name + (version + i).to_bytes(8, "big"), place)
                    for i, place in enumerate(places, 1)
                ]
                transaction.cursor(log).putmulti(items, append=True)
                transaction.cursor(index).putmulti(entries)
                transaction.put(name, (version + len(values)).to_bytes(8, "big"), db=versions)
            offset += len(values)

        yield doing(write, batch_count, events)


@contextmanager
def eventsourcing(
    directory: Path, batch_count: int, events: int, *, is_durable: bool
) -> Iterator[Run]:
    """The primary key of its table refuses a version that is taken."""
    ids = [UUID(int=i) for i in range(STREAM_COUNT)]
    with other.fresh_recorder(directory) as recorder:

        def write(stream: int, version: int, values: tuple[bytes, ...]) -> None:
            stream_id = ids[stream]
            recorder.insert_events(
                [
                    StoredEvent(stream_id, version + i, TYPE, value)
                    for i, value in enumerate(values, 1)
                ]
            )

        yield doing(write, batch_count, events)


OBJECTS = "eventlog, Event objects"
CONTENDERS = {
    harness.LIMIT: (limit, EVENTS),
    harness.EVENTLOG: (eventlog, EVENTS),
    OBJECTS: (eventlog_objects, EVENTS),
    other.SQLITE_NORMAL: (sqlite, EVENTS_SLOWER),
    other.LMDB_FAST: (lmdb, EVENTS_SLOWER),
}
DURABLE = {
    harness.LIMIT: (limit, EVENTS_DURABLE),
    harness.EVENTLOG: (eventlog, EVENTS_DURABLE),
    other.SQLITE_FULL: (sqlite, EVENTS_DURABLE_SLOWER),
    other.LMDB_SYNC: (lmdb, EVENTS_DURABLE_SLOWER),
    other.EVENTSOURCING: (eventsourcing, EVENTS_DURABLE_SLOWER),
}


@pytest.mark.parametrize("batch_count", BATCH_COUNTS)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_append(race: Race, contender: str, batch_count: int) -> None:
    if contender == OBJECTS and batch_count == 1:
        pytest.skip("one a call is an Event object already")
    make, amounts = CONTENDERS[contender]
    events = race.scale.of(amounts[batch_count]) // batch_count * batch_count
    race.measure(
        f"event append, {batch_count:,}",
        contender,
        make(race.directory, batch_count, events, is_durable=False),
        events,
    )


@pytest.mark.parametrize("batch_count", BATCH_COUNTS)
@pytest.mark.parametrize("contender", DURABLE)
def test_durable(race: Race, contender: str, batch_count: int) -> None:
    make, amounts = DURABLE[contender]
    events = race.scale.of(amounts[batch_count]) // batch_count * batch_count
    race.measure(
        f"durable event append, {batch_count:,}",
        contender,
        make(race.directory, batch_count, events, is_durable=True),
        events,
        touches=False,
    )
