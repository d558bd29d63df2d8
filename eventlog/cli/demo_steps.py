"""The steps of the demo that touch the store. They measure and compare; they print nothing."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from eventlog.cli.demo_history import (
    GIT_CHANGES_MIN,
    History,
    git_history,
    git_root,
    order_history,
)
from eventlog.cli.output import CommandError

if TYPE_CHECKING:
    from eventlog.cli.checking import Report

BATCH_COUNT = 1000
MEASURABLE_EVENT_COUNT = 5_000


class Imported(NamedTuple):
    """What was appended, and how long it took."""

    event_count: int
    stream_count: int
    batch_count: int
    seconds: float


class Replayed(NamedTuple):
    """What the streams came to: the last value of each that is not deleted."""

    state: dict[str, str]
    stream_count: int
    event_count: int
    seconds: float


class Scanned(NamedTuple):
    """What one reading of the whole log took; the size is that of its segments."""

    event_count: int
    size_bytes: int
    seconds: float


def find_histories(directory: Path, *, generated: bool = False) -> list[History]:
    """The git history around the directory, if there is enough of it; else the shop's.

    A git history too short to measure anything by gets the shop as company; the last of the list is
    the one to measure.
    """
    root = None if generated else git_root(directory)
    if root is None:
        return [order_history()]
    try:
        history = git_history(root)
    except (CommandError, OSError, ValueError):  # whatever git did: the demo goes on
        return [order_history()]
    if len(history.events) <= GIT_CHANGES_MIN:
        return [order_history()]
    if len(history.events) < MEASURABLE_EVENT_COUNT:
        return [history, order_history()]
    return [history]


def import_history(directory: Path, store: str, history: History) -> Imported:
    """Append all events in their order, in batches that are durable one by one."""
    import eventlog
    from eventlog.sourcing import Event, StreamAppend

    versions: dict[str, int] = {}
    batch_count = 0
    with eventlog.open(directory) as log:
        events = log.event_store(store)
        started = time.perf_counter()
        left = iter(history.events)
        while batch := list(islice(left, BATCH_COUNT)):
            appends = []
            for stream, kind, time_ms, data in batch:
                version = versions.get(stream, 0)
                event = Event(msgspec.Raw(data), type=kind, time_ms=time_ms)
                appends.append(StreamAppend(stream, event, version))
                versions[stream] = version + 1
            events.append_many(appends)
            batch_count += 1
        seconds = time.perf_counter() - started
    return Imported(len(history.events), len(versions), batch_count, seconds)


def replay_streams(directory: Path, store: str, history: History) -> Replayed:
    """Read each stream by itself and fold it to the last value of the history's field."""
    import eventlog
    from eventlog.cli.folding import Fold

    fold = Fold(history.value_field, history.delete_type)
    with eventlog.open(directory, read_only=True) as log:
        events = log.event_store(store)
        streams = list(events.streams())
        started = time.perf_counter()
        for stream in streams:
            for event in events.read_stream(stream):
                fold.add(event)
        state = fold.state()
        seconds = time.perf_counter() - started
    return Replayed(state, len(streams), fold.event_count, seconds)


def scan(directory: Path, store: str) -> Scanned:
    """Read all values, and weigh the segments."""
    import eventlog

    with eventlog.open(directory, read_only=True) as log:
        topic = log.topic(store)
        started = time.perf_counter()
        event_count = sum(len(values) for values in topic.read_batches(take="values"))
        seconds = time.perf_counter() - started
    folder = directory / "log" / f"{store}-0"
    size_bytes = sum(path.stat().st_size for path in folder.glob("*.log"))
    return Scanned(event_count, size_bytes, seconds)


def check(directory: Path) -> Report:
    """All that ``eventlog verify`` checks."""
    from eventlog.cli.verifying import check_store

    return check_store(directory)
