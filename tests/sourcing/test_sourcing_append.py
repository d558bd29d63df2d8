"""Appends: expected versions, atomicity, receipts, threads; and what can be read when."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sourcing_support import Opened, raw

import eventlog
from eventlog.errors import (
    ClosedError,
    ForkedError,
    InvalidRecordError,
    PartitionMismatchError,
    StorageReadOnlyError,
    WrongExpectedVersion,
)
from eventlog.sourcing import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Event,
    EventStore,
    StreamAppend,
)

ONE = Event(b"x", type="t")
SHAPES = {"plain": ONE, "batch": [ONE, ONE], "odd": Event(b"x", type="t", tags=["y"])}


@pytest.mark.parametrize("events", SHAPES.values(), ids=SHAPES)
def test_expected_versions(store: EventStore, events: Any) -> None:
    count = len(events) if isinstance(events, list) else 1
    for wrong in (STREAM_EXISTS, 1, 7):
        with pytest.raises(WrongExpectedVersion):
            store.append("s", events, expected_version=wrong)
    assert store.append("s", events, expected_version=NO_STREAM).version == count
    assert store.append("other", events, expected_version=0).version == count
    for wrong in (NO_STREAM, 0, count + 1, count - 1 or 9):
        with pytest.raises(WrongExpectedVersion) as caught:
            store.append("s", events, expected_version=wrong)
        assert caught.value.actual == count
        assert caught.value.expected in (wrong, "NO_STREAM")
    assert store.append("s", events, expected_version=STREAM_EXISTS).version == 2 * count
    assert store.append("s", events, expected_version=2 * count).version == 3 * count
    assert store.append("s", events, expected_version=ANY).version == 4 * count
    assert store.stream_version("s") == 4 * count == len(list(store.read_stream("s")))


@pytest.mark.parametrize("expected", [-1, 1.0, "1", None, True])
def test_expected_versions_that_are_none(store: EventStore, expected: Any) -> None:
    for events in SHAPES.values():
        with pytest.raises(InvalidRecordError, match="expected_version"):
            store.append("s", events, expected_version=expected)
    assert list(store.read_all()) == []


def test_receipts_tell_where_events_are(store: EventStore) -> None:
    first = store.append("a", raw(3))
    second = store.append("b", ONE)
    third = store.append("a", raw(2))
    assert (first.stream, first.version, first.partition, first.offset, first.count) == (
        "a",
        3,
        0,
        0,
        3,
    )
    assert (second.version, second.offset, second.first_version, second.end_offset) == (1, 3, 1, 4)
    assert (third.version, third.offset, third.first_version, third.end_offset) == (5, 4, 4, 6)
    assert [(e.stream, e.version) for e in store.read_all()] == [
        ("a", 1),
        ("a", 2),
        ("a", 3),
        ("b", 1),
        ("a", 4),
        ("a", 5),
    ]


def test_no_events_only_check_the_version(store: EventStore) -> None:
    receipt = store.append("s", [], expected_version=0)
    assert (receipt.version, receipt.count) == (0, 0)
    with pytest.raises(WrongExpectedVersion):
        store.append("s", (), expected_version=3)
    assert store.append_many([]) == []
    receipts = store.append_many({"s": [], "t": raw(2), "u": []})
    assert [(r.version, r.offset, r.count) for r in receipts] == [(0, 0, 0), (2, 0, 2), (0, 2, 0)]
    assert list(store.streams()) == ["t"]


@pytest.mark.guarantee("G-05")
def test_append_many_is_one_batch(store: EventStore) -> None:
    store.append("a", raw(2))
    receipts = store.append_many(
        [
            StreamAppend("a", raw(2), expected_version=2),
            StreamAppend("b", ONE, expected_version=NO_STREAM),
            StreamAppend("a", [ONE], expected_version=4),  # counts what the first one adds
        ]
    )
    assert [(r.stream, r.version, r.offset, r.count) for r in receipts] == [
        ("a", 4, 2, 2),
        ("b", 1, 4, 1),
        ("a", 5, 5, 1),
    ]
    assert store.topic.partition(0).state().appended_batches == 2
    assert [event.version for event in store.read_stream("a")] == [1, 2, 3, 4, 5]
    by_name = store.append_many({"b": ONE, "c": raw(2)})
    assert [(r.stream, r.version) for r in by_name] == [("b", 2), ("c", 2)]


@pytest.mark.guarantee("G-05")
@pytest.mark.parametrize(
    "bad",
    [
        StreamAppend("c", ONE, expected_version=1),
        StreamAppend("a", ONE, expected_version=0),  # by then it holds one event
        StreamAppend("c", Event({"a": 1})),
        StreamAppend("c", "no event"),
        StreamAppend("", ONE),
    ],
)
def test_append_many_writes_all_or_nothing(store: EventStore, bad: StreamAppend) -> None:
    with pytest.raises(eventlog.errors.EventLogError):
        store.append_many([StreamAppend("a", ONE), StreamAppend("b", raw(3)), bad])
    assert list(store.read_all()) == []
    assert list(store.streams()) == []
    assert store.append("a", ONE, expected_version=0).offset == 0


def test_append_many_stays_in_one_partition(log: eventlog.EventLog) -> None:
    store = log.event_store("wide", partitions=4)
    names = [f"s{i}" for i in range(20)]
    for name in names:
        store.append(name, ONE)
    partition_of = {name: next(store.read_stream(name)).partition for name in names}
    assert len(set(partition_of.values())) == 4
    for name, record in ((n, log.topic("wide").append(b"", key=n.encode())) for n in names):
        assert record.partition == partition_of[name]  # Kafka's default partitioner
    same = [name for name in names if partition_of[name] == partition_of["s0"]]
    assert {r.partition for r in store.append_many(dict.fromkeys(same, ONE))} == {
        partition_of["s0"]
    }
    other = next(name for name in names if partition_of[name] != partition_of["s0"])
    with pytest.raises(PartitionMismatchError, match="2 partitions"):
        store.append_many({"s0": ONE, other: ONE})
    assert store.stream_version(other) == 2
    assert list(store.streams()) == sorted(names)
    assert sum(len(list(store.read_all(partition=n))) for n in range(4)) == 40 + len(same)
    with pytest.raises(PartitionMismatchError):
        store.read_all(partition=4)
    assert store.verify() == []


@pytest.mark.parametrize("durability", ["os", "sync"])
def test_one_of_many_threads_wins_each_version(log: eventlog.EventLog, durability: str) -> None:
    """Threads race for the same versions: each version is won once, and nothing else is stored."""
    store = log.event_store("orders")
    wins: list[tuple[int, int]] = []
    barrier = threading.Barrier(6)

    def race(number: int) -> None:
        barrier.wait()
        for version in range(40):
            events = [Event(b"%d" % number, type="t")] * (version % 3 or 1)
            try:
                store.append(
                    f"s{version}", events, expected_version=NO_STREAM, durability=durability
                )
                wins.append((version, number))
            except WrongExpectedVersion:
                pass

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(race, range(6)))
    assert sorted(version for version, _ in wins) == list(range(40))
    for version, number in wins:
        stored = [event.data for event in store.read_stream(f"s{version}")]
        assert stored == [b"%d" % number] * (version % 3 or 1)
    assert store.verify() == []


def test_threads_read_while_others_append(directory: Path) -> None:
    """Readers see each stream as a gapless prefix that only grows, while checkpoints happen."""
    with Opened(directory / "store", run_count_max=50, segment_size_bytes_max=8192) as opened:
        store = opened.store
        is_done = threading.Event()

        def write(number: int) -> None:
            for i in range(150):
                store.append(f"s{number}", raw(i % 3 + 1), durability="os")
                if i % 10 == 0:
                    store.append_many({f"s{number}": ONE, f"m{i}": ONE})

        def read(number: int) -> int:
            generator, seen, count = random.Random(number), {}, 0
            while not is_done.is_set() or count < 10:
                name = f"s{generator.randrange(3)}"
                versions = [event.version for event in store.read_stream(name)]
                assert versions == list(range(1, len(versions) + 1))
                assert len(versions) >= seen.get(name, 0)
                assert store.stream_version(name) >= len(versions)
                seen[name] = len(versions)
                count += 1
            return count

        with ThreadPoolExecutor(5) as pool:
            readers = [pool.submit(read, number) for number in range(2)]
            list(pool.map(write, range(3)))
            is_done.set()
            assert all(reader.result() >= 10 for reader in readers)
        assert store.verify() == []


def test_what_is_not_durable_is_not_read_under_sync(directory: Path) -> None:
    """A reader must not see what a power cut could take back; a later append builds on it."""
    with eventlog.open(directory / "store", durability="sync") as log:
        store = log.event_store("orders", interval_ms=3_600_000)
        store.append("s", raw(2))
        with _without_background_sync(log):
            store.append("s", ONE, durability="os")
            store.append("t", [ONE, ONE], durability="os")
            assert [event.version for event in store.read_stream("s")] == [1, 2]
            assert [e.version for e in store.read_stream("s", backwards=True, limit=1)] == [2]
            assert (store.stream_version("s"), store.stream_version("t")) == (2, 0)
            assert list(store.streams()) == ["s"]
            with pytest.raises(WrongExpectedVersion):
                store.append("s", ONE, expected_version=2)
            receipt = store.append("s", ONE, expected_version=3, durability="sync")
        assert receipt.version == 4
        assert [event.version for event in store.read_stream("s")] == [1, 2, 3, 4]
        assert list(store.streams()) == ["s", "t"]
        assert (store.stream_version("s"), store.stream_version("t")) == (4, 2)


class _without_background_sync:  # noqa: N801
    """The store's flusher waits, so that the test decides when something becomes durable."""

    def __init__(self, log: eventlog.EventLog) -> None:
        self.log = log

    def __enter__(self) -> None:
        self.log._stop.set()
        assert self.log._flusher is not None
        self.log._flusher.join()

    def __exit__(self, *_: object) -> None:
        return None


def test_reading_ranges(store: EventStore) -> None:
    store.append("s", raw(5))
    assert [e.version for e in store.read_stream("s", start=2, end=4)] == [2, 3]
    assert [e.version for e in store.read_stream("s", start=2, end=4, backwards=True)] == [3, 2]
    assert [e.version for e in store.read_stream("s", start=-3, limit=2)] == [1, 2]
    assert [e.version for e in store.read_stream("s", backwards=True, limit=2)] == [5, 4]
    for empty in (
        store.read_stream("s", start=6),
        store.read_stream("s", limit=0),
        store.read_stream("none"),
        store.read_stream("s", start=3, end=3),
        store.read_stream("s", end=1),
    ):
        assert list(empty) == []
    assert [e.offset for e in store.read_all(start=1, end=4)] == [1, 2, 3]
    assert [e.offset for e in store.read_all(start=1, limit=2)] == [1, 2]
    assert list(store.read_all(start=5)) == []


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_long_streams(log: eventlog.EventLog, compression: str) -> None:
    """Longer than any chunk, in runs longer than any chunk, over several segments."""
    store = log.event_store("orders", segment_size_bytes_max=100_000, compression=compression)
    for i in range(6):
        store.append_raw("long", "t", [b"%d" % n for n in range(i * 1500, i * 1500 + 1500)])
        store.append("mixed", ONE)
    versions = list(range(1, 9001))
    for _ in range(2):
        assert [e.version for e in store.read_stream("long")] == versions
        assert [int(e.data) + 1 for e in store.read_stream("long", backwards=True)] == versions[
            ::-1
        ]
        assert [e.version for e in store.read_stream("long", start=1400, limit=200)] == versions[
            1399:1599
        ]
        part = store.read_stream("long", end=5000, backwards=True, limit=2000)
        assert [e.version for e in part] == versions[2999:4999][::-1]
        store.checkpoint()


def test_folds(store: EventStore) -> None:
    for name in ("b", "a", "ab"):
        store.append(name, [Event(n, type="add") for n in (1, 2, 3)])
    store.append("b", Event(10, type="add"))

    def add(total: int, event: Any) -> int:
        return total + int(event.data)

    def collect(items: list[int], event: Any) -> list[int]:
        items.append(event.data)
        return items

    assert store.fold("b", 0, add) == 16
    assert store.fold("b", 100, add, start=2, end=4) == 105
    assert store.fold("b", list, collect) == [1, 2, 3, 10]
    assert store.fold("none", None, add) is None
    assert list(store.fold_all(0, add)) == [("b", 16), ("a", 6), ("ab", 6)]
    assert dict(store.fold_all(list, collect, prefix="a")) == {"a": [1, 2, 3], "ab": [1, 2, 3]}


@pytest.mark.guarantee("G-25")
def test_after_close(directory: Path) -> None:
    log = eventlog.open(directory / "store", durability="os")
    store = log.event_store("orders")
    store.append("s", raw(2000))
    reading = store.read_stream("s")
    next(reading)
    store.close()
    store.close()
    for call in (
        lambda: store.append("s", ONE),
        lambda: store.append("s", [ONE]),
        lambda: store.append_many({"s": ONE}),
        lambda: store.append_raw("s", "t", [b""]),
        lambda: store.read_stream("s"),
        lambda: store.read_all(),
        lambda: store.streams(),
        lambda: store.stream_version("s"),
        store.checkpoint,
        store.verify,
        store.rebuild_index,
    ):
        with pytest.raises(ClosedError):
            call()
    log.close()
    with pytest.raises(ClosedError):
        list(reading)
    with eventlog.open(directory / "store") as again:
        assert again.event_store("orders").stream_version("s") == 2000


@pytest.mark.guarantee("G-25")
def test_an_interrupted_append_leaves_no_half_truth(store: EventStore, monkeypatch: Any) -> None:
    """KeyboardInterrupt after the write and before the index knows of it."""
    store.append("s", raw(3))
    index = store._partitions[0].index
    partition = store._partitions[0].partition

    append_one = partition.append_one

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    def written_and_interrupted(*arguments: Any) -> None:
        append_one(*arguments)
        raise KeyboardInterrupt

    for shape in (raw(2), ONE):
        with monkeypatch.context() as patch:
            if shape is ONE:
                patch.setattr(partition, "append_one", written_and_interrupted)
            else:
                patch.setattr(index, "appended", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.append("s", shape)
    assert store.stream_version("s") == 6
    assert store.append("s", ONE, expected_version=6).version == 7
    assert [event.version for event in store.read_stream("s")] == [1, 2, 3, 4, 5, 6, 7]
    assert store.verify() == []


@pytest.mark.guarantee("G-19")
def test_a_forked_child_is_refused_and_may_open_its_own(directory: Path) -> None:
    log = eventlog.open(directory / "store", durability="os")
    store = log.event_store("orders")
    store.append("s", raw(2))
    store.checkpoint()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            refused = 0
            for call in (
                lambda: store.append("s", ONE),
                lambda: store.append("s", [ONE]),
                lambda: list(store.read_stream("s")),
                lambda: store.stream_version("s"),
            ):
                try:
                    call()
                except ForkedError:
                    refused += 1
            log.close()
            with eventlog.open(directory / "store", read_only=True) as own:
                if refused == 4 and own.event_store("orders").stream_version("s") == 2:
                    code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.append("s", ONE, expected_version=2).version == 3
    store.checkpoint()
    log.close()
    with eventlog.open(directory / "store") as again:
        assert len(list(again.event_store("orders").read_stream("s"))) == 3


@pytest.mark.guarantee("G-22")
def test_a_reader_cannot_append(directory: Path) -> None:
    with eventlog.open(directory / "store", durability="os") as log:
        log.event_store("orders").append("s", raw(3))
    with eventlog.open(directory / "store", read_only=True) as log:
        store = log.event_store("orders")
        for events in SHAPES.values():
            with pytest.raises(StorageReadOnlyError):
                store.append("s", events)
        store.checkpoint()  # nothing to do
        assert [event.version for event in store.read_stream("s")] == [1, 2, 3]
        assert store.verify() == []
