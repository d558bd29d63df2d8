"""The same work done by eventlog and by real servers on this machine: Redis Streams, NATS JetStream and
PostgreSQL, each with its usual Python client over loopback.

A system that is not there is skipped, with a word on how to get it. Where it says durable, a record is on
disk before its append returns; a NATS that cannot do that is left out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import harness
import pytest
import systems
from harness import Race, Run
from receipt import reader
from systems import EVENTLOG, NATS, POSTGRES, REDIS

SYSTEMS = (EVENTLOG, REDIS, NATS, POSTGRES)
NATS_NOT_SYNCED = "NATS JetStream, not synced"
BATCH_COUNT = 100
PRODUCERS = 8
# Records a run: some tenths of a second.
DURABLE_EVENTS = 1_000
PRODUCED_EVENTS = 4_000
DURABLE_EVENTS_IN_BATCHES = {EVENTLOG: 60_000, REDIS: 20_000, NATS: 20_000, POSTGRES: 20_000}
EVENTS_IN_BATCHES = {EVENTLOG: 400_000, REDIS: 20_000, NATS: 20_000, POSTGRES: 20_000}
CONSUMED = {EVENTLOG: 200_000, REDIS: 200_000, NATS: 50_000, POSTGRES: 200_000}
CONSUMED_BATCH_COUNT = 500
FILL_BATCH_COUNT = 1_000
MESSAGES = 1_000


def skip_if_missing(name: str, *, is_durable: bool) -> None:
    if text := systems.missing(name, is_durable=is_durable):
        pytest.skip(text)


@contextmanager
def connected(name: str, directory: Path, *, is_durable: bool) -> Iterator[systems.Client]:
    """A client of a new log."""
    system = systems.load(name)
    with (
        system.serve(directory, is_durable=is_durable) as address,
        system.connect(address) as client,
    ):
        yield client


@contextmanager
def one_a_call(name: str, directory: Path, events: int) -> Iterator[Run]:
    values, keys = harness.pool()
    with connected(name, directory, is_durable=True) as client:
        yield lambda: client.append_each(values[:events], keys[:events])


@contextmanager
def in_batches(name: str, directory: Path, events: int, *, is_durable: bool) -> Iterator[Run]:
    work = harness.batches(BATCH_COUNT, events)
    with connected(name, directory, is_durable=is_durable) as client:
        yield lambda: client.append_batches(work)


@contextmanager
def producers(name: str, directory: Path, events: int) -> Iterator[Run]:
    """A thread and a client each."""
    values, keys = harness.pool()
    share = events // PRODUCERS
    system = systems.load(name)

    def produce(client: systems.Client) -> Callable[[], None]:
        return lambda: client.append_each(values[:share], keys[:share])

    with system.serve(directory, is_durable=True) as address, ExitStack() as stack:
        clients = [stack.enter_context(system.connect(address)) for _ in range(PRODUCERS)]
        yield lambda: harness.in_threads([produce(client) for client in clients])


@pytest.mark.parametrize("contender", SYSTEMS)
def test_one_a_call(race: Race, contender: str) -> None:
    skip_if_missing(contender, is_durable=True)
    events = race.scale.of(DURABLE_EVENTS)
    work = one_a_call(contender, race.directory, events)
    race.measure("servers: durable append", contender, work, events, touches=False)


@pytest.mark.parametrize("contender", SYSTEMS)
def test_durable_batches(race: Race, contender: str) -> None:
    skip_if_missing(contender, is_durable=True)
    events = race.scale.of(DURABLE_EVENTS_IN_BATCHES[contender]) // BATCH_COUNT * BATCH_COUNT
    work = in_batches(contender, race.directory, events, is_durable=True)
    race.measure("servers: durable append, 100", contender, work, events)


@pytest.mark.parametrize("contender", SYSTEMS)
def test_producers(race: Race, contender: str) -> None:
    skip_if_missing(contender, is_durable=True)
    events = race.scale.of(PRODUCED_EVENTS) // PRODUCERS * PRODUCERS
    work = producers(contender, race.directory, events)
    race.measure("servers: durable append, 8 producers", contender, work, events, touches=False)


@pytest.mark.parametrize("contender", SYSTEMS)
def test_batches(race: Race, contender: str) -> None:
    skip_if_missing(contender, is_durable=False)
    events = race.scale.of(EVENTS_IN_BATCHES[contender]) // BATCH_COUNT * BATCH_COUNT
    work = in_batches(contender, race.directory, events, is_durable=False)
    race.measure("servers: append, 100", contender, work, events)


@dataclass(frozen=True)
class Setup:
    """A system and whether it is durable."""

    name: str
    is_durable: bool = True


# Also as NATS is by default: its older versions, Debian's among them, know nothing else.
DURABLE = {
    **{name: Setup(name) for name in SYSTEMS},
    NATS_NOT_SYNCED: Setup(NATS, is_durable=False),
}


class Filled:
    """Logs with the same records. They are kept to the end: filling one takes longer than what is
    measured."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._clients: dict[Setup, systems.Client] = {}

    def client(self, setup: Setup, count: int) -> systems.Client:
        """A client of a log with so many records."""
        if setup not in self._clients:
            client = self._stack.enter_context(
                connected(setup.name, self._directory, is_durable=setup.is_durable)
            )
            client.append_batches(harness.batches(FILL_BATCH_COUNT, count))
            self._clients[setup] = client
        return self._clients[setup]


@pytest.fixture(scope="module")
def filled(data_directory: Path) -> Iterator[Filled]:
    with ExitStack() as stack:
        yield Filled(data_directory, stack)


@contextmanager
def consume(filled: Filled, setup: Setup, count: int, group: str) -> Iterator[Run]:
    client = filled.client(setup, count)
    yield lambda: client.consume(group, count, CONSUMED_BATCH_COUNT)


@pytest.mark.parametrize("contender", DURABLE)
def test_consume(race: Race, filled: Filled, turn: int, contender: str) -> None:
    setup = DURABLE[contender]
    skip_if_missing(setup.name, is_durable=setup.is_durable)
    count = race.scale.of(CONSUMED[setup.name]) // FILL_BATCH_COUNT * FILL_BATCH_COUNT
    work = consume(filled, setup, count, f"group-{turn}")
    race.measure("servers: consume", contender, work, count)


@contextmanager
def receipt(setup: Setup, directory: Path, count: int) -> Iterator[Run]:
    system = systems.load(setup.name)
    with (
        system.serve(directory, is_durable=setup.is_durable) as address,
        system.connect(address) as client,
        reader(setup.name, address, count, lambda message, _: client.append(message)) as run,
    ):
        yield run


@pytest.mark.parametrize("contender", DURABLE)
def test_durable_receipt(race: Race, contender: str) -> None:
    setup = DURABLE[contender]
    skip_if_missing(setup.name, is_durable=setup.is_durable)
    count = race.scale.of(MESSAGES)
    work = receipt(setup, race.directory, count)
    race.measure("servers: durable receipt", contender, work, count, touches=False)


@pytest.mark.parametrize("contender", SYSTEMS)
def test_receipt(race: Race, contender: str) -> None:
    skip_if_missing(contender, is_durable=False)
    count = race.scale.of(MESSAGES)
    work = receipt(Setup(contender, is_durable=False), race.directory, count)
    race.measure("servers: receipt", contender, work, count, touches=False)
