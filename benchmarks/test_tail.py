"""From the call of append in one process to the record in the hands of another that waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import alternatives as other
import harness
import pytest
from harness import Race, Run
from receipt import reader

from eventlog.settings import Durability

MESSAGES = 2_000


@contextmanager
def pipe(directory: Path, count: int) -> Iterator[Run]:
    """What waking another Python process costs at all."""

    def send(message: bytes, target: IO[bytes]) -> None:
        target.write(message)
        target.flush()

    with reader("pipe", directory, count, send) as run:
        yield run


def log(durability: Durability) -> Callable[[Path, int], harness.Contender]:
    @contextmanager
    def make(directory: Path, count: int) -> Iterator[Run]:
        with harness.fresh_log(directory) as store:
            append = store.topic("tail", durability=durability).append
            with reader("log", store.path, count, lambda message, _: append(message)) as run:
                yield run

    return make


@contextmanager
def sqlite(directory: Path, count: int) -> Iterator[Run]:
    with other.fresh_sqlite(directory, "NORMAL", other.EVENTS_TABLE) as connection:
        path = Path(connection.execute("PRAGMA database_list").fetchone()[2])

        def send(message: bytes, _: IO[bytes]) -> None:
            connection.execute(other.INSERT_EVENT, (1, None, message))

        with reader("sqlite", path, count, send) as run:
            yield run


CONTENDERS = {
    harness.LIMIT: pipe,
    harness.EVENTLOG: log("os"),
    "eventlog, sync": log("sync"),
    "SQLite, looked at every 1 ms": sqlite,
}


@pytest.mark.parametrize("contender", CONTENDERS)
def test_receipt(race: Race, contender: str) -> None:
    count = race.scale.of(MESSAGES)
    race.measure(
        "tail", contender, CONTENDERS[contender](race.directory, count), count, touches=False
    )
