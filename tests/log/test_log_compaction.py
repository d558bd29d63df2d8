"""Compaction of a topic: what stays, while others read and write, round after round.

Goal: of each key the last record stays with its offset, place and time; tombstones stay for their time;
everything else about the log (its end, its producers, what readers and indexes rely on) is as it was.
Method: a model in plain Python says which records stay; an independent reader and Kafka's index rules
look at the files.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_support import abandon, facts, partition_directory, read_all, scratch, segments

import eventlog
from eventlog.clock import ManualClock
from eventlog.errors import (
    ClosedError,
    CorruptionError,
    InvalidRecordError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    SettingError,
    UnknownTopicError,
)
from eventlog.log import checkpoints, compaction, segment_copy
from eventlog.log.compaction import CompactionResult, compact, plan_compaction

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.segment_reader import check_indexes, read_segment

START_MS = 1_790_000_000_000
DAY_MS = 24 * 3_600_000
SMALL: dict[str, Any] = {
    "cleanup_policy": "compact",
    "segment_size_bytes_max": 1024,
    "index_interval_bytes": 100,
    "preallocation_bytes_max": 0,
}

Record = tuple[Any, ...]


def opened(path: Path, **options: Any) -> eventlog.EventLog:
    """Compaction happens when a test wants it."""
    return eventlog.open(path, maintenance=False, **options)


def run(log: eventlog.EventLog, name: str = "t", **options: Any) -> CompactionResult:
    topic = log.topic(name)
    now_ms = log._clock.now_ms()
    return compact(topic.partition(0), topic.settings, now_ms, topic_lock=log._change, **options)


def noted(log: eventlog.EventLog) -> dict[tuple[str, int], int]:
    return checkpoints.read_offsets(log.log_directory / checkpoints.CLEANER)


def fill(topic: Any, rounds: int, keys: int = 5, size: int = 60) -> None:
    for number in range(rounds):
        topic.append(b"%d:" % number + bytes(size), key=b"key-%d" % (number % keys))


# -- what stays -----------------------------------------------------------------------------------


@dataclass
class Model:
    """What a compacted topic holds, by Kafka's rules."""

    delete_retention_ms: int
    batches: list[list[Record]] = field(default_factory=list)  # facts of records
    horizons: dict[int, int] = field(default_factory=dict)  # by batch: its tombstones go then

    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch]

    def compact(self, end: int, now_ms: int) -> None:
        latest = {record[2]: record[0] for record in self.records() if record[0] < end}
        for number, batch in enumerate(self.batches):
            is_expired = self.horizons.get(number, now_ms + 1) <= now_ms
            left = [
                record
                for record in batch
                if record[0] >= end
                or (record[0] == latest[record[2]] and not (record[3] is None and is_expired))
            ]
            if any(record[3] is None and record[0] < end for record in left):
                self.horizons.setdefault(number, now_ms + self.delete_retention_ms)
            self.batches[number] = left


KEYS = st.sampled_from([b"", b"a", b"b", b"c", b"a longer key"])
ROWS = st.lists(
    st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=40)), st.integers(0, 5000)),
    min_size=1,
    max_size=6,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), ROWS),
        st.tuples(st.just("append"), ROWS),
        st.tuples(st.just("producer"), ROWS),
        st.tuples(st.just("compact"), st.sampled_from([0, 1000, 50_000])),
        st.tuples(st.just("roll"), st.none()),
        st.tuples(st.just("reopen"), st.booleans()),
    ),
    min_size=4,
    max_size=30,
)


@pytest.mark.guarantee("G-23")
@settings(max_examples=40)
@given(STEPS, st.sampled_from(["none", "zstd"]), st.sampled_from([4096, 1 << 20]))
def test_what_stays_is_what_the_model_says(
    steps: list[tuple[str, Any]], codec: str, map_size_bytes: int
) -> None:
    clock = ManualClock(START_MS)
    with scratch() as path, contextlib.ExitStack() as stack:
        log = stack.enter_context(opened(path / "s", durability="os", clock=clock))
        log.topic(
            "t",
            **SMALL,
            compression=codec,
            compression_size_bytes_min=0,
            delete_retention_ms=30_000,
            compaction_map_size_bytes=map_size_bytes,
        )
        model, sequence = Model(30_000), 0
        for step, what in [*steps, ("roll", None), ("compact", 100_000), ("reopen", True)]:
            topic = log.topic("t")
            partition = topic.partition(0)
            if step in ("append", "producer"):
                keys, values, times = zip(*what, strict=True)
                clock.advance(10)
                times = [clock.now_ms() - each for each in times]
                offset = partition.log_end_offset
                if step == "append":
                    topic.append_many(values, keys=keys, timestamps_ms=times)
                else:
                    partition.append_columns(
                        values, keys=keys, timestamps_ms=times, producer=(2**62, 0, sequence)
                    )
                    last = (keys, values, times, sequence, offset)
                    sequence += len(values)
                model.batches.append(
                    [(offset + i, times[i], keys[i], values[i], ()) for i in range(len(values))]
                )
            elif step == "compact":
                clock.advance(what)
                result = run(log)
                if result.end_offset > result.first_dirty_offset:
                    model.compact(result.end_offset, clock.now_ms())
                assert result.end_offset <= partition.state().active_base_offset
                assert noted(log).get(("t", 0), 0) >= result.end_offset or not result.end_offset
            elif step == "roll":
                partition.roll()
            else:
                end = partition.log_end_offset
                log.close() if what else abandon(log)
                log = stack.enter_context(opened(path / "s", durability="os", clock=clock))
                assert log.topic("t").log_end_offset() == end
            assert read_all(log.topic("t")) == model.records()
        check_files(path / "s")
        check_lookups(log.topic("t"), model.records())
        if sequence:  # the producer's last batch is known again, whatever became of its records
            keys, values, times, first, offset = last
            again = (
                log.topic("t")
                .partition(0)
                .append_columns(values, keys=keys, timestamps_ms=times, producer=(2**62, 0, first))
            )
            assert again == (offset, -1)


def check_files(store: Path) -> None:
    """By the independent reader: sound, meeting each other, with the indexes that Kafka would make."""
    paths = segments(store)
    ends = []
    for path in paths:
        batches = list(read_segment(path))
        ends.append(batches[-1].last_offset + 1 if batches else int(path.stem))
        if path is not paths[-1]:
            check_indexes(path, index_interval_bytes=SMALL["index_interval_bytes"])
    assert ends[:-1] == [int(path.stem) for path in paths[1:]]
    names = [path.name for path in partition_directory(store).iterdir()]
    assert not [n for n in names if n.endswith((".cleaned", ".swap", ".deleted", ".tmp"))]


def check_lookups(topic: Any, records: list[Record]) -> None:
    end = topic.log_end_offset()
    for start in range(0, end + 1, max(1, end // 10)):
        expected = [record for record in records if record[0] >= start]
        assert [facts(r) for r in topic.read(start=start)] == expected
    for time in {record[1] for record in records[::3]} | {START_MS, 2**60}:
        first = next((record[0] for record in records if record[1] >= time), end)
        assert topic.offset_for_time(time) == first
    followed = [facts(r) for r in topic.tail(start=0, timeout_s=0)]
    assert followed == records


def test_tombstones_go_when_readers_had_their_time(tmp_path: Path) -> None:
    clock = ManualClock(START_MS)
    with opened(tmp_path / "s", clock=clock) as log:
        topic = log.topic("t", **SMALL, delete_retention_ms=1000)
        topic.append(b"v", key=b"k")
        topic.append(None, key=b"k")
        topic.append(b"other", key=b"other")
        topic.partition(0).roll()
        run(log)
        assert [r.offset for r in topic.read()] == [1, 2]
        clock.advance(999)
        topic.append(b"x", key=b"x")
        topic.partition(0).roll()
        run(log)
        assert [r.offset for r in topic.read()] == [1, 2, 3]
        (tombstone, *_) = topic.read()
        assert (tombstone.value, tombstone.timestamp_ms) == (None, START_MS)
        clock.advance(1)
        topic.append(b"y", key=b"y")
        topic.partition(0).roll()
        run(log)
        assert [r.offset for r in topic.read()] == [2, 3, 4]


def test_records_that_had_no_key_before_the_policy_go_as_in_kafka(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as log:
        topic = log.topic("t", segment_size_bytes_max=1024)
        topic.append_many([b"1", b"2"], keys=[None, b"k"])
        topic.partition(0).roll()
        log.topic("t", cleanup_policy="compact")
        run(log)
        assert [r.value for r in topic.read()] == [b"2"]


# -- rounds ---------------------------------------------------------------------------------------


def test_neighbours_are_joined_while_they_fit(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as log:
        topic = log.topic("t", **SMALL)
        fill(topic, 100)
        before = len(segments(tmp_path / "s"))
        run(log)
        fill(topic, 20)
        result = run(log)
        assert result.segments_after < result.segments_before
        assert len(segments(tmp_path / "s")) < before
        assert max(path.stat().st_size for path in segments(tmp_path / "s")) <= 1024
        check_files(tmp_path / "s")


def test_a_map_that_is_too_small_makes_it_several_rounds(tmp_path: Path) -> None:
    logs = []
    for name, map_size_bytes in (("one", 1 << 20), ("many", 4096)):
        log = opened(tmp_path / name, clock=ManualClock(START_MS), durability="os")
        topic = log.topic("t", **SMALL, compaction_map_size_bytes=map_size_bytes)
        for number in range(600):
            topic.append(b"%d" % number, key=b"%d" % (number % 251))
        topic.partition(0).roll()
        logs.append(log)
    one, many = logs
    assert run(one).is_complete
    ends, rounds = [0], 0
    while ends[-1] < 600:
        result = run(many)
        ends.append(result.end_offset)
        rounds += 1
        assert result.key_count <= 4096 // 24
        assert result.is_complete == (result.end_offset == 600)
        assert noted(many) == {("t", 0): result.end_offset}
    assert rounds > 2
    assert ends == sorted(set(ends))
    assert read_all(many.topic("t")) == read_all(one.topic("t"))
    for log in logs:
        log.close()


def test_what_has_nothing_to_lose_is_not_touched(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as log:
        topic = log.topic("t", **SMALL)
        for number in range(40):
            topic.append(bytes(80), key=b"%d" % number)
        inodes = [path.stat().st_ino for path in segments(tmp_path / "s")]
        result = run(log)
        assert result.records_kept == result.records_read > 30
        assert [path.stat().st_ino for path in segments(tmp_path / "s")] == inodes
        assert run(log).records_read == 0, "nothing is dirty"


def test_a_damaged_segment_stops_the_round_and_stays(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as log:
        topic = log.topic("t", **SMALL)
        fill(topic, 60)
        path = segments(tmp_path / "s")[2]
        data = path.read_bytes()
        path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
        before = {p.name: p.read_bytes() for p in segments(tmp_path / "s")}
        with pytest.raises(CorruptionError) as caught:
            run(log)
        assert caught.value.fields["path"] == str(path)
        assert {p.name: p.read_bytes() for p in segments(tmp_path / "s")} == before
        path.write_bytes(data)
        run(log)
        check_files(tmp_path / "s")


def test_it_can_be_cancelled_and_held_up(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as log:
        topic = log.topic("t", **SMALL)
        fill(topic, 100)
        model = Model(DAY_MS, [[record] for record in read_all(topic)])
        asked, moved = 0, []

        def after(count: int) -> Callable[[], bool]:
            def is_cancelled() -> bool:
                nonlocal asked
                asked += 1
                return asked > count

            return is_cancelled

        results = []
        while not results or not results[-1].is_complete:
            asked = 0
            results.append(run(log, is_cancelled=after(10 * len(results))))
        assert len(results) > 3
        result = run(log, rate_limit=moved.append)
        fill(topic, 50)
        result = run(log, rate_limit=moved.append)
        assert sum(moved) >= result.size_bytes_before + result.size_bytes_after

        def ended(size_bytes: int) -> None:
            raise ClosedError("enough")

        fill(topic, 50)
        with pytest.raises(ClosedError):
            run(log, rate_limit=ended)
        assert not list(partition_directory(tmp_path / "s").glob("*.cleaned"))
        model.batches = [[record] for record in read_all(topic)]
        model.compact(run(log).end_offset, 0)
        assert read_all(topic) == model.records()


def test_copies_that_would_not_fit_leave_tombstones_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a tombstone's time is noted can make a batch larger; one file has 2 GiB at most."""
    with opened(tmp_path / "s") as log:
        topic = log.topic("t", **SMALL)
        topic.append_many([None] * 20, keys=[b"%d" % n for n in range(20)])
        topic.partition(0).roll()
        size = segments(tmp_path / "s")[0].stat().st_size
        monkeypatch.setattr(segment_copy, "POSITION_MAX", size)
        run(log)
        assert segments(tmp_path / "s")[0].stat().st_size == size
        monkeypatch.undo()
        topic.append(b"", key=b"")
        topic.partition(0).roll()
        run(log)
        assert segments(tmp_path / "s")[0].stat().st_size > size
        assert len(read_all(topic)) == 21


# -- when it is due -------------------------------------------------------------------------------


def test_plan(tmp_path: Path) -> None:
    clock = ManualClock(START_MS)
    with opened(tmp_path / "s", clock=clock) as log:
        topic = log.topic("t", **SMALL)
        partition = topic.partition(0)

        def plan(now_ms: int = START_MS, **changes: Any) -> compaction.CompactionPlan:
            return plan_compaction(partition, topic.settings.changed(**changes), now_ms)

        assert plan().reason == ""
        fill(topic, 10)
        partition.roll()
        assert (plan().first_dirty_offset, plan().first_uncleanable_offset) == (0, 10)
        assert (plan().dirty_ratio, plan().reason) == (1.0, "dirty ratio")
        run(log)
        assert plan().reason == ""
        assert plan().dirty_size_bytes == 0
        clean = plan().clean_size_bytes
        clock.advance(5000)
        topic.append(bytes(int(clean * 0.8)), key=b"new")
        partition.roll()
        found = plan(min_cleanable_dirty_ratio=0.6)
        assert 0.4 < found.dirty_ratio < 0.6
        assert found.reason == ""
        assert plan(min_cleanable_dirty_ratio=0.4).reason == "dirty ratio"
        late = {"min_cleanable_dirty_ratio": 1, "max_compaction_lag_ms": 1000}
        assert plan(START_MS + 6000, **late).reason == ""
        assert plan(START_MS + 6001, **late).reason == "max lag"
        young = {"min_cleanable_dirty_ratio": 0, "min_compaction_lag_ms": 1000}
        assert plan(START_MS + 5999, **young).first_uncleanable_offset == 10
        assert plan(START_MS + 6000, **young).first_uncleanable_offset == 11


def test_a_segment_does_not_grow_for_longer_than_records_may_wait(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as log:
        topic = log.topic("t", cleanup_policy="compact", max_compaction_lag_ms=1000)
        topic.append(b"1", key=b"k", timestamp_ms=START_MS)
        topic.append(b"2", key=b"k", timestamp_ms=START_MS + 1001)
        assert topic.partition(0).state().active_base_offset == 1


@pytest.mark.parametrize("checkpoint", ["", "lost", "0\n1\nt 0 999\n", "garbage"])
def test_a_checkpoint_that_does_not_fit_costs_time_only(tmp_path: Path, checkpoint: str) -> None:
    with opened(tmp_path / "s") as log:
        topic = log.topic("t", **SMALL)
        fill(topic, 60)
        run(log)
        before = read_all(topic)
        path = log.log_directory / checkpoints.CLEANER
        path.unlink() if checkpoint == "lost" else path.write_text(checkpoint)
        assert plan_compaction(topic.partition(0), topic.settings, 0).first_dirty_offset == 0
        run(log)
        assert read_all(topic) == before
        assert noted(log) == {("t", 0): topic.partition(0).state().active_base_offset}


# -- beside others --------------------------------------------------------------------------------


@pytest.mark.guarantee("G-23")
def test_readers_and_writers_of_all_handles_go_on(tmp_path: Path) -> None:
    """A caught-up reader sees every write; one that begins anew sees the last of each key at least."""
    with (
        opened(tmp_path / "s", durability="os") as log,
        opened(tmp_path / "s") as other,
        opened(tmp_path / "s", read_only=True) as reader,
    ):
        log.topic("t", **SMALL)
        count, keys = 1200, 20
        stop = threading.Event()
        failures: list[BaseException] = []
        tailed: list[int] = []

        def guarded(work: Callable[[], None]) -> Callable[[], None]:
            def target() -> None:
                try:
                    work()
                except BaseException as error:
                    failures.append(error)

            return target

        def write() -> None:
            topic = other.topic("t")
            for number in range(count):
                topic.append(b"%d" % number, key=b"%d" % (number % keys))

        def follow() -> None:
            for record in reader.topic("t").tail(start=0, timeout_s=30):
                tailed.append(record.offset)
                if record.offset == count - 1:
                    return

        def read_again() -> None:
            topic = reader.topic("t")
            while not stop.is_set():
                end = topic.high_watermark()
                found = {r.key: int(r.value or b"") for r in topic.read(start=0, end=end)}
                latest = {b"%d" % (n % keys): n for n in range(max(0, end - keys), end)}
                assert all(found[key] >= n for key, n in latest.items())

        threads = [
            threading.Thread(target=guarded(work))
            for work in (write, follow, read_again, read_again)
        ]
        for thread in threads:
            thread.start()
        while threads[0].is_alive() and not failures:
            run(log)
        threads[0].join()
        run(log)
        threads[1].join()
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert tailed == sorted(set(tailed))
        assert tailed[-keys:] == list(range(count - keys, count))
        assert len(read_all(log.topic("t"))) < 100
        assert read_all(log.topic("t")) == read_all(other.topic("t")) == read_all(reader.topic("t"))


def test_another_handle_that_has_not_heard_of_the_policy_reads_over_gaps(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as log, opened(tmp_path / "s") as other:
        topic = log.topic("t", segment_size_bytes_max=1024)
        there = other.topic("t")
        fill(topic, 60)
        cursor = there.partition(0).cursor(5)
        cursor.seek(0)
        cursor.next()
        log.topic("t", cleanup_policy="compact")
        run(log)
        assert not there.settings.compacts
        assert read_all(there) == read_all(topic)
        seen = []
        while cursor.next():  # what it has mapped it reads to its end
            seen += [record[0] for record in cursor.take("tuples")]
        assert seen == sorted(set(seen))
        assert set(seen) >= {record[0] for record in read_all(topic) if record[0] >= 5}
        cursor.close()


def test_places_are_hints(tmp_path: Path) -> None:
    """Where records lay before: found there, or told that they are elsewhere; never another record."""
    with opened(tmp_path / "s", durability="os") as log:
        topic = log.topic("t", **SMALL)
        fill(topic, 60)
        partition = topic.partition(0)
        values = {record[0]: record for record in read_all(topic)}
        places = []
        with partition.cursor() as cursor:
            cursor.seek(0)
            while cursor.next():
                places += list(zip(*cursor.locations(), strict=True))
        run(log)
        kept = {record[0] for record in read_all(topic)}
        found = 0
        with partition.cursor() as cursor:
            for offset, batch, record in places:
                arguments = array("q", [offset]), array("q", [batch]), array("i", [record])
                try:
                    cursor.gather(*arguments, array("i", [1]))
                except OffsetOutOfRangeError:
                    continue
                ((at, _, key, value),) = cursor.take("tuples")
                assert at == offset
                assert offset in kept
                assert (key, value) == values[offset][2:4]
                found += 1
        assert 0 < found < len(places)


def test_a_deleted_topic(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as log, opened(tmp_path / "s") as other:
        topic = log.topic("t", **SMALL)
        log.topic("u", **SMALL)
        fill(topic, 60)
        run(log)
        assert ("t", 0) in noted(log)
        fill(topic, 60)
        calls = 0

        def delete_soon(size_bytes: int) -> None:
            nonlocal calls
            calls += 1
            if calls == 30:
                other.delete_topic("t")
                fill(other.topic("t", **SMALL), 60)

        with pytest.raises(UnknownTopicError):
            run(log, rate_limit=delete_soon)
        assert noted(log) == {}
        assert len(read_all(log.topic("t"))) == 60, "the new topic was touched"


def test_a_live_producers_last_batch_stays_without_its_records(tmp_path: Path) -> None:
    clock = ManualClock(START_MS)
    with opened(tmp_path / "s", clock=clock) as log:
        partition = log.topic("t", **SMALL).partition(0)
        for sequence in range(3):
            partition.append_columns([b"p"], keys=b"k", producer=(2**62, 0, sequence))
        log.topic("t").append(b"last", key=b"k")
        partition.roll()
        run(log)
        assert [r.value for r in partition.read()] == [b"last"]
    for snapshot in partition_directory(tmp_path / "s").glob("*.snapshot"):
        snapshot.unlink()
    with opened(tmp_path / "s", clock=clock) as log:
        partition = log.topic("t").partition(0)
        assert partition.append_columns([b"p"], keys=b"k", producer=(2**62, 0, 2)) == (2, -1)
        with pytest.raises(OutOfOrderSequenceError):
            partition.append_columns([b"p"], keys=b"k", producer=(2**62, 0, 9))
        clock.advance(2 * DAY_MS)  # forgotten by then
        log.topic("t").append(b"later", key=b"l")
        partition.roll()
        run(log)
        (path, *_) = segments(tmp_path / "s")
        assert all(batch.producer_id == -1 for batch in read_segment(path))


# -- who may --------------------------------------------------------------------------------------


def test_a_record_without_a_key_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as log:
        topic = log.topic("t", partitions=2, cleanup_policy="compact,delete")
        for append in (
            lambda: topic.append(b"v"),
            lambda: topic.append(b"v", partition=1),
            lambda: topic.append_many([b"v"]),
            lambda: topic.append_many([b"1", b"2"], keys=[b"k", None]),
        ):
            with pytest.raises(InvalidRecordError):
                append()
        with topic.producer() as producer, pytest.raises(InvalidRecordError):
            producer.send(b"v")
        assert topic.append_many([b"1", b"2"], keys=b"k")
        log.topic("t", cleanup_policy="delete").append(b"v")


def test_event_stores_are_not_compacted(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as log:
        with pytest.raises(SettingError):
            log.event_store("e", cleanup_policy="compact")
        assert log.topics() == []
        log.event_store("e")
        with pytest.raises(SettingError):
            log.topic("e", cleanup_policy="compact,delete")
        log.topic("t", cleanup_policy="compact")
        with pytest.raises(SettingError):
            log.event_store("t")
        assert log.topic("e").settings.cleanup_policy == "none"
