"""Consumers in a group: who reads what, what is told to whom, what is committed and what is refused."""

from __future__ import annotations

import contextlib
import logging
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from consumer_client_support import (
    Clock,
    Diary,
    drive,
    in_thread,
    offsets,
    place,
    poll_some,
    settle,
    shop,
    units,
    until,
)

from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.consumer import Consumer
from eventlog.consumer.group import OffsetAndMetadata
from eventlog.errors import (
    FencedError,
    GroupError,
    OffsetOutOfRangeError,
    StorageFullError,
)

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)
EVERY = frozenset(TopicPartition("t", number) for number in range(4))


def commit_all(consumer: Consumer, _: object) -> None:
    consumer.commit()


# -- sharing ------------------------------------------------------------------------------------


def test_two_threads_share_the_partitions(tmp_path: Path) -> None:
    """Each record comes once, while one joins late and one leaves early."""
    with shop(tmp_path, t=4) as opened:
        for number in range(4):
            opened.fill(300, partition=number)
        seen: list[Any] = []
        both = threading.Event()

        def work(stop_after: int) -> None:
            mine = 0
            with opened.consumer("g", on_revoked=commit_all) as consumer:
                while not both.is_set() or (len(seen) < 1200 and mine < stop_after):
                    records = consumer.poll(0.01, max_records=20 if both.is_set() else 1)
                    seen.extend(map(place, records))
                    mine += len(records)
                    consumer.commit()
                    if len(consumer.assignment) == 2:
                        both.set()

        for join in [in_thread(lambda: work(100)), in_thread(lambda: work(10_000))]:
            join()
        assert sorted(seen) == [("t", number, n) for number in range(4) for n in range(300)]
        assert opened.committed() == dict.fromkeys(EVERY, 300)


def test_joining_and_leaving_move_only_what_has_to_move(tmp_path: Path) -> None:
    with shop(tmp_path, t=4) as opened:
        diaries = [Diary() for _ in range(2)]
        first = opened.consumer("g", **diaries[0].callbacks)
        settle(first)
        assert first.assignment == EVERY
        second = opened.consumer("g", **diaries[1].callbacks)
        settle(first, second)
        assert first.assignment | second.assignment == EVERY
        assert len(first.assignment) == len(second.assignment) == 2
        assert diaries[0].entries == [("on_assigned", EVERY), ("on_revoked", second.assignment)]
        assert diaries[1].entries == [("on_assigned", second.assignment)]
        moved = first.assignment
        first.close()
        assert diaries[0].entries[2:] == [("on_revoked", moved)]
        settle(second)
        assert diaries[1].entries[1:] == [("on_assigned", moved)]
        assert second.assignment == EVERY


def test_what_is_revoked_is_still_owned_in_the_callback(tmp_path: Path) -> None:
    """The other one gets it when the callback has returned, and goes on where it committed."""
    with shop(tmp_path, t=2) as opened:
        opened.fill(10, partition=0)
        opened.fill(10, partition=1)
        seen: list[Any] = []

        def on_revoked(consumer: Consumer, given_up: frozenset[TopicPartition]) -> None:
            assert given_up <= consumer.assignment
            assert not second.assignment & given_up
            consumer.commit({unit: consumer.position(unit) for unit in given_up})
            seen.append(given_up)

        first = opened.consumer("g", on_revoked=on_revoked)
        poll_some(first, 20)
        second = opened.consumer("g")
        settle(first, second)
        assert seen == [second.assignment]
        opened.fill(1, partition=0)
        opened.fill(1, partition=1)
        assert offsets(poll_some(second, 1)) == [10]
        assert offsets(poll_some(first, 1)) == [10]


def test_a_killed_process_is_replaced_at_once(tmp_path: Path) -> None:
    """Session timeouts are twenty seconds; the others see that its process is gone."""
    code = """
import sys, eventlog
log = eventlog.open(sys.argv[1])
consumer = log.consumer("g", "t", session_timeout_ms=20_000)
while True:
    consumer.poll(0.05)
    print(len(consumer.assignment), flush=True)
"""
    with shop(tmp_path, t=4) as opened:
        survivor = opened.consumer("g")
        settle(survivor)
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            drive([survivor], lambda: len(survivor.assignment) == 2)
            assert child.stdout is not None
            until(lambda: child.stdout.readline() == "2\n")
        finally:
            child.kill()
            child.communicate()
        drive([survivor], lambda: survivor.assignment == EVERY)


def test_a_static_member_comes_back_to_its_place(tmp_path: Path) -> None:
    with shop(tmp_path, t=4) as opened:
        diary = Diary()
        other = opened.consumer("g", **diary.callbacks)
        static = opened.consumer("g", instance_id="i")
        settle(other, static)
        kept = static.assignment
        told = list(diary.entries)
        static.close()
        for _ in range(5):
            other.poll(0.01)
        static = opened.consumer("g", instance_id="i")
        settle(other, static)
        assert static.assignment == kept
        assert diary.entries == told
        newer = opened.consumer("g", instance_id="i")
        settle(other, newer)
        with pytest.raises(FencedError):
            static.commit({next(iter(kept)): 0})


def test_a_pattern_in_a_group_shares_new_topics(tmp_path: Path) -> None:
    with shop(tmp_path, a=1) as opened:
        pair = [opened.consumer("g", re.compile("[ab]")) for _ in range(2)]
        settle(*pair)
        opened.log.topic("b", partitions=3)
        opened.log.add_partitions("a", 3)
        drive(pair, lambda: sum(len(each.assignment) for each in pair) == 6)
        settle(*pair)
        assert not pair[0].assignment & pair[1].assignment
        assert pair[0].assignment | pair[1].assignment == units(
            *(("a", number) for number in range(3)), *(("b", number) for number in range(3))
        )


def test_members_in_a_loop_take_part_in_rebalances(tmp_path: Path) -> None:
    """Units are given up between two records, in the middle of what one look gave."""
    with shop(tmp_path, t=2) as opened:
        opened.fill(500, partition=0)
        opened.fill(500, partition=1)
        first = opened.consumer("g", on_revoked=commit_all, timeout_s=0.05)
        seen = []
        loop = iter(first)
        seen += [place(next(loop)) for _ in range(100)]
        second = opened.consumer("g", on_revoked=commit_all)
        theirs: list[Any] = []
        join = in_thread(
            lambda: until(
                lambda: theirs.extend(map(place, second.poll(0.01))) or len(second.assignment) == 1
            )
        )
        until(lambda: first._chunk is not None and first._chunk.is_interrupted)
        seen.append(place(next(loop)))
        assert len(first.assignment) == 1
        join()
        seen += map(place, loop)
        first.commit()
        until(
            lambda: theirs.extend(map(place, second.poll(0.01))) or len(theirs) + len(seen) == 1000
        )
        assert sorted(seen + theirs) == [("t", number, n) for number in (0, 1) for n in range(500)]


def test_it_is_heard_of_while_the_application_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(1)
        consumer = opened.consumer("g")
        poll_some(consumer, 1)
        membership = consumer._session._membership
        assert membership is not None
        sync, threads = membership.sync, []

        def listen(*arguments: Any) -> Any:
            threads.append(threading.current_thread())
            return sync(*arguments)

        monkeypatch.setattr(membership, "sync", listen)
        until(lambda: len(threads) >= 3)
        assert threading.main_thread() not in threads
        consumer.commit()


# -- callbacks ----------------------------------------------------------------------------------


def test_what_a_callback_raises_comes_out_and_all_is_in_order(tmp_path: Path) -> None:
    with shop(tmp_path, t=2) as opened:
        opened.fill(10, partition=0)
        opened.fill(10, partition=1)

        def fail(*_: object) -> None:
            raise LookupError(len(failures))

        failures: list[Exception] = []
        first = opened.consumer("g", on_assigned=fail, on_revoked=fail)
        with pytest.raises(LookupError):
            first.poll()
        assert first.assignment == {T0, T1}
        assert len(poll_some(first, 20)) == 20
        second = opened.consumer("g")

        def is_shared() -> bool:
            try:
                first.poll()
            except LookupError as error:
                failures.append(error)
            second.poll()
            return len(first.assignment) == len(second.assignment) == 1

        until(is_shared)
        assert len(failures) == 1
        with pytest.raises(LookupError):
            first.close()
        drive([second], lambda: len(second.assignment) == 2)


def test_a_commit_in_a_callback_may_come_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The member was thrown out between the question and the answer: poll goes on."""
    with shop(tmp_path, t=2) as opened:
        opened.fill(10, partition=0)
        opened.fill(10, partition=1)
        first = opened.consumer("g", on_revoked=commit_all)
        poll_some(first, 20)
        membership = first._session._membership
        assert membership is not None

        def fenced(_: object) -> None:
            raise FencedError("too late", group="g")

        second = opened.consumer("g")
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "eventlog.consumer"):
            patch.setattr(membership, "commit", fenced)
            settle(first, second)
        assert "too late" in caplog.text
        assert len(second.assignment) == 1


def test_a_consumer_may_be_closed_by_its_callback(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(3)
        consumer = opened.consumer("g", on_assigned=lambda consumer, _: consumer.close())
        assert consumer.poll() == []
        assert opened.groups.describe("g").state == "Empty"


# -- committing ---------------------------------------------------------------------------------


def test_commits(tmp_path: Path) -> None:
    with shop(tmp_path, t=2) as opened:
        opened.fill(10, partition=0)
        opened.fill(10, partition=1)
        consumer = opened.consumer("g")
        with pytest.raises(GroupError, match="not joined"):
            consumer.commit({T0: 1})
        consumer.commit()  # nothing to commit
        poll_some(consumer, 20)
        assert opened.committed() == {}
        assert consumer.committed(T0) is None
        consumer.commit()
        assert opened.committed() == {T0: 10, T1: 10}
        consumer.commit({T0: 3}, metadata="note")
        assert consumer.committed(T0) == OffsetAndMetadata(3, "note")
        consumer.commit({T0: OffsetAndMetadata(4, "mine"), T1: 5}, metadata="note")
        assert consumer.committed(T0) == OffsetAndMetadata(4, "mine")
        assert consumer.committed(T1) == OffsetAndMetadata(5, "note")
        for refused in (11, -1):
            with pytest.raises(OffsetOutOfRangeError):
                consumer.commit({T0: refused, T1: 6})
        with pytest.raises(FencedError):
            consumer.commit({T1: 6, TopicPartition("t", 7): 1})
        assert opened.committed() == {T0: 4, T1: 5}
        consumer.close()
        again = opened.consumer("g")
        assert sorted(map(place, poll_some(again, 11))) == [
            *(("t", 0, n) for n in range(4, 10)),
            *(("t", 1, n) for n in range(5, 10)),
        ]


def test_commit_in_a_loop_includes_the_record_at_hand(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(10)
        consumer = opened.consumer("g")
        for record in consumer:
            consumer.commit()
            assert opened.committed() == {T0: record.offset + 1}
            if record.offset == 5:
                break


def test_commits_are_of_no_effect_where_nothing_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop(tmp_path, t=2) as opened:
        opened.fill(10, partition=0)
        consumer = opened.consumer("g")
        poll_some(consumer, 10)
        consumer.commit()
        membership = consumer._session._membership
        assert membership is not None
        written: list[Any] = []
        monkeypatch.setattr(membership, "commit", written.append)
        consumer.commit()
        opened.fill(1, partition=1)
        poll_some(consumer, 1)
        consumer.commit()
        assert [set(each) for each in written] == [{T1}]


def test_a_late_commit_is_refused(tmp_path: Path) -> None:
    """The first stops polling; the second gets its partitions; what the first commits then is refused, and
    it learns by its next poll that all is lost."""
    with shop(tmp_path, t=2) as opened:
        opened.fill(10, partition=0)
        opened.fill(10, partition=1)
        clock, diary = Clock(), Diary()
        first = opened.consumer("g", clock_s=clock, max_poll_interval_ms=60_000, **diary.callbacks)
        poll_some(first, 20)
        clock.now_s += 61
        second = opened.consumer("g")
        drive([second], lambda: second.assignment == {T0, T1})
        with pytest.raises(FencedError) as caught:
            first.commit()
        assert caught.value.group == "g"
        assert caught.value.member_id
        with pytest.raises(FencedError):
            first.commit({T0: 10})
        assert opened.committed() == {}
        drive([first, second], lambda: len(first.assignment) == 1)
        assert [name for name, _ in diary.entries] == ["on_assigned", "on_lost", "on_assigned"]
        assert diary.entries[1] == ("on_lost", frozenset((T0, T1)))


def test_one_that_polls_or_asks_for_records_is_not_thrown_out(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(10)
        clock, diary = Clock(), Diary()
        consumer = opened.consumer(
            "g", clock_s=clock, max_poll_interval_ms=60_000, **diary.callbacks
        )
        for _ in consumer:
            clock.now_s += 50
            for _ in range(3):  # heartbeats, in between
                consumer.beat()
            if consumer.position(T0) == 10:
                break
        assert [name for name, _ in diary.entries] == ["on_assigned"]
        consumer.commit()
        join = in_thread(lambda: consumer.poll(None))
        until(lambda: consumer._is_asking)
        clock.now_s += 1000
        for _ in range(3):
            consumer.beat()
        opened.fill(1)
        assert len(join()) == 1
        consumer.commit()


def test_one_that_keeps_what_others_wait_for_is_thrown_out(tmp_path: Path) -> None:
    """It works on a batch for longer than the others wait (its own clock does not tell it)."""
    with shop(tmp_path, t=2) as opened:
        opened.fill(1, partition=0)
        first = opened.consumer("g", clock_s=Clock(), max_poll_interval_ms=200)
        poll_some(first, 1)
        second = opened.consumer("g")
        drive([second], lambda: second.assignment == {T0, T1})
        with pytest.raises(FencedError):
            first.commit()


def test_a_fenced_loop_drops_what_it_had_and_starts_again(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(10)
        clock, diary = Clock(), Diary()
        consumer = opened.consumer(
            "g", clock_s=clock, max_poll_interval_ms=60_000, timeout_s=0, **diary.callbacks
        )
        seen = []
        for record in consumer:
            seen.append(record.offset)
            if len(seen) == 3:
                until(lambda: consumer._seen_last is consumer._chunk.last)  # it was seen at work
                clock.now_s += 61
                until(lambda: consumer._session.is_lost)
        assert seen == [0, 1, 2, *range(10)]
        assert [name for name, _ in diary.entries] == ["on_assigned", "on_lost", "on_assigned"]


# -- auto commit --------------------------------------------------------------------------------


def test_auto_commit_leaves_out_what_is_in_work(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(30)
        consumer = opened.consumer("g", auto_commit_interval_ms=5, max_poll_records=10)
        poll_some(consumer, 10)
        until(lambda: opened.committed() == {T0: 0})
        assert offsets(consumer.poll()) == list(range(10, 20))
        until(lambda: opened.committed() == {T0: 10})
        loop = iter(consumer)
        assert next(loop).offset == 20
        until(lambda: opened.committed() == {T0: 20})
        assert next(loop).offset == 21
        until(lambda: opened.committed() == {T0: 21})


def test_auto_commit_at_the_end(tmp_path: Path) -> None:
    """A thread that closes its own consumer is done with what it has; an exception says it is not; and
    nobody knows of another thread's."""
    with shop(tmp_path, t=1) as opened:
        opened.fill(40)

        def consumer() -> Consumer:
            return opened.consumer("g", auto_commit_interval_ms=3_600_000, max_poll_records=10)

        with consumer() as first:
            assert len(poll_some(first, 10)) == 10
        assert opened.committed() == {T0: 10}
        with contextlib.suppress(LookupError), consumer() as second:
            assert offsets(poll_some(second, 10))[0] == 10
            raise LookupError
        assert opened.committed() == {T0: 10}
        with contextlib.suppress(LookupError), consumer() as third:
            for record in third:
                if record.offset == 14:
                    raise LookupError
        assert opened.committed() == {T0: 14}
        fourth = consumer()
        assert offsets(poll_some(fourth, 10))[0] == 14
        in_thread(fourth.close)()
        assert opened.committed() == {T0: 14}
        fifth = consumer()
        for record in fifth:
            if record.offset == 17:
                break
        fifth.close()
        assert opened.committed() == {T0: 18}


def test_auto_commit_of_what_is_given_up(tmp_path: Path) -> None:
    with shop(tmp_path, t=2) as opened:
        opened.fill(10, partition=0)
        opened.fill(10, partition=1)
        options = {"auto_commit_interval_ms": 3_600_000}
        first = opened.consumer("g", **options)
        poll_some(first, 20)
        second = opened.consumer("g", **options)
        given = settle(first, second)
        assert given == [[], []]
        assert opened.committed() == dict.fromkeys(second.assignment, 10)


def test_a_failed_auto_commit_is_logged_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(10)
        consumer = opened.consumer("g", auto_commit_interval_ms=3_600_000)
        poll_some(consumer, 10)
        assert consumer.poll() == []
        membership = consumer._session._membership
        assert membership is not None

        def full(_: object) -> None:
            raise StorageFullError("the disk is full")

        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "eventlog.consumer"):
            patch.setattr(membership, "commit", full)
            with consumer._lock:
                consumer._session.commit_done()
        assert "the disk is full" in caplog.text
        assert caplog.records[-1].__dict__["group"] == "g"
        consumer.close()
        assert opened.committed() == {T0: 10}


def test_trouble_of_the_group_does_not_lose_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(10)
        consumer = opened.consumer("g", max_poll_records=5)
        poll_some(consumer, 5)
        membership = consumer._session._membership
        assert membership is not None

        def full(*_: object) -> None:
            raise StorageFullError("the disk is full")

        consumer._served_s = -1.0
        with monkeypatch.context() as patch:
            patch.setattr(membership, "sync", full)
            with pytest.raises(StorageFullError):
                consumer.poll()
        assert offsets(poll_some(consumer, 5)) == [5, 6, 7, 8, 9]


def test_many_members_come_and_go(tmp_path: Path, rng: Any) -> None:
    """With commits before anything is given up each record comes once, whoever is there."""
    with shop(tmp_path, t=5) as opened:
        members: list[Consumer] = []
        seen: list[Any] = []
        total = 0
        for step in range(60):
            choice = rng.random()
            if not members or (choice < 0.2 and len(members) < 6):
                members.append(
                    opened.consumer(
                        "g",
                        on_revoked=commit_all,
                        assignors=("cooperative-sticky",),
                        max_poll_records=10,
                    )
                )
            elif choice < 0.3 and len(members) > 1:
                members.pop(rng.randrange(len(members))).close()
            if step < 50:
                opened.fill(7, partition=rng.randrange(5))
                total += 7
            for member in rng.sample(members, len(members)):
                seen += map(place, member.poll())
        until(
            lambda: (
                [seen.extend(map(place, each.poll())) for each in members] and len(seen) >= total
            )
        )
        assert len(seen) == len(set(seen)) == total
