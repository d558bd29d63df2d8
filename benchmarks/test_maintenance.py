"""Compaction beside a plain copy of the same files: bytes a second, from the page cache to the disk."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import harness
import pytest
from harness import MIB, Race, Run

import eventlog

EVENTS = 1_000_000
BATCH_COUNT = 1000
TOPIC = "compacted"
PIECE_SIZE_BYTES = 1 * MIB


def fill(path: Path, events: int, keys: int, **settings: Any) -> eventlog.EventLog:
    """A store whose topic has so many events with random ones of so many keys, all sealed."""
    chance = random.Random(1)
    log = eventlog.open(path, durability="os", maintenance=False, maintenance_rate_bytes_s=0)
    topic = log.topic(TOPIC, cleanup_policy="compact", segment_size_bytes_max=64 * MIB, **settings)
    for values, _ in harness.batches(BATCH_COUNT, events):
        names = [b"%016d" % chance.randrange(keys) for _ in values]
        topic.append_many(values, keys=names)
    log.roll(TOPIC)
    os.sync()  # what is written back meanwhile belongs to nobody
    return log


@contextmanager
def copy(directory: Path, events: int) -> Iterator[Run]:
    """The segments into other files, fsynced."""
    with harness.scratch(directory) as path:
        log = fill(path / "store", events, events)
        paths = sorted((path / "store" / "log" / f"{TOPIC}-0").glob("*.log"))

        def run() -> None:
            for source in paths:
                with source.open("rb") as reader, (path / source.name).open("wb") as writer:
                    shutil.copyfileobj(reader, writer, PIECE_SIZE_BYTES)
                    writer.flush()
                    os.fsync(writer.fileno())

        yield run
        log.close()


@contextmanager
def compact(directory: Path, events: int, keys_share: float, **settings: Any) -> Iterator[Run]:
    """One round over all of it; ``keys_share``: how many keys there are, of the events."""
    with (
        harness.scratch(directory) as path,
        fill(path / "store", events, max(1, int(events * keys_share)), **settings) as log,
    ):

        def run() -> dict[str, float]:
            (result,) = log.compact(TOPIC)
            assert result.is_complete
            assert result.records_read == events
            return {"kept": result.records_kept / events}

        yield run


CONTENDERS = {
    harness.LIMIT: copy,
    "eventlog, a third stays": partial(compact, keys_share=0.35),
    "eventlog, hardly any stays": partial(compact, keys_share=0.001),
    "eventlog, compressed": partial(
        compact, keys_share=0.35, compression="zstd", compression_size_bytes_min=0
    ),
}


@pytest.mark.parametrize("contender", CONTENDERS)
def test_compaction(race: Race, contender: str) -> None:
    events = race.scale.of(EVENTS) // BATCH_COUNT * BATCH_COUNT
    work = CONTENDERS[contender](race.directory, events)
    race.measure("compaction", contender, work, events)
