"""Append to the page cache: what survives the kill of the process, not yet a power cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import alternatives as other
import harness
import pytest
from harness import Race, Run

BATCH_COUNTS = (1, 10, 100, 1000, 10_000)
# Events a run: enough to take some tenths of a second.
EVENTS = {1: 100_000, 10: 400_000, 100: 500_000, 1000: 500_000, 10_000: 500_000}
EVENTS_SLOWER = {1: 20_000, 10: 50_000, 100: 100_000, 1000: 100_000, 10_000: 100_000}


@contextmanager
def limit(directory: Path, batch_count: int, events: int) -> Iterator[Run]:
    size_bytes = harness.size_bytes_of_batch(batch_count, directory) * (events // batch_count)
    with harness.write_limit(directory, size_bytes) as run:
        yield run


@contextmanager
def eventlog_many(directory: Path, batch_count: int, events: int) -> Iterator[Run]:
    work = harness.batches(batch_count, events)
    with harness.fresh_log(directory) as log:
        append_many = log.topic("append", durability="os").append_many

        def run() -> None:
            for values, keys in work:
                append_many(values, keys=keys)

        yield run


@contextmanager
def eventlog_one(directory: Path, batch_count: int, events: int) -> Iterator[Run]:
    work = harness.batches(harness.POOL_COUNT, events)
    with harness.fresh_log(directory) as log:
        append = log.topic("append", durability="os").append

        def run() -> None:
            for values, keys in work:
                for value, key in zip(values, keys, strict=True):
                    append(value, key=key)

        yield run


@contextmanager
def sqlite_normal(directory: Path, batch_count: int, events: int) -> Iterator[Run]:
    now_ms = 1_700_000_000_000
    rows = [
        [(now_ms, key, value) for value, key in zip(values, keys, strict=True)]
        for values, keys in harness.batches(batch_count, events)
    ]
    with other.fresh_sqlite(directory, "NORMAL", other.EVENTS_TABLE) as connection:

        def run() -> None:
            for batch in rows:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(other.INSERT_EVENT, batch)
                connection.execute("COMMIT")

        yield run


@contextmanager
def lmdb_fast(directory: Path, batch_count: int, events: int) -> Iterator[Run]:
    items, offset = [], 0
    for values, keys in harness.batches(batch_count, events):
        items.append(
            [
                ((offset + i).to_bytes(8, "big"), key + value)
                for i, (value, key) in enumerate(zip(values, keys, strict=True))
            ]
        )
        offset += batch_count
    with other.fresh_lmdb(directory, is_durable=False) as environment:

        def run() -> None:
            for batch in items:
                with environment.begin(write=True) as transaction:
                    transaction.cursor().putmulti(batch, append=True)

        yield run


CONTENDERS = {
    harness.LIMIT: (limit, EVENTS),
    harness.EVENTLOG: (eventlog_many, EVENTS),
    other.SQLITE_NORMAL: (sqlite_normal, EVENTS_SLOWER),
    other.LMDB_FAST: (lmdb_fast, EVENTS_SLOWER),
}


@pytest.mark.parametrize("batch_count", BATCH_COUNTS)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_batches(race: Race, contender: str, batch_count: int) -> None:
    make, amounts = CONTENDERS[contender]
    if batch_count == 1 and make is eventlog_many:
        make = eventlog_one
    events = race.scale.of(amounts[batch_count], least=harness.POOL_COUNT)
    events -= events % harness.POOL_COUNT
    race.measure(
        f"append, {batch_count:,}", contender, make(race.directory, batch_count, events), events
    )


@contextmanager
def producer(directory: Path, events: int) -> Iterator[Run]:
    work = harness.batches(harness.POOL_COUNT, events)
    with harness.fresh_log(directory) as log:
        topic = log.topic("append", durability="os")

        def run() -> None:
            with topic.producer() as target:
                send = target.send
                for values, keys in work:
                    for value, key in zip(values, keys, strict=True):
                        send(value, key)

        yield run


@contextmanager
def list_of_tuples(directory: Path, events: int) -> Iterator[Run]:
    """What a loop costs that calls a Python function which keeps its two arguments."""
    work = harness.batches(harness.POOL_COUNT, events)
    kept: list[tuple[bytes, bytes]] = []

    def keep(value: bytes, key: bytes) -> None:
        kept.append((value, key))

    def run() -> None:
        for values, keys in work:
            for value, key in zip(values, keys, strict=True):
                keep(value, key)

    yield run


PRODUCERS = {
    "Python: a function that appends to a list": list_of_tuples,
    harness.EVENTLOG: producer,
}


@pytest.mark.parametrize("contender", PRODUCERS)
def test_producer(race: Race, contender: str) -> None:
    events = race.scale.of(1_000_000)
    events -= events % harness.POOL_COUNT
    race.measure("producer", contender, PRODUCERS[contender](race.directory, events), events)
