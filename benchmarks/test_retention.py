"""Deleting: a thousand segments at once, and what durable appends notice of maintenance at work."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import harness
import pytest
from harness import MIB, Race, Run

import eventlog

SEGMENTS = 1_000
SEGMENT_SIZE_BYTES = 64 * 1024
VALUE = os.urandom(SEGMENT_SIZE_BYTES - 200)
APPENDS = 4_000
KEYS = 1_000


def fill(path: Path, segments: int, **settings: Any) -> None:
    """A store with so many segments of one record each, and one to stay."""
    with eventlog.open(path, durability="os", maintenance=False) as log:
        topic = log.topic("t", segment_size_bytes_max=SEGMENT_SIZE_BYTES, **settings)
        for n in range(segments + 1):
            topic.append(VALUE, key=b"%d" % (n % KEYS), timestamp_ms=1)


@contextmanager
def unlink_all(directory: Path, segments: int) -> Iterator[Run]:
    """What the machine needs to remove the same files."""
    with harness.scratch(directory) as path:
        fill(path / "store", segments)
        yield lambda: shutil.rmtree(path / "store" / "log" / "t-0")


@contextmanager
def retain(directory: Path, segments: int, **settings: Any) -> Iterator[Run]:
    with harness.scratch(directory) as path:
        fill(path / "store", segments)
        with eventlog.open(path / "store", maintenance=False) as log:
            log.topic("t", cleanup_policy="delete", **settings)

            def run() -> None:
                [plan] = log.apply_retention("t")
                assert len(plan.segments) >= segments

            yield run


RETENTION = {
    harness.LIMIT: unlink_all,
    "eventlog, by size": partial(retain, retention_size_bytes=1),
    "eventlog, by age": partial(retain, retention_ms=1),  # reads them all once
}


@pytest.mark.parametrize("contender", RETENTION)
def test_a_thousand_segments(race: Race, contender: str) -> None:
    segments = race.scale.of(SEGMENTS)
    work = RETENTION[contender](race.directory, segments)
    race.measure("delete segments", contender, work, segments, touches=False)


@contextmanager
def append_beside(directory: Path, appends: int, work: str) -> Iterator[Run]:
    """Durable appends to one topic, while another one is kept in order by the same process."""
    with harness.scratch(directory) as path:
        fill(path / "store", SEGMENTS)
        with eventlog.open(path / "store", maintenance=False) as log:
            topic = log.topic("appended", durability="sync")
            old = log.topic("t", durability="os", min_cleanable_dirty_ratio=0.0)
            values, keys = harness.pool()
            stop = threading.Event()

            def maintain() -> None:
                """Again and again, so that there is never nothing to do."""
                while not stop.is_set():
                    for n in range(50):
                        old.append(VALUE, key=b"%d" % (n % KEYS), timestamp_ms=1)
                    if work == "retention":
                        log.apply_retention("t")
                    else:
                        log.compact("t")

            def run() -> dict[str, float]:
                stop.clear()
                if work == "retention":
                    log.topic("t", cleanup_policy="delete", retention_size_bytes=16 * MIB)
                elif work == "compaction":
                    log.topic("t", cleanup_policy="compact")
                threads = [threading.Thread(target=maintain)] if work else []
                for thread in threads:
                    thread.start()
                waited_s = []
                try:
                    for i in range(appends):
                        begun_s = time.perf_counter()
                        topic.append(values[i % len(values)], key=keys[i % len(keys)])
                        waited_s.append(time.perf_counter() - begun_s)
                finally:
                    stop.set()
                    for thread in threads:
                        thread.join()
                waited_s.sort()
                return {
                    "p50_s": waited_s[len(waited_s) // 2],
                    "p99_s": waited_s[len(waited_s) * 99 // 100],
                    "seconds": sum(waited_s),
                }

            yield run


BESIDE = {"nothing else": "", "retention": "retention", "compaction": "compaction"}


@pytest.mark.parametrize("contender", BESIDE)
def test_durable_appends_beside_maintenance(race: Race, contender: str) -> None:
    appends = race.scale.of(APPENDS)
    work = append_beside(race.directory, appends, BESIDE[contender])
    race.measure("durable append beside", contender, work, appends, touches=False)
