"""The other process of receipt.py: waits for messages and notes how long each was on its way.

A message is 256 bytes and begins with the writer's monotonic clock in nanoseconds. Both processes read
the same clock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import alternatives as other
import harness
import systems

import eventlog

SQLITE_POLL_S = 0.001


def stamped() -> bytes:
    """A message, made now."""
    return time.monotonic_ns().to_bytes(8, "big").ljust(harness.VALUE_SIZE_BYTES, b"\0")


def from_pipe(_: Path) -> Iterator[bytes]:
    """Standard input."""
    while message := os.read(0, harness.VALUE_SIZE_BYTES):
        yield message


def from_log(path: Path) -> Iterator[bytes]:
    """A log that another process appends to."""
    with eventlog.open(path, read_only=True) as log:
        for record in log.topic("tail").tail(start=0):
            yield record.value or b""


def from_sqlite(path: Path) -> Iterator[bytes]:
    """A table that is looked at again and again: SQLite tells no other process of a change."""
    connection = other.connect(path, "NORMAL")
    last = 0
    while True:
        rows = connection.execute(
            "SELECT offset, value FROM events WHERE offset > ?", (last,)
        ).fetchall()
        for last, value in rows:  # noqa: B007  where to go on
            yield value
        if not rows:
            time.sleep(SQLITE_POLL_S)


SOURCES = {"pipe": from_pipe, "log": from_log, "sqlite": from_sqlite}


def from_system(name: str, address: str) -> Iterator[bytes]:
    """One of systems/."""
    with systems.load(name).connect(address) as client:
        yield from client.follow()


def main(source: str, place: str, count: int) -> None:
    """Take so many messages and print the times on their way, nanoseconds, one a line.

    The first message only shows that this process is ready, which it says by an empty line.
    """
    latencies_ns = []
    known = SOURCES.get(source)
    for message in known(Path(place)) if known else from_system(source, place):
        latencies_ns.append(time.monotonic_ns() - int.from_bytes(message[:8], "big"))
        if len(latencies_ns) == 1:
            print(flush=True)
        if len(latencies_ns) > count:
            break
    print(*latencies_ns[1:], sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
