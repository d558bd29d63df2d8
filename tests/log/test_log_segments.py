"""Segments roll when they should, and their indexes are what the log says, or do not matter."""

from __future__ import annotations

import itertools
import shutil
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_support import (
    SMALL,
    abandon,
    contents,
    partition_directory,
    read_all,
    scratch,
    segments,
    values,
)

import eventlog
from eventlog.clock import ManualClock
from eventlog.errors import CorruptionError

INDEX_PATTERNS = ("*.index", "*.timeindex")


def indexes(store: Path) -> dict[str, bytes]:
    directory = partition_directory(store)
    return {name: data for p in INDEX_PATTERNS for name, data in contents(directory, p).items()}


def remove_indexes(store: Path) -> None:
    for pattern in INDEX_PATTERNS:
        for path in partition_directory(store).glob(pattern):
            path.unlink()


class TestRolling:
    def test_by_size(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path, durability="os") as log:
            topic = log.topic("t", segment_size_bytes_max=1024)
            for n in range(50):
                topic.append(b"%d" % n * 30)
            assert len(segments(tmp_path)) > 4
            assert read_all(topic)[-1][0] == 49
        sizes = [path.stat().st_size for path in segments(tmp_path)]
        assert max(sizes) <= 1024
        assert all(a + b > 1024 for a, b in itertools.pairwise(sizes))

    def test_names_are_base_offsets(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path, durability="os") as log:
            topic = log.topic("t", segment_size_bytes_max=1024)
            for _ in range(20):
                topic.append_many([bytes(100)] * 3)
            bases = [int(path.stem) for path in segments(tmp_path)]
            assert bases[0] == 0
            for base in bases:
                assert [each.offset for each in topic.read(start=base, limit=1)] == [base]

    def test_by_record_time_as_kafka_does(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t", segment_ms=1000)
            for time in (5000, 6000, 4000, 6001, 6500, 7001, 9000):
                topic.append(b"x", timestamp_ms=time)
            assert [int(path.stem) for path in segments(tmp_path)] == [0, 3, 6]

    def test_a_full_index_rolls(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path, durability="os") as log:
            topic = log.topic("t", index_interval_bytes=0, index_size_bytes_max=120)
            for n in range(60):
                topic.append(b"x", timestamp_ms=n)
            assert len(segments(tmp_path)) > 5
            assert len(values(topic)) == 60
        assert all(len(data) <= 120 for data in indexes(tmp_path).values())

    def test_clocks_do_not_stall_it(self, tmp_path: Path) -> None:
        clock = ManualClock(10**12)
        with eventlog.open(tmp_path, clock=clock, durability="os") as log:
            topic = log.topic("t", segment_ms=1000)
            for step in (10**12, -(10**12), 2 * 10**12, -(10**12)):
                topic.append(b"x")
                clock.advance(step)
            assert len(values(topic)) == 4

    def test_sealed_segments_and_closed_ones_hold_no_reserved_room(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path, durability="os") as log:
            topic = log.topic("t", segment_size_bytes_max=1 << 20)
            topic.append(b"x")
            assert segments(tmp_path)[0].stat().st_size == 256 << 10
            for _ in range(2):
                topic.append(b"x" * (700 << 10))
            sealed, active = segments(tmp_path)
            assert sealed.read_bytes().endswith(b"x\x00")  # a value, and no headers
        assert active.read_bytes().endswith(b"x\x00")


@pytest.mark.guarantee("G-16")
class TestIndexes:
    @given(
        sizes=st.lists(st.integers(0, 400), min_size=1, max_size=40),
        interval=st.sampled_from([0, 1, 100, 4096]),
        times=st.lists(st.integers(0, 50), min_size=40, max_size=40),
        reopen_after=st.integers(0, 40),
    )
    def test_written_ones_equal_rebuilt_ones(
        self, sizes: list[int], interval: int, times: list[int], reopen_after: int
    ) -> None:
        settings: dict[str, Any] = {
            "segment_size_bytes_max": 1024,
            "index_interval_bytes": interval,
        }
        with scratch() as store:
            log = eventlog.open(store, durability="os")
            topic = log.topic("t", **settings)
            for n, (size, time) in enumerate(zip(sizes, times, strict=False)):
                if n == reopen_after:
                    log.close()
                    log = eventlog.open(store, durability="os")
                    topic = log.topic("t")
                topic.append(bytes(size), timestamp_ms=time)
            log.close()
            written = indexes(store)
            remove_indexes(store)
            eventlog.open(store).close()
            assert indexes(store) == written

    def test_they_go_on_after_a_crash_as_if_nothing_had_been(self, tmp_path: Path) -> None:
        found = []
        for crash in (False, True):
            store = tmp_path / str(crash)
            log = eventlog.open(store, durability="os")
            for n in range(60):
                log.topic("t", **SMALL).append(bytes(n), timestamp_ms=n * 7 % 50)
                if crash and n % 11 == 0:
                    abandon(log)
                    log = eventlog.open(store, durability="os")
            log.close()
            found.append((indexes(store), [path.read_bytes() for path in segments(store)]))
        assert found[0] == found[1]

    DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {  # noqa: RUF012
        "absent": lambda data: None,
        "empty": lambda data: b"",
        "odd size": lambda data: data + b"x",
        "half": lambda data: data[: len(data) // 48 * 24],
        "zeros": lambda data: bytes(len(data)),
        "ones": lambda data: b"\xff" * len(data),
        "huge": lambda data: data + bytes(24) * 4096,
        "one bit": lambda data: bytes([*data[:-1], data[-1] ^ 4]) if data else data,
        "first bit": lambda data: bytes([data[0] ^ 128, *data[1:]]) if data else data,
        "backwards": lambda data: data[::-1],
    }

    @pytest.mark.parametrize("is_clean", [True, False], ids=["clean", "unclean"])
    @pytest.mark.parametrize("damage", DAMAGE)
    @pytest.mark.parametrize("pattern", INDEX_PATTERNS)
    def test_damage_to_them_is_harmless(self, pattern: str, damage: str, is_clean: bool) -> None:
        with scratch() as store:
            self.damage_and_look(store, pattern, damage, is_clean)

    def damage_and_look(self, tmp_path: Path, pattern: str, damage: str, is_clean: bool) -> None:
        log = eventlog.open(tmp_path, durability="os")
        topic = log.topic("t", **SMALL)
        for n in range(60):
            topic.append(bytes(n), timestamp_ms=n * 7 % 50)
        expected = (read_all(topic), [topic.offset_for_time(time) for time in range(52)])
        log.close() if is_clean else abandon(log)
        for path in partition_directory(tmp_path).glob(pattern):
            changed = self.DAMAGE[damage](path.read_bytes())
            path.unlink() if changed is None else path.write_bytes(changed)

        def check(topic: Any) -> None:
            assert (read_all(topic), [topic.offset_for_time(t) for t in range(52)]) == expected
            for start in range(60):
                assert values(topic, start=start, limit=2) == [
                    bytes(start),
                    *[bytes(start + 1)][: 59 - start],
                ]

        with eventlog.open(tmp_path, read_only=True) as log:
            check(log.topic("t"))
        with eventlog.open(tmp_path) as log:
            check(log.topic("t"))
            log.topic("t").append(b"on")
        with eventlog.open(tmp_path) as log:
            assert values(log.topic("t"))[-1] == b"on"

    @given(st.data())
    def test_reading_beside_a_writer_never_trusts_them(
        self, beside: tuple[Path, Any], data: st.DataObject
    ) -> None:
        """Damage that comes while the store is open: each lookup is checked against the batch that it
        leads to."""
        store, topic = beside
        path = data.draw(st.sampled_from(sorted(partition_directory(store).glob("*index"))))
        good = path.read_bytes()
        try:
            path.write_bytes(data.draw(st.binary(max_size=60)))
            start = data.draw(st.integers(0, 59))
            assert [r.offset for r in topic.read(start=start)] == list(range(start, 60))
        finally:
            path.write_bytes(good)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Any:
    store = tmp_path_factory.mktemp("beside")
    with eventlog.open(store, durability="os") as log:
        topic = log.topic("t", **SMALL)
        for n in range(60):
            topic.append(bytes(n), timestamp_ms=n * 7 % 50)
        yield store, topic


@pytest.mark.guarantee("G-16")
def test_without_meta_run_and_indexes_the_answers_are_the_same(tmp_path: Path) -> None:
    with eventlog.open(tmp_path, durability="os") as log:
        topic = log.topic("t", **SMALL)
        for n in range(60):
            topic.append(b"%d" % n, headers=[("n", b"%d" % n)], timestamp_ms=n)
        expected = read_all(topic)
    for name in ("meta", "run"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    remove_indexes(tmp_path)
    with eventlog.open(tmp_path) as log:
        assert read_all(log.topic("t")) == expected
        assert "C-E" in {report.case for report in log.recovery}


def test_reserved_room_is_never_looked_at(tmp_path: Path) -> None:
    """It is cut off when the segment is sealed: who looked there at that moment would be killed."""
    with eventlog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        partition.append_one(b"x")
        state = partition.state()
        size = (partition.directory / f"{0:020d}.log").stat().st_size
        assert size > state.active_position
        with partition.cursor() as cursor:
            hint = (array("q", [0]), array("q", [state.active_position]), array("i", [61]))
            with pytest.raises(CorruptionError, match="the file ends before the log does"):
                cursor.gather(*hint, array("i", [1]))
            cursor.seek(0)
            assert cursor.next() == 1
