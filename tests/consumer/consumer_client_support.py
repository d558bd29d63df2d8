"""Helpers of the consumer's tests: a store with groups, and consumers that are driven in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import eventlog
from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.consumer import Consumer
from eventlog.log.record import Record

Place = tuple[str, int, int]


class Shop:
    """A store, its groups, and the consumers made of them, which are closed at the end."""

    def __init__(self, path: Path) -> None:
        self.log = eventlog.open(path, durability="os")
        self.groups = self.log.groups
        self.consumers: list[Consumer] = []

    def consumer(self, group: str | None = "g", topics: Any = "t", **options: Any) -> Consumer:
        if group is not None:
            options = {"heartbeat_interval_ms": 10, "session_timeout_ms": 20_000, **options}
        self.consumers.append(self.log.consumer(group, topics, **options))
        return self.consumers[-1]

    def fill(self, count: int, topic: str = "t", partition: int | None = None, **more: Any) -> None:
        """Records with their number as value."""
        self.log.topic(topic).append_many(
            [b"%d" % n for n in range(count)], partition=partition, **more
        )

    def committed(self, group: str = "g") -> dict[TopicPartition, int]:
        return {unit: each.offset for unit, each in self.groups.committed(group).items()}

    def close(self) -> None:
        for consumer in self.consumers:
            consumer.close()
        self.log.close()


@contextmanager
def shop(path: Path, **partitions: int) -> Iterator[Shop]:
    """With topics of so many partitions."""
    opened = Shop(path)
    try:
        for name, count in partitions.items():
            opened.log.topic(name, partitions=count)
        yield opened
    finally:
        opened.close()


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Diary:
    """Writes down what the callbacks of a consumer are told."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, frozenset[TopicPartition]]] = []
        self.callbacks: dict[str, Any] = {
            name: self._writer(name) for name in ("on_assigned", "on_revoked", "on_lost")
        }

    def _writer(self, name: str) -> Callable[[Consumer, frozenset[TopicPartition]], None]:
        return lambda consumer, units: self.entries.append((name, units))


def units(*places: tuple[str, int]) -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(*place) for place in places)


def place(record: Record) -> Place:
    return record.topic, record.partition, record.offset


def offsets(records: Sequence[Record]) -> list[int]:
    return [record.offset for record in records]


def poll_some(consumer: Consumer, count: int, **options: Any) -> list[Record]:
    """So many records, whatever the number of polls."""
    records: list[Record] = []
    until(lambda: records.extend(consumer.poll(0.05, **options)) or len(records) >= count)
    assert len(records) == count
    return records


def until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    """Try again and again."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen"


def drive(consumers: Sequence[Consumer], condition: Callable[[], object]) -> list[list[Record]]:
    """Poll consumers in turn until something holds; what each of them was given."""
    given: list[list[Record]] = [[] for _ in consumers]

    def poll_all() -> object:
        for consumer, records in zip(consumers, given, strict=True):
            records += consumer.poll(0.001)
        return condition()

    until(poll_all)
    return given


def settle(*consumers: Consumer) -> list[list[Record]]:
    """Until every consumer knows what it owns."""
    log: Any = consumers[0]._log
    groups = {consumer.group for consumer in consumers}
    rounds = [0]

    def is_settled() -> bool:
        is_stable = all(log.groups.describe(group).state == "Stable" for group in groups)
        rounds[0] = rounds[0] + 1 if is_stable else 0
        return rounds[0] > 1

    return drive(consumers, is_settled)


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start it; the returned call joins and gives what it returned or raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((True, function()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> Any:
        thread.join(60)
        assert not thread.is_alive()
        good, what = outcome[0]
        if not good:
            raise what
        return what

    return join
