"""Idempotent producers: a batch that is tried again is in the log once, whatever happened between."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_support import (
    SMALL,
    abandon,
    in_child,
    partition_directory,
    scratch,
    stop_flusher,
    values,
)
from producer_support import encode_batch, producer_batches, snapshot_names

import eventlog
from eventlog.errors import (
    ClosedError,
    EventLogError,
    ForkedError,
    InvalidRecordError,
    OutOfOrderSequenceError,
    PoisonedError,
    ProducerFencedError,
    SettingError,
    StorageError,
    StorageFullError,
    StorageReadOnlyError,
    UnknownTopicError,
)
from eventlog.log.partition import Partition
from eventlog.log.producer_table import ProducerBatch, ProducerTable
from eventlog.log.topic import Topic

pytestmark = pytest.mark.guarantee("G-06")

LAST = 2**31 - 1
NEXT = None  # it is the one that is due


def batch(epoch: int, sequence: int, count: int = 1, producer_id: int = 7) -> ProducerBatch:
    return ProducerBatch(producer_id, epoch, sequence, count, 1000)


def table(*history: ProducerBatch) -> ProducerTable:
    """After these batches, which begin at offset 100."""
    made, offset = ProducerTable(), 100
    for each in history:
        made.note(each, offset)
        offset += each.count
    return made


SIX = [batch(0, 2 * n, 2) for n in range(6)]  # at 100, 102, ...

# Kafka's ProducerAppendInfo.checkProducerEpoch, checkSequence and ProducerStateEntry.findDuplicateBatch
RULES: list[tuple[str, list[ProducerBatch], ProducerBatch, Any]] = [
    ("unknown, begins at 0", [], batch(0, 0), NEXT),
    ("unknown, begins anywhere", [], batch(3, 41, 2), NEXT),
    ("the next one", [batch(0, 0, 3)], batch(0, 3), NEXT),
    ("the one after the next", [batch(0, 0, 3)], batch(0, 4), (OutOfOrderSequenceError, 3)),
    ("overlaps the last", [batch(0, 0, 3)], batch(0, 2, 3), (OutOfOrderSequenceError, 3)),
    ("the last one again", [batch(0, 0, 3)], batch(0, 0, 3), 100),
    ("shorter than the last", [batch(0, 0, 3)], batch(0, 0, 2), (OutOfOrderSequenceError, 3)),
    ("longer than the last", [batch(0, 0, 3)], batch(0, 0, 4), (OutOfOrderSequenceError, 3)),
    ("fifth to last again", SIX, SIX[1], 102),
    ("sixth to last again", SIX, SIX[0], (OutOfOrderSequenceError, 12)),
    ("after 2^31 - 1 comes 0", [batch(0, LAST)], batch(0, 0), NEXT),
    (
        "after 2^31 - 1 comes nothing else",
        [batch(0, LAST)],
        batch(0, 1),
        (OutOfOrderSequenceError, 0),
    ),
    ("a batch across the end", [batch(0, LAST - 1)], batch(0, LAST, 3), NEXT),
    ("behind a batch across the end", [batch(0, LAST, 3)], batch(0, 2), NEXT),
    ("that batch again", [batch(0, LAST, 3)], batch(0, LAST, 3), 100),
    ("older epoch", [batch(2, 0)], batch(1, 1), (ProducerFencedError, 2)),
    ("older epoch, the same numbers", [batch(2, 0)], batch(1, 0), (ProducerFencedError, 2)),
    ("newer epoch, begins at 0", [batch(2, 0, 9)], batch(3, 0), NEXT),
    ("newer epoch, goes on", [batch(2, 0, 9)], batch(3, 9), (OutOfOrderSequenceError, 0)),
    ("epochs may be left out", [batch(2, 0, 9)], batch(9, 0), NEXT),
    ("batches of an old epoch are forgotten", [batch(0, 0), batch(1, 0)], batch(1, 0), 101),
    ("newest epoch's next", [batch(0, 0, 5), batch(1, 0)], batch(1, 1), NEXT),
    ("producers do not mix", [batch(0, 0, 5)], batch(0, 0, 5, producer_id=8), NEXT),
    (
        "a marker raises the epoch",
        [batch(0, 0), ProducerBatch(7, 1, -1, 1, 0, 48)],
        batch(1, 0),
        NEXT,
    ),
    (
        "a marker has no numbers",
        [ProducerBatch(7, 1, -1, 1, 0, 48)],
        batch(1, 5),
        (OutOfOrderSequenceError, 0),
    ),
]


@pytest.mark.parametrize(
    ("history", "tried", "outcome"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES]
)
def test_kafkas_rules(history: list[ProducerBatch], tried: ProducerBatch, outcome: Any) -> None:
    known = table(*history)
    if isinstance(outcome, tuple):
        kind, due = outcome
        with pytest.raises(kind) as caught:
            known.find(tried)
        assert caught.value.producer_id == tried.producer_id
        assert due == (
            caught.value.current
            if isinstance(caught.value, ProducerFencedError)
            else caught.value.expected
        )
    else:
        found = known.find(tried)
        assert (None if found is None else found.first_offset) == outcome


# -- in a partition -------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Iterator[eventlog.EventLog]:
    with eventlog.open(tmp_path / "store", durability="os") as opened:
        yield opened


def put(
    partition: Partition, producer_id: int, sequence: int, count: int = 1, epoch: int = 0
) -> int:
    """A batch whose values are its sequence numbers; its first offset."""
    numbers = [b"%d" % ((sequence + n) % 2**31) for n in range(count)]
    offset, _ = partition.append_columns(numbers, producer=(producer_id, epoch, sequence))
    return offset


def assert_once(store: Path, producer_id: int, count: int) -> None:
    """The producer's sequence numbers 0 .. count - 1 are in the log once each and in order."""
    due = 0
    for found_id, _, sequence, records, _ in producer_batches(store):
        if found_id == producer_id:
            assert sequence == due
            due += records
    assert due == count


def test_a_batch_tried_again_is_answered_with_its_first_offset(log: eventlog.EventLog) -> None:
    partition = log.topic("t").partition(0)
    assert put(partition, 7, 0, 3) == 0
    log.topic("t").append(b"plain")
    assert put(partition, 8, 0, 2) == 4
    assert put(partition, 7, 3) == 6
    end = partition.log_end_offset
    assert [put(partition, 7, 3), put(partition, 8, 0, 2), put(partition, 7, 0, 3)] == [6, 4, 0]
    with pytest.raises(OutOfOrderSequenceError) as caught:
        put(partition, 7, 5)
    assert (caught.value.producer_id, caught.value.sequence, caught.value.expected) == (7, 5, 4)
    assert partition.log_end_offset == end
    assert put(partition, 7, 0, epoch=1) == end
    with pytest.raises(ProducerFencedError):
        put(partition, 7, 4, epoch=0)


def test_an_encoded_batch_is_looked_at_too(log: eventlog.EventLog) -> None:
    partition = log.topic("t").partition(0)
    first = encode_batch(7, 0, 0, 3, 1_790_000_000_000)
    assert [partition.append_batch(first), partition.append_batch(first)] == [0, 0]
    assert put(partition, 7, 3) == 3
    with pytest.raises(OutOfOrderSequenceError):
        partition.append_batch(encode_batch(7, 0, 9, 1, 1_790_000_000_000))
    assert values(log.topic("t")) == [b"0", b"1", b"2", b"3"]
    without = encode_batch(-1, -1, -1, 1, 1_790_000_000_000)
    assert [partition.append_batch(without), partition.append_batch(without)] == [4, 5]
    marker = encode_batch(7, 0, -1, 1, 1_790_000_000_000, attributes=48)
    assert [partition.append_batch(marker), partition.append_batch(marker)] == [6, 7]
    damaged = bytearray(first)
    damaged[-1] ^= 1
    with pytest.raises(StorageError):
        partition.append_batch(bytes(damaged))
    assert partition.log_end_offset == 8


def test_a_duplicate_is_answered_once_it_is_as_durable_as_asked(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        stop_flusher(log)
        partition = log.topic("t").partition(0)
        partition.append_columns([b"0"], producer=(7, 0, 0), durability="os")
        assert partition.append_columns([b"0"], producer=(7, 0, 0), durability="os") == (0, -1)
        assert partition.durable_end_offset == 0
        assert partition.append_columns([b"0"], producer=(7, 0, 0)) == (0, -1)
        assert partition.durable_end_offset == 1


@pytest.mark.parametrize(
    "producer", [(-1, 0, 0), (7, -1, 0), (7, 2**15, 0), (7, 0, -1), (2**63, 0, 0)]
)
def test_what_cannot_be_a_producer_is_refused(
    log: eventlog.EventLog, producer: tuple[int, int, int]
) -> None:
    partition = log.topic("t").partition(0)
    with pytest.raises(InvalidRecordError):
        partition.append_columns([b"x"], producer=producer)
    assert partition.log_end_offset == 0


def test_handles_that_cannot_write(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        put(partition, 7, 0)
        with eventlog.open(tmp_path, read_only=True) as reader:
            with pytest.raises(StorageReadOnlyError):
                put(reader.topic("t").partition(0), 7, 1)
            with pytest.raises(StorageReadOnlyError):
                reader.new_producer_id()

        def use() -> None:
            assert partition._producers._lock_fd == -1, "the parent's lock must not outlive it here"
            with pytest.raises(ForkedError):
                put(partition, 7, 1)
            with pytest.raises(ForkedError):
                log.new_producer_id()

        in_child(use)
        gone = log.topic("gone").partition(0)
        put(gone, 7, 0)
        with eventlog.open(tmp_path) as other:
            other.delete_topic("gone")
        with pytest.raises(UnknownTopicError):
            put(gone, 7, 1)
    with pytest.raises(ClosedError):
        put(partition, 7, 1)


def test_two_handles_know_each_others_batches(tmp_path: Path) -> None:
    with (
        eventlog.open(tmp_path, durability="os") as one,
        eventlog.open(tmp_path, durability="os") as other,
    ):
        a, b = one.topic("t", **SMALL).partition(0), other.topic("t").partition(0)
        offset = 0
        for sequence in range(0, 200, 2):
            first, second = (a, b) if sequence % 3 else (b, a)
            assert put(first, 7, sequence, 2) == offset
            assert put(second, 7, sequence, 2) == offset
            second.append_one(b"plain")
            offset += 3
    assert_once(tmp_path, 7, 200)


def test_threads_of_two_handles_try_the_same_batches(tmp_path: Path) -> None:
    """All try every batch until it is in; others' appends do not hold them up."""
    count, ends = 150, threading.Event()
    offsets: list[list[int]] = [[] for _ in range(4)]

    def try_all(partition: Partition, found: list[int]) -> None:
        while len(found) < count:
            try:
                found.append(put(partition, 7, len(found)))
            except OutOfOrderSequenceError:
                found.append(-1)  # the others are ahead by more than is remembered

    def append_plain(partition: Partition) -> None:
        while not ends.is_set():
            partition.append_one(b"plain")

    with (
        eventlog.open(tmp_path, durability="os") as one,
        eventlog.open(tmp_path, durability="os") as other,
    ):
        partitions = [one.topic("t").partition(0), other.topic("t").partition(0)]
        noise = threading.Thread(target=append_plain, args=(partitions[0],))
        workers = [
            threading.Thread(target=try_all, args=(partitions[n % 2], offsets[n])) for n in range(4)
        ]
        noise.start()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        ends.set()
        noise.join()
    assert_once(tmp_path, 7, count)
    for answers in zip(*offsets, strict=True):
        assert len({answer for answer in answers if answer >= 0}) <= 1


# -- whatever happens between ---------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("next"), st.integers(0, 1), st.integers(1, 4)),
        st.tuples(st.just("again"), st.integers(0, 1), st.integers(0, 6)),
        st.tuples(st.just("skip"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("plain"), st.integers(0, 1), st.integers(1, 30)),
        st.tuples(st.just("first"), st.integers(0, 1), st.integers(1, 4)),
        st.tuples(st.sampled_from(["close", "crash", "forget", "damage"]), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS)
def test_each_sequence_is_there_once(steps: list[tuple[str, int, int]]) -> None:
    """Two handles of one store, two producers; both handles are closed, or crash, at times."""
    with scratch() as path:
        handles: list[eventlog.EventLog] = []

        def reopen() -> None:
            handles[:] = [eventlog.open(path, durability="os") for _ in range(2)]
            handles[0].topic("t", **SMALL)

        reopen()
        sent: dict[int, list[tuple[int, int, int]]] = {7: [], 8: []}  # (sequence, count, offset)
        surely_known = {7: 0, 8: 0}  # so many of the last batches: after reopening it may be one
        for number, (step, which, size) in enumerate(steps):
            producer_id = 7 + number % 2
            history = sent[producer_id]
            due = history[-1][0] + history[-1][1] if history else 0
            if step in ("close", "crash", "forget", "damage"):
                for handle in handles:
                    abandon(handle) if step == "crash" else handle.close()
                for file in partition_directory(path).glob("*.snapshot"):
                    if step == "forget":
                        file.unlink()
                    elif step == "damage":
                        file.write_bytes(file.read_bytes()[:-1] + b"\xff\xff")
                reopen()
                surely_known = {i: min(1, known) for i, known in surely_known.items()}
                continue
            partition = handles[which].topic("t").partition(0)
            if step == "plain":
                partition.append_columns([b"plain"] * size)
            elif step == "first" or (step == "next" and number % 5 == 0):
                # as the buffered producer does it: not looked at
                offset, _ = partition.append_columns(
                    [b"x"] * size, producer=(producer_id, 0, due), is_first_try=True
                )
                history.append((due, size, offset))
                surely_known[producer_id] += 1
            elif step == "next":
                history.append((due, size, put(partition, producer_id, due, size)))
                surely_known[producer_id] += 1
            elif step == "again" and size < len(history):
                sequence, count, offset = history[-1 - size]
                try:
                    found = put(partition, producer_id, sequence, count)
                except OutOfOrderSequenceError:
                    found = -1
                may_be_forgotten = size >= min(5, surely_known[producer_id])
                assert found == offset or (found == -1 and may_be_forgotten)
            elif step == "skip" and history:
                with pytest.raises(OutOfOrderSequenceError):
                    put(partition, producer_id, due + size)
        for handle in handles:
            handle.close()
        assert producer_batches(path) == sorted(
            ((i, 0, *batch) for i, batches in sent.items() for batch in batches),
            key=lambda found: found[-1],
        )


def append_until_killed(path: Path, producer_id: int, first: int, acknowledge: int) -> None:
    with eventlog.open(path, durability="os") as log:
        partition = log.topic("t", **SMALL).partition(0)
        for sequence in range(first, 10**6):
            put(partition, producer_id, sequence)
            if sequence % 3 == 0:
                put(partition, producer_id, sequence)
            os.write(acknowledge, sequence.to_bytes(4, "big"))


def test_a_killed_writer_leaves_each_sequence_once(tmp_path: Path) -> None:
    """Goal: the batch whose outcome the dead did not learn is in the log once. Method: kill a writer at
    some moment; the next one tries the first batch that was not acknowledged."""
    due = 0
    for round_ in range(4):
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                append_until_killed(tmp_path, 7, due, write_end)
            finally:
                os._exit(1)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as acknowledged:
            for _ in range(40 + 7 * round_):
                due = int.from_bytes(acknowledged.read(4), "big") + 1
            os.kill(pid, signal.SIGKILL)
            rest = acknowledged.read()
        os.waitpid(pid, 0)
        due += len(rest) // 4
    with eventlog.open(tmp_path, durability="os") as log:
        partition = log.topic("t").partition(0)
        put(partition, 7, due)
        put(partition, 7, due + 1)
    assert_once(tmp_path, 7, due + 2)


# -- the buffered producer ------------------------------------------------------------------------


def fail(
    monkeypatch: pytest.MonkeyPatch,
    partition: Partition,
    error: EventLogError,
    *,
    is_appended: bool,
) -> None:
    """The next append of the partition fails, before or after its work is done."""
    real = partition.append_columns

    def append_columns(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(partition, "append_columns", real)
        if is_appended:
            real(*arguments, **named)
        raise error

    monkeypatch.setattr(partition, "append_columns", append_columns)


class TestProducer:
    @pytest.mark.parametrize("is_appended", [False, True])
    def test_a_failed_flush_is_tried_again_without_doubles(
        self, log: eventlog.EventLog, monkeypatch: pytest.MonkeyPatch, is_appended: bool
    ) -> None:
        topic = log.topic("t", partitions=3)
        producer = topic.producer(linger_ms=0)
        for n in range(30):
            producer.send(b"%d" % n, key=b"%d" % n)
        fail(monkeypatch, topic.partition(1), StorageFullError("no room"), is_appended=is_appended)
        with pytest.raises(StorageFullError):
            producer.flush()
        assert topic.log_end_offset(0) > 0
        assert topic.log_end_offset(2) == 0
        left = producer.pending()
        producer.flush()
        for n in range(30, 40):
            producer.send(b"%d" % n, key=b"%d" % n)
        producer.close()
        found = [value for number in range(3) for value in values(topic, number)]
        assert sorted(found, key=repr) == sorted((b"%d" % n for n in range(40)), key=repr)
        assert {(value, value) for number in (1, 2) for value in values(topic, number)} >= set(left)
        assert producer.pending() == []

    def test_it_is_carried_over_to_a_store_that_was_opened_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = eventlog.open(tmp_path, durability="os")
        topic = log.topic("t", partitions=2)
        former = topic.producer(linger_ms=0)
        for n in range(20):
            former.send(b"%d" % n, key=b"%d" % n)
        former.flush()
        for n in range(20, 40):
            former.send(b"%d" % n, key=b"%d" % n)
        fail(monkeypatch, topic.partition(0), PoisonedError("no sync"), is_appended=True)
        with pytest.raises(PoisonedError):
            former.flush()
        log.close()
        with pytest.raises(ClosedError):
            former.send(b"40", key=b"40")
        with eventlog.open(tmp_path, durability="os") as log:
            with pytest.raises(SettingError):
                log.topic("other").producer(resume=former)
            topic = log.topic("t")
            with topic.producer(linger_ms=0, resume=former) as producer:
                assert former.pending() == []
                assert len(producer.pending()) == 20
                for n in range(40, 50):
                    producer.send(b"%d" % n, key=b"%d" % n)
            with pytest.raises(ClosedError):
                former.send(b"x")
            former.close()
            found = [value for number in range(2) for value in values(topic, number)]
            assert sorted(found, key=repr) == sorted((b"%d" % n for n in range(50)), key=repr)

    def test_acknowledged_records_that_are_gone_are_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Under "os" a batch may be acknowledged and lost: going on behind the gap would hide it."""
        log = eventlog.open(tmp_path, durability="os")
        former = log.topic("t").producer(linger_ms=0)
        sizes = []
        for n in range(3):
            former.send(b"%d" % n)
            former.flush()
            sizes.append(log.topic("t").partition(0).state().active_position)
        former.send(b"3")
        fail(monkeypatch, log.topic("t").partition(0), PoisonedError("no sync"), is_appended=False)
        with pytest.raises(PoisonedError):
            former.flush()
        log.close()
        # as a power cut leaves it: the last acknowledged batch is not there
        for name in (".kafka_cleanshutdown", "recovery-point-offset-checkpoint"):
            (tmp_path / "log" / name).unlink()
        for file in (tmp_path / "run").iterdir():
            file.unlink()
        os.truncate(partition_directory(tmp_path) / f"{0:020d}.log", sizes[1])
        with eventlog.open(tmp_path, durability="os") as log:
            producer = log.topic("t").producer(linger_ms=0, resume=former)
            with pytest.raises(OutOfOrderSequenceError):
                producer.flush()
            assert producer.pending() == [(b"3", None)]
            assert values(log.topic("t")) == [b"0", b"1"]

    def test_batches_that_are_too_large_are_halved_under_their_numbers(
        self, tmp_path: Path
    ) -> None:
        with eventlog.open(tmp_path, durability="os") as log:
            topic = log.topic("t", batch_size_bytes_max=4096)
            with topic.producer(linger_ms=0, batch_size_bytes=1 << 20) as producer:
                for _ in range(100):
                    producer.send(bytes(1000))
                producer.flush()
                for n in range(10):
                    producer.send(b"%d" % n)
        found = producer_batches(tmp_path)
        (producer_id,) = {batch[0] for batch in found}
        assert_once(tmp_path, producer_id, 110)

    def test_without_numbers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with eventlog.open(tmp_path, durability="os") as log:
            topic = log.topic("t")
            producer = topic.producer(linger_ms=0, idempotent=False)
            producer.send(b"x")
            fail(monkeypatch, topic.partition(0), StorageFullError("?"), is_appended=True)
            with pytest.raises(StorageFullError):
                producer.flush()
            producer.close()
            assert values(topic) == [b"x", b"x"]
        assert producer_batches(tmp_path) == []
        assert not (tmp_path / "producer-ids.json").exists()

    def test_it_looks_nothing_up_as_long_as_all_goes_well(self, log: eventlog.EventLog) -> None:
        topic = log.topic("t", **SMALL)
        with topic.producer(linger_ms=0) as producer:
            for _ in range(100):
                producer.send(bytes(100))
                producer.flush()
        assert len(producer_batches(log.path)) == 100
        assert snapshot_names(topic.partition(0).directory) == []


class TestProducerIds:
    def test_nobody_gets_the_same(self, tmp_path: Path) -> None:
        found: list[int] = []
        for _ in range(2):
            with eventlog.open(tmp_path) as one, eventlog.open(tmp_path) as other:
                for _ in range(1500):
                    found += [one.new_producer_id(), other.new_producer_id()]
        assert len(set(found)) == len(found) == 6000
        assert 2**62 <= min(found) <= max(found) < 2**63

    @pytest.mark.parametrize("damage", ["gone", "digit", "text", "small", "huge"])
    def test_a_damaged_counter_begins_elsewhere(self, tmp_path: Path, damage: str) -> None:
        path = tmp_path / "producer-ids.json"
        with eventlog.open(tmp_path) as log:
            before = log.new_producer_id()
        text = path.read_text()
        if damage == "gone":
            path.unlink()
        else:
            digit = text.index(",") - 5
            path.write_text(
                {
                    "digit": text[:digit] + str((int(text[digit]) + 9) % 10) + text[digit + 1 :],
                    "text": "{",
                    "small": '{"next": 0}',
                    "huge": f'{{"next": {10**30}}}',
                }[damage]
            )
        with eventlog.open(tmp_path) as log:
            after = log.new_producer_id()
        assert abs(after - before) > 10**6  # by chance nearer once in 10^12

    def test_threads(self, tmp_path: Path) -> None:
        found: list[int] = []
        with eventlog.open(tmp_path) as log:
            workers = [
                threading.Thread(
                    target=lambda: found.extend(log.new_producer_id() for _ in range(700))
                )
                for _ in range(3)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        assert len(set(found)) == 2100


def test_a_topic_made_anew_knows_no_producers(log: eventlog.EventLog) -> None:
    topic: Topic = log.topic("t", **SMALL)
    for sequence in range(50):
        put(topic.partition(0), 7, sequence)
    log.delete_topic("t")
    partition = log.topic("t").partition(0)
    assert put(partition, 7, 0) == 0
    assert put(partition, 7, 0) == 0
