"""Helpers of the event store's tests: a store with a small index, and what a full scan says."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import eventlog
from eventlog.meta import Environment, seal
from eventlog.sourcing import Codec, Event, EventStore

MEMORY = Path("/dev/shm")
NAME = "orders"


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: what is made by the hundred need not reach a disk."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory)


class Opened:
    """A log, its environment and one event store with an index of a chosen size."""

    def __init__(
        self,
        path: Path,
        *,
        run_count_max: int = 16,
        read_only: bool = False,
        codec: Codec | None = None,
        **settings: Any,
    ) -> None:
        self.log = eventlog.open(path, read_only=read_only, durability="os")
        if read_only:
            settings = {}
        topic = self.log.topic(NAME, **settings)
        self.environment = Environment.open(self.log.meta_directory, read_only=read_only)
        self.store = EventStore(topic, self.environment, codec, index_run_count_max=run_count_max)
        self.topic = topic

    def close(self) -> None:
        self.store.close()
        self.environment.close()
        self.log.close()

    def abandon(self) -> None:
        """What is left after SIGKILL: no last checkpoint, no seal, nothing closed cleanly."""
        self.environment.close()
        seal.remove(self.environment.path)
        self.log._abandon()
        if self.log._flusher is not None:
            self.log._flusher.join()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def raw(count: int, start: int = 0) -> list[Event]:
    """Events that differ."""
    return [Event(b"%d" % (start + i), type="counted") for i in range(count)]


def kept_in_memory(store: EventStore) -> int:
    """Runs and streams that the index holds in memory, over all partitions."""
    return sum(
        len(index.tail) + sum(len(entry.runs) // 32 for entry in index.tail.values())
        for index in (partition.index for partition in store._partitions)
    )
