from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sourcing_support import scratch

import eventlog
from eventlog.sourcing import EventStore


@pytest.fixture
def directory() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


@pytest.fixture
def log(directory: Path) -> Iterator[eventlog.EventLog]:
    with eventlog.open(directory / "store", durability="os") as log:
        yield log


@pytest.fixture
def store(log: eventlog.EventLog) -> EventStore:
    return log.event_store("orders")
