"""Consumers: one, four that share a topic, how fast they commit, and what one holds in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import alternatives as other
import consuming
import harness
import pytest
from crew import crew
from harness import Race, Run

import eventlog

EVENTS = 1_000_000
PARTITIONS = 4
BATCH_COUNT = 1_000
COMMITS = 1_000
GIB = 1024 * harness.MIB
LARGE_SIZE_BYTES = {"quick": GIB, "default": GIB, "full": 10 * GIB}


@dataclass(frozen=True)
class Filled:
    """A store with a topic of so many records."""

    path: Path
    events: int


def fill(path: Path, events: int, partitions: int) -> Filled:
    """The same number of records in each partition."""
    share = events // partitions // BATCH_COUNT * BATCH_COUNT
    with eventlog.open(path) as log:
        topic = log.topic(consuming.TOPIC, partitions=partitions, durability="os")
        for i, (values, keys) in enumerate(harness.batches(BATCH_COUNT, share * partitions)):
            topic.append_many(values, keys=keys, partition=i % partitions)
    return Filled(path, share * partitions)


@pytest.fixture(scope="module")
def filled(data_directory: Path, scale: harness.Scale) -> Iterator[Filled]:
    with harness.scratch(data_directory) as directory:
        yield fill(directory / "store", scale.of(EVENTS), PARTITIONS)


@contextmanager
def read(filled: Filled, group: str) -> Iterator[Run]:
    """Without a group: what reading itself costs."""
    with eventlog.open(filled.path) as log:
        topic = log.topic(consuming.TOPIC)

        def run() -> None:
            for partition in range(PARTITIONS):
                for _ in topic.read_batches(partition, batch_count=consuming.POLL_COUNT):
                    pass

        yield run


@contextmanager
def members(filled: Filled, group: str, *, count: int) -> Iterator[Run]:
    """A process each."""
    arguments = [("member", filled.path, group, count, filled.events // count)] * count
    with crew(consuming.__file__, arguments) as run:
        yield run


CONSUMERS = {
    "topic.read_batches, no group": read,
    "eventlog, 1 consumer": partial(members, count=1),
    "eventlog, 4 consumers": partial(members, count=PARTITIONS),
}


@pytest.mark.parametrize("contender", CONSUMERS)
def test_consume(race: Race, filled: Filled, turn: int, contender: str) -> None:
    work = CONSUMERS[contender](filled, f"{contender.replace(' ', '-')}-{turn}")
    race.measure("consume", contender, work, filled.events)


@contextmanager
def limit(directory: Path, commits: int) -> Iterator[Run]:
    piece_bytes = 4096  # a page of the table that keeps the offsets
    with harness.prepared_file(directory, commits * piece_bytes) as file:
        yield lambda: file.write_durable(commits, piece_bytes)


@contextmanager
def commit(directory: Path, commits: int) -> Iterator[Run]:
    """A commit after each record, as who does the utmost would."""
    with harness.scratch(directory) as path:
        fill(path / "store", -(-commits // BATCH_COUNT) * BATCH_COUNT, 1)
        with (
            eventlog.open(path / "store") as log,
            log.consumer("group", consuming.TOPIC) as consumer,
        ):

            def run() -> None:
                done = 0
                while done < commits:
                    done += len(consumer.poll(1.0, max_records=1))
                    consumer.commit()

            yield run


@contextmanager
def commit_to_sqlite(directory: Path, commits: int) -> Iterator[Run]:
    table = "CREATE TABLE offsets (consumer_group TEXT PRIMARY KEY, next INTEGER)"
    with other.fresh_sqlite(directory, "FULL", table) as connection:

        def run() -> None:
            for offset in range(commits):
                connection.execute("REPLACE INTO offsets VALUES ('group', ?)", (offset,))

        yield run


@contextmanager
def commit_to_lmdb(directory: Path, commits: int) -> Iterator[Run]:
    with other.fresh_lmdb(directory, is_durable=True) as environment:

        def run() -> None:
            for offset in range(commits):
                with environment.begin(write=True) as transaction:
                    transaction.put(b"group", offset.to_bytes(8, "big"))

        yield run


COMMITTERS = {
    harness.LIMIT: limit,
    harness.EVENTLOG: commit,
    other.SQLITE_FULL: commit_to_sqlite,
    other.LMDB_SYNC: commit_to_lmdb,
}


@pytest.mark.parametrize("contender", COMMITTERS)
def test_commit(race: Race, contender: str) -> None:
    commits = race.scale.of(COMMITS)
    work = COMMITTERS[contender](race.directory, commits)
    race.measure("commit", contender, work, commits, touches=False)


@pytest.fixture(scope="module")
def large(data_directory: Path, scale: harness.Scale) -> Iterator[Filled]:
    size_bytes = LARGE_SIZE_BYTES[scale.name]
    batches = size_bytes // harness.size_bytes_of_batch(BATCH_COUNT, data_directory)
    with harness.scratch(data_directory) as directory:
        yield fill(directory / "store", batches * BATCH_COUNT, 1)


@contextmanager
def read_large(large: Filled, group: str) -> Iterator[Run]:
    with crew(consuming.__file__, [("memory", large.path, group, large.events)]) as run:
        yield run


MEMORY = {harness.EVENTLOG: read_large}


@pytest.mark.parametrize("contender", MEMORY)
def test_memory(race: Race, large: Filled, turn: int, contender: str) -> None:
    work = MEMORY[contender](large, f"group-{turn}")
    race.measure("consumer memory", contender, work, large.events, touches=False)
