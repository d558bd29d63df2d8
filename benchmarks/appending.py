"""A process of test_processes.py: appends to what others append to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import alternatives as other
import harness
from crew import take_part

import eventlog

TOPIC = "processes"
DURABLE = "durable"

Append = Callable[[Sequence[bytes], Sequence[bytes]], object]


@contextmanager
def to_log(path: Path, *, is_durable: bool, batch_count: int) -> Iterator[Append]:
    with eventlog.open(path / "store") as log:
        topic = log.topic(TOPIC, durability="sync" if is_durable else "os")
        if batch_count == 1:
            append = topic.append
            yield lambda values, keys: append(values[0], key=keys[0])
        else:
            yield lambda values, keys: topic.append_many(values, keys=keys)


@contextmanager
def to_sqlite(path: Path, *, is_durable: bool, batch_count: int) -> Iterator[Append]:
    with closing(other.connect(path / "sqlite", "FULL" if is_durable else "NORMAL")) as connection:
        connection.execute(other.EVENTS_TABLE.replace("TABLE", "TABLE IF NOT EXISTS", 1))

        def append(values: Sequence[bytes], keys: Sequence[bytes]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            rows = zip([1] * len(values), keys, values, strict=True)
            connection.executemany(other.INSERT_EVENT, rows)
            connection.execute("COMMIT")

        yield append


@contextmanager
def to_lmdb(path: Path, *, is_durable: bool, batch_count: int) -> Iterator[Append]:
    (path / "lmdb").mkdir(exist_ok=True)
    with other.open_lmdb(path / "lmdb", is_durable=is_durable) as environment:

        def append(values: Sequence[bytes], keys: Sequence[bytes]) -> None:
            with environment.begin(write=True) as transaction:
                cursor = transaction.cursor()
                end = int.from_bytes(cursor.key(), "big") + 1 if cursor.last() else 0
                for offset, (value, key) in enumerate(zip(values, keys, strict=True), end):
                    transaction.put(offset.to_bytes(8, "big"), key + value, append=True)

        yield append


TARGETS = {"eventlog": to_log, "SQLite": to_sqlite, "LMDB": to_lmdb}


def main(target: str, path: str, durability: str, batch_count: str, events: str) -> None:
    """Open it, wait, append."""
    size = int(batch_count)
    with TARGETS[target](Path(path), is_durable=durability == DURABLE, batch_count=size) as append:
        work = harness.batches(size, int(events))

        def run() -> None:
            for values, keys in work:
                append(values, keys)

        take_part(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
