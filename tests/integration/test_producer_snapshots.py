"""Producer snapshots beside Kafka's own: the same bytes for the same log, and Kafka reads ours."""

from __future__ import annotations

import random
import re
import shutil
import time
from pathlib import Path

import pytest
from comparing import segments

import eventlog
from tools.kafka.kafka import Broker, Row, dump_log_segments, send
from tools.segment_reader import read_segment

pytestmark = pytest.mark.guarantee("G-06")

SEGMENT_SIZE_BYTES = 1024 * 1024  # the least that Kafka allows
_ENTRY = re.compile(
    r"producerId: (?P<id>\d+) producerEpoch: (?P<epoch>\d+) coordinatorEpoch: (?P<coordinator>-?\d+)"
    r" currentTxnFirstOffset: (?P<transaction>\S+) lastTimestamp: (?P<timestamp>\d+)"
    r" firstSequence: (?P<first>-?\d+) lastSequence: (?P<last>-?\d+) lastOffset: (?P<offset>-?\d+)"
    r" offsetDelta: (?P<delta>\d+) timestamp: (?P<batch_timestamp>-?\d+)"
)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The partition directory of a broker that was stopped, to which two idempotent producers wrote."""
    chance = random.Random(6)
    broker = Broker(tmp_path_factory.mktemp("broker"))
    with broker:
        broker.create_topic("t", segment_bytes=SEGMENT_SIZE_BYTES)
        producers = [broker.producer(enable_idempotence="true") for _ in range(2)]
        for number in range(40):
            now_ms = time.time_ns() // 1_000_000
            rows = [
                Row(now_ms - chance.randrange(1000), None, chance.randbytes(2000))
                for _ in range(chance.randrange(1, 60))
            ]
            send(producers[number % 3 % 2], "t", rows)
    return broker.partition_directory("t")


def test_ours_equal_those_of_kafka(kafka: Path, tmp_path: Path) -> None:
    """Our fold of Kafka's segments: what it writes at a roll and at the end is what Kafka wrote."""
    eventlog.open(tmp_path).close()
    directory = tmp_path / "log" / "t-0"
    directory.mkdir()
    for path in segments(kafka):
        shutil.copy(path, directory)
    *_, newest = segments(kafka)
    *_, last = read_segment(newest)
    with eventlog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        end = partition.log_end_offset
        # the last batch again, as its producer would send it
        assert partition.append_batch(newest.read_bytes()[last.position :]) == last.base_offset
        assert partition.log_end_offset == end
    ours = {path.name: path.read_bytes() for path in directory.glob("*.snapshot")}
    theirs = {path.name: path.read_bytes() for path in kafka.glob("*.snapshot")}
    assert len(segments(kafka)) > 2
    assert set(ours) == {f"{newest.stem}.snapshot", f"{end:020d}.snapshot"}
    for name, data in ours.items():
        assert int.from_bytes(data[6:10], "big") == 2
        assert data == theirs[name], name


def test_kafka_reads_ours(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        partition = log.topic("t", segment_size_bytes_max=4096).partition(0)
        ids = [log.new_producer_id() for _ in range(3)]
        sequences = [2**31 - 5, 0, 0]
        expected: dict[int, tuple[int, ...]] = {}
        for number in range(60):
            which, count, now_ms = number % 3, 1 + number % 4, time.time_ns() // 1_000_000
            producer = (ids[which], which, sequences[which])
            offset, _ = partition.append_columns(
                [b"x" * 50] * count, producer=producer, timestamp_ms=now_ms
            )
            last = (sequences[which] + count - 1) % 2**31
            expected[ids[which]] = (
                which,
                sequences[which],
                last,
                offset + count - 1,
                count - 1,
                now_ms,
            )
            sequences[which] = (last + 1) % 2**31
        end = partition.log_end_offset
    path = tmp_path / "log" / "t-0" / f"{end:020d}.snapshot"
    dump = dump_log_segments([path])
    assert dump.problems == []
    found = {}
    for match in map(_ENTRY.fullmatch, dump.files[path].lines):
        assert match is not None, dump.output
        assert (match["coordinator"], match["transaction"]) == ("-1", "OptionalLong.empty")
        assert match["timestamp"] == match["batch_timestamp"]
        fields = ("epoch", "first", "last", "offset", "delta", "timestamp")
        found[int(match["id"])] = tuple(int(match[field]) for field in fields)
    assert found == expected


def test_the_tool_would_tell(tmp_path: Path) -> None:
    """A canary: it looks at the checksum."""
    with eventlog.open(tmp_path) as log:
        log.topic("t").partition(0).append_columns([b"x"], producer=(7, 0, 0))
    path = tmp_path / "log" / "t-0" / f"{1:020d}.snapshot"
    sound = path.read_bytes()
    path.write_bytes(sound[:20] + bytes([sound[20] ^ 1]) + sound[21:])
    assert dump_log_segments([path]).problems
