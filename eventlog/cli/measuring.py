"""The measurements of ``eventlog bench``.

Each piece of work and its limit run one after the other for the same time, so that a machine that
is busy or throttled hits both. The limits are bare loops in Python over the same bytes: ``pwrite``
of a record or of a MiB, ``pwrite`` and ``fdatasync``, ``pread`` through the page cache.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from eventlog import EventLog
    from eventlog.log.cursor import Take
    from eventlog.log.topic import Topic

VALUE = bytes(range(256))
KEY = b"customer-0000042"
RECORD_SIZE_BYTES = 61 + len(VALUE) + len(KEY) + 10  # a batch of one
BATCHED_SIZE_BYTES = len(VALUE) + len(KEY) + 11  # in a large batch
_MIB = 1 << 20
_RESERVED_SIZE_BYTES = 64 * _MIB
_WARM_BYTES_PER_SECOND = 2048 * _MIB
_PART_COUNT = 20  # of the time: a piece of work or a limit takes one
_SCAN_RECORDS_MIN = 200_000
_STREAM_COUNT = 500
_STREAM_EVENT_COUNT = 100


class Measured(NamedTuple):
    """``limit_rate`` counts the same unit, done by the bare loop that ``limit`` names."""

    work: str
    unit: str
    rate: float
    limit: str = ""
    limit_rate: float = 0.0

    @property
    def ratio(self) -> float | None:
        """The rate in parts of the limit's."""
        return self.rate / self.limit_rate if self.limit_rate else None


def measurements(directory: Path, seconds: float) -> Iterator[Measured]:
    """All of them, one after the other; the directory is filled and left so."""
    import eventlog

    part = seconds / _PART_COUNT
    with eventlog.open(directory / "store", durability="os") as log:
        yield from _buffered(log, directory, part)
    with eventlog.open(directory / "store", durability="sync") as log:
        yield from _durable(log, directory, part)
        yield from _scan(log, part)
        yield _replay(log, part)


# -- appending ---------------------------------------------------------------------------------


def _buffered(log: EventLog, directory: Path, part: float) -> Iterator[Measured]:
    single = log.topic("single", durability="os")
    yield Measured(
        "append, one event a call",
        "events",
        _rate(lambda: single.append(VALUE, key=KEY), part),
        "pwrite, same bytes",
        _with_file(directory, lambda fd: _rate(_writer(fd, RECORD_SIZE_BYTES), part)),
    )
    produced = log.topic("produced", durability="os")
    with produced.producer() as producer:
        rate = _rate(lambda: producer.send(VALUE, key=KEY), part, stride=200)
    pwrite_mib = _with_file(directory, lambda fd: _rate(_writer(fd, _MIB), part))
    limit = pwrite_mib * _MIB / BATCHED_SIZE_BYTES
    yield Measured("append, buffered producer", "events", rate, "pwrite by the MiB", limit)
    for count in (100, 10_000):
        topic = log.topic(f"batched-{count}", durability="os")
        values, keys = (VALUE,) * count, (KEY,) * count
        work = functools.partial(topic.append_many, values, keys=keys)
        rate = _rate(work, part, stride=1) * count
        yield Measured(f"append, batches of {count:,}", "events", rate, "pwrite by the MiB", limit)


def _durable(log: EventLog, directory: Path, part: float) -> Iterator[Measured]:
    limit = _with_file(directory, lambda fd: _rate(_writer(fd, RECORD_SIZE_BYTES, sync=True), part))
    for thread_count in (1, 8):
        topic = log.topic(f"durable-{thread_count}", durability="sync")
        work = functools.partial(topic.append, VALUE, key=KEY)
        rate = _rate_of_threads(work, thread_count, part)
        threads = "1 thread" if thread_count == 1 else f"{thread_count} threads"
        yield Measured(f"durable append, {threads}", "events", rate, "pwrite + fdatasync", limit)


# -- reading -----------------------------------------------------------------------------------


def _scan(log: EventLog, part: float) -> Iterator[Measured]:
    name = "batched-10000"
    topic = log.topic(name)
    if topic.log_end_offset() < _SCAN_RECORDS_MIN:
        values, keys = (VALUE,) * 10_000, (KEY,) * 10_000
        while topic.log_end_offset() < _SCAN_RECORDS_MIN:
            topic.append_many(values, keys=keys, durability="os")
        topic.sync()
    end = min(topic.high_watermark(), 2_000_000)
    segment = min((log.path / "log" / f"{name}-0").glob("*.log"))
    limit = _read_rate(segment, part) / BATCHED_SIZE_BYTES

    takes: tuple[Take, ...] = ("values", "tuples", "records")
    for take in takes:
        work = functools.partial(_read_all, topic, take, end)
        rate = _rate(work, part, stride=1) * end
        yield Measured(f"scan into {take}", "events", rate, "pread by the MiB", limit)


def _read_all(topic: Topic, take: Take, end: int) -> None:
    for _ in topic.read_batches(end=end, take=take):
        pass


def _replay(log: EventLog, part: float) -> Measured:
    import msgspec

    from eventlog.sourcing import Event, StreamAppend

    store = log.event_store("streams", durability="os")
    data = msgspec.Raw(msgspec.json.encode({"amount": 17, "note": "x" * 200}))
    event = Event(data, type="paid")
    streams = [f"account-{number:06d}" for number in range(_STREAM_COUNT)]
    # One event of each stream after the other: what belongs together lies far apart.
    for _ in range(_STREAM_EVENT_COUNT):
        store.append_many([StreamAppend(stream, event) for stream in streams])
    draw = random.Random(3)

    def replay() -> None:
        for _ in store.read_stream(draw.choice(streams)):
            pass

    return Measured(
        f"replay streams of {_STREAM_EVENT_COUNT} events", "streams", _rate(replay, part)
    )


# -- loops -------------------------------------------------------------------------------------


def _rate(work: Callable[[], object], seconds: float, stride: int = 20) -> float:
    """How often a second; the clock is looked at once in ``stride`` times."""
    work()
    _warm(seconds)
    done = 0
    started = time.perf_counter()
    deadline = started + seconds
    while (now := time.perf_counter()) < deadline or not done:
        for _ in range(stride):
            work()
        done += stride
    now = time.perf_counter()
    return done / (now - started)


def _warm(seconds: float) -> None:
    """Touch memory and give it back: a virtual machine may have to ask its host for every page that
    the page cache takes, which costs more than the write itself and would be measured instead."""
    touched = bytearray(b"\1") * int(seconds * _WARM_BYTES_PER_SECOND)
    del touched


def _rate_of_threads(work: Callable[[], object], thread_count: int, seconds: float) -> float:
    counts = [0] * thread_count
    is_over = threading.Event()
    begin = threading.Barrier(thread_count + 1)

    def repeat(number: int) -> None:
        begin.wait()
        while not is_over.is_set():
            work()
            counts[number] += 1

    threads = [threading.Thread(target=repeat, args=(n,)) for n in range(thread_count)]
    for thread in threads:
        thread.start()
    begin.wait()
    started = time.perf_counter()
    time.sleep(seconds)
    is_over.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def _writer(fd: int, size_bytes: int, *, sync: bool = False) -> Callable[[], object]:
    """Writes on and on to fresh pages, room for which is reserved ahead, as a segment does."""
    data = os.urandom(size_bytes)
    position = 0
    reserved = _RESERVED_SIZE_BYTES

    def write() -> None:
        nonlocal position, reserved
        if position + size_bytes > reserved:
            _reserve(fd, reserved)
            reserved += _RESERVED_SIZE_BYTES
        os.pwrite(fd, data, position)
        position += size_bytes
        if sync:
            os.fdatasync(fd)

    return write


def _reserve(fd: int, position: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # not everywhere, and only for speed
        os.posix_fallocate(fd, position, _RESERVED_SIZE_BYTES)


def _with_file(directory: Path, measure: Callable[[int], float]) -> float:
    """Measure on a new file."""
    path = directory / "limit"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        _reserve(fd, 0)
        os.fsync(fd)
        return measure(fd)
    finally:
        os.close(fd)
        path.unlink()


def _read_rate(path: Path, seconds: float) -> float:
    """Bytes a second out of the page cache."""
    buffer = bytearray(_MIB)
    with path.open("rb", buffering=0) as file:
        size_bytes = file.seek(0, os.SEEK_END)

        def read() -> None:
            file.seek(0)
            while file.readinto(buffer):
                pass

        return _rate(read, seconds, stride=1) * size_bytes
