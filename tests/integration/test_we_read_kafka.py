"""What a real Kafka writes, read by the engine and by the judge: both as Kafka's consumer gets it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from comparing import Plain, assert_same, engine_reads, judge_reads, kafka_consumes, segments

import eventlog
from tools.kafka.kafka import Broker, Row, dump_log_segments, send
from tools.segment_reader import expected_indexes, read_segment

START_MS = 1_790_000_000_000
SEGMENT_SIZE_BYTES = 1024 * 1024  # the least that Kafka allows
CODECS = ("gzip", "snappy", "lz4", "zstd")


def make_rows(seed: int, count: int, value_size_bytes_max: int) -> list[Row]:
    """Records that hardly compress, so that segments fill; nulls, headers, times that go back."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        headers = [("type", b"event"), ("empty", b""), ("null", None), ("née", b"\x00\xff")]
        text = b"order paid shipped " * chance.randrange(0, 8)
        noise = chance.randbytes(chance.randrange(value_size_bytes_max))
        rows.append(
            Row(
                START_MS + 10 * number - chance.choice((0, 0, 5_000)),
                chance.choice((None, b"", f"key-{number % 99}".encode())),
                chance.choice((None, text + noise, text + noise, text + noise)),
                tuple(chance.sample(headers, k=chance.choice((0, 0, 1, 4)))),
            )
        )
    return rows


def in_batches(rows: list[Row]) -> list[list[Row]]:
    """Batches of one, of a few and of many."""
    sizes = [1, 3, 200, 40, 1, 400]
    batches: list[list[Row]] = []
    while rows:
        size = sizes[len(batches) % len(sizes)]
        batches.append(rows[:size])
        rows = rows[size:]
    return batches


def compressed_by_producer(codec: str) -> Callable[[Broker, str], None]:
    """librdkafka's frames; several segments."""

    def make(broker: Broker, topic: str) -> None:
        broker.create_topic(topic, segment_bytes=SEGMENT_SIZE_BYTES)
        rows = make_rows(1, 3_000, 2_000)
        broker.produce(topic, in_batches(rows), compression_type=codec)

    return make


def compressed_by_broker(codec: str) -> Callable[[Broker, str], None]:
    """The Java libraries' frames."""

    def make(broker: Broker, topic: str) -> None:
        broker.create_topic(topic, compression_type=codec)
        broker.produce(topic, in_batches(make_rows(2, 1_000, 300)))

    return make


def log_append_time(broker: Broker, topic: str) -> None:
    broker.create_topic(topic, message_timestamp_type="LogAppendTime")
    broker.produce(topic, in_batches(make_rows(3, 500, 100)))


def transactions(broker: Broker, topic: str) -> None:
    """Control batches take offsets and are no records."""
    broker.create_topic(topic, segment_ms=10**14)
    producer = broker.producer(transactional_id="judge")
    producer.init_transactions()
    for number, batch in enumerate(in_batches(make_rows(4, 700, 100))):
        producer.begin_transaction()
        send(producer, topic, batch)
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()


TOPICS: dict[str, Callable[[Broker, str], None]] = {
    **{f"{codec}-producer": compressed_by_producer(codec) for codec in ("none", *CODECS)},
    **{f"{codec}-broker": compressed_by_broker(codec) for codec in CODECS},
    "log-append-time": log_append_time,
    "transactions": transactions,
}


class Moved:
    """A store that took over a broker's partition folders, and what the consumer had received."""

    def __init__(self, directory: Path, end: Callable[[Broker], None], topics: list[str]) -> None:
        self.broker = Broker(directory / "broker")
        self.consumed: dict[str, list[Plain]] = {}
        try:
            self.broker.start()
            for name in topics:
                TOPICS[name](self.broker, name)
                self.consumed[name] = kafka_consumes(self.broker, name)
        finally:
            end(self.broker)
        self.path = directory / "store"
        eventlog.open(self.path).close()
        for name in topics:
            source = self.broker.partition_directory(name)
            shutil.copytree(source, self.directory(name))

    def directory(self, name: str) -> Path:
        return self.path / "log" / f"{name}-0"


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    return Moved(tmp_path_factory.mktemp("stopped"), Broker.stop, list(TOPICS))


@pytest.mark.parametrize("name", TOPICS)
def test_the_judge_reads_it(moved: Moved, name: str) -> None:
    """And expects the very indexes that Kafka wrote."""
    source = moved.broker.partition_directory(name)
    assert moved.consumed[name]
    assert_same(judge_reads(source), moved.consumed[name])
    for path in segments(source):
        index, time_index = expected_indexes(read_segment(path), int(path.stem))
        assert path.with_suffix(".index").read_bytes() == index
        assert path.with_suffix(".timeindex").read_bytes() == time_index


def test_there_is_more_than_one_segment(moved: Moved) -> None:
    for codec in ("none", *CODECS):
        assert len(segments(moved.broker.partition_directory(f"{codec}-producer"))) > 1


def test_the_engine_reads_it(moved: Moved) -> None:
    """Read only, then as a writer: whole, from the middle, by time; and it appends behind it."""
    with eventlog.open(moved.path, read_only=True) as log:
        assert log.topics() == sorted(TOPICS)
        for name in TOPICS:
            assert_same(engine_reads(log, name), moved.consumed[name])
    with eventlog.open(moved.path) as log:
        for name in TOPICS:
            expected = moved.consumed[name]
            assert_same(engine_reads(log, name), expected)
            topic = log.topic(name)
            middle = expected[len(expected) // 2]
            first = next(topic.read(start=middle.offset))
            assert (first.offset, first.value) == (middle.offset, middle.value)
            by_time = next(r for r in expected if r.timestamp_ms >= middle.timestamp_ms)
            assert topic.offset_for_time(middle.timestamp_ms) == by_time.offset
            assert topic.append(b"ours", key=b"k").offset > expected[-1].offset
    with eventlog.open(moved.path, read_only=True) as log:
        for name in TOPICS:
            *kept, last = engine_reads(log, name)
            assert_same(kept, moved.consumed[name])
            assert (last.key, last.value) == (b"k", b"ours")
    logs = [path for name in TOPICS for path in segments(moved.directory(name))]
    assert dump_log_segments(logs, "--deep-iteration").problems == []


def test_a_killed_brokers_partition_is_read(tmp_path: Path) -> None:
    """Its index files still have their preallocated tails of zeros and are not to be believed."""
    names = ["none-producer", "zstd-producer", "transactions"]
    moved = Moved(tmp_path, Broker.kill, names)
    source = moved.broker.partition_directory("none-producer")
    active = segments(source)[-1].with_suffix(".index")
    assert active.read_bytes().endswith(bytes(1024))
    for name in names:
        assert_same(judge_reads(moved.broker.partition_directory(name)), moved.consumed[name])
    with eventlog.open(moved.path) as log:
        for name in names:
            assert_same(engine_reads(log, name), moved.consumed[name])
            for one in random.Random(5).sample(moved.consumed[name], k=50):
                found = next(log.topic(name).read(start=one.offset))
                assert (found.offset, found.value) == (one.offset, one.value)
