"""Several processes append to the same streams with expected versions: optimistic concurrency among them.

Each has an index of its own, small enough that all of them write checkpoints into the one they share. What
a worker was told goes through a pipe; the log, read from its start, is the judge of it.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sourcing_support import Opened

from eventlog.errors import WrongExpectedVersion
from eventlog.sourcing import Event, RecordedEvent, StreamAppend

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

WORKERS = 8
STREAMS = [f"s{number}" for number in range(100)]
APPENDS = 120
RUN_COUNT_MAX = 60
SETTINGS: dict[str, Any] = {"segment_size_bytes_max": 8192, "index_interval_bytes": 512}
_TOLD = struct.Struct("<Biiii")  # what, number of the append, stream, version, offset
_DONE, _CONFLICT, _READY, _VERIFIED = range(4)


class Worker:
    """Runs in a child: appends until it has done its share, each again until no conflict is in the way."""

    def __init__(self, number: int, store: Path, tell: int, rng: random.Random) -> None:
        self.number = number
        self.tell = tell
        self.rng = rng
        self.opened = Opened(store, run_count_max=RUN_COUNT_MAX)
        self.store = self.opened.store
        self.known = dict.fromkeys(STREAMS, 0)

    def say(
        self, what: int, number: int = 0, stream: str = "s0", version: int = 0, at: int = 0
    ) -> None:
        os.write(self.tell, _TOLD.pack(what, number, int(stream[1:]), version, at))

    def streams(self) -> list[str]:
        """One in most cases; few are chosen often, so that workers meet there."""
        places = range(3) if self.rng.random() < 0.3 else range(len(STREAMS))
        return [
            STREAMS[place] for place in self.rng.sample(places, self.rng.choice((1, 1, 1, 2, 3)))
        ]

    def run(self) -> None:
        for number in range(APPENDS):
            streams = self.streams()
            durability = self.rng.choice(("os", "os", "os", "sync"))
            if self.rng.random() < 0.3:  # as one who has just read it
                self.known.update({name: self.store.stream_version(name) for name in streams})
            while not self.append(number, streams, durability):
                pass

    def append(self, number: int, streams: list[str], durability: str) -> bool:
        event = Event(b"%d %d" % (self.number, number), type="counted")
        try:
            if len(streams) == 1:
                (name,) = streams
                receipts = [
                    self.store.append(
                        name, event, expected_version=self.known[name], durability=durability
                    )
                ]
            else:
                receipts = self.store.append_many(
                    [StreamAppend(name, event, self.known[name]) for name in streams],
                    durability=durability,
                )
        except WrongExpectedVersion as error:
            if error.expected != self.known[error.stream] or error.actual <= error.expected:
                raise AssertionError(f"not a conflict: {error}") from error
            self.known[error.stream] = error.actual
            self.say(_CONFLICT)
            return False
        for name, receipt in zip(streams, receipts, strict=True):
            self.say(_DONE, number, name, receipt.version, receipt.offset)
            self.known[name] = receipt.version
        return True

    def verify(self) -> None:
        """The index of this process against a fold of the whole log."""
        differences = self.store.verify()
        if differences:
            raise AssertionError(differences[:3])
        for name in self.rng.sample(STREAMS, 20):
            versions = [event.version for event in self.store.read_stream(name)]
            if versions != list(range(1, self.store.stream_version(name) + 1)):
                raise AssertionError(f"{name} has versions {versions}")
        if self.store.discarded_indexes:
            raise AssertionError(self.store.discarded_indexes)
        self.say(_VERIFIED)


@dataclass
class Told:
    """What the parent knows of one worker."""

    pid: int
    hear: int
    go: int
    data: bytearray = field(default_factory=bytearray)
    ended: int | None = None

    def take(self) -> bool:
        """What it says next; False: nothing comes any more."""
        new = os.read(self.hear, 1 << 16)
        self.data += new
        return bool(new)

    def rows(self) -> list[tuple[int, ...]]:
        whole = len(self.data) - len(self.data) % _TOLD.size
        return list(_TOLD.iter_unpack(self.data[:whole]))

    def count(self, what: int) -> int:
        return sum(row[0] == what for row in self.rows())

    def await_(self, what: int, count: int = 1) -> None:
        while self.count(what) < count:
            assert self.take(), "a worker ended before its time"

    def wait(self) -> int:
        if self.ended is None:
            self.ended = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.ended

    def end(self) -> None:
        if self.ended is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        os.close(self.hear)
        os.close(self.go)


def start(number: int, store: Path, seed: int, inherited: list[Told]) -> Told:
    hear, tell = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for other in inherited:  # or its end would not be noticed
                os.close(other.hear)
                os.close(other.go)
            os.close(hear)
            os.close(go)
            worker = Worker(number, store, tell, random.Random(f"{seed} {number}"))
            worker.run()
            worker.say(_READY)
            os.read(wait, 1)
            worker.verify()
            worker.opened.close()
            status = 0
        except BaseException as error:
            sys.stderr.write(f"worker {number}: {error!r}\n")
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(tell)
    os.close(wait)
    return Told(pid, hear, go)


@contextmanager
def working(store: Path, seed: int) -> Iterator[list[Told]]:
    workers: list[Told] = []
    try:
        for number in range(WORKERS):
            workers.append(start(number, store, seed, workers))
        yield workers
    finally:
        for worker in workers:
            worker.end()


def scanned(store: Path) -> dict[str, list[RecordedEvent]]:
    """Streams as the whole log has them; its offsets have no gap."""
    with Opened(store, run_count_max=RUN_COUNT_MAX) as opened:
        assert opened.store.verify() == []
        assert opened.store.discarded_indexes == ()
        events = list(opened.store.read_all())
        assert [event.offset for event in events] == list(range(len(events)))
    streams: dict[str, list[RecordedEvent]] = {}
    for event in events:
        streams.setdefault(event.stream, []).append(event)
    return streams


def check(store: Path, workers: list[Told], killed: set[int]) -> None:
    """Every version once and in order; what was told is there, and what was refused is not."""
    streams = scanned(store)
    for name, events in streams.items():
        assert [event.version for event in events] == list(range(1, len(events) + 1)), name
    for number, worker in enumerate(workers):
        mine = {
            (int(event.raw_data.split()[1]), name, event.version, event.offset)
            for name, events in streams.items()
            for event in events
            if event.raw_data.startswith(b"%d " % number)
        }
        told = {
            (row[1], STREAMS[row[2]], row[3], row[4]) for row in worker.rows() if row[0] == _DONE
        }
        assert told <= mine, "what was told is not there"
        if number in killed:
            extra = {append for append, *_ in mine - told}
            assert len(extra) <= 1, f"appends {extra} were never told of"
        else:
            assert mine == told, "a conflict was reported, and the events are there"
        per_append = Counter(append for append, *_ in mine)
        assert all(count <= 3 for count in per_append.values()), "appended twice"


def make(store: Path) -> None:
    with Opened(store, run_count_max=RUN_COUNT_MAX, **SETTINGS) as opened:
        opened.store.append(STREAMS[0], [], durability="os")


@pytest.mark.guarantee("G-06")
def test_every_version_once_and_every_conflict_reported(
    directory: Path, rng: random.Random
) -> None:
    make(directory / "store")
    with working(directory / "store", rng.randrange(2**32)) as workers:
        for worker in workers:
            worker.await_(_READY)
        for worker in workers:
            os.write(worker.go, b"g")
        for worker in workers:
            worker.await_(_VERIFIED)
            while worker.take():
                pass
        assert [worker.wait() for worker in workers] == [0] * WORKERS
        assert sum(worker.count(_CONFLICT) for worker in workers) > 20
        check(directory / "store", workers, set())


@pytest.mark.guarantee("G-06")
def test_the_others_go_on_when_some_are_killed(directory: Path, rng: random.Random) -> None:
    make(directory / "store")
    killed = {1, 4, 6}
    with working(directory / "store", rng.randrange(2**32)) as workers:
        for number in sorted(killed):
            worker = workers[number]
            worker.await_(_DONE, rng.randrange(5, APPENDS - 10))
            os.kill(worker.pid, signal.SIGKILL)
            assert worker.wait() == -signal.SIGKILL
            while worker.take():
                pass
        others = [worker for number, worker in enumerate(workers) if number not in killed]
        for worker in others:
            worker.await_(_READY)
        for worker in others:
            os.write(worker.go, b"g")
        assert [worker.wait() for worker in others] == [0] * len(others)
        check(directory / "store", workers, killed)


@pytest.mark.guarantee("G-06")
def test_an_append_to_several_streams_counts_what_came_while_it_was_checked(
    directory: Path,
) -> None:
    """Looking up the second stream takes in what another process appended to the first one."""
    with (
        Opened(directory / "store", run_count_max=10_000) as opened,
        Opened(directory / "store", run_count_max=10_000) as other,
    ):
        store, event = opened.store, Event(b"x", type="t")
        store.append_many({"a": [event], "b": [event]})
        index: Any = store._partitions[0].index
        index.checkpoint()
        store.append("a", event)  # in the tail; b is in the rows
        version = index.version

        def version_late(key: bytes) -> int:
            index.version = version
            other.store.append("a", event, expected_version=2)
            found: int = version(key)
            return found

        index.version = version_late
        with pytest.raises(WrongExpectedVersion):
            store.append_many([StreamAppend("a", event, 2), StreamAppend("b", event, 1)])
        assert [event.version for event in store.read_stream("a")] == [1, 2, 3]
        assert store.verify() == []
