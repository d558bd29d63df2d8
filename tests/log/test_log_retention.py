"""Deleting old records: which ones go, what is seen of it, and what is left of it after a crash.

The rules are held against a model that is written down as one would explain them; the log is held against
what it had before: the same records, from the new log start on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_support import (
    SMALL,
    abandon,
    after_reboot,
    child,
    contents,
    flip,
    partition_directory,
    scratch,
    segments,
    truncate,
    values,
)
from process_support import Child, forked

import eventlog
from eventlog.clock import ManualClock
from eventlog.errors import (
    CorruptionError,
    LockedError,
    OffsetOutOfRangeError,
    PartitionMismatchError,
    SettingError,
    StorageReadOnlyError,
    UnknownTopicError,
)
from eventlog.log.checkpoints import LOG_START, read_offsets, write_offsets
from eventlog.log.log_starts import LOG_STARTS_FILE
from eventlog.log.retention import DELETED, RetainedSegment, choose
from eventlog.settings import TopicSettings

NOW_MS = 1_700_000_000_000
EACH = 5  # records a segment of `filled` has
SIZE_BYTES = 190


def opened(path: Path, **options: Any) -> eventlog.EventLog:
    """What is deleted, and when, is for the tests to decide."""
    return eventlog.open(path, durability="os", maintenance=False, **options)


def fill(topic: eventlog.Topic, count: int, *, start: int = 0, partition: int = 0) -> None:
    """Records of one second each, five of them in a segment."""
    for n in range(start, start + count):
        number = b"%06d" % n
        value = number + bytes(SIZE_BYTES - 82)
        topic.append(value, key=number, timestamp_ms=1000 * n, partition=partition)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where there is such a place: what a disk keeps is for the tests of faults to say."""
    with scratch() as path:
        yield path


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(20_000)


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock) -> Iterator[eventlog.EventLog]:
    with opened(tmp_path / "store", clock=clock) as log:
        yield log


def filled(log: eventlog.EventLog, count: int = 20, **settings: Any) -> eventlog.Topic:
    """Segments [0,5) [5,10) [10,15) [15,20), of the seconds 0 to 19."""
    settings.setdefault("cleanup_policy", "delete")
    topic = log.topic("t", segment_size_bytes_max=1024, **settings)
    fill(topic, count)
    return topic


def bases(log: eventlog.EventLog) -> list[int]:
    return [int(path.stem) for path in segments(log.path)]


def planned(log: eventlog.EventLog) -> list[tuple[int, str]]:
    """What would go: base offsets and why."""
    [plan] = log.retention_plan("t")
    return [(each.base_offset, each.reason) for each in plan.segments]


# -- the rules ------------------------------------------------------------------------------------


@pytest.mark.guarantee("G-23")
@pytest.mark.parametrize(
    ("settings", "now_s", "gone"),
    [
        ({}, 10**9, []),
        ({"retention_ms": 8_000}, 20, [0, 5]),  # the youngest of [5,10) is 11 s old
        ({"retention_ms": 11_000}, 20, [0]),  # older than that goes, not as old
        ({"retention_ms": 10_999}, 20, [0, 5]),
        ({"retention_ms": 0}, 15, [0, 5, 10]),
        ({"retention_ms": 0}, 19, [0, 5, 10]),
        ({"retention_ms": 0}, 20, [0, 5, 10, 15]),  # the newest, too
        ({"retention_ms": 100_000}, 20, []),
        ({"retention_ms": 1}, 2, []),  # a clock set back
        ({"retention_size_bytes": 4 * EACH * SIZE_BYTES}, 20, []),
        ({"retention_size_bytes": 3 * EACH * SIZE_BYTES}, 20, [0]),
        ({"retention_size_bytes": 3 * EACH * SIZE_BYTES + 1}, 20, []),
        ({"retention_size_bytes": 1}, 20, [0, 5, 10]),
        ({"retention_size_bytes": 0}, 20, [0, 5, 10, 15]),
        ({"retention_count": 20}, 20, []),
        ({"retention_count": 15}, 20, [0]),
        ({"retention_count": 14}, 20, [0]),
        ({"retention_count": 1}, 20, [0, 5, 10]),
        ({"retention_count": 0}, 20, [0, 5, 10, 15]),
        ({"retention_count": 15, "retention_ms": 8_000}, 20, [0, 5]),
        ({"cleanup_policy": "none", "retention_count": 0, "retention_ms": 0}, 20, []),
        ({"cleanup_policy": "compact", "retention_count": 0, "retention_size_bytes": 0}, 20, []),
        ({"cleanup_policy": "compact,delete", "retention_count": 10}, 20, [0, 5]),
    ],
)
def test_what_goes(
    log: eventlog.EventLog, clock: ManualClock, settings: Any, now_s: int, gone: list[int]
) -> None:
    topic = filled(log)
    log.topic("t", **settings)
    assert bases(log) == [0, 5, 10, 15]
    clock.advance(1000 * now_s - clock.now_ms())
    before = values(topic)
    assert [base for base, _ in planned(log)] == gone
    assert values(topic) == before, "planning changes nothing"
    [plan] = log.apply_retention("t")
    start = EACH * len(gone)
    assert plan.new_log_start_offset == topic.log_start_offset() == start
    assert plan.record_count == start
    assert plan.size_bytes == start * SIZE_BYTES
    assert values(topic) == before[start:]
    assert bases(log) == (
        [start] if start == 20 else [base for base in (0, 5, 10, 15) if base >= start]
    )
    assert topic.append(b"next", key=b"k").offset == 20, "an offset is never used again"
    assert not list(partition_directory(log.path).glob(f"*{DELETED}"))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[RetainedSegment], list[int | None]]:
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    found, base = [], draw(st.integers(0, 3))
    for length in lengths:
        found.append(RetainedSegment(base, base + length, draw(st.integers(1, 5)), False))
        base += length
    is_empty = draw(st.booleans())
    found[-1] = RetainedSegment(
        found[-1].base_offset,
        found[-1].base_offset if is_empty else found[-1].end_offset,
        0 if is_empty else found[-1].size_bytes,
        True,
    )
    times = draw(st.lists(st.none() | st.integers(0, 20), min_size=len(found), max_size=len(found)))
    return found, times


@pytest.mark.guarantee("G-23")
@given(
    history=histories(),
    retention_ms=st.integers(-1, 12),
    size=st.integers(-1, 20),
    count=st.integers(-1, 20),
    start=st.integers(0, 12),
    behind=st.integers(0, 3),
)
def test_the_rules_are_those_of_the_model(
    history: tuple[list[RetainedSegment], list[int | None]],
    retention_ms: int,
    size: int,
    count: int,
    start: int,
    behind: int,
) -> None:
    found, times = history
    settings = TopicSettings(
        cleanup_policy="delete",
        retention_ms=retention_ms,
        retention_size_bytes=size,
        retention_count=count,
    )
    end = found[-1].end_offset
    watermark = end - behind
    latest = dict(zip(found, times, strict=True))

    # Rule after rule takes segments off the front for as long as it can.
    left, gone = list(found), []
    while left and not left[0].is_active and left[0].end_offset <= min(start, watermark):
        gone.append((left.pop(0), "log start"))
    for reason in ("size", "age", "count"):
        while left and left[0].end_offset <= watermark and left[0].size_bytes > 0:
            rest, time = left[1:], latest[left[0]]
            if reason == "size":
                goes = size >= 0 and sum(each.size_bytes for each in rest) >= size
            elif reason == "age":
                goes = retention_ms >= 0 and time is not None and time + retention_ms < 15
            else:
                goes = count >= 0 and end - left[0].end_offset >= count
            if not goes:
                break
            gone.append((left.pop(0), reason))

    chosen = choose(found, settings, start, watermark, 15, lambda each: latest[each])
    assert [(each.base_offset, each.reason) for each in chosen] == [
        (each.base_offset, reason) for each, reason in gone
    ]


@pytest.mark.guarantee("G-20")
def test_a_record_of_the_future_holds_up_its_segment_and_those_behind_it(
    log: eventlog.EventLog, clock: ManualClock
) -> None:
    topic = log.topic("t", segment_size_bytes_max=1024, cleanup_policy="delete", retention_ms=0)
    for n in range(20):
        time_ms = 10**8 if n == 7 else n
        topic.append(bytes(SIZE_BYTES - 70), timestamp_ms=time_ms)
    assert planned(log) == [(0, "age")]
    log.topic("t", retention_count=9)  # another rule does not care
    assert planned(log) == [(0, "age"), (5, "count")]
    log.topic("t", retention_count=-1)
    clock.advance(10**8)
    assert [base for base, _ in planned(log)] == [0, 5, 10, 15]


@pytest.mark.guarantee("G-20")
def test_it_is_record_time_that_counts_not_when_files_were_written(
    log: eventlog.EventLog, clock: ManualClock
) -> None:
    topic = filled(log, retention_ms=60_000)  # of 1970, in files of today
    clock.advance(NOW_MS)
    topic.append(b"new")  # of the clock's time
    assert [base for base, _ in planned(log)] == [0, 5, 10, 15][: len(bases(log)) - 1]
    clock.advance(-NOW_MS)
    assert planned(log) == []


def test_what_is_appended_while_the_newest_segment_goes_stays(
    log: eventlog.EventLog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = filled(log, retention_ms=1_000)
    clock.advance(100_000)
    roll = eventlog.Partition.roll

    def appending(partition: eventlog.Partition) -> int:
        topic.append(b"late")  # young: so the segment stays after all
        base = roll(partition)
        topic.append(b"later")
        return base

    monkeypatch.setattr(eventlog.Partition, "roll", appending)
    assert [base for base, _ in planned(log)] == [0, 5, 10, 15]
    [plan] = log.apply_retention()
    assert plan.new_log_start_offset == 15
    assert values(topic)[-2:] == [b"late", b"later"]


def test_what_cannot_be_read_yet_stays(log: eventlog.EventLog, clock: ManualClock) -> None:
    topic = log.topic(
        "t", durability="sync", segment_size_bytes_max=1024, cleanup_policy="delete",
        retention_count=0,
    )  # fmt: skip
    for _ in range(3):
        topic.append(b"x", durability="os")  # not seen by readers before a sync
    assert topic.high_watermark() == 0
    assert planned(log) == []
    topic.sync()
    assert planned(log) == [(0, "count")]


@pytest.mark.guarantee("G-14")
@pytest.mark.parametrize("damage", ["short", "small", "gone", "odd"])
def test_a_damaged_time_index_deletes_nothing(
    log: eventlog.EventLog, clock: ManualClock, damage: str
) -> None:
    topic = log.topic("t", cleanup_policy="delete", retention_ms=5_000, **SMALL)
    for _ in range(20):
        topic.append(bytes(SIZE_BYTES), timestamp_ms=20_000)
    for path in partition_directory(log.path).glob("*.timeindex"):
        if damage == "small":
            path.write_bytes(b"\0" * 12)
        elif damage == "gone":
            path.unlink()
        else:
            truncate(path, 0 if damage == "short" else 7)
    clock.advance(3_000)
    assert planned(log) == []
    assert log.apply_retention()[0].segments == ()
    clock.advance(3_000)
    assert len(planned(log)) == len(bases(log))


@pytest.mark.guarantee("G-14")
def test_a_damaged_segment_is_not_deleted_for_its_age(
    log: eventlog.EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    filled(log, retention_ms=0)
    flip(segments(log.path)[1], 300)
    assert planned(log) == [(0, "age")]
    assert "its age is unknown" in caplog.text
    log.topic("t", retention_count=5)  # where its contents do not matter it goes
    assert planned(log) == [(0, "age"), (5, "count"), (10, "count")]


# -- groups ---------------------------------------------------------------------------------------


def test_groups_hold_back_what_they_have_not_read(log: eventlog.EventLog) -> None:
    topic = filled(log, retention_count=0)
    assert len(planned(log)) == 4
    log.topic("t", retention_waits_for_groups=True)
    assert len(planned(log)) == 4, "there are none"
    log.groups.reset("slow", to=7, topics=["t"])
    log.groups.reset("done", to="latest", topics=["t"])
    log.groups.reset("elsewhere", to=0, topics=[log.topic("other").name])
    [plan] = log.retention_plan("t")
    assert [each.base_offset for each in plan.segments] == [0]
    assert [each.base_offset for each in plan.blocked] == [5, 10, 15]
    assert {each.blocked_by for each in plan.blocked} == {(("slow", 7),)}
    [plan] = log.apply_retention("t")
    assert topic.log_start_offset() == 5
    log.groups.reset("slow", to=15, topics=["t"])
    assert [base for base, _ in planned(log)] == [5, 10]
    log.groups.delete("slow")
    log.apply_retention()
    assert values(topic) == []


def test_a_member_that_has_not_committed_holds_back_all(log: eventlog.EventLog) -> None:
    topic = filled(log, retention_count=0, retention_waits_for_groups=True)
    with log.consumer("new", "t") as consumer:
        assert len(consumer.poll(timeout_s=10)) > 0
        [plan] = log.retention_plan("t")
        assert plan.segments == ()
        assert plan.blocked[0].blocked_by == (("new", 0),)
        while len(consumer.poll(timeout_s=0.1)):
            pass
        consumer.commit()
        assert len(planned(log)) == 4
    log.apply_retention()
    assert topic.log_start_offset() == 20


def test_key_slots_that_nobody_has_read_hold_back_all(log: eventlog.EventLog) -> None:
    filled(log, retention_count=0, retention_waits_for_groups=True)
    member = log.groups.join("sharing", {"t": 1}, key_slots=4)
    view = member.sync([], {"t": 1})
    owned = sorted(view.assigned)
    member.sync(owned, {"t": 1})
    member.commit({unit: eventlog.OffsetAndMetadata(20) for unit in owned[:3]})
    member.leave()
    assert planned(log) == []
    log.groups.reset("sharing", to=20, topics=["t"])
    assert len(planned(log)) == 4


def test_what_was_deleted_by_hand_waits_for_nobody(log: eventlog.EventLog) -> None:
    topic = filled(log, retention_count=100, retention_waits_for_groups=True)
    log.groups.reset("slow", to=0, topics=["t"])
    log.delete_records("t", before=12)
    assert bases(log) == [10, 15]
    assert topic.log_start_offset() == 12


# -- delete_records -------------------------------------------------------------------------------


@pytest.mark.guarantee("G-23")
@pytest.mark.parametrize("before", range(21))
def test_delete_records(log: eventlog.EventLog, before: int, tmp_path: Path) -> None:
    topic = filled(log, cleanup_policy="none")
    all_values = values(topic)
    assert log.delete_records("t", before=before) == before
    assert values(topic) == all_values[before:]
    assert bases(log) == [base for base in (0, 5, 10, 15) if base + EACH > before or base == 15]
    if before:
        with pytest.raises(OffsetOutOfRangeError) as raised:
            list(topic.read(start=before - 1))
        error = raised.value
        assert (error.offset, error.log_start_offset, error.log_end_offset) == (
            before - 1,
            before,
            20,
        )
    assert log.delete_records("t", before=before // 2) == before, "it never goes back"
    assert [topic.offset_for_time(1000 * n) for n in range(20)] == [
        max(n, before) for n in range(20)
    ]
    rebooted = after_reboot(log.path, tmp_path / "rebooted")
    for path in (rebooted, log.path):
        if path == log.path:
            log.close()
        for read_only in (True, False):
            with opened(path, read_only=read_only) as again:
                topic = again.topic("t")
                assert topic.log_start_offset() == before
                assert values(topic) == all_values[before:]
        with opened(path) as again:
            assert again.topic("t").append(b"next").offset == 20


def test_records_that_are_not_durable_are_before_they_are_deleted(
    log: eventlog.EventLog, tmp_path: Path
) -> None:
    """A log must not end before it begins."""
    topic = log.topic("t")
    fill(topic, 3)
    log.delete_records("t", before=2)
    assert topic.partition(0).durable_end_offset >= 2


@pytest.mark.parametrize("before", [-1, 21, 2**70, 1.5, None, "3"])
def test_an_offset_to_delete_up_to_has_to_be_one(log: eventlog.EventLog, before: Any) -> None:
    topic = filled(log)
    with pytest.raises(OffsetOutOfRangeError) as raised:
        log.delete_records("t", before=before)
    assert (raised.value.log_start_offset, raised.value.log_end_offset) == (0, 20)
    assert len(values(topic)) == 20


def test_what_is_not_there_and_what_may_not_be_changed(log: eventlog.EventLog) -> None:
    filled(log, retention_count=0)
    for call in (
        lambda: log.delete_records("nothing", before=0),
        lambda: log.retention_plan("nothing"),
        lambda: log.apply_retention("nothing"),
        lambda: log.roll("nothing"),
    ):
        with pytest.raises(UnknownTopicError):
            call()
    with pytest.raises(PartitionMismatchError):
        log.delete_records("t", 1, before=0)
    with pytest.raises(PartitionMismatchError):
        log.roll("t", 1)
    with pytest.raises(SettingError):
        log.topic("t", retention_ms=-2)
    with opened(log.path, read_only=True) as reader:
        assert len(reader.retention_plan()[0].segments) == 4
        for call in (
            lambda: reader.delete_records("t", before=1),
            reader.apply_retention,
            lambda: reader.roll("t"),
        ):
            with pytest.raises(StorageReadOnlyError):
                call()


# -- roll -----------------------------------------------------------------------------------------


def test_roll(log: eventlog.EventLog) -> None:
    topic = log.topic("t", partitions=2)
    assert log.roll("t") == {0: 0, 1: 0}, "an empty segment stays"
    fill(topic, 3)
    assert log.roll("t", 1) == {1: 0}
    assert log.roll("t") == {0: 3, 1: 0}
    assert log.roll("t", 0) == {0: 3}
    assert topic.partition(0).durable_end_offset == 3
    assert len(values(topic)) == 3
    assert topic.append(b"x", partition=0).offset == 3


# -- where the log starts, after whatever happened ------------------------------------------------


def starting_at_12(path: Path) -> Path:
    """A closed store whose log starts inside the segment [10, 15)."""
    with opened(path) as log:
        filled(log, cleanup_policy="none")
        log.delete_records("t", before=12)
    return path


@pytest.mark.guarantee("G-14")
def test_damage_to_what_says_where_it_starts_hides_nothing(tmp_path: Path) -> None:
    made = starting_at_12(tmp_path / "made")
    for name in (f"log/{LOG_START}", LOG_STARTS_FILE):
        size = (made / name).stat().st_size
        damages: list[Callable[[Path], object]] = [
            *(lambda path, at=at: flip(path, at, at % 7) for at in range(size)),
            *(lambda path, at=at: truncate(path, at) for at in range(size)),
            Path.unlink,
        ]
        with scratch() as memory:
            for number, damage in enumerate(damages):
                path = memory / str(number)
                shutil.copytree(made, path)
                damage(path / name)
                for read_only in (True, False):
                    with opened(path, read_only=read_only) as log:
                        start = log.topic("t").log_start_offset()
                        cases = {report.case for report in log.recovery}
                        assert len(values(log.topic("t"))) == 20 - start
                        # Ours alone is enough; without it what was deleted is there again.
                        assert start == (10 if name == LOG_STARTS_FILE else 12)
                        assert ("C-L" in cases) == (start == 10)
                with opened(path) as log:
                    assert log.topic("t").log_start_offset() == start
                    assert log.recovery[0].case == "C-A"
                shutil.rmtree(path)


def test_a_missing_first_segment_is_noticed(tmp_path: Path) -> None:
    made = starting_at_12(tmp_path / "made")
    segments(made)[0].unlink()
    with pytest.raises(CorruptionError, match="C-J"):
        opened(made)


@pytest.mark.guarantee("G-23")
@pytest.mark.parametrize("files", ["none", "a few", "all"])
def test_opening_ends_a_deletion(tmp_path: Path, files: str) -> None:
    """The process was killed after it had written down the new log start."""
    with opened(tmp_path / "before") as log:
        topic = filled(log, cleanup_policy="none")
        expected = values(topic)[12:]
        old = after_reboot(log.path, tmp_path / "old")
        log.delete_records("t", before=12)
        new = after_reboot(log.path, tmp_path / "new")
    shutil.copy(new / LOG_STARTS_FILE, old / LOG_STARTS_FILE)  # ours is written first
    directory = partition_directory(old)
    if files != "none":
        directory.joinpath("00000000000000000005.log").unlink()  # lost out of order
        directory.joinpath("00000000000000000000.index").unlink()
    if files == "all":
        for path in segments(old)[:1]:
            path.rename(path.with_name(path.name + DELETED))
    with opened(old, read_only=True) as log:
        assert values(log.topic("t")) == expected
    with opened(old) as log:
        assert values(log.topic("t")) == expected
        assert bases(log) == [10, 15]
        assert read_offsets(old / "log" / LOG_START) == {("t", 0): 12}
    assert {path.suffix for path in directory.iterdir()} <= {
        ".log", ".index", ".timeindex", ".snapshot", ".metadata", "", DELETED,
    }  # fmt: skip


def test_a_log_that_was_brought_from_a_broker_starts_where_the_broker_says(tmp_path: Path) -> None:
    made = starting_at_12(tmp_path / "made")
    brought = tmp_path / "brought"
    shutil.copytree(made / "log", brought / "log")
    (brought / "eventlog.json").write_bytes((made / "eventlog.json").read_bytes())
    write_offsets(brought / "log" / LOG_START, {("t", 0): 13})
    with opened(brought) as log:
        assert len(values(log.topic("t"))) == 7
    write_offsets(brought / "log" / LOG_START, {("t", 0): 17})  # from now on only ours counts
    with opened(brought) as log:
        assert len(values(log.topic("t"))) == 7
    assert read_offsets(brought / "log" / LOG_START) == {("t", 0): 13}


def test_a_topic_made_anew_is_not_measured_by_the_one_before(log: eventlog.EventLog) -> None:
    filled(log, cleanup_policy="none")
    log.delete_records("t", before=12)
    log.delete_topic("t")
    topic = log.topic("t")
    topic.append(b"x")
    assert topic.log_start_offset() == 0
    path = log.path
    log.close()
    with opened(path) as again:
        assert values(again.topic("t")) == [b"x"]


def test_what_another_process_deleted_is_not_forgotten_by_one_that_makes_a_topic(
    tmp_path: Path,
) -> None:
    with opened(tmp_path / "store") as first, opened(tmp_path / "store") as second:
        filled(first, cleanup_policy="none")
        second.topics()
        first.delete_records("t", before=12)
        second.topic("another")
        second.add_partitions("another", 3)
        second.delete_topic("another")
        rebooted = after_reboot(tmp_path / "store", tmp_path / "rebooted")
    for path in (rebooted, tmp_path / "store"):
        with opened(path) as log:
            assert log.topic("t").log_start_offset() == 12


# -- beside readers -------------------------------------------------------------------------------


@pytest.mark.guarantee("G-23")
def test_a_reader_that_is_overtaken_is_told_both_ends(log: eventlog.EventLog) -> None:
    filled(log, 200, retention_count=20)
    with opened(log.path, read_only=True) as reader, opened(log.path) as second:
        sources = [each.topic("t") for each in (log, reader, second)]
        reads = [source.read_batches(batch_count=3) for source in sources]
        tails = [source.tail(start=3, timeout_s=0) for source in sources]
        assert [[each.offset for each in next(read)] for read in reads] == [[0, 1, 2]] * 3
        assert [next(tail).offset for tail in tails] == [3] * 3
        log.apply_retention()
        for overtaken in (*reads, *tails):
            with pytest.raises(OffsetOutOfRangeError) as raised:
                list(overtaken)
            error = raised.value
            assert (error.log_start_offset, error.log_end_offset) == (180, 200)
            assert 3 <= error.offset < 180
        for source in sources:
            assert [record.offset for record in source.read()] == list(range(180, 200))


@pytest.mark.guarantee("G-23")
def test_other_processes_read_while_segments_go(tmp_path: Path) -> None:
    """Each read from the log start gives a run of offsets up to the end, or says that it was overtaken."""
    path = tmp_path / "store"
    with opened(path) as log:
        filled(log, 50, retention_count=30)

    def read(us: Child) -> None:
        with opened(path, read_only=True) as reader:
            topic, rounds = reader.topic("t"), 0
            us.tell()
            while topic.log_start_offset() < 1000:
                try:
                    offsets = [record.offset for record in topic.read()]
                    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
                    assert topic.offset_for_time(0) >= offsets[0]
                except OffsetOutOfRangeError as error:
                    if error.offset >= error.log_start_offset:
                        raise
                rounds += 1
            assert rounds > 0

    with opened(path) as log, forked(read) as first, forked(read) as second:
        topic = log.topic("t")
        for start in range(50, 1100, 25):
            fill(topic, 25, start=start)
            log.apply_retention()
        assert topic.log_start_offset() >= 1000
        assert (first.wait(), second.wait()) == (0, 0)


def test_files_that_are_gone_give_their_room_back(log: eventlog.EventLog) -> None:
    """Who had them mapped lets go of them at the next look."""
    topic = filled(log, retention_count=8)
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("no /proc: this machine does not tell what is open")  # Linux always does

    def held() -> list[str]:
        names = [str(path.readlink()) for path in descriptors.iterdir() if path.is_symlink()]
        return [name for name in names if name.startswith(str(log.path)) and "deleted" in name]

    with opened(log.path) as second:
        assert len(values(second.topic("t"))) == len(values(topic)) == 20
        log.apply_retention()
        for each in (log, second):
            assert len(values(each.topic("t"), start=19)) == 1
        assert held() == []


@pytest.mark.parametrize(
    ("reset", "goes_on"), [("earliest", 15), ("latest", 20), ("none", None), (18_000, 18)]
)
def test_a_consumer_that_is_overtaken_goes_on_where_its_policy_says(
    log: eventlog.EventLog, reset: Any, goes_on: int | None
) -> None:
    filled(log)
    path = log.path
    log.groups.reset("g", to=3, topics=["t"])
    with log.consumer("g", "t", auto_offset_reset=reset, max_poll_records=2) as consumer:
        assert [record.offset for record in consumer.poll(timeout_s=10)] == [3, 4]

        def delete() -> None:
            with opened(path) as other:
                other.delete_records("t", before=15)

        with child(delete):
            pass
        if goes_on is None:
            with pytest.raises(OffsetOutOfRangeError) as raised:
                consumer.poll(timeout_s=10)
            assert (raised.value.log_start_offset, raised.value.log_end_offset) == (15, 20)
        elif goes_on == 20:
            assert consumer.poll(timeout_s=0.05) == []
            log.topic("t").append(b"new")
            assert [record.offset for record in consumer.poll(timeout_s=10)] == [20]
        else:
            assert consumer.poll(timeout_s=10)[0].offset == goes_on


def test_it_waits_for_who_is_at_the_segments(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as first, opened(tmp_path / "s") as second:
        filled(first, retention_count=0)
        with first._maintenance._alone(0):
            with (
                pytest.raises(LockedError, match="deleting or compacting"),
                second._maintenance._alone(0),
            ):
                pass
            # The log start moves all the same; the files go later.
            assert second.delete_records("t", before=12) == 12
            assert bases(second) == [0, 5, 10, 15]
        second.topic("t", cleanup_policy="none")
        assert [(e.base_offset, e.reason) for e in first.apply_retention()[0].segments] == [
            (0, "log start"), (5, "log start"),
        ]  # fmt: skip


def test_leftovers_of_one_who_was_killed_are_removed(log: eventlog.EventLog) -> None:
    filled(log, retention_count=5)
    directory = partition_directory(log.path)
    (directory / f"00000000000000000000.log{DELETED}").write_bytes(b"x")
    before = contents(directory, "*.log")
    log.topic("t", retention_count=-1)
    log.apply_retention()
    assert contents(directory, "*.log") == before
    assert not list(directory.glob(f"*{DELETED}"))


def test_each_partition_goes_by_itself(log: eventlog.EventLog) -> None:
    topic = log.topic(
        "t", partitions=3, segment_size_bytes_max=1024, cleanup_policy="delete", retention_count=5
    )
    for number in range(3):
        fill(topic, 10 * number, partition=number)
    log.topic("kept", **SMALL).append(b"x")
    plans = {(plan.topic, plan.partition): plan for plan in log.apply_retention()}
    assert {place: plan.new_log_start_offset for place, plan in plans.items()} == {
        ("kept", 0): 0, ("t", 0): 0, ("t", 1): 5, ("t", 2): 15,
    }  # fmt: skip
    abandon(log)
    with opened(log.path) as again:
        assert [again.topic("t").log_start_offset(n) for n in range(3)] == [0, 5, 15]
