"""Members that share the keys of a partition: each key in order, by one member at a time."""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from consumer_client_support import (
    Shop,
    drive,
    in_thread,
    offsets,
    poll_some,
    settle,
    shop,
    until,
)
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import eventlog
from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.consumer import Consumer
from eventlog.consumer.fetching import Fetcher
from eventlog.consumer.key_slots import slots_of
from eventlog.consumer.positions import ResetPolicy
from eventlog.consumer.reader import Chunk
from eventlog.log import cursor
from eventlog.log.record import Record

T0 = TopicPartition("t", 0)
SLOTS = 8


def commit_all(consumer: Consumer, _: object) -> None:
    consumer.commit()


def sharing(opened: Shop, **options: Any) -> Consumer:
    return opened.consumer("g", sharing="key", **{"key_slots": SLOTS, **options})


def fill(opened: Shop, count: int, key_count: int = 20) -> None:
    """Records of so many keys, and every 7th of none."""
    opened.fill(
        count, keys=[None if n % 7 == 0 else b"key %d" % (n % key_count) for n in range(count)]
    )


def slots(consumer: Consumer) -> set[int]:
    return {unit.slot for unit in consumer.assignment}


def check_order(given: list[list[Record]]) -> None:
    """Each member saw each key in order."""
    for records in given:
        by_key: dict[bytes | None, list[int]] = defaultdict(list)
        for record in records:
            by_key[record.key].append(record.offset)
        for key, found in by_key.items():
            assert key is None or found == sorted(set(found))


# -- slots --------------------------------------------------------------------------------------


def test_slots_follow_kafkas_partitioner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic of so many partitions would put the same keys together."""
    with shop(tmp_path, t=1, u=SLOTS) as opened:
        fill(opened, 100)
        records = list(opened.log.topic("t").read())
        partition_for_key = opened.log.topic("u").partition_for_key
        expected = [
            each.offset % SLOTS if each.key is None else partition_for_key(each.key)
            for each in records
        ]
        assert list(slots_of(records, SLOTS)) == expected
        assert list(slots_of(records[1:7], SLOTS)) == expected[1:7]
        monkeypatch.setattr(cursor, "ROUTE_OBJECTS", False)
        assert list(slots_of(records, SLOTS)) == expected


def test_one_member_reads_everything(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        fill(opened, 3000)
        consumer = sharing(opened)
        assert offsets(poll_some(consumer, 3000)) == list(range(3000))
        assert slots(consumer) == set(range(SLOTS))
        consumer.commit()
        assert opened.committed() == {T0._replace(slot=slot): 3000 for slot in range(SLOTS)}


def test_positions_move_over_the_records_of_others(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        fill(opened, 3000)
        pair = [sharing(opened, max_poll_records=50, on_revoked=commit_all) for _ in range(2)]
        settle(*pair)
        given = drive(pair, lambda: all(set(each.lag().values()) == {0} for each in pair))
        assert slots(pair[0]).isdisjoint(slots(pair[1]))
        for consumer, records in zip(pair, given, strict=True):
            consumer.commit()
            assert {consumer.position(unit) for unit in consumer.assignment} == {3000}
            ours = slots(consumer)
            assert {slot for slot in slots_of(records, SLOTS) if records} <= ours
        assert set(opened.committed().values()) == {3000}


@pytest.mark.parametrize("max_poll_records", [7, 500])
def test_four_members_of_one_partition_come_and_go(
    tmp_path: Path, rng: random.Random, max_poll_records: int
) -> None:
    """With commits before anything is given up: every record once, each key in order."""
    with shop(tmp_path, t=1) as opened:
        seen: list[tuple[int, Record]] = []
        members: list[Consumer] = []
        for step in range(30):
            if len(members) < 4 and (not members or rng.random() < 0.4):
                members.append(
                    sharing(
                        opened,
                        on_revoked=commit_all,
                        max_poll_records=max_poll_records,
                        assignors=("cooperative-sticky",),
                    )
                )
            elif len(members) > 1 and rng.random() < 0.3:
                members.pop(rng.randrange(len(members))).close()
            if step < 25:
                fill(opened, 40)
            for member in rng.sample(members, len(members)):
                seen += ((id(member), record) for record in member.poll())
        until(
            lambda: (
                [seen.extend((id(each), record) for record in each.poll()) for each in members]
                and len(seen) >= 1000
            )
        )
        assert sorted(record.offset for _, record in seen) == list(range(1000))
        check_order([[record for _, record in seen]])


def test_four_threads_of_one_partition(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        fill(opened, 4000)
        seen: list[Record] = []

        def work() -> list[Record]:
            mine: list[Record] = []
            with sharing(opened, on_revoked=commit_all, max_poll_records=100) as consumer:
                while len(seen) < 4000:
                    records = consumer.poll(0.01)
                    seen.extend(records)
                    mine += records
                    consumer.commit()
            return mine

        given = [join() for join in [in_thread(work) for _ in range(4)]]
        assert sorted(offsets(seen)) == list(range(4000))
        check_order([seen, *given])


def test_slots_that_come_back_are_read_again_from_where_they_were(tmp_path: Path) -> None:
    """The other member committed less: only its slots come again."""
    with shop(tmp_path, t=1) as opened:
        fill(opened, 1000)
        first = sharing(opened, on_revoked=commit_all)
        second = sharing(opened, max_poll_records=10)
        settle(first, second)
        drive([first], lambda: set(first.lag().values()) == {0})
        before = slots(second)
        second.seek(T0, 300)
        second.commit()
        second.close()
        given = drive(
            [first], lambda: set(first.lag().values()) == {0} and len(slots(first)) == SLOTS
        )[0]
        every = list(opened.log.topic("t").read(start=300))
        expected = [
            record.offset
            for record, slot in zip(every, slots_of(every, SLOTS), strict=True)
            if slot in before
        ]
        assert offsets(given) == expected


def test_a_partition_stands_for_its_slots(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        fill(opened, 100)
        consumer = sharing(opened, timeout_s=0)
        poll_some(consumer, 100)
        with pytest.raises(Exception, match="not assigned"):
            consumer.position(T0._replace(slot=SLOTS))
        one = T0._replace(slot=3)
        consumer.seek(one, 90)
        assert (consumer.position(T0), consumer.position(one)) == (90, 90)
        assert consumer.position(T0._replace(slot=4)) == 100
        consumer.commit({T0: 95})  # not below what slots have not to be handed out from
        assert opened.committed() == {
            T0._replace(slot=slot): 95 if slot == 3 else 100 for slot in range(SLOTS)
        }
        assert consumer.committed(T0) == consumer.committed(one)
        consumer.pause(T0)
        assert len(consumer.paused) == SLOTS
        consumer.seek(T0, 50)
        assert consumer.poll() == []
        consumer.resume(one)
        tail = list(opened.log.topic("t").read(start=50))
        expected = [
            record.offset
            for record, slot in zip(tail, slots_of(tail, SLOTS), strict=True)
            if slot == 3
        ]
        assert [record.offset for record in consumer] == expected
        consumer.resume()
        assert len(poll_some(consumer, 50 - len(expected))) == 50 - len(expected)


def test_commit_by_partition_after_each_record(tmp_path: Path) -> None:
    """As Kafka users write it: the offset behind the record, for its partition."""
    with shop(tmp_path, t=1) as opened:
        fill(opened, 60)
        consumer = sharing(opened)
        for record in consumer:
            consumer.commit({TopicPartition(record.topic, record.partition): record.offset + 1})
            assert set(opened.committed().values()) == {record.offset + 1}
            if record.offset == 30:
                break
        consumer.close()
        assert offsets(poll_some(sharing(opened), 29)) == list(range(31, 60))


def test_a_key_is_with_one_member_at_a_time_without_commits_too(tmp_path: Path) -> None:
    """Then records come again, but never out of order within what one member sees of a key after it got
    the key."""
    with shop(tmp_path, t=1) as opened:
        fill(opened, 500)
        first = sharing(opened, max_poll_records=20)
        records = [*first.poll(), *first.poll()]
        second = sharing(opened, max_poll_records=20)
        given = drive(
            [first, second],
            lambda: (
                len(slots(second)) == SLOTS // 2
                and all(set(each.lag().values()) == {0} for each in (first, second))
            ),
        )
        check_order([records + given[0], given[1]])
        theirs = slots(second)
        every = list(opened.log.topic("t").read())
        assert offsets(given[1]) == [
            record.offset
            for record, slot in zip(every, slots_of(every, SLOTS), strict=True)
            if slot in theirs
        ]


# -- the positions of slots, as a model ---------------------------------------------------------


class SlotsOfAPartition(RuleBasedStateMachine):
    """Slots come, go, pause and seek in any order; each has to get exactly its records from its position
    on, in order, and what is committed automatically never covers what is in work.

    The model keeps one position a slot and looks at every record.
    """

    COUNT = 120

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory(
            dir="/dev/shm" if Path("/dev/shm").is_dir() else None
        )
        self.log = eventlog.open(self.scratch.name, durability="os")
        self.topic = self.log.topic("t", segment_size_bytes_max=1024)
        self.fetcher = Fetcher(ResetPolicy("earliest"), SLOTS)
        self.positions: dict[int, int] = {}
        self.paused: set[int] = set()
        self.in_work_from: int | None = None
        self.chunk: Chunk | None = None

    def teardown(self) -> None:
        self.fetcher.close()
        self.log.close()
        self.scratch.cleanup()

    @initialize(seed=st.integers(0, 2**32), slots=st.sets(st.integers(0, SLOTS - 1), min_size=2))
    def fill(self, seed: int, slots: set[int]) -> None:
        chosen = random.Random(seed)
        for _ in range(12):
            self.topic.append_many(
                [b"value"] * 10,
                keys=[chosen.choice([None, b"a", b"b", b"c", b"dd", b"e"]) for _ in range(10)],
            )
        self.records = list(self.topic.read())
        self.slots = list(slots_of(self.records, SLOTS))
        for slot in slots:
            self.place(slot, chosen.choice([0, 0, 15]))

    def unit(self, slot: int) -> TopicPartition:
        return TopicPartition("t", 0, slot)

    def expected(self) -> list[Record]:
        return [
            record
            for record, slot in zip(self.records, self.slots, strict=True)
            if slot in self.positions
            and slot not in self.paused
            and record.offset >= self.positions[slot]
        ]

    def advance(self, end: int) -> None:
        for slot in self.positions:
            if slot not in self.paused:
                self.positions[slot] = max(self.positions[slot], end)

    def start(self) -> int:
        """Where the partition is read on: nobody wants what lies before."""
        reading = [at for slot, at in self.positions.items() if slot not in self.paused]
        return min(reading, default=0)

    def interrupt(self) -> None:
        """What is handed out one by one ends where it is."""
        if self.chunk is not None and self.chunk.last is not None:
            assert self.chunk.is_interrupted
        self.chunk = None

    @rule(slot=st.integers(0, SLOTS - 1), offset=st.integers(0, COUNT))
    def place(self, slot: int, offset: int) -> None:
        self.fetcher.place(self.unit(slot), self.topic, offset)
        self.positions[slot] = offset
        self.interrupt()

    @precondition(lambda self: self.positions)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.positions)))
        self.fetcher.remove([self.unit(slot)])
        del self.positions[slot]
        self.paused.discard(slot)
        self.interrupt()
        if not self.positions:  # the next one begins anew
            self.in_work_from = None

    @precondition(lambda self: self.positions)
    @rule(data=st.data())
    def pause_or_resume(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.positions)))
        if slot in self.paused:
            self.fetcher.resume(self.unit(slot))
            self.paused.discard(slot)
        else:
            self.fetcher.pause(self.unit(slot))
            self.paused.add(slot)
        self.interrupt()

    @rule(limit=st.sampled_from([1, 3, 5, 50]))
    def poll(self, limit: int) -> None:
        self.fetcher.settle_work()
        expected, start = self.expected(), self.start()
        fetches = self.fetcher.fetch(limit, is_single=False)
        given = self.fetcher.hand_out(fetches)
        self.interrupt()
        assert len(given) <= limit
        self.in_work_from = start if fetches else None
        if fetches:
            end = fetches[-1].end_offset
            assert given == [record for record in expected if record.offset < end]
            self.advance(end)
        else:
            assert not expected

    @rule(count=st.integers(0, 20))
    def iterate(self, count: int) -> None:
        self.fetcher.settle_work()
        self.interrupt()
        expected, start = self.expected(), self.start()
        fetches = self.fetcher.fetch(50, is_single=True)
        passed = [fetch.end_offset for fetch in fetches if not fetch.records]
        self.in_work_from = start if passed else None
        self.chunk = self.fetcher.hand_out_singly(fetches)
        if passed:
            self.advance(passed[-1])
        if self.chunk is None:
            return
        end = self.chunk.end_offset
        assert self.chunk.records == [record for record in expected if record.offset < end]
        self.in_work_from = self.start()
        for record in self.chunk.records[:count]:
            self.chunk.last = record
            self.advance(record.offset + 1)
            self.in_work_from = record.offset

    @rule()
    def fail(self) -> None:
        """What is in work comes again."""
        self.positions = self.done()
        self.fetcher.take_back_work()
        self.in_work_from = None
        self.chunk = None

    def done(self) -> dict[int, int]:
        bound = self.COUNT if self.in_work_from is None else self.in_work_from
        return {slot: min(at, bound) for slot, at in self.positions.items()}

    @invariant()
    def positions_are_as_they_should_be(self) -> None:
        for is_done, expected in ((False, self.positions), (True, self.done())):
            found = self.fetcher.positions(is_done=is_done)
            assert {unit.slot: offset for unit, offset in found.items()} == expected


TestSlotsOfAPartition = SlotsOfAPartition.TestCase
