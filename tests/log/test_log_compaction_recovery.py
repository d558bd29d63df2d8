"""Opening a topic whose compaction was interrupted (case C-G), and what compaction must not hide (C-J).

Goal: from every place where it can be cut off it is undone or ended, never half of each. Method: the files of
before and after are put together as each step leaves them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from log_support import contents, partition_directory, read_all, segments

import eventlog
from eventlog.errors import CorruptionError
from eventlog.log.compaction import compact
from eventlog.log.segment import INDEX, LOG, TIME_INDEX, segment_name

SMALL: dict[str, Any] = {
    "cleanup_policy": "compact",
    "segment_size_bytes_max": 1024,
    "index_interval_bytes": 100,
    "preallocation_bytes_max": 0,
}
SUFFIXES = (LOG, INDEX, TIME_INDEX)


def run(log: eventlog.EventLog) -> None:
    topic = log.topic("t")
    compact(topic.partition(0), topic.settings, 0, topic_lock=log._change)


class Interrupted:
    """A store before and after a compaction that joins its first segments to one."""

    def __init__(self, path: Path) -> None:
        self.path = path / "s"
        with self.open() as log:
            topic = log.topic("t", **SMALL)
            for number in range(30):
                topic.append(b"%d" % number + bytes(90), key=b"%d" % (number % 3))
            topic.partition(0).roll()
            run(log)
            topic.append_many([b"new"] * 3, keys=[b"0", b"1", b"2"])
            topic.partition(0).roll()
            self.records_before = read_all(topic)
        self.directory = partition_directory(self.path)
        self.bases_before = [int(path.stem) for path in segments(self.path)]
        self.files_before = contents(self.directory)
        with self.open() as log:
            run(log)
            self.records_after = read_all(log.topic("t"))
            assert self.records_after != self.records_before
        self.files_after = contents(self.directory)
        bases_after = [int(path.stem) for path in segments(self.path)]
        self.covered = self.bases_before[1 : self.bases_before.index(bases_after[1])]
        assert len(self.covered) > 1
        (self.path / "log" / ".kafka_cleanshutdown").unlink()

    def open(self, **options: Any) -> eventlog.EventLog:
        return eventlog.open(self.path, maintenance=False, **options)

    def lay_out(self, steps: int) -> bool:
        """The directory after so many steps; whether the compaction is to be ended then."""
        for path in self.directory.iterdir():
            path.unlink()
        for name, data in self.files_before.items():
            (self.directory / name).write_bytes(data)
        new = {suffix: self.files_after[segment_name(0, suffix)] for suffix in SUFFIXES}
        for suffix, data in new.items():
            (self.directory / segment_name(0, suffix + ".cleaned")).write_bytes(data)
        todo: list[tuple[str, str]] = [
            (segment_name(0, suffix + ".cleaned"), segment_name(0, suffix + ".swap"))
            for suffix in SUFFIXES
        ]
        todo += [(segment_name(0, LOG + ".swap"), segment_name(0, LOG))]
        todo += [
            (segment_name(base, suffix), segment_name(base, suffix + ".deleted"))
            for base in self.covered
            for suffix in (INDEX, TIME_INDEX, LOG)
        ]
        todo += [
            (segment_name(0, suffix + ".swap"), segment_name(0, suffix))
            for suffix in (INDEX, TIME_INDEX)
        ]
        for source, target in todo[:steps]:
            (self.directory / source).replace(self.directory / target)
        self.step_count = len(todo)
        return steps > 0


@pytest.fixture
def interrupted(tmp_path: Path) -> Interrupted:
    return Interrupted(tmp_path)


@pytest.mark.guarantee("G-23")
def test_every_step_is_undone_or_ended(interrupted: Interrupted) -> None:
    interrupted.lay_out(0)
    for steps in range(interrupted.step_count + 1):
        is_ended = interrupted.lay_out(steps)
        end = interrupted.records_before[-1][0] + 1
        with interrupted.open(read_only=True) as log:
            found = read_all(log.topic("t"))
            assert set(interrupted.records_after) <= set(found) <= set(interrupted.records_before)
            assert found == sorted(found), "an old segment was read twice"
        with interrupted.open() as log:
            cases = {report.case for report in log.recovery}
            assert ("C-G" in cases) == (steps < interrupted.step_count), steps
            found = read_all(log.topic("t"))
            expected = interrupted.files_after if is_ended else interrupted.files_before
            assert contents(interrupted.directory, "*0.log").items() <= expected.items(), steps
            if is_ended:
                bases = [int(path.stem) for path in segments(interrupted.path)]
                assert not set(bases) & set(interrupted.covered)
            else:
                assert found == interrupted.records_before
            assert log.topic("t").log_end_offset() == end
            names = [path.name for path in interrupted.directory.iterdir()]
            assert not [n for n in names if n.endswith((".cleaned", ".swap", ".deleted"))]
        (interrupted.path / "log" / ".kafka_cleanshutdown").unlink()


def test_a_damaged_replacement_stops_before_anything_is_removed(interrupted: Interrupted) -> None:
    interrupted.lay_out(3)
    path = interrupted.directory / segment_name(0, LOG + ".swap")
    data = path.read_bytes()
    path.write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])
    before = contents(interrupted.directory)
    with pytest.raises(CorruptionError) as caught:
        interrupted.open()
    assert caught.value.fields["case"] == "C-D"
    assert contents(interrupted.directory) == before
    with interrupted.open(read_only=True) as log:
        assert read_all(log.topic("t")) == interrupted.records_before
    path.write_bytes(data)
    interrupted.open().close()


def test_a_running_store_ends_it_with_the_next_round(interrupted: Interrupted) -> None:
    interrupted.lay_out(0)
    for steps in range(1, interrupted.step_count):
        interrupted.lay_out(0)
        for path in interrupted.directory.glob("*.cleaned"):
            path.unlink()
        with interrupted.open() as log, interrupted.open() as other:
            before = read_all(other.topic("t"))
            interrupted.lay_out(steps)
            run(log)
            assert read_all(log.topic("t")) == interrupted.records_after
            assert read_all(other.topic("t")) == interrupted.records_after != before
            names = [path.name for path in interrupted.directory.iterdir()]
            assert not [n for n in names if n.endswith((".cleaned", ".swap", ".deleted"))]
        (interrupted.path / "log" / ".kafka_cleanshutdown").unlink()


@pytest.mark.guarantee("G-14")
def test_a_segment_that_is_missing_is_noticed_in_a_compacted_topic(
    interrupted: Interrupted,
) -> None:
    """Offsets are missing everywhere, and yet segments meet each other: compaction sees to that."""
    paths = segments(interrupted.path)
    for path in paths[:-1]:
        kept = path.with_name("kept")
        shutil.move(path, kept)
        with pytest.raises(CorruptionError) as caught:
            interrupted.open()
        assert caught.value.fields["case"] == "C-J"
        shutil.move(kept, path)
    interrupted.open().close()
