"""The process that test_open.py looks at: opens a store and says how long it took and what it holds."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import eventlog
import eventlog.sourcing  # what is imported here is not timed

STREAM = "order-0000000000"


def resident_mb() -> float:
    """Memory of this process that is in use, with what is mapped and was touched."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    return 0.0


def open_store(path: str) -> object:
    """The store and the version of a stream: ready for an append."""
    log = eventlog.open(path)
    store = log.event_store("orders")
    assert store.stream_version(STREAM) > 0
    return log, store


def open_sqlite(path: str) -> object:
    """A connection, the last event and the version of a stream."""
    connection = sqlite3.connect(path)
    (last,) = connection.execute("SELECT max(offset) FROM events").fetchone()
    query = "SELECT max(version) FROM events WHERE stream = ?"
    (version,) = connection.execute(query, (STREAM,)).fetchone()
    assert last > 0
    assert version > 0
    return connection


ACTIONS: dict[str, Callable[[str], object]] = {"store": open_store, "sqlite": open_sqlite}


if __name__ == "__main__":
    before_mb, begun = resident_mb(), time.perf_counter()
    kept = ACTIONS[sys.argv[1]](sys.argv[2])
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "resident_mb": resident_mb(), "before_mb": before_mb}))
