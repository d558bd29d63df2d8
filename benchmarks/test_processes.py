"""Several processes append to one log at once, beside one that has it to itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import alternatives as other
import appending
import harness
import pytest
from crew import crew
from harness import Race, Run

# Records each process appends a run, by batch: some tenths of a second.
EVENTS = {1: 50_000, 100: 300_000}
EVENTS_SLOWER = {1: 5_000, 100: 50_000}
DURABLE_EVENTS = 1_000
TARGETS = {harness.EVENTLOG: "eventlog", other.SQLITE_NORMAL: "SQLite", other.LMDB_FAST: "LMDB"}
DURABLE_TARGETS = {harness.EVENTLOG: "eventlog", other.SQLITE_FULL: "SQLite", "LMDB": "LMDB"}


def label(name: str, processes: int) -> str:
    return f"{name}, {processes} process{'es' * (processes > 1)}"


CONTENDERS = {label(name, processes): (name, processes) for processes in (1, 2) for name in TARGETS}
DURABLE_CONTENDERS = {
    label(name, processes): (name, processes) for processes in (1, 2, 4) for name in DURABLE_TARGETS
}


@contextmanager
def appenders(
    target: str, directory: Path, durability: str, processes: int, batch_count: int, events: int
) -> Iterator[Run]:
    """So many processes that append so many records each to something new."""
    with harness.scratch(directory) as path:
        is_durable = durability == appending.DURABLE
        with appending.TARGETS[target](path, is_durable=is_durable, batch_count=batch_count):
            pass  # made before the processes come to it
        arguments = [(target, path, durability, batch_count, events)] * processes
        with crew(appending.__file__, arguments) as run:
            yield run


@pytest.mark.parametrize("batch_count", EVENTS)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_append(race: Race, contender: str, batch_count: int) -> None:
    name, processes = CONTENDERS[contender]
    amounts = EVENTS if name == harness.EVENTLOG else EVENTS_SLOWER
    events = race.scale.of(amounts[batch_count]) // batch_count * batch_count
    work = appenders(TARGETS[name], race.directory, "fast", processes, batch_count, events)
    race.measure(f"processes, {batch_count}", contender, work, processes * events)


@pytest.mark.parametrize("contender", DURABLE_CONTENDERS)
def test_durable_append(race: Race, contender: str) -> None:
    name, processes = DURABLE_CONTENDERS[contender]
    events = race.scale.of(DURABLE_EVENTS)
    work = appenders(DURABLE_TARGETS[name], race.directory, appending.DURABLE, processes, 1, events)
    race.measure("durable processes", contender, work, processes * events, touches=False)
