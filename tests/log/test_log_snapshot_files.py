"""Producer snapshots: the bytes, when they are written, and that none of them is ever believed wrongly."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import crcmod.predefined
import pytest
from log_support import (
    SMALL,
    abandon,
    forget_recovery_point,
    partition_directory,
    segments,
    truncate,
)
from producer_support import encode_batch, producer_batches, snapshot_names

import eventlog
from eventlog.clock import ManualClock
from eventlog.errors import OutOfOrderSequenceError, StorageFullError
from eventlog.log import checkpoints
from eventlog.log.partition import Partition
from eventlog.log.producer_snapshot import decode
from eventlog.log.producer_table import EXPIRATION_MS, ProducerBatch

pytestmark = pytest.mark.guarantee("G-06")

NOW_MS = 1_790_000_000_000
crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")

Producer = tuple[int, int, int, int, int, int, int, int]
"""id, epoch, last sequence, last offset, offset delta, timestamp, coordinator epoch, transaction."""


def snapshot(*producers: Producer) -> bytes:
    """A snapshot file by Kafka's schema."""
    body = struct.pack(">i", len(producers))
    for producer in producers:
        body += struct.pack(">qhiqiqiq", *producer)
    return struct.pack(">hI", 1, crc32c(body)) + body


def read_snapshot(path: Path) -> list[Producer]:
    data = path.read_bytes()
    version, crc, count = struct.unpack_from(">hIi", data)
    assert (version, crc) == (1, crc32c(data[6:]))
    producers = list(struct.iter_unpack(">qhiqiqiq", data[10:]))
    assert len(producers) == count
    return producers


class Written:
    """A store with one partition and a clock of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock(NOW_MS)
        self.directory = partition_directory(path)

    def open(self) -> tuple[eventlog.EventLog, Partition]:
        log = eventlog.open(self.path, durability="os", clock=self.clock)
        return log, log.topic("t", **SMALL).partition(0)

    def put(self, partition: Partition, producer_id: int, sequence: int, count: int = 1) -> int:
        encoded = encode_batch(producer_id, 0, sequence, count, self.clock.now_ms())
        return partition.append_batch(encoded)

    def file(self, offset: int) -> Path:
        return self.directory / f"{offset:020d}.snapshot"


@pytest.fixture
def store(tmp_path: Path) -> Written:
    return Written(tmp_path / "store")


def test_the_bytes_at_a_clean_close(store: Written) -> None:
    log, partition = store.open()
    store.put(partition, 9, 5, 3)
    store.put(partition, 7, 0)
    store.clock.advance(10)
    store.put(partition, 7, 1, 2)
    partition.append_batch(encode_batch(8, 4, 2**31 - 1, 3, NOW_MS - 5))
    log.close()
    assert store.file(9).read_bytes() == snapshot(
        (7, 0, 2, 5, 1, NOW_MS + 10, -1, -1),
        (8, 4, 1, 8, 2, NOW_MS - 5, -1, -1),
        (9, 0, 7, 2, 2, NOW_MS, -1, -1),
    )


def test_a_partition_without_idempotent_appends_has_none(store: Written) -> None:
    log, partition = store.open()
    for _ in range(30):
        partition.append_one(bytes(100))
    log.close()
    assert len(segments(store.path)) > 2
    assert snapshot_names(store.directory) == []


def test_no_producers_make_an_empty_one(store: Written) -> None:
    log, partition = store.open()
    partition.append_one(b"x")
    with pytest.raises(StorageFullError):
        partition._producers.append(ProducerBatch(7, 0, 0, 1, NOW_MS), no_room)
    log.close()
    assert store.file(1).read_bytes() == snapshot()


def no_room() -> tuple[int, int]:
    raise StorageFullError("no room")


def test_one_at_each_roll_and_two_are_kept(store: Written) -> None:
    """Each holds the state up to its name: it equals what a fold of the batches on disk gives."""
    log, partition = store.open()
    seen = set()
    for sequence in range(60):
        store.put(partition, 7 + sequence % 2, sequence // 2)
        if sequence % 7 == 0:
            partition.append_one(bytes(50))  # others' batches roll segments too
        names = snapshot_names(store.directory)
        assert len(names) <= 2
        for offset in set(names) - seen:
            last = {found[0]: found for found in producer_batches(store.path) if found[4] < offset}
            assert read_snapshot(store.file(offset)) == [
                (i, 0, batch[2], batch[4], 0, NOW_MS, -1, -1) for i, batch in sorted(last.items())
            ]
        seen |= set(names)
    bases = {int(path.stem) for path in segments(store.path)}
    assert seen == bases - {0}
    end = partition.log_end_offset
    log.close()
    assert snapshot_names(store.directory) == [max(bases), end]


def test_a_roll_by_another_handle_is_noticed(store: Written) -> None:
    one, partition = store.open()
    store.put(partition, 7, 0)
    other, elsewhere = store.open()
    for _ in range(40):
        elsewhere.append_one(bytes(100))
    store.put(partition, 7, 1)
    base = partition.state().active_base_offset
    assert snapshot_names(store.directory) == [base]
    assert read_snapshot(store.file(base)) == [(7, 0, 0, 0, 0, NOW_MS, -1, -1)]
    other.close()
    assert snapshot_names(store.directory) == [base], "it has looked nothing up"
    one.close()


def fill(store: Written, count: int = 40) -> None:
    log, partition = store.open()
    for sequence in range(count):
        store.put(partition, 7, sequence)
    log.close()


def assert_known(store: Written, count: int = 40) -> None:
    """The last batch is known again, and the next one is due."""
    log, partition = store.open()
    assert store.put(partition, 7, count - 1) == count - 1
    with pytest.raises(OutOfOrderSequenceError):
        store.put(partition, 7, count + 1)
    assert store.put(partition, 7, count) == count
    log.close()


def test_the_newest_one_is_believed(store: Written) -> None:
    """A canary: what the tests below damage does make a difference."""
    fill(store)
    store.file(40).write_bytes(snapshot((7, 0, 99, 39, 0, NOW_MS, -1, -1)))
    log, partition = store.open()
    assert store.put(partition, 7, 100) == 40
    log.close()


def test_each_damaged_bit_is_found(store: Written) -> None:
    fill(store)
    sound = store.file(40).read_bytes()
    assert decode(sound).entries[7].last_sequence == 39
    for at in range(len(sound)):
        for bit in range(8):
            damaged = bytearray(sound)
            damaged[at] ^= 1 << bit
            with pytest.raises(ValueError):
                decode(bytes(damaged))
    for size in range(len(sound)):
        with pytest.raises(ValueError):
            decode(sound[:size])
    with pytest.raises(ValueError):
        decode(sound + b"\0")


@pytest.mark.parametrize("newer", [0, 1])
def test_damaged_ones_are_ignored_and_told(
    store: Written, newer: int, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store)
    names = snapshot_names(store.directory)
    for offset in names[1 - newer :]:
        store.file(offset).write_bytes(b"\0\1" + bytes(52))
    with caplog.at_level(logging.WARNING, "eventlog.log"):
        assert_known(store)
    assert caplog.text.count("is ignored") == 1 + newer


def test_a_missing_one_costs_only_a_longer_look(store: Written) -> None:
    fill(store)
    for offset in snapshot_names(store.directory):
        store.file(offset).unlink()
    assert_known(store)


def test_a_directory_by_that_name_is_ignored(store: Written) -> None:
    fill(store)
    store.file(40).unlink()
    store.file(40).mkdir()
    assert_known(store)


def test_one_past_the_end_of_a_log_that_was_cut_is_deleted(
    store: Written, caplog: pytest.LogCaptureFixture
) -> None:
    """Other records get those offsets: what it says would be wrong about them."""
    fill(store)
    (*_, active) = segments(store.path)
    base = int(active.stem)
    truncate(active, 0)
    forget_recovery_point(store.path)
    for page in (store.path / "run").iterdir():
        page.unlink()
    with caplog.at_level(logging.WARNING, "eventlog.log"):
        log, partition = store.open()
    assert partition.log_end_offset == base < 40
    assert snapshot_names(store.directory) == [base]
    assert "is deleted" in caplog.text
    for sequence in range(base, 45):
        assert store.put(partition, 7, sequence) == sequence
    log.close()


def test_after_a_crash_the_log_behind_the_last_one_is_read(store: Written) -> None:
    log, partition = store.open()
    for sequence in range(40):
        store.put(partition, 7, sequence)
    abandon(log)
    assert max(snapshot_names(store.directory)) < 40
    assert_known(store)


def test_producers_that_were_quiet_for_a_day_are_forgotten(store: Written) -> None:
    log, partition = store.open()
    store.put(partition, 7, 0)
    store.clock.advance(EXPIRATION_MS - 1)
    store.put(partition, 8, 0)
    log.close()
    assert [found[0] for found in read_snapshot(store.file(2))] == [7, 8]
    log, partition = store.open()
    assert store.put(partition, 7, 0) == 0
    store.clock.advance(1)
    store.put(partition, 8, 1)
    log.close()
    assert [found[0] for found in read_snapshot(store.file(3))] == [8]
    store.clock.advance(EXPIRATION_MS)
    for file in store.directory.glob("*.snapshot"):
        file.unlink()
    log, partition = store.open()
    assert store.put(partition, 8, 0) == 3, "unknown: it may begin anywhere"
    log.close()


def test_open_transactions_are_kept_for_kafka(store: Written) -> None:
    log, partition = store.open()
    partition.append_batch(encode_batch(7, 0, 0, 2, NOW_MS, attributes=16))
    partition.append_batch(encode_batch(8, 0, 0, 1, NOW_MS, attributes=16))
    partition.append_batch(encode_batch(7, 0, 2, 1, NOW_MS, attributes=16))
    partition.append_batch(encode_batch(8, 1, -1, 1, NOW_MS + 1, attributes=48))
    store.clock.advance(2 * EXPIRATION_MS)
    store.put(partition, 9, 0)
    log.close()
    assert read_snapshot(store.file(6)) == [
        (7, 0, 2, 3, 0, NOW_MS, -1, 0),
        (9, 0, 0, 5, 0, NOW_MS + 2 * EXPIRATION_MS, -1, -1),
    ]


def test_what_kafka_wrote_of_coordinators_is_kept(store: Written) -> None:
    fill(store, 4)
    known = (7, 0, 3, 3, 0, NOW_MS, 5, -1)
    bare = (8, 2, -1, -1, 0, NOW_MS, 6, -1)
    store.file(4).write_bytes(snapshot(known, bare))
    log, partition = store.open()
    partition.append_one(b"x")
    assert store.put(partition, 7, 3) == 3
    log.close()
    assert read_snapshot(store.file(5)) == [known, bare]


def test_one_that_cannot_be_written_is_told_and_does_no_harm(
    store: Written, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoints.replace_file

    def replace_file(path: Path, data: bytes) -> None:
        if path.suffix == ".snapshot":
            raise StorageFullError("no room")
        real(path, data)

    monkeypatch.setattr(checkpoints, "replace_file", replace_file)
    with caplog.at_level(logging.WARNING, "eventlog.log"):
        fill(store)
    assert caplog.text.count("no room") == len(segments(store.path))
    assert snapshot_names(store.directory) == []
    monkeypatch.undo()
    assert_known(store)
