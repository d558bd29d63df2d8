"""A consumer by itself: reading, waiting, positions, where it begins, how it ends."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from consumer_client_support import (
    in_thread,
    offsets,
    place,
    poll_some,
    shop,
    units,
    until,
)

from eventlog.consumer.assignment import TopicPartition
from eventlog.errors import (
    ClosedError,
    CorruptionError,
    ForkedError,
    GroupError,
    InvalidNameError,
    InvalidRecordError,
    LogError,
    NoOffsetError,
    OffsetOutOfRangeError,
    PartitionMismatchError,
    SettingError,
)

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)


# -- reading ------------------------------------------------------------------------------------


def test_poll_gives_every_record_of_every_partition_once_and_in_order(tmp_path: Path) -> None:
    with shop(tmp_path, t=3, u=1) as opened:
        for number in range(3):
            opened.fill(1500, partition=number)
        opened.fill(7, "u")
        consumer = opened.consumer(None, ["t", "u"], max_poll_records=700)
        records = poll_some(consumer, 4507)
        assert sorted(map(place, records)) == sorted(
            [("t", number, n) for number in range(3) for n in range(1500)]
            + [("u", 0, n) for n in range(7)]
        )
        for at in {(record.topic, record.partition) for record in records}:
            ours = [record for record in records if record[:2] == at]
            assert offsets(ours) == list(range(len(ours)))
            assert [record.value for record in ours] == [b"%d" % n for n in range(len(ours))]
        assert consumer.poll() == []


@pytest.mark.parametrize("count", [1, 7, 1024, 5000])
def test_poll_gives_at_most_what_is_asked_for(tmp_path: Path, count: int) -> None:
    with shop(tmp_path, t=2) as opened:
        opened.fill(3000, partition=0)
        opened.fill(3000, partition=1)
        consumer = opened.consumer(None)
        sizes = [len(consumer.poll(max_records=count)) for _ in range(3)]
        assert sizes[0] == count
        assert all(size <= count for size in sizes)
        assert sum(consumer.position(unit) for unit in (T0, T1)) == sum(sizes)


def test_partitions_take_turns(tmp_path: Path) -> None:
    with shop(tmp_path, t=4) as opened:
        for number in range(4):
            opened.fill(100, partition=number)
        consumer = opened.consumer(None, max_poll_records=10)
        first = [consumer.poll()[0].partition for _ in range(8)]
        assert sorted(first[:4]) == [0, 1, 2, 3]
        assert first[4:] == first[:4]


def test_iterating_gives_the_same_and_ends_when_nothing_comes(tmp_path: Path) -> None:
    with shop(tmp_path, t=2) as opened:
        opened.fill(1000, partition=0)
        opened.fill(10, partition=1)
        consumer = opened.consumer(None, timeout_s=0, max_poll_records=300)
        assert len({place(record) for record in consumer}) == 1010
        opened.fill(5, partition=1)
        assert [place(record) for record in consumer] == [("t", 1, n) for n in range(10, 15)]


def test_iterating_again_and_polling_go_on_where_the_loop_was_left(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(100)
        consumer = opened.consumer(None, timeout_s=0)
        for record in consumer:
            if record.offset == 9:
                break
        assert consumer.position(T0) == 10
        assert next(iter(consumer)).offset == 10
        assert offsets(consumer.poll(max_records=3)) == [11, 12, 13]
        assert [record.offset for record in consumer] == list(range(14, 100))


def test_poll_waits_for_what_another_thread_appends(tmp_path: Path) -> None:
    with shop(tmp_path, t=3) as opened:
        consumer = opened.consumer(None)
        assert consumer.poll(0.01) == []
        join = in_thread(lambda: consumer.poll(None))
        opened.log.topic("t").append(b"x", partition=2)
        assert [place(record) for record in join()] == [("t", 2, 0)]


def test_a_large_record_is_not_held_back_and_polls_stay_bounded(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        topic = opened.log.topic("t")
        for _ in range(12):
            topic.append(b"x" * 1024 * 1024)
        consumer = opened.consumer(None)
        sizes = []
        while records := consumer.poll():
            sizes.append(len(records))
        assert sum(sizes) == 12
        assert max(sizes) <= 5


def test_damage_is_told_after_what_came_before_it(tmp_path: Path) -> None:
    with shop(tmp_path, t=2) as opened:
        topic = opened.log.topic("t")
        for n in range(20):
            topic.append(b"%d" % n, partition=0)
        opened.fill(5, partition=1)
        segment = next((tmp_path / "log" / "t-0").glob("*.log"))
        data = bytearray(segment.read_bytes())
        position = 0
        for _ in range(10):
            position += 12 + int.from_bytes(data[position + 8 : position + 12], "big")
        with segment.open("r+b") as file:
            file.seek(position + 67)  # its value
            file.write(b"\xff")
        consumer = opened.consumer(None, topics="t")
        seen: list[Any] = []
        failures = 0
        for _ in range(6):
            try:
                seen += consumer.poll()
            except CorruptionError:
                failures += 1
        assert failures
        assert sorted(map(place, seen)) == [
            *(("t", 0, n) for n in range(10)),
            *(("t", 1, n) for n in range(5)),
        ]
        consumer.seek(T0, 11)
        assert offsets(consumer.poll()) == list(range(11, 20))


def test_what_was_read_is_not_lost_when_a_signal_comes_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(3000)
        consumer = opened.consumer(None, max_poll_records=3000)
        consumer.poll(max_records=1)
        fetch = consumer._fetcher.fetch

        def interrupted(*arguments: Any, **options: Any) -> Any:
            fetch(*arguments, **options)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(consumer._fetcher, "fetch", interrupted)
            with pytest.raises(KeyboardInterrupt):
                consumer.poll()
        assert offsets(poll_some(consumer, 2999)) == list(range(1, 3000))


# -- topics that come and go --------------------------------------------------------------------


def test_a_topic_that_is_not_there_yet_is_read_once_it_is(tmp_path: Path) -> None:
    with shop(tmp_path) as opened:
        consumer = opened.consumer(None)
        assert consumer.poll() == []
        assert not opened.log.has_topic("t")
        join = in_thread(lambda: consumer.poll(None))
        opened.log.topic("t").append(b"x")
        assert len(join()) == 1


@pytest.mark.parametrize("group", [None, "g"])
def test_a_pattern_finds_new_topics_and_partitions(tmp_path: Path, group: str | None) -> None:
    with shop(tmp_path, order_a=1, other=1) as opened:
        consumer = opened.consumer(group, re.compile("order_.*"))
        opened.fill(1, "order_a")
        opened.fill(1, "other")
        assert len(poll_some(consumer, 1)) == 1
        opened.log.topic("order_b", partitions=2)
        opened.fill(1, "order_b", 1)
        assert place(poll_some(consumer, 1)[0]) == ("order_b", 1, 0)
        opened.log.add_partitions("order_a", 3)
        opened.fill(1, "order_a", 2)
        assert place(poll_some(consumer, 1)[0]) == ("order_a", 2, 0)
        assert consumer.assignment == units(
            *(("order_a", number) for number in range(3)), ("order_b", 0), ("order_b", 1)
        )


@pytest.mark.parametrize("group", [None, "g"])
def test_a_topic_made_anew_is_read_from_its_beginning(tmp_path: Path, group: str | None) -> None:
    with shop(tmp_path, t=1, u=1) as opened:
        opened.fill(10)
        consumer = opened.consumer(group, ["t", "u"])
        assert len(poll_some(consumer, 10)) == 10
        if group:
            consumer.commit()
        opened.log.delete_topic("t")
        opened.fill(1, "u")
        assert place(poll_some(consumer, 1)[0]) == ("u", 0, 0)
        until(lambda: not consumer.poll(0.05) and consumer.assignment == units(("u", 0)))
        if group:
            consumer.commit()
        opened.log.topic("t")
        opened.fill(3)
        assert [record[:3] for record in poll_some(consumer, 3)] == [("t", 0, n) for n in range(3)]
        opened.log.delete_topic("t")
        opened.log.topic("t")  # between two polls: the same name, another topic
        opened.fill(2)
        assert [record[:3] for record in poll_some(consumer, 2)] == [("t", 0, n) for n in range(2)]


# -- where it begins ----------------------------------------------------------------------------


def test_it_begins_where_the_policy_says(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(10, timestamps_ms=[1000 * n for n in range(10)])
        moment = datetime.fromtimestamp(6, UTC)
        for reset, first in [("earliest", 0), ("latest", 10), (3500, 4), (moment, 6), (99_000, 10)]:
            for group in (None, f"g{first}"):
                with opened.consumer(group, auto_offset_reset=reset) as consumer:
                    consumer.poll(max_records=1)
                    assert consumer.position(T0) == min(first + 1, 10)


def test_without_a_policy_nothing_is_guessed(tmp_path: Path) -> None:
    with shop(tmp_path, t=2) as opened:
        opened.fill(10, partition=0)
        opened.fill(10, partition=1)
        consumer = opened.consumer("g", auto_offset_reset="none")
        for _ in range(2):
            with pytest.raises(NoOffsetError) as caught:
                consumer.poll()
            assert (caught.value.group, caught.value.topic) == ("g", "t")
        consumer.seek(T0, 8)
        assert consumer.position(T0) == 8
        with pytest.raises(NoOffsetError):
            consumer.position(T1)
        consumer.seek_to_end(T1)
        assert offsets(poll_some(consumer, 2)) == [8, 9]


def test_a_callback_may_say_where_to_begin(tmp_path: Path) -> None:
    """Positions kept elsewhere: no policy is asked for where the application seeks."""
    with shop(tmp_path, t=2) as opened:
        opened.fill(10, partition=0)
        opened.fill(10, partition=1)
        consumer = opened.consumer(
            "g",
            auto_offset_reset="none",
            on_assigned=lambda consumer, units: [consumer.seek(unit, 7) for unit in units],
        )
        assert sorted(map(place, poll_some(consumer, 6))) == [
            ("t", number, n) for number in range(2) for n in (7, 8, 9)
        ]


def test_positions_that_are_not_kept_any_more_follow_the_policy(tmp_path: Path) -> None:
    """The first segment is deleted."""
    with shop(tmp_path) as opened:
        opened.log.topic("t", segment_size_bytes_max=1024)
        for _ in range(3):
            opened.fill(100)
        committing = opened.consumer("old")
        committing.poll(max_records=2)
        committing.commit()
    _, second, *_ = sorted((tmp_path / "log" / "t-0").glob("*.log"))
    start = int(second.stem)
    with shop(tmp_path) as opened:
        opened.log.delete_records("t", before=start)
        assert opened.log.topic("t").log_start_offset() == start > 2
        for reset, first in [
            ("earliest", [start, start + 1]),
            ("latest", []),
            (0, [start, start + 1]),
        ]:
            consumer = opened.consumer(None, auto_offset_reset=reset)
            consumer.seek(T0, 2)
            assert offsets(consumer.poll(max_records=2)) == first
        assert offsets(opened.consumer("old").poll(max_records=2)) == [start, start + 1]
        consumer = opened.consumer(None, auto_offset_reset="none")
        consumer.seek(T0, 2)
        for _ in range(2):
            with pytest.raises(OffsetOutOfRangeError):
                consumer.poll()
        consumer.seek(T0, start + 1)
        assert offsets(consumer.poll(max_records=1)) == [start + 1]


# -- seek, pause --------------------------------------------------------------------------------


def test_seeking(tmp_path: Path) -> None:
    with shop(tmp_path, t=2) as opened:
        for number in range(2):
            opened.fill(10, partition=number, timestamps_ms=[1000 * n for n in range(10)])
        consumer = opened.consumer(None)

        def positions() -> list[int]:
            return [consumer.position(unit) for unit in (T0, T1)]

        consumer.seek(T0, 4)
        assert positions() == [4, 0]
        consumer.seek_to_time(7000)
        assert positions() == [7, 7]
        consumer.seek_to_time(7001, T1)
        assert positions() == [7, 8]
        consumer.seek_to_end(T0)
        assert positions() == [10, 8]
        consumer.seek_to_beginning()
        assert positions() == [0, 0]
        consumer.seek_to_end()
        assert consumer.poll() == []
        consumer.seek(T1, 9)
        assert [place(record) for record in consumer.poll()] == [("t", 1, 9)]
        assert consumer.lag() == {T0: 0, T1: 0}
        consumer.seek(T0, 3)
        assert consumer.lag() == {T0: 7, T1: 0}


def test_seeking_inside_a_loop_takes_effect_at_once(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(100)
        consumer = opened.consumer(None, timeout_s=0)
        seen = []
        for record in consumer:
            seen.append(record.offset)
            if record.offset == 2:
                consumer.seek(T0, 97)
        assert seen == [0, 1, 2, 97, 98, 99]


def test_pausing(tmp_path: Path) -> None:
    with shop(tmp_path, t=2) as opened:
        opened.fill(10, partition=0)
        opened.fill(10, partition=1)
        consumer = opened.consumer(None, timeout_s=0)
        seen = []
        for record in consumer:
            if record.partition == 1:
                if consumer.paused:
                    break
                consumer.pause(T1)
            seen.append(place(record))
        assert consumer.paused == {T1}
        paused_at = consumer.position(T1)
        assert [each for each in seen if each[1] == 0] == [("t", 0, n) for n in range(10)]
        assert paused_at == sum(each[1] == 1 for each in seen)
        consumer.pause()
        opened.fill(3, partition=0)
        assert consumer.poll() == []
        consumer.seek(T1, 5)
        consumer.pause(T1)
        assert consumer.position(T1) == 5
        consumer.resume(T1)
        assert offsets(consumer.poll()) == [5, 6, 7, 8, 9]
        consumer.resume()
        assert offsets(consumer.poll()) == [10, 11, 12]
        assert consumer.paused == frozenset()


def test_resuming_wakes_a_waiting_poll(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(1)
        consumer = opened.consumer(None)
        consumer.pause()
        join = in_thread(lambda: consumer.poll(None))
        consumer.resume()
        assert len(join()) == 1


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("auto_offset_reset", "newest"),
        ("auto_offset_reset", -1),
        ("auto_offset_reset", datetime(2026, 1, 1)),  # noqa: DTZ001
        ("auto_commit_interval_ms", 0),
        ("session_timeout_ms", 0),
        ("heartbeat_interval_ms", 45_000),
        ("max_poll_interval_ms", 0),
        ("max_poll_records", 0),
        ("max_poll_records", True),
        ("sharing", "value"),
        ("key_slots", 0),
        ("timeout_s", -1),
    ],
)
def test_options_outside_their_limits(tmp_path: Path, setting: str, value: Any) -> None:
    with shop(tmp_path, t=1) as opened, pytest.raises(SettingError) as caught:
        opened.consumer("g", **{"heartbeat_interval_ms": 1, setting: value})
    assert caught.value.setting == setting


@pytest.mark.parametrize("topics", [[], 3, re.compile(b"t"), ["t", 1]])
def test_topics_that_are_none(tmp_path: Path, topics: Any) -> None:
    with shop(tmp_path) as opened, pytest.raises(SettingError) as caught:
        opened.consumer(None, topics)
    assert caught.value.setting == "topics"


def test_bad_input(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(3)
        with pytest.raises(InvalidNameError):
            opened.consumer(None, "a/b")
        for option in ({"sharing": "key"}, {"instance_id": "i"}, {"auto_commit_interval_ms": 5}):
            with pytest.raises(SettingError):
                opened.consumer(None, **option)
        consumer = opened.consumer(None)
        with pytest.raises(SettingError):
            consumer.poll(max_records=0)
        for unit in (T1, TopicPartition("u", 0), TopicPartition("t", 0, 3)):
            for call in (consumer.position, consumer.pause, consumer.seek_to_end):
                with pytest.raises(PartitionMismatchError):
                    call(unit)
        for offset in (-1, 4, "1"):
            with pytest.raises(OffsetOutOfRangeError):
                consumer.seek(T0, offset)  # type: ignore[arg-type]
        with pytest.raises(InvalidRecordError):
            consumer.seek_to_time(-1)
        for refused in (consumer.commit, lambda: consumer.committed(T0)):
            with pytest.raises(GroupError):
                refused()
        assert len(consumer.poll()) == 3


def test_a_callback_cannot_poll(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(3)
        consumer = opened.consumer(None, on_assigned=lambda consumer, _: consumer.poll())
        with pytest.raises(LogError, match="callback"):
            consumer.poll()
        assert len(consumer.poll()) == 3


# -- the end ------------------------------------------------------------------------------------


def test_close_ends_a_waiting_poll_and_a_loop(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        for group in (None, "g"):
            for wait in (lambda consumer: consumer.poll(None), list):
                consumer = opened.consumer(group)
                join = in_thread(lambda wait=wait, consumer=consumer: wait(consumer))
                until(lambda consumer=consumer: consumer._is_asking)
                consumer.close()
                assert join() == []
                consumer.close()
                with pytest.raises(ClosedError):
                    consumer.poll()
                with pytest.raises(ClosedError):
                    iter(consumer)


def test_close_ends_a_loop_that_is_inside_a_chunk(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(100)
        consumer = opened.consumer("g")
        seen = []
        for record in consumer:
            seen.append(record.offset)
            if record.offset == 5:
                in_thread(consumer.close)()
        assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("group", [None, "g"])
def test_ctrl_c_ends_a_waiting_poll(tmp_path: Path, group: str | None) -> None:
    with shop(tmp_path, t=1) as opened:
        consumer = opened.consumer(group)

        def interrupt() -> None:
            until(lambda: consumer._is_asking)
            time.sleep(0.05)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        join = in_thread(interrupt)
        with pytest.raises(KeyboardInterrupt):
            consumer.poll(None)
        join()
        opened.fill(2)
        assert len(poll_some(consumer, 2)) == 2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("group", [None, "g"])
def test_a_forked_child_is_refused(tmp_path: Path, group: str | None) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(10)
        consumer = opened.consumer(group)
        loop = iter(consumer)
        assert next(loop).offset == 0
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for call in (
                    lambda: next(loop),
                    consumer.poll,
                    consumer.commit,
                    consumer.lag,
                    lambda: iter(consumer),
                    lambda: consumer.seek(T0, 0),
                ):
                    with pytest.raises(ForkedError):
                        call()
                consumer.close()  # nothing of it is the child's
                status = 0
            except BaseException as error:
                print(repr(error), file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert next(loop).offset == 1
        if group:
            consumer.commit()


def test_a_forgotten_consumer_warns_and_leaves_its_group(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(1)
        consumer = opened.consumer("g")
        assert len(poll_some(consumer, 1)) == 1
        assert opened.groups.describe("g").state == "Stable"
        opened.consumers.clear()
        forgotten = [consumer]
        del consumer

        def forget() -> None:
            forgotten.clear()
            until(lambda: opened.groups.describe("g").state == "Empty")

        with pytest.warns(ResourceWarning, match="never closed"):
            forget()


def test_closing_after_the_store_is_fine(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        consumer = opened.consumer("g")
        consumer.poll()
        opened.log.close()
        with pytest.raises(ClosedError):
            consumer.poll()
        consumer.close()


def test_figures(tmp_path: Path) -> None:
    with shop(tmp_path, t=1) as opened:
        opened.fill(10)
        consumer = opened.consumer("g")
        poll_some(consumer, 10)
        consumer.commit()
        figures = consumer._figures
        assert figures.records.value == 10
        assert figures.rebalances.value == 1
        assert figures.commit.value.count == 1
        assert figures.poll.value.count >= 1
