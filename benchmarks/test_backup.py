"""Backups beside ``cp -r``, copying and linking; and restoring."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import harness
import pytest
from harness import MIB, Race, Run

import eventlog

SEGMENTS = 64
SEGMENT_SIZE_BYTES = 8 * MIB
VALUE = os.urandom(64 * 1024)


def fill(path: Path, segments: int) -> None:
    """A store with so many sealed segments."""
    with eventlog.open(path, durability="os", maintenance=False) as log:
        topic = log.topic("t", segment_size_bytes_max=SEGMENT_SIZE_BYTES)
        for _ in range(segments * (SEGMENT_SIZE_BYTES // len(VALUE))):
            topic.append(VALUE)


@contextmanager
def copy(directory: Path, segments: int, *options: str) -> Iterator[Run]:
    """``cp`` and, as a backup is durable, ``sync -f``."""
    with harness.scratch(directory) as path:
        fill(path / "store", segments)

        def run() -> None:
            subprocess.run(["cp", *options, path / "store", path / "copy"], check=True)
            subprocess.run(["sync", "-f", path / "copy"], check=True)

        yield run


@contextmanager
def back_up(directory: Path, segments: int, *, incremental: bool, is_second: bool) -> Iterator[Run]:
    with harness.scratch(directory) as path:
        fill(path / "store", segments)
        with eventlog.open(path / "store", maintenance=False) as log:
            if is_second:
                log.backup(path / "backups")
                log.topic("t").append(VALUE)
            yield lambda: (log.backup(path / "backups", incremental=incremental), None)[1]


@contextmanager
def restore(directory: Path, segments: int) -> Iterator[Run]:
    with harness.scratch(directory) as path:
        fill(path / "store", segments)
        with eventlog.open(path / "store", maintenance=False) as log:
            log.backup(path / "backups")
        yield lambda: (eventlog.restore(path / "backups", path / "restored"), None)[1]


COPYING = {
    harness.LIMIT: lambda directory, segments: copy(directory, segments, "-r"),
    "eventlog, full backup": partial(back_up, incremental=False, is_second=False),
    "eventlog, restore": restore,
}
LINKING = {
    harness.LIMIT: lambda directory, segments: copy(directory, segments, "-rl"),
    "eventlog, first backup": partial(back_up, incremental=True, is_second=False),
    "eventlog, later backup": partial(back_up, incremental=True, is_second=True),
}


@pytest.mark.parametrize("contender", COPYING)
def test_copying(race: Race, contender: str) -> None:
    segments = race.scale.of(SEGMENTS)
    work = COPYING[contender](race.directory, segments)
    race.measure("backup, copying", contender, work, segments, touches=False)


@pytest.mark.parametrize("contender", LINKING)
def test_linking(race: Race, contender: str) -> None:
    segments = race.scale.of(SEGMENTS)
    work = LINKING[contender](race.directory, segments)
    race.measure("backup, linking", contender, work, segments, touches=False)
