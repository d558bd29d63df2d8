"""A small life of a store, and the rules by which its log is judged afterwards.

Steps are calls on one topic whose segments hold a few batches: single and many records, under sync
and in the page cache, over several segments, with a close and a reopening in the middle.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import eventlog
from eventlog.clock import ManualClock
from eventlog.engine import EventLog
from eventlog.errors import EventLogError, PoisonedError

TOPIC = "t"
SETTINGS: dict[str, Any] = {
    "segment_size_bytes_max": 1024,
    "index_interval_bytes": 200,
    "batch_size_bytes_max": 1024,
    "gather_us": 0,
}
REOPEN = (0, "reopen")
# (records, durability) of each append; REOPEN closes and opens the store again.
SHORT = (
    (1, "sync"),
    (3, "sync"),
    (1, "os"),
    (2, "os"),
    (1, "sync"),
    (4, "sync"),
    (1, "os"),
    REOPEN,
    (2, "sync"),
    (1, "sync"),
)
LONG = (
    *SHORT,
    (3, "os"),
    (1, "os"),
    REOPEN,
    (4, "os"),
    (3, "sync"),
    (1, "os"),
    (2, "sync"),
    (1, "os"),
)
Steps = tuple[tuple[int, str], ...]


@dataclass
class Attempt:
    """One append: what it was to write, and what the caller was told."""

    step: int
    values: list[bytes]
    durability: str
    begun: int = 0  # trace entries when it was called
    ended: int = -1
    offset: int = -1  # acknowledged at; -1: it raised
    error: EventLogError | None = None

    @property
    def is_acknowledged(self) -> bool:
        return self.offset >= 0


@dataclass
class History:
    """What a run attempted, in order, and what went wrong outside of appends."""

    attempts: list[Attempt] = field(default_factory=list)
    failures: list[EventLogError] = field(default_factory=list)  # of open, topic and close
    openings: list[int] = field(default_factory=list)  # attempts before each opening


def by_opening(history: History) -> Iterator[Attempt | None]:
    """The attempts in order; None where the store was opened anew."""
    for index, attempt in enumerate(history.attempts):
        if index in history.openings:
            yield None
        yield attempt


def values_of(step: int, count: int) -> list[bytes]:
    """Values that tell their place, of lengths that make batches end anywhere."""
    return [
        b"%03d.%d:" % (step, index) + b"." * (60 + 37 * (step + index) % 90)
        for index in range(count)
    ]


def history_of(offsets: Mapping[int, int], steps: Steps = SHORT) -> History:
    """What ``tell`` gave of a run that was killed: acknowledged offset, or -1, by step."""
    return History(
        [
            Attempt(step, values_of(step, steps[step][0]), steps[step][1], offset=offset)
            for step, offset in sorted(offsets.items())
        ]
    )


def run(
    root: Path,
    steps: Steps = SHORT,
    *,
    settings: Mapping[str, Any] | None = None,
    moment: Callable[[], int] = lambda: 0,
    on_error: Callable[[], None] = lambda: None,
    finish: Callable[[EventLog, History], None] | None = None,
    tell: Callable[[Attempt], object] = lambda attempt: None,
) -> History:
    """Do the steps in a new store at ``root``.

    Args:
        settings: of the topic, besides SETTINGS.
        moment: entries of the trace by now.
        on_error: called when a call raised; appends then go on.
        finish: ends the last opening; None: ``close``.
        tell: called with each append before it begins and after it ended.

    Anything but the errors of eventlog is let through.
    """
    history = History()
    log: EventLog | None = None
    clock = ManualClock()  # with a real one the number of time index entries would vary

    def reopen() -> EventLog | None:
        if log is not None:
            close(log, history)
        history.openings.append(len(history.attempts))
        try:
            return eventlog.open(root, clock=clock)
        except EventLogError as error:
            history.failures.append(error)
            on_error()
        return None

    log = reopen()
    for step, (count, durability) in enumerate((*steps, REOPEN)):
        if (count, durability) == REOPEN:
            if step == len(steps):
                break
            log = reopen()
            continue
        if log is None:
            continue
        clock.advance(1)
        attempt = Attempt(step, values_of(step, count), durability, moment())
        try:
            topic = log.topic(TOPIC, **{**SETTINGS, **(settings or {})})
        except EventLogError as error:
            history.failures.append(error)
            on_error()
            continue
        history.attempts.append(attempt)
        tell(attempt)
        try:
            if count == 1:
                attempt.offset = topic.append(attempt.values[0], durability=durability).offset
            else:
                receipts = topic.append_many(attempt.values, durability=durability)
                assert [receipt.count for receipt in receipts] == [count]
                attempt.offset = receipts[0].offset
        except EventLogError as error:
            attempt.error = error
            on_error()
        attempt.ended = moment()
        tell(attempt)
    if log is not None:
        (finish or close)(log, history)
    return history


def close(log: EventLog, history: History) -> None:
    """Close, and note what it raises."""
    try:
        log.close()
    except EventLogError as error:
        history.failures.append(error)


def abandon(log: EventLog, history: History) -> None:
    """What the kill of the process does: descriptors and locks are gone, nothing is finished."""
    log._abandon()


@contextlib.contextmanager
def opened(root: Path) -> Iterator[EventLog]:
    """The store, closed at the end whatever comes."""
    log = eventlog.open(root)
    try:
        yield log
    finally:
        log.close()


def contents(log: EventLog) -> list[bytes]:
    """All values of the topic, by offset from 0; asserts that offsets have no gap."""
    if TOPIC not in log.topics():
        return []
    topic = log.topic(TOPIC)
    records = list(topic.read())
    assert [record.offset for record in records] == list(range(len(records))), "gap in offsets"
    assert topic.log_end_offset() == topic.high_watermark() == len(records), "end of the log"
    return [record.value or b"" for record in records]


def batches_of(history: History, found: list[bytes]) -> list[int]:
    """Which attempts the log holds, in its order; asserts that each is there whole and only once."""
    place = {
        values_of_attempt.values[0]: index
        for index, values_of_attempt in enumerate(history.attempts)
    }
    indexes, at = [], 0
    while at < len(found):
        assert found[at] in place, f"offset {at} holds {found[at][:12]!r}, which begins no append"
        index = place[found[at]]
        values = history.attempts[index].values
        assert found[at : at + len(values)] == values, f"the append at offset {at} is not whole"
        indexes.append(index)
        at += len(values)
    assert indexes == sorted(set(indexes)), f"order or repetition: {indexes}"
    return indexes


def check_cut(history: History, found: list[bytes], moment: int) -> None:
    """What a power cut at that trace entry may leave.

    All that was acknowledged under sync before it, nothing that began after it; of what was
    acknowledged at all a prefix; nothing that was refused without doubt.
    """
    indexes = batches_of(history, found)
    lost = False
    for index, attempt in enumerate(history.attempts):
        if index in history.openings:  # after a failed sync another beginning may have followed
            lost = False
        is_there, has_ended = index in indexes, attempt.ended <= moment
        assert not (is_there and attempt.begun >= moment), f"append {index} from the future"
        if attempt.is_acknowledged:
            is_durable = attempt.durability == "sync" and has_ended
            assert is_there or not is_durable, f"append {index} was durable and is gone"
            assert not (is_there and lost), f"append {index} is there, one before it is not"
            assert not is_there or found[attempt.offset] == attempt.values[0], f"{index} moved"
            lost = lost or not is_there
        elif has_ended and not isinstance(attempt.error, PoisonedError):
            assert not is_there, f"append {index} was refused ({attempt.error}) and is there"


def check_acknowledged(history: History, found: list[bytes], *, only_sync: bool = False) -> None:
    """All that was acknowledged is at its offset; what was refused without doubt is not there.

    ``only_sync``: what was only in the page cache may be gone, whatever was acknowledged before.
    """
    indexes = batches_of(history, found)
    for index, attempt in enumerate(history.attempts):
        if attempt.is_acknowledged:
            if only_sync and attempt.durability != "sync" and index not in indexes:
                continue
            assert index in indexes, f"append {index} was acknowledged and is gone"
            end = attempt.offset + len(attempt.values)
            assert found[attempt.offset : end] == attempt.values, f"append {index} has moved"
        elif not isinstance(attempt.error, PoisonedError):
            assert index not in indexes, (
                f"append {index} was refused ({attempt.error}) and is there"
            )


def remove(root: Path) -> None:
    """Away with a store that is done with."""
    shutil.rmtree(root, ignore_errors=True)
