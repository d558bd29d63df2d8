"""Open a store: after a clean close, and after a crash that left everything to be looked through."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import alternatives as other
import ceilings
import harness
import opening
import pytest
from harness import Race, Run

import eventlog
from eventlog.sourcing import Event

BATCH_COUNT = 1000
EVENTS = {"quick": 200_000, "default": 1_000_000, "full": 10_000_000}
EVENTS_A_STREAM = 10
EVENTS_SQLITE = 100_000  # opening it does not depend on how many
RECOVERED = 1_000_000
TYPE = "happened"


def name(stream: int) -> str:
    return f"order-{stream:010}"


def event_batches(events: int) -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """Version, and an event for each of BATCH_COUNT streams; all streams come round by round."""
    values, _ = harness.pool()
    stream_count = events // EVENTS_A_STREAM
    for version in range(1, EVENTS_A_STREAM + 1):
        for start in range(0, stream_count, BATCH_COUNT):
            streams = range(start, min(start + BATCH_COUNT, stream_count))
            yield version, [(name(stream), values[stream % len(values)]) for stream in streams]


@pytest.fixture(scope="module")
def clean(data_directory: Path, scale: harness.Scale) -> Iterator[Path]:
    """Cleanly closed: a store with so many events, and a database with fewer."""
    with harness.scratch(data_directory) as directory:
        with eventlog.open(directory / "store") as log:
            store = log.event_store("orders", durability="os")
            for _, batch in event_batches(EVENTS[scale.name]):
                store.append_many({stream: Event(value, type=TYPE) for stream, value in batch})
        with closing(other.connect(directory / "sqlite", "OFF")) as connection:
            connection.execute(other.STREAMS_TABLE)
            for version, batch in event_batches(EVENTS_SQLITE):
                connection.execute("BEGIN")
                rows = [(stream, version, TYPE, b"\0" * 16, 1, value) for stream, value in batch]
                connection.executemany(other.INSERT_STREAM_EVENT, rows)
                connection.execute("COMMIT")
        yield directory


@contextmanager
def in_new_process(what: str, path: Path) -> Iterator[Run]:
    """The figures are those that the process gives."""
    command = [sys.executable, opening.__file__, what, str(path)]

    def run() -> dict[str, float]:
        result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        figures: dict[str, float] = json.loads(result.stdout)
        return figures

    yield run


OPENED = {harness.EVENTLOG: "store", "SQLite": "sqlite"}


@pytest.mark.parametrize("contender", OPENED)
def test_open(race: Race, clean: Path, contender: str) -> None:
    what = OPENED[contender]
    race.measure("open", contender, in_new_process(what, clean / what), 1, touches=False)


@pytest.fixture(scope="module")
def recoverable(data_directory: Path, scale: harness.Scale) -> Iterator[Path]:
    """A store of events, in batches of one stream."""
    values, _ = harness.pool()
    with harness.scratch(data_directory) as directory:
        with eventlog.open(directory / "store") as log:
            store = log.event_store("orders", durability="os")
            for i in range(scale.of(RECOVERED) // BATCH_COUNT):
                store.append_raw(name(i % 100), TYPE, values[:BATCH_COUNT])
        yield directory / "store"


def crash(store: Path) -> None:
    """Make it look as after a power cut of a store that never got a checkpoint: no marker, no control
    page, no index of any kind, and room reserved behind the log."""
    log = store / "log"
    for path in (*store.glob("run/*"), *log.glob("*-checkpoint"), log / ".kafka_cleanshutdown"):
        path.unlink()
    for path in (*log.glob("*/*.index"), *log.glob("*/*.timeindex")):
        path.unlink()
    shutil.rmtree(store / "meta", ignore_errors=True)
    (segment,) = log.glob("*/*.log")
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size + 64 * harness.MIB)


@contextmanager
def recover(store: Path) -> Iterator[Run]:
    """The log alone: scan, indexes made anew, cut, synced."""
    crash(store)
    opened: list[eventlog.EventLog] = []
    yield lambda: opened.append(eventlog.open(store))
    opened[0].close()


@contextmanager
def recover_streams(store: Path) -> Iterator[Run]:
    """And the stream index folded from the first event on."""
    crash(store)
    opened: list[eventlog.EventLog] = []

    def run() -> None:
        opened.append(eventlog.open(store))
        assert opened[0].event_store("orders").stream_version(name(0)) > 0

    yield run
    opened[0].close()


@contextmanager
def read_map(store: Path) -> Iterator[Run]:
    (segment,) = store.glob("log/*/*.log")
    yield lambda: ceilings.map_read(segment)


RECOVERIES = {
    harness.LIMIT: read_map,
    harness.EVENTLOG: recover,
    "eventlog, with its stream index": recover_streams,
}


@pytest.mark.parametrize("contender", RECOVERIES)
def test_recover(race: Race, recoverable: Path, contender: str) -> None:
    events = race.scale.of(RECOVERED) // BATCH_COUNT * BATCH_COUNT
    race.measure("recover", contender, RECOVERIES[contender](recoverable), events, touches=False)
