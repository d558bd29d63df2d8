"""How everything here is measured.

A *work* is a task with a name; *contenders* do it, each in its own way. A contender is a context
manager: it prepares, gives the function to be timed, and cleans up. Every contender of a work has one
*turn* after the other, A B C A B C, so that what the machine does meanwhile meets all of them; turn 0
warms up and does not count. pytest-benchmark times one call a turn; report.py takes medians over turns.

Memory and files are slow at first touch on virtual machines that give free pages back to their host,
so before each timed call fresh memory is used once.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ceilings

import eventlog
from eventlog.settings import Durability
from eventlog.sourcing import EventStore

MIB = 1024 * 1024
VALUE_SIZE_BYTES = 256
KEY_SIZE_BYTES = 16
POOL_COUNT = 10_000
LIMIT = "limit"
"""Contender name of what the machine itself can do."""
EVENTLOG = "eventlog"

Run = Callable[[], "dict[str, float] | None"]
"""What is timed. May return figures of its own (latencies, memory); ``seconds`` replaces the time."""
Contender = AbstractContextManager[Run]


@dataclass(frozen=True)
class Scale:
    """How much of everything. ``share`` multiplies amounts; see :meth:`of`."""

    name: str
    turns: int
    share: float
    touched_bytes: int

    def of(self, amount: int, least: int = 1) -> int:
        """That amount, scaled."""
        return max(least, int(amount * self.share))


SCALES = {
    "quick": Scale("quick", turns=3, share=0.25, touched_bytes=384 * MIB),
    "default": Scale("default", turns=5, share=1.0, touched_bytes=1536 * MIB),
    "full": Scale("full", turns=9, share=1.0, touched_bytes=1536 * MIB),
}


class Race:
    """One turn of one contender, to be measured by a test."""

    def __init__(self, benchmark: Any, turn: int, scale: Scale, directory: Path) -> None:
        self._benchmark = benchmark
        self._turn = turn
        self.scale = scale
        self.directory = directory

    def measure(
        self, work: str, name: str, contender: Contender, events: int, *, touches: bool = True
    ) -> None:
        """Time it.

        Args:
            work: what is done.
            name: who does it.
            contender: prepares, gives the function, cleans up.
            events: how many the function handles.
            touches: it uses much fresh memory.
        """
        self._benchmark.group = work
        with contender as run:
            gc.collect()
            gc.freeze()
            if touches:
                ceilings.touch(self.scale.touched_bytes)
            figures = self._benchmark.pedantic(run, rounds=1, iterations=1)
            gc.unfreeze()
        self._benchmark.extra_info.update(
            contender=name, turn=self._turn, events=events, figures=figures or {}
        )


@cache
def pool() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Values and keys: as many as a large batch has, no two the same."""
    values = tuple(os.urandom(VALUE_SIZE_BYTES) for _ in range(POOL_COUNT))
    keys = tuple(os.urandom(KEY_SIZE_BYTES) for _ in range(POOL_COUNT))
    return values, keys


@cache
def batches(batch_count: int, events: int) -> list[tuple[tuple[bytes, ...], tuple[bytes, ...]]]:
    """Values and keys of so many events, cut into batches beforehand."""
    values, keys = pool()
    cut = [
        (values[i : i + batch_count], keys[i : i + batch_count])
        for i in range(0, POOL_COUNT, batch_count)
    ]
    return [cut[i % len(cut)] for i in range(events // batch_count)]


@contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """A directory that is gone afterwards."""
    with TemporaryDirectory(dir=directory) as path:
        yield Path(path)


@contextmanager
def fresh_log(directory: Path) -> Iterator[eventlog.EventLog]:
    """A new store for topics, thrown away afterwards. Closing it writes nothing to disk: its files are
    emptied before. (Not for event stores, which read their log as they close.)"""
    with scratch(directory) as path:
        log = eventlog.open(path / "store")
        try:
            yield log
        finally:
            for segment in path.rglob("*.log"):
                os.truncate(segment, 0)
            log.close()


@contextmanager
def fresh_store(directory: Path, durability: Durability) -> Iterator[EventStore]:
    """A new event store, thrown away afterwards."""
    with scratch(directory) as path, eventlog.open(path / "store") as log:
        yield log.event_store("events", durability=durability)


@cache
def size_bytes_of_batch(batch_count: int, directory: Path) -> int:
    """How many bytes one batch takes in the log."""
    with fresh_log(directory) as log:
        topic = log.topic("size", durability="os")
        values, keys = pool()
        topic.append_many(values[:batch_count], keys=keys[:batch_count])
        return topic.partition(0).state().active_position


@contextmanager
def prepared_file(directory: Path, size_bytes: int) -> Iterator[ceilings.PreparedFile]:
    """A file with reserved room for the machine's own limit."""
    with scratch(directory) as path:
        file = ceilings.PreparedFile(path / "file", size_bytes)
        try:
            yield file
        finally:
            file.close()


@contextmanager
def write_limit(directory: Path, size_bytes: int) -> Iterator[Run]:
    """Write so many bytes to the page cache in pieces of 1 MiB, into room that was reserved."""
    with prepared_file(directory, size_bytes) as file:
        yield lambda: file.write(size_bytes)


def in_threads(functions: Sequence[Callable[[], object]]) -> None:
    """Run them at the same time, each in its own thread; raises what the first of them raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> None:
        try:
            barrier.wait()
            function()
        except BaseException as error:  # noqa: BLE001  raised below, in the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
