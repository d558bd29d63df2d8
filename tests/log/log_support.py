"""Helpers of the log's tests: what a crash leaves behind, and damage done by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import eventlog
from eventlog.log.checkpoints import CLEAN_SHUTDOWN, RECOVERY_POINT, read_offsets, write_offsets
from eventlog.log.record import Record

BATCH_HEADER_SIZE = 61
SMALL: dict[str, Any] = {"segment_size_bytes_max": 1024, "index_interval_bytes": 100}
"""Settings by which a few records fill several segments with several index entries."""


MEMORY = Path("/dev/shm")


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: properties that open stores by the hundred are about
    the log, not about how long a disk takes."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory)


def abandon(log: eventlog.EventLog) -> None:
    """What is left of the process after SIGKILL: nothing closed cleanly, the page cache intact."""
    log._abandon()
    if log._flusher is not None:
        log._flusher.join()


def stop_flusher(log: eventlog.EventLog) -> None:
    """No sync in the background from here on, so that a test decides when one happens."""
    log._stop.set()
    assert log._flusher is not None
    log._flusher.join()


def after_reboot(source: Path, target: Path) -> Path:
    """A copy of the store as another boot of the machine finds it, cut off at this moment: its
    control pages are not believed. (Nothing that was written is missing: damage is up to the test.)"""
    try:
        shutil.copytree(source, target)
    except shutil.Error as error:  # a writer may be at work: what was temporary is gone again
        for path, _, what in error.args[0]:
            if not path.endswith(".tmp"):
                raise AssertionError(what) from error
    return target


def forget_recovery_point(
    store: Path, offset: int = 0, topic: str = "t", partition: int = 0
) -> None:
    """As if nothing were known to be durable behind ``offset``, and the store not closed cleanly."""
    (store / "log" / CLEAN_SHUTDOWN).unlink(missing_ok=True)
    path = store / "log" / RECOVERY_POINT
    points = read_offsets(path)
    points[topic, partition] = offset
    write_offsets(path, points)


def partition_directory(store: Path, topic: str = "t", partition: int = 0) -> Path:
    return store / "log" / f"{topic}-{partition}"


def segments(store: Path, topic: str = "t", partition: int = 0) -> list[Path]:
    """Its .log files in order."""
    return sorted(partition_directory(store, topic, partition).glob("*.log"))


def batch_positions(log_file: Path) -> list[int]:
    """Where batches begin, and last where they end; reads the length fields only."""
    data = log_file.read_bytes()
    positions = [0]
    while positions[-1] + BATCH_HEADER_SIZE <= len(data):
        size = int.from_bytes(data[positions[-1] + 8 : positions[-1] + 12], "big") + 12
        if size <= 12:
            break
        positions.append(positions[-1] + size)
    return positions


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Damage one bit."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def contents(directory: Path, pattern: str = "*") -> dict[str, bytes]:
    """All files below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob(pattern))
        if path.is_file()
    }


def facts(record: Record) -> tuple[Any, ...]:
    """A record without its place of birth, for comparing across topics and stores."""
    return (record.offset, record.timestamp_ms, record.key, record.value, record.headers)


def read_all(topic: Any, partition: int = 0) -> list[tuple[Any, ...]]:
    return [facts(record) for record in topic.read(partition)]


def values(topic: Any, partition: int = 0, **range_: Any) -> list[bytes | None]:
    return [
        value for chunk in topic.read_batches(partition, take="values", **range_) for value in chunk
    ]


def python(code: str, *arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, from this checkout."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def child(function: Any, *arguments: Any) -> Iterator[int]:
    """A forked child that runs the function and leaves with status 0, or 1 and a traceback."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    try:
        yield pid
    finally:
        _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status}"


def in_child(function: Any, *arguments: Any) -> None:
    """Run the function in a forked child to its end; what it asserts counts."""
    with child(function, *arguments):
        pass
