"""What is appended is what is read: every field, every route, every way to ask for a range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from log_support import SMALL, facts, read_all, scratch, segments, values

import eventlog
from eventlog.clock import ManualClock
from eventlog.errors import OffsetOutOfRangeError, SettingError
from eventlog.log import cursor

maybe_bytes = st.none() | st.binary(max_size=60)
headers = st.lists(st.tuples(st.text(max_size=8), maybe_bytes), max_size=3)
record = st.tuples(maybe_bytes, maybe_bytes, headers, st.integers(0, 2**62))
batches = st.lists(st.lists(record, min_size=1, max_size=8), max_size=12)
topic_settings = st.fixed_dictionaries(
    {
        "segment_size_bytes_max": st.sampled_from([4096, 1 << 20]),
        "index_interval_bytes": st.sampled_from([0, 200, 4096]),
        "compression": st.sampled_from(["none", "zstd"]),
        "compression_size_bytes_min": st.just(0),
        "preallocation_bytes_max": st.sampled_from([0, 4096, 1 << 20]),
    }
)

Batch = list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]]


def append(topic: Any, batch: Batch) -> None:
    if len(batch) == 1:
        value, key, own_headers, timestamp_ms = batch[0]
        topic.append(value, key=key, headers=own_headers, timestamp_ms=timestamp_ms)
        return
    columns = list(zip(*batch, strict=True))
    topic.append_many(columns[0], keys=columns[1], headers=columns[2], timestamps_ms=columns[3])


def expected(all_batches: list[Batch]) -> list[tuple[Any, ...]]:
    flat = [item for batch in all_batches for item in batch]
    return [
        (offset, timestamp, key, value, tuple(own))
        for offset, (value, key, own, timestamp) in enumerate(flat)
    ]


@pytest.mark.guarantee("G-04")
@given(batches, topic_settings)
@example([[(None, None, [], 0)], [(b"", b"", [("", None), ("", b"")], 2**62)]], {})
def test_reading_gives_what_was_appended(
    all_batches: list[Batch], settings: dict[str, Any]
) -> None:
    with scratch() as directory:
        with eventlog.open(directory, durability="os") as log:
            topic = log.topic("t", **settings)
            for batch in all_batches:
                append(topic, batch)
            assert read_all(topic) == expected(all_batches)
            assert topic.log_end_offset() == len(expected(all_batches))
        with eventlog.open(directory) as log:
            assert [report.case for report in log.recovery] == ["C-A"]
            assert read_all(log.topic("t")) == expected(all_batches)
        with eventlog.open(directory, read_only=True) as log:
            assert read_all(log.topic("t")) == expected(all_batches)


@given(batches, topic_settings)
def test_objects_walked_in_c_and_packed_columns_give_equal_bytes_and_equal_reads(
    all_batches: list[Batch], settings: dict[str, Any]
) -> None:
    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        for route in (True, False):
            patch.setattr(cursor, "ROUTE_OBJECTS", route)
            with scratch() as directory:
                with eventlog.open(directory, clock=ManualClock(), durability="os") as log:
                    topic = log.topic("t", **settings)
                    for batch in all_batches:
                        append(topic, batch)
                    reads = [list(topic.read())] + [
                        [item for chunk in topic.read_batches(take=take) for item in chunk]
                        for take in ("records", "values", "keys", "tuples")
                    ]
                    assert all(type(each) is type(reads[0][0]) for each in reads[0])
                found.append((reads, [path.read_bytes() for path in segments(directory)]))
    assert found[0] == found[1]


@given(
    count=st.integers(0, 30),
    start=st.integers(0, 35),
    end=st.none() | st.integers(-2, 35),
    limit=st.none() | st.integers(-1, 35),
    batch_count=st.integers(1, 40),
)
@example(count=0, start=0, end=-1, limit=None, batch_count=9)
def test_start_end_limit_are_those_of_a_slice(
    ranged: tuple[Any, list[bytes]],
    count: int,
    start: int,
    end: int | None,
    limit: int | None,
    batch_count: int,
) -> None:
    topic, everything = ranged
    if start > len(everything):
        with pytest.raises(OffsetOutOfRangeError) as caught:
            topic.read(start=start)
        assert (caught.value.offset, caught.value.log_end_offset) == (start, len(everything))
        return
    wanted = everything[start : None if end is None else max(end, 0)]
    wanted = wanted if limit is None else wanted[: max(limit, 0)]
    assert [each.value for each in topic.read(start=start, end=end, limit=limit)] == wanted
    chunks = list(
        topic.read_batches(
            start=start, end=end, limit=limit, take="values", batch_count=batch_count
        )
    )
    assert [value for chunk in chunks for value in chunk] == wanted
    assert all(0 < len(chunk) <= batch_count for chunk in chunks)


@pytest.fixture(scope="module", params=["none", "zstd"])
def ranged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with eventlog.open(tmp_path_factory.mktemp("ranged"), durability="os") as log:
        topic = log.topic("t", compression=request.param, compression_size_bytes_min=0, **SMALL)
        everything = [b"%d" % n * 10 for n in range(33)]
        for first in range(0, 33, 3):
            topic.append_many(everything[first : first + 3])
        yield topic, everything


def test_a_read_ends_where_the_log_ended_when_it_began(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t")
        topic.append(b"before")
        reading = topic.read()
        topic.append(b"after")
        assert [each.value for each in reading] == [b"before"]


def test_an_iterator_outlives_appends_and_rolls(tmp_path: Path) -> None:
    with eventlog.open(tmp_path, durability="os") as log:
        topic = log.topic("t", **SMALL)
        topic.append_many([b"%d" % n for n in range(20)])
        reading = iter(topic.read_batches(batch_count=3, take="values"))
        seen = list(next(reading))
        for n in range(100):
            topic.append(b"later" * 20)
            if n < 6:
                seen += next(reading)
        assert seen + [value for chunk in reading for value in chunk] == [
            b"%d" % n for n in range(20)
        ]


def test_what_a_read_gave_stays_good_after_close(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t")
        topic.append(b"value", key=b"key", headers=[("a", None), ("a", b"1")], timestamp_ms=5)
        (kept,) = topic.read()
    assert facts(kept) == (0, 5, b"key", b"value", (("a", None), ("a", b"1")))
    assert kept.topic == "t"
    assert kept.partition == 0


def test_receipts_name_offsets(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t")
        assert topic.append(b"a") == (0, 0, 1)
        (receipt,) = topic.append_many([b"b", b"c"])
        assert receipt == (0, 1, 2)
        assert receipt.end_offset == 3 == topic.log_end_offset() == topic.high_watermark()
        assert topic.log_start_offset() == 0


def test_headers_may_be_few_or_many_or_odd(tmp_path: Path) -> None:
    odd = [("", b""), ("ä" * 70, None), ("n", bytes(200)), ("n", b"again")] * 20
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t")
        topic.append(None, headers=odd)
        topic.append(b"plain", headers=[])
        assert [each.headers for each in topic.read()] == [tuple(odd), ()]


@pytest.mark.parametrize("take", ["value", "", None])
def test_take_is_one_of_four(tmp_path: Path, take: Any) -> None:
    with eventlog.open(tmp_path) as log, pytest.raises(SettingError, match="records, values"):
        log.topic("t").read_batches(take=take)


class TestTime:
    def test_times_may_go_back(self, tmp_path: Path) -> None:
        clock = ManualClock(1000)
        with eventlog.open(tmp_path, clock=clock) as log:
            topic = log.topic("t")
            for _ in range(5):
                topic.append(b"x")
                clock.advance(-100)
            assert [(each.offset, each.timestamp_ms) for each in topic.read()] == [
                (0, 1000),
                (1, 900),
                (2, 800),
                (3, 700),
                (4, 600),
            ]

    @given(
        times=st.lists(st.integers(0, 40), min_size=1, max_size=40),
        asked=st.integers(0, 41),
        compression=st.sampled_from(["none", "zstd"]),
    )
    def test_by_time_is_the_first_offset_with_that_time_or_later(
        self, times: list[int], asked: int, compression: str
    ) -> None:
        with scratch() as directory, eventlog.open(directory, durability="os") as log:
            topic = log.topic("t", compression=compression, compression_size_bytes_min=0, **SMALL)
            for first in range(0, len(times), 3):
                group = times[first : first + 3]
                topic.append_many([b"v" * 50] * len(group), timestamps_ms=group)
            wanted = next((n for n, time in enumerate(times) if time >= asked), len(times))
            assert topic.offset_for_time(asked) == wanted
            found = [each.offset for each in topic.read(start_time_ms=asked)]
            assert found == list(range(wanted, len(times)))


def test_changed_settings_hold_for_what_comes_and_readers_follow(tmp_path: Path) -> None:
    """A reader's map is as large as a segment could become when it was made; a larger limit must
    not make it take the rest of the file for missing."""
    with eventlog.open(tmp_path, durability="os") as log:
        topic = log.topic("t", segment_size_bytes_max=1024, preallocation_bytes_max=0)
        with eventlog.open(tmp_path, read_only=True) as other:
            topic.append(b"a" * 500)
            assert len(values(topic)) == len(values(other.topic("t"))) == 1
            log.topic("t", segment_size_bytes_max=1 << 20)
            for _ in range(40):
                topic.append(b"b" * 1000)
            assert len(segments(tmp_path)) == 1
            assert len(values(topic)) == len(values(other.topic("t"))) == 41
    with eventlog.open(tmp_path) as log:
        assert log.topic("t").settings.segment_size_bytes_max == 1 << 20
