"""The engine writes what the judge accepts, reads what Kafka wrote, and never reads damage as data."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka_fixtures import CASES, Case

import eventlog
from eventlog.errors import CorruptionError, RecordTooLargeError
from tools.segment_reader import Record, check_indexes, read_segment

# -- what we write ----------------------------------------------------------------------------

INT64 = st.integers(0, 2**62)
data = st.binary(max_size=40) | st.binary(min_size=100, max_size=400)
optional = st.none() | data
records = st.tuples(
    optional,
    optional,
    st.lists(st.tuples(st.text(max_size=6), st.none() | st.binary(max_size=20)), max_size=3),
    st.integers(0, 2**41) | INT64,
)
# a batch, and whether its records are sent one by one
batches = st.tuples(st.lists(records, min_size=1, max_size=20), st.booleans())
workloads = st.lists(batches, min_size=1, max_size=12)


def judged_records(directory: Path, index_interval_bytes: int) -> list[Record]:
    """All records of a closed partition, every segment and index of it checked."""
    found: list[Record] = []
    for log in sorted(directory.glob("*.log")):
        assert int(log.stem) == (found[-1].offset + 1 if found else 0)
        found += [r for batch in read_segment(log, contiguous=True) for r in batch.records]
        check_indexes(log, index_interval_bytes=index_interval_bytes)
    return found


def as_judged(records: Iterable[eventlog.log.record.Record]) -> list[Record]:
    return [Record(r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in records]


@given(
    workload=workloads,
    segment_size_bytes_max=st.sampled_from([1024, 4096, 1 << 20]),
    segment_ms=st.sampled_from([1000, 2**40]),
    index_interval_bytes=st.sampled_from([0, 100, 4096]),
    compression_size_bytes_min=st.sampled_from([None, 0, 300]),
    reopen_at=st.integers(0, 12),
)
def test_every_workload(
    tmp_path_factory: pytest.TempPathFactory,
    workload: list[
        tuple[list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]], bool]
    ],
    segment_size_bytes_max: int,
    segment_ms: int,
    index_interval_bytes: int,
    compression_size_bytes_min: int | None,
    reopen_at: int,
) -> None:
    """Goal: whatever is appended, in whatever batches and segments, is on disk by Kafka's rules.

    The judge must find every segment sound, the offsets without gap, the indexes exact to the byte,
    and the records equal to what was appended and to what the engine reads.
    """
    path = tmp_path_factory.mktemp("store")
    options: dict[str, Any] = {
        "durability": "os",
        "segment_size_bytes_max": segment_size_bytes_max,
        "segment_ms": segment_ms,
        "index_interval_bytes": index_interval_bytes,
        "preallocation_bytes_max": 4096,
    }
    if compression_size_bytes_min is not None:
        options |= {
            "compression": "zstd",
            "compression_size_bytes_min": compression_size_bytes_min,
        }
    appended: list[Record] = []
    log = eventlog.open(path)
    try:
        for number, (batch, one_by_one) in enumerate(workload):
            if number == reopen_at:
                log.close()
                log = eventlog.open(path)
            topic = log.topic("t", **options)
            offset = len(appended)
            if one_by_one:
                for key, value, headers, timestamp in batch:
                    topic.append(value, key=key, headers=headers, timestamp_ms=timestamp)
            else:
                keys, values, headers_of_each, timestamps = zip(*batch, strict=True)
                try:
                    topic.append_many(
                        values, keys=keys, headers=headers_of_each, timestamps_ms=timestamps
                    )
                except RecordTooLargeError:  # a batch never spans two segments
                    continue
            appended += [
                Record(offset + at, timestamp, key, value, tuple(headers))
                for at, (key, value, headers, timestamp) in enumerate(batch)
            ]
        read = as_judged(log.topic("t").read())
    finally:
        log.close()
    assert read == appended
    assert judged_records(path / "log" / "t-0", index_interval_bytes) == appended
    shutil.rmtree(path)


# -- what Kafka writes ------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_partition_of_kafka_becomes_a_topic(case: Case, tmp_path: Path) -> None:
    """A folder brought from a broker is a topic: its records are those that a consumer gets, and the
    next append goes behind them."""
    eventlog.open(tmp_path).close()
    log_copy = case.copy_to(tmp_path / "log" / "orders-0")
    next_offset = case.expected_batches[-1]["last_offset"] + 1
    with eventlog.open(tmp_path) as log:
        assert log.topics() == ["orders"]
        topic = log.topic("orders")
        assert as_judged(topic.read()) == case.expected_records
        middle = case.expected_records[len(case.expected_records) // 2]
        (first, *_) = topic.read(start=middle.offset)
        assert as_judged([first]) == [middle]
        assert topic.append(b"ours").offset == next_offset
    # a new segment: the record is months younger than Kafka's
    *kept, ours = [b for path in sorted(log_copy.parent.glob("*.log")) for b in read_segment(path)]
    assert [batch.crc for batch in kept] == [batch["crc"] for batch in case.expected_batches]
    assert [(r.offset, r.value) for r in ours.records] == [(next_offset, b"ours")]
    with eventlog.open(tmp_path, read_only=True) as log:
        assert as_judged(log.topic("orders").read())[:-1] == case.expected_records


# -- what damage makes of it ------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cleanly closed store of a few small batches, plain and compressed."""
    path = tmp_path_factory.mktemp("small") / "store"
    with eventlog.open(path) as log:
        topic = log.topic("t", compression="zstd", compression_size_bytes_min=100)
        topic.append(b"first", key=b"k", headers=[("h", b"1")], timestamp_ms=1_000)
        topic.append_many([b"second", None], timestamps_ms=[900, 2_000])
        topic.append(b"z" * 200, timestamp_ms=3_000)
        topic.append(b"last", timestamp_ms=4_000)
    return path


def read_all(log: eventlog.EventLog) -> tuple[list[Record], CorruptionError | None]:
    found: list[Record] = []
    try:
        for record in log.topic("t").read():
            found += as_judged([record])
    except CorruptionError as error:
        return found, error
    return found, None


BASE_OFFSET = range(8)  # under no checksum: only the neighbours tell
LEADER_EPOCH = range(12, 16)  # under no checksum either, and nothing that a record shows


@pytest.mark.parametrize("read_only", [True, False], ids=["read-only", "writing"])
@pytest.mark.parametrize("was_clean", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("part", ["base-offsets", "all-else"])
def test_no_flipped_byte_is_read_as_data(
    small_store: Path, tmp_path: Path, part: str, was_clean: bool, read_only: bool
) -> None:
    """Goal: a read gives exactly what was appended, or raises. All of it is known to be durable, so
    a shorter log is no answer either, not even for the last batch and not after a kill.
    """
    name = Path("log/t-0/00000000000000000000.log")
    original = (small_store / name).read_bytes()
    positions = [batch.position for batch in read_segment(small_store / name)]
    with eventlog.open(small_store, read_only=True) as log:
        whole, _ = read_all(log)
    assert len(whole) == 5
    for at in range(len(original)):
        batch_position = max(position for position in positions if position <= at)
        if (at - batch_position in BASE_OFFSET) != (part == "base-offsets"):
            continue
        store = tmp_path / f"store-{at}"
        shutil.copytree(small_store, store)
        if not was_clean:
            (store / "log" / ".kafka_cleanshutdown").unlink()
        damaged = original[:at] + bytes([original[at] ^ 0x41]) + original[at + 1 :]
        (store / name).write_bytes(damaged)
        error: CorruptionError | None
        try:
            with eventlog.open(store, read_only=read_only) as log:
                found, error = read_all(log)
        except CorruptionError as caught:
            found, error = [], caught
        assert found == whole[: len(found)], at
        if at - batch_position in LEADER_EPOCH:
            assert (found, error) == (whole, None), at
        else:
            assert error is not None, at
            assert Path(error.path) == store / name, at
            assert error.position == batch_position, at
            assert (store / name).read_bytes() == damaged, "nothing may be changed"
        shutil.rmtree(store)
