"""Append one event a call, durably, from several threads at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import uuid4

import alternatives as other
import harness
import pytest
from eventsourcing.persistence import StoredEvent
from harness import Race, Run

WORK = "durable append"
# Calls a run by number of threads: some tenths of a second.
EVENTS = {1: 2_000, 2: 3_000, 8: 8_000, 32: 16_000}
EVENTS_SLOWER = {1: 1_000, 2: 1_000, 8: 1_600, 32: 1_600}

Append = Callable[[bytes, bytes], object]


def loops(threads: int, events: int, appends: list[Append]) -> Callable[[], None]:
    """All threads append their share; each with its own function."""
    values, keys = harness.pool()
    share = events // threads

    def loop(append: Append) -> None:
        for i in range(share):
            append(values[i], keys[i])

    functions = [lambda append=append: loop(append) for append in appends]
    return functions[0] if threads == 1 else lambda: harness.in_threads(functions)


@contextmanager
def limit(directory: Path, threads: int, events: int) -> Iterator[Run]:
    piece_bytes = harness.size_bytes_of_batch(1, directory)
    with harness.prepared_file(directory, events * piece_bytes) as file:
        yield lambda: file.write_durable(events, piece_bytes)


@contextmanager
def eventlog(directory: Path, threads: int, events: int) -> Iterator[Run]:
    with harness.fresh_log(directory) as log:
        topic = log.topic("durable")
        append = topic.append
        all_loops = loops(threads, events, [lambda value, key: append(value, key=key)] * threads)

        def run() -> dict[str, float]:
            before = topic.partition(0).state().sync_count
            all_loops()
            return {"events_a_sync": events / (topic.partition(0).state().sync_count - before)}

        yield run


@contextmanager
def sqlite_full(directory: Path, threads: int, events: int) -> Iterator[Run]:
    """A connection a thread."""
    with harness.scratch(directory) as path, ExitStack() as stack:

        def connect() -> Append:
            connection = stack.enter_context(closing(other.connect(path / "db", "FULL")))
            return lambda value, key: connection.execute(other.INSERT_EVENT, (1, key, value))

        with closing(other.connect(path / "db", "FULL")) as first:
            first.execute(other.EVENTS_TABLE)
        yield loops(threads, events, [connect() for _ in range(threads)])


@contextmanager
def lmdb_sync(directory: Path, threads: int, events: int) -> Iterator[Run]:
    with other.fresh_lmdb(directory, is_durable=True) as environment:
        offset = 0

        def append(value: bytes, key: bytes) -> None:
            nonlocal offset
            with environment.begin(write=True) as transaction:  # one writer at a time
                transaction.put(offset.to_bytes(8, "big"), key + value, append=True)
                offset += 1

        yield loops(threads, events, [append] * threads)


@contextmanager
def eventsourcing(directory: Path, threads: int, events: int) -> Iterator[Run]:
    """A stream a thread."""
    with other.fresh_recorder(directory) as recorder:

        def recording() -> Append:
            stream, version = uuid4(), 0

            def append(value: bytes, key: bytes) -> None:
                nonlocal version
                version += 1
                recorder.insert_events([StoredEvent(stream, version, "happened", value)])

            return append

        yield loops(threads, events, [recording() for _ in range(threads)])


MAKERS = {
    harness.LIMIT: (limit, EVENTS, (1,)),
    harness.EVENTLOG: (eventlog, EVENTS, (1, 2, 8, 32)),
    other.SQLITE_FULL: (sqlite_full, EVENTS_SLOWER, (1, 2, 8, 32)),
    other.LMDB_SYNC: (lmdb_sync, EVENTS_SLOWER, (1, 2, 8, 32)),
    other.EVENTSOURCING: (eventsourcing, EVENTS_SLOWER, (1,)),
}
# All of them take turns together: the goals are ratios to one thread.
CONTENDERS = {
    f"{name}, {threads} thread{'s' * (threads > 1)}": (name, threads)
    for threads in (1, 2, 8, 32)
    for name, (_, _, counts) in MAKERS.items()
    if threads in counts
}


@pytest.mark.parametrize("contender", CONTENDERS)
def test_one_a_call(race: Race, contender: str) -> None:
    name, threads = CONTENDERS[contender]
    make, amounts, _ = MAKERS[name]
    events = race.scale.of(amounts[threads]) // threads * threads
    race.measure(WORK, contender, make(race.directory, threads, events), events, touches=False)
