"""What is measured against what: the rows of the table, with the goals of the design.

A row names a work and the contender that it is about; a goal is a limit on one number about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

LIMIT = "limit"
EVENTLOG = "eventlog"


class Results(Protocol):
    """What report.py knows about all turns. Medians over turns, None where something was not measured."""

    def seconds(self, work: str, contender: str) -> float | None:
        """Time an event."""

    def speed(self, work: str, contender: str, other: str) -> float | None:
        """Rate of the contender divided by that of the other, each turn by itself."""

    def figure(self, work: str, contender: str, name: str) -> float | None:
        """A figure that the contender gave."""


@dataclass(frozen=True)
class Goal:
    """A limit on a number.

    Attributes:
        text: the goal as it is shown.
        number: of the results, for a work and a contender.
        shown: the number as text.
        at_least, at_most: one of them is set. With neither the number is shown and judged by nobody.
    """

    text: str
    number: Callable[[Results, str, str], float | None]
    shown: Callable[[float], str]
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, number: float) -> bool | None:
        """None: nothing to be met."""
        if self.at_least is not None:
            return number >= self.at_least
        return number <= self.at_most if self.at_most is not None else None


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        title: what is done.
        work, contender: see harness.py.
        goals: none: shown for comparison only.
        beside: contenders that it is compared with; None: all others of the work.
    """

    title: str
    work: str
    contender: str = EVENTLOG
    goals: Sequence[Goal] = ()
    beside: Sequence[str] | None = None


def rate_text(rate: float) -> str:
    """Events a second with a unit that keeps it short."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}/s"
    return f"{rate:.3g} /s"


def _times(number: float) -> str:
    return f"{number:.2f}x"


def _rate(results: Results, work: str, contender: str) -> float | None:
    seconds = results.seconds(work, contender)
    return 1 / seconds if seconds else None


RATE = Goal("", _rate, rate_text)


def rate(at_least: float, *, of: float = 1, unit: str = "") -> Goal:
    """So many a second; ``of``: events that make one ``unit``."""

    def number(results: Results, work: str, contender: str) -> float | None:
        events = _rate(results, work, contender)
        return events / of if events else None

    def shown(value: float) -> str:
        return rate_text(value).replace("/s", f"{unit}/s") if unit else rate_text(value)

    return Goal(f">= {shown(at_least)}", number, shown, at_least=at_least)


def nanoseconds(at_most: float) -> Goal:
    """Time an event."""

    def number(results: Results, work: str, contender: str) -> float | None:
        seconds = results.seconds(work, contender)
        return seconds * 1e9 if seconds else None

    return Goal(f"<= {at_most:g} ns", number, lambda value: f"{value:,.0f} ns", at_most=at_most)


def time_of(other: str, at_most: float, name: str) -> Goal:
    """At most so many times the time of another contender."""

    def number(results: Results, work: str, contender: str) -> float | None:
        return results.speed(work, other, contender)

    def shown(value: float) -> str:
        return f"{_times(value)} {name}"

    return Goal(f"<= {at_most:g}x {name}", number, shown, at_most=at_most)


def time_each(other: str, processes: int, at_most: float, name: str) -> Goal:
    """What an append takes each of so many processes: at most so many times what it takes the other."""

    def number(results: Results, work: str, contender: str) -> float | None:
        speed = results.speed(work, other, contender)
        return None if speed is None else processes * speed

    def shown(value: float) -> str:
        return f"{_times(value)} {name}"

    return Goal(f"<= {at_most:g}x {name}", number, shown, at_most=at_most)


def speed_of(other: str, at_least: float | None, name: str) -> Goal:
    """At least so many times the rate of another contender; None: only shown."""

    def number(results: Results, work: str, contender: str) -> float | None:
        return results.speed(work, contender, other)

    def shown(value: float) -> str:
        return f"{_times(value)} {name}"

    text = "" if at_least is None else f">= {at_least:g}x {name}"
    return Goal(text, number, shown, at_least=at_least)


def figure(name: str, unit: str, at_most: float | None = None, label: str = "") -> Goal:
    """A figure that the contender gave."""
    prefix = f"{label} " if label else ""

    def number(results: Results, work: str, contender: str) -> float | None:
        return results.figure(work, contender, name)

    def shown(value: float) -> str:
        digits = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        return f"{prefix}{digits} {unit}"

    text = "" if at_most is None else f"{prefix}<= {at_most:g} {unit}"
    return Goal(text, number, shown, at_most=at_most)


_APPEND = (time_of(LIMIT, 2, "raw write"), rate(10e6))
_ONE_THREAD = "eventlog, 1 thread"


def _durable(threads: int, at_least: float) -> Row:
    contender = f"eventlog, {threads} threads"
    return Row(
        f"append, durable, {threads} threads",
        "durable append",
        contender,
        (
            speed_of(_ONE_THREAD, at_least, "1 thread"),
            figure("events_a_sync", "an fdatasync"),
            RATE,
        ),
        ("limit, 1 thread", f"SQLite, WAL, FULL, {threads} threads", f"LMDB, {threads} threads"),
    )


def _processes(batch_count: int, title: str) -> tuple[Row, Row]:
    """One process, and two at once."""
    work = f"processes, {batch_count}"
    one, two = "eventlog, 1 process", "eventlog, 2 processes"
    beside = "SQLite, WAL, NORMAL", "LMDB, no sync"
    return (
        Row(
            f"append, 1 process, {title}",
            work,
            one,
            (RATE,),
            [f"{name}, 1 process" for name in beside],
        ),
        Row(
            f"append, 2 processes at once, {title}",
            work,
            two,
            (time_each(one, 2, 2.2, "the time of 1 process"), RATE),
            [f"{name}, 2 processes" for name in beside],
        ),
    )


def _durable_processes(processes: int) -> Row:
    return Row(
        f"append, durable, {processes} processes at once",
        "durable processes",
        f"eventlog, {processes} processes",
        (speed_of("eventlog, 1 process", None, "1 process"), RATE),
        [f"{name}, {processes} processes" for name in ("SQLite, WAL, FULL", "LMDB")],
    )


_RECEIPT = figure("p50_us", "us", None, "p50"), figure("p99_us", "us", None, "p99")


_SCANS = (
    "limit",
    "SQLite, rows",
    "LMDB, values",
    "LMDB, keys and values",
    "eventsourcing (SQLite)",
)

ROWS = (
    Row("append, one a call", "append, 1", goals=(RATE,)),
    Row("append, batches of 10", "append, 10", goals=(RATE,)),
    Row("append, batches of 100", "append, 100", goals=_APPEND),
    Row("append, batches of 1,000", "append, 1,000", goals=_APPEND),
    Row("append, batches of 10,000", "append, 10,000", goals=_APPEND),
    Row("append, one a call, buffered producer", "producer", goals=(nanoseconds(200),)),
    Row(
        "append, durable, 1 thread",
        "durable append",
        _ONE_THREAD,
        (time_of("limit, 1 thread", 1.1, "pwrite + fdatasync"), RATE),
        (
            "limit, 1 thread",
            "SQLite, WAL, FULL, 1 thread",
            "LMDB, 1 thread",
            "eventsourcing (SQLite), 1 thread",
        ),
    ),
    _durable(2, 1.3),
    _durable(8, 4),
    _durable(32, 10),
    Row(
        "scan, checked in C",
        "scan",
        "eventlog, verify in C",
        (speed_of(LIMIT, 0.6, "reading the map"), RATE),
        (LIMIT,),
    ),
    Row("scan into values", "scan", "eventlog, values", (rate(15e6),), _SCANS),
    Row("scan into tuples", "scan", "eventlog, tuples", (rate(8e6),), _SCANS),
    Row("scan into records", "scan", "eventlog, records", (rate(7e6),), _SCANS),
    Row("scan, records one by one", "scan", "eventlog, read()", (RATE,), _SCANS),
    Row("event append, one a call", "event append, 1", goals=(rate(500e3),)),
    Row("event append, batches of 100", "event append, 100", goals=(rate(5e6),)),
    Row("event append, batches of 1,000", "event append, 1,000", goals=(rate(5e6),)),
    Row("event append, durable, one a call", "durable event append, 1", goals=(RATE,)),
    Row("event append, durable, batches of 100", "durable event append, 100", goals=(RATE,)),
    Row("event append, durable, batches of 1,000", "durable event append, 1,000", goals=(RATE,)),
    Row(
        "read one stream of 100 at random", "streams", goals=(rate(25e3, of=100, unit=" streams"),)
    ),
    *_processes(1, "one a call"),
    *_processes(100, "batches of 100"),
    _durable_processes(2),
    _durable_processes(4),
    Row("consume, 1 consumer", "consume", "eventlog, 1 consumer", (RATE,)),
    Row("consume, 4 consumers in a group", "consume", "eventlog, 4 consumers", (RATE,)),
    Row("commit of a consumer, durable", "commit", goals=(RATE,)),
    Row(
        "memory of a consumer that reads a large topic",
        "consumer memory",
        goals=(
            figure("own_mb", "MB", None, "its own"),
            figure("peak_mb", "MB", None, "with mapped files"),
            RATE,
        ),
    ),
    Row("beside servers: append, durable", "servers: durable append", goals=(RATE,)),
    Row(
        "beside servers: append, durable, batches of 100",
        "servers: durable append, 100",
        goals=(RATE,),
    ),
    Row(
        "beside servers: append, durable, 8 producers",
        "servers: durable append, 8 producers",
        goals=(RATE,),
    ),
    Row(
        "beside servers: append, on disk within a second or so, batches of 100",
        "servers: append, 100",
        goals=(RATE,),
    ),
    Row("beside servers: consume, a commit every 500", "servers: consume", goals=(RATE,)),
    Row("beside servers: append to receipt, durable", "servers: durable receipt", goals=_RECEIPT),
    Row("beside servers: append to receipt", "servers: receipt", goals=_RECEIPT),
    Row(
        "tail, from append to receipt",
        "tail",
        goals=(figure("p50_us", "us", 20, "p50"), figure("p99_us", "us", 200, "p99")),
        beside=(),
    ),
    Row(
        "tail, durable append",
        "tail",
        "eventlog, sync",
        _RECEIPT,
        (),
    ),
    Row(
        "tail: a pipe",
        "tail",
        LIMIT,
        _RECEIPT,
        (),
    ),
    Row(
        "tail: SQLite, looked at every 1 ms",
        "tail",
        "SQLite, looked at every 1 ms",
        _RECEIPT,
        (),
    ),
    Row(
        "open after a clean close",
        "open",
        goals=(figure("seconds", "s", 0.5), figure("resident_mb", "MB", 200)),
    ),
    Row("recover an unclean tail", "recover", goals=(nanoseconds(100),)),
)
