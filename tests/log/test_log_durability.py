"""What an acknowledgement means, and that one fdatasync serves many."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from log_support import abandon, after_reboot, read_all, stop_flusher, values

import eventlog
from eventlog.errors import SettingError


@pytest.mark.guarantee("G-09")
@pytest.mark.guarantee("G-01")
def test_threads_share_syncs_and_all_that_was_acknowledged_is_there(tmp_path: Path) -> None:
    threads, each = 8, 60
    acknowledged: list[tuple[int, bytes]] = []
    behind: list[tuple[int, int]] = []
    log = eventlog.open(tmp_path)
    topic = log.topic("t", segment_size_bytes_max=16 * 1024, gather_us=1000)
    partition = topic.partition(0)
    start = threading.Barrier(threads)

    def write(thread: int) -> None:
        start.wait()
        for n in range(each):
            value = b"%d %d" % (thread, n)
            offset = topic.append(value).offset
            durable = partition.durable_end_offset
            acknowledged.append((offset, value))
            if durable <= offset:
                behind.append((offset, durable))

    workers = [threading.Thread(target=write, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    state = partition.state()
    assert behind == []
    assert state.appended_batches == threads * each
    assert state.sync_count < threads * each
    assert sorted(offset for offset, _ in acknowledged) == list(range(threads * each))
    abandon(log)
    with eventlog.open(tmp_path) as log:
        found = values(log.topic("t"))
        assert all(found[offset] == value for offset, value in acknowledged)
        assert len(found) == len(acknowledged)


def test_one_writer_gets_a_sync_for_each_append(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t")
        for n in range(10):
            topic.append(b"x")
            assert topic.partition(0).state().sync_count >= n + 1


@pytest.mark.guarantee("G-02")
@pytest.mark.parametrize("durability", ["sync", "interval", "os"])
def test_what_was_accepted_survives_the_process(tmp_path: Path, durability: str) -> None:
    log = eventlog.open(tmp_path, durability=durability)
    topic = log.topic("t", segment_size_bytes_max=1024)
    for n in range(50):
        topic.append(b"%d" % n * 20)
    expected = read_all(topic)
    abandon(log)
    for _ in range(2):
        log = eventlog.open(tmp_path, durability=durability)
        assert read_all(log.topic("t")) == expected
        abandon(log)


def test_a_copy_taken_while_writing_opens_with_what_was_durable_before(tmp_path: Path) -> None:
    stop = threading.Event()
    with eventlog.open(tmp_path / "store") as log:
        topic = log.topic("t", segment_size_bytes_max=4096)
        stop_flusher(
            log
        )  # a checkpoint copied later than the segments would know more than they hold
        topic.append(b"0")

        def write() -> None:
            n = 1
            while not stop.is_set():
                topic.append(b"%d" % n)
                n += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for copy in range(5):
                durable = topic.partition(0).durable_end_offset
                with eventlog.open(after_reboot(tmp_path / "store", tmp_path / str(copy))) as other:
                    found = values(other.topic("t"))
                    assert len(found) >= durable
                    assert found == [b"%d" % n for n in range(len(found))]
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("durability", ["fsync", "", None, 1])
def test_unknown_durability(tmp_path: Path, durability: Any) -> None:
    with pytest.raises(SettingError, match="sync, interval, os"):
        eventlog.open(tmp_path, durability=durability)
    with eventlog.open(tmp_path) as log:
        if durability is not None:
            with pytest.raises(SettingError, match="sync, interval, os"):
                log.topic("t").append(b"x", durability=durability)
            with pytest.raises(SettingError, match="sync, interval, os"):
                log.topic("t", durability=durability)
        assert log.topic("t").log_end_offset() == 0
