"""Which partition a record goes to, and topics of several partitions."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_support import read_all, values

import eventlog
from eventlog._native import lib
from eventlog.errors import InvalidRecordError, PartitionMismatchError, SettingError
from eventlog.log.topic import STICKY_SIZE_BYTES

# Kafka's own UtilsTest.testMurmur2
MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", MURMUR2)
def test_murmur2_gives_what_kafka_gives(key: bytes) -> None:
    assert lib.el_murmur2(key, len(key)) == MURMUR2[key] & 0xFFFFFFFF


def murmur2_by_the_book(data: bytes) -> int:
    """Kafka's Utils.murmur2, written from its definition."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


@given(st.binary(max_size=80))
def test_murmur2_gives_what_the_definition_gives(key: bytes) -> None:
    assert lib.el_murmur2(key, len(key)) == murmur2_by_the_book(key)


def test_a_key_always_goes_to_its_partition(tmp_path: Path) -> None:
    keys = [b"key %d" % n for n in range(100)]
    with eventlog.open(tmp_path, durability="os") as log:
        topic = log.topic("t", partitions=4)
        for key in keys:
            wanted = (murmur2_by_the_book(key) & 0x7FFFFFFF) % 4
            assert topic.partition_for_key(key) == wanted
            assert topic.append(b"v", key=key).partition == wanted
        receipts = topic.append_many([b"w"] * 100, keys=keys)
        assert [each.partition for each in receipts] == [0, 1, 2, 3]
        for number in range(4):
            found = read_all(topic, number)
            mine = [key for key in keys if topic.partition_for_key(key) == number]
            assert [(row[2], row[3]) for row in found] == [
                *((key, b"v") for key in mine),
                *((key, b"w") for key in mine),
            ]
            assert [row[0] for row in found] == list(range(len(found)))


@pytest.mark.guarantee("G-05")
def test_append_many_is_one_batch_a_partition(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t", partitions=3)
        receipts = topic.append_many([b"v"] * 60, keys=[b"%d" % n for n in range(60)])
        assert sum(receipt.count for receipt in receipts) == 60
        for receipt in receipts:
            assert topic.partition(receipt.partition).state().appended_batches == 1


def test_records_without_a_key_stick_then_move_on(tmp_path: Path) -> None:
    with eventlog.open(tmp_path, durability="os") as log:
        topic = log.topic("t", partitions=3)
        went = [topic.append(bytes(1024)).partition for _ in range(3 * STICKY_SIZE_BYTES // 1024)]
        changes = sum(a != b for a, b in itertools.pairwise(went))
        assert changes in (2, 3)
        assert set(Counter(went)) == {0, 1, 2}


def test_null_keys_among_keys_go_somewhere(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t", partitions=2)
        topic.append_many([b"%d" % n for n in range(10)], keys=[b"k", None] * 5)
        assert sorted(value or b"" for n in range(2) for value in values(topic, n)) == [
            b"%d" % n for n in range(10)
        ]


def test_a_partition_can_be_named(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t", partitions=2)
        key = b"k"
        other = 1 - topic.partition_for_key(key)
        assert topic.append(b"1", key=key, partition=other).partition == other
        assert topic.append_many([b"2"], keys=[key], partition=other)[0].partition == other
        assert topic.append_many([b"3", b"4"], keys=key)[0].partition == 1 - other
        assert values(topic, other) == [b"1", b"2"]
        assert topic.log_end_offset(1 - other) == 2


@pytest.mark.parametrize("number", [-1, 2, 1.0, "0", None])
def test_a_partition_that_is_not_there(tmp_path: Path, number: object) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t", partitions=2)
        with pytest.raises(PartitionMismatchError, match=r"0 \.\. 1"):
            topic.read(number)  # type: ignore[arg-type]


def test_partition_count_is_kept(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        log.topic("t", partitions=3)
        with pytest.raises(SettingError, match="has 3 partitions"):
            log.topic("t", partitions=2)
    with eventlog.open(tmp_path) as log:
        assert log.topic("t").partition_count == 3
        assert log.topic("t", partitions=3).topic_id == log.topic("t").topic_id


@pytest.mark.parametrize("count", [0, -1, 10_001, 1.5, "2"])
def test_partition_counts_have_limits(tmp_path: Path, count: object) -> None:
    with eventlog.open(tmp_path) as log:
        with pytest.raises(SettingError, match=r"1 \.\. 10,000"):
            log.topic("t", partitions=count)  # type: ignore[arg-type]
        assert log.topics() == []


@pytest.mark.parametrize(
    "columns",
    [
        {"keys": [b"k"] * 2},
        {"keys": [b"k"] * 4},
        {"keys": [b"k", "k", b"k"]},
        {"keys": [b"k"] * 3, "headers": [[]] * 2},
        {"keys": [b"k"] * 3, "headers": [[]] * 4},
        {"keys": [b"k"] * 3, "timestamps_ms": [1, 2]},
        {"keys": [b"k"] * 3, "timestamps_ms": [1, 2, 3, 4]},
        {"keys": [b"k"] * 3, "timestamps_ms": [1, 2, "3"]},
        {"keys": [b"k"] * 3, "timestamps_ms": [1, 2, 2**63]},
        {"keys": [b"k"] * 3, "timestamps_ms": [1, 2, -1]},
        {"keys": "abc"},
    ],
    ids=str,
)
@pytest.mark.parametrize("partitions", [1, 3])
def test_columns_have_one_item_a_value(
    tmp_path: Path, partitions: int, columns: dict[str, object]
) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t", partitions=partitions)
        with pytest.raises(InvalidRecordError):
            topic.append_many([b"1", b"2", b"3"], **columns)  # type: ignore[arg-type]
        assert [topic.log_end_offset(n) for n in range(partitions)] == [0] * partitions


@pytest.mark.parametrize("bad", [1, "text", [b"x"]], ids=repr)
@pytest.mark.parametrize("partitions", [1, 3])
def test_what_is_not_bytes_is_refused(tmp_path: Path, partitions: int, bad: Any) -> None:
    with eventlog.open(tmp_path) as log:
        topic: Any = log.topic("t", partitions=partitions)
        appends: list[Callable[[], object]] = [
            lambda: topic.append(bad),
            lambda: topic.append(b"", key=bad),
            lambda: topic.append_many([b"", bad]),
            lambda: topic.append_many([b"", b""], keys=[None, bad]),
            lambda: topic.append_many([]),
            lambda: topic.append_many([], keys=[]),
            lambda: topic.append(b"", headers=[("a", bad)]),
            lambda: topic.append(b"", headers=[(b"a", b"")]),
            lambda: topic.append(b"", timestamp_ms=-1),
            lambda: topic.append(b"", timestamp_ms="now"),
            lambda: topic.append(b"", timestamp_ms=2**63),
        ]
        for append in appends:
            with pytest.raises(InvalidRecordError):
                append()
        assert [topic.log_end_offset(n) for n in range(partitions)] == [0] * partitions


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_other_buffers_are_copied(tmp_path: Path, partitions: int, compression: str) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t", partitions=partitions, compression=compression)
        buffers = [bytearray(b"a" * 9000), memoryview(b"xbx")[1:2], b"c", None]
        topic.append(buffers[0], key=memoryview(b"k"))  # type: ignore[arg-type]
        topic.append_many(buffers, keys=[bytearray(b"k")] * 4)  # type: ignore[arg-type, list-item]
        topic.append_many([memoryview(b"z")], keys=[b"k"])  # type: ignore[list-item]
        found = list(topic.read(topic.partition_for_key(b"k")))
        expected = [b"a" * 9000, b"a" * 9000, b"b", b"c", None, b"z"]
        assert [(record.key, record.value) for record in found] == [(b"k", v) for v in expected]
