"""What we write, judged by Kafka: its log dump tool, and a broker that serves our segments."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from comparing import (
    Plain,
    assert_same,
    engine_reads,
    indexes,
    judge_reads,
    kafka_consumes,
    segments,
)

import eventlog
from tools.kafka.kafka import Broker, Dump, Row, dump_log_segments
from tools.segment_reader import check_indexes

START_MS = 1_790_000_000_000
KIB = 1024
WORDS = ("order", "paid", "shipped", "returned")

# How each topic is written: its settings, and how many records go into a batch.
TOPICS: dict[str, dict[str, Any]] = {
    "plain": {},
    "zstd": {"compression": "zstd", "compression_size_bytes_min": 0},
    "zstd-large-only": {"compression": "zstd", "compression_size_bytes_min": 2 * KIB},
    "segments": {"segment_size_bytes_max": 64 * KIB},
    "zstd-segments": {
        "segment_size_bytes_max": 32 * KIB,
        "compression": "zstd",
        "compression_size_bytes_min": 0,
    },
    "by-time": {"segment_ms": 200_000},
    "dense-index": {"segment_size_bytes_max": 256 * KIB, "index_interval_bytes": 0},
}
BATCHES = (1, 1, 2, 1, 50, 7, 400, 1, 3, 100)
ROUNDS = 6


def make_records(seed: int, count: int) -> list[Plain]:
    """Printable keys and values (the dump tool shows text), nulls, empties, headers, and record
    times that also go back within a batch and between batches."""
    chance = random.Random(seed)
    made = []
    for offset in range(count):
        value = " ".join(chance.choices(WORDS, k=chance.randrange(1, 30)))
        names = chance.sample(("type", "née", "", "東京"), k=chance.choice((0, 0, 1, 3)))
        headers = tuple((n, chance.choice((None, b"", b"\x00\xff", b"event"))) for n in names)
        made.append(
            Plain(
                offset,
                START_MS + 1000 * offset - chance.choice((0, 0, 5_000, 90_000)),
                chance.choice((None, b"", f"key-{chance.randrange(50)}".encode())),
                chance.choice((None, b"", value.encode(), value.encode(), value.encode())),
                headers,
            )
        )
    return made


def write(topic: eventlog.log.topic.Topic, records: list[Plain]) -> None:
    """In batches of many sizes; single records by ``append``."""
    left = iter(records)
    for size in BATCHES * ROUNDS:
        batch = [next(left) for _ in range(size)]
        if size == 1:
            (one,) = batch
            topic.append(one.value, key=one.key, headers=one.headers, timestamp_ms=one.timestamp_ms)
        else:
            topic.append_many(
                [record.value for record in batch],
                keys=[record.key for record in batch],
                headers=[record.headers for record in batch],
                timestamps_ms=[record.timestamp_ms for record in batch],
            )
    assert next(left, None) is None


class Written:
    """A closed store with all the topics, and what was appended to each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = {
            name: make_records(seed, ROUNDS * sum(BATCHES)) for seed, name in enumerate(TOPICS)
        }
        with eventlog.open(path, durability="os") as log:
            for name, settings in TOPICS.items():
                write(log.topic(name, **settings), self.records[name])
        # and opened and closed once more: the indexes must come out the same
        before = {name: indexes(self.directory(name)) for name in TOPICS}
        eventlog.open(path).close()
        assert {name: indexes(self.directory(name)) for name in TOPICS} == before

    def directory(self, name: str) -> Path:
        return self.path / "log" / f"{name}-0"

    def files(self, *suffixes: str) -> list[Path]:
        return [
            path
            for name in TOPICS
            for path in sorted(self.directory(name).iterdir())
            if path.suffix in suffixes
        ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp("ours") / "store")


@pytest.fixture(scope="module")
def dump(written: Written) -> Dump:
    return dump_log_segments(written.files(".log"), "--deep-iteration", "--print-data-log")


def test_every_batch_is_valid(written: Written, dump: Dump) -> None:
    assert dump.problems == []
    assert set(dump.files) == set(written.files(".log"))
    for path, file in dump.files.items():
        assert file.batches, path
        assert all(batch.is_valid for batch in file.batches)
        end = file.batches[-1].fields
        assert int(end["position"]) + int(end["size"]) == path.stat().st_size
    assert len(segments(written.directory("segments"))) > 2
    assert len(segments(written.directory("zstd-segments"))) > 2
    assert len(segments(written.directory("by-time"))) > 2


def test_codecs_are_as_the_topic_says(written: Written, dump: Dump) -> None:
    def codecs(name: str) -> set[str]:
        return {
            batch.fields["compresscodec"]
            for path in segments(written.directory(name))
            for batch in dump.files[path].batches
        }

    assert codecs("plain") == {"none"}
    assert "zstd" in codecs("zstd")
    assert codecs("zstd-large-only") == {"none", "zstd"}


@pytest.mark.parametrize("name", TOPICS)
def test_records_are_those_that_were_appended(written: Written, dump: Dump, name: str) -> None:
    shown = [
        record for path in segments(written.directory(name)) for record in dump.files[path].records
    ]
    for found, record in zip(shown, written.records[name], strict=True):
        assert found.offset == record.offset
        assert found.timestamp_ms == record.timestamp_ms
        assert found.key_size == (-1 if record.key is None else len(record.key))
        assert found.value_size == (-1 if record.value is None else len(record.value))
        assert found.key == (None if record.key is None else record.key.decode())
        assert found.value == (None if record.value is None else record.value.decode())
        assert ",".join(found.header_names) == ",".join(header for header, _ in record.headers)


@pytest.mark.parametrize("option", ["--index-sanity-check", "--verify-index-only", ""])
def test_indexes_fit_the_log(written: Written, option: str) -> None:
    files = written.files(".index", ".timeindex")
    dump = dump_log_segments(files, *([option] if option else []))
    assert dump.problems == []
    assert set(dump.files) == set(files)
    if option == "--index-sanity-check":
        assert dump.output.count("passed sanity check") == len(files)


def test_the_tool_would_tell(written: Written, tmp_path: Path) -> None:
    """A canary: silence is worth something only if damage is not passed over in silence."""
    for path in written.directory("plain").iterdir():
        shutil.copy(path, tmp_path)
    log, index, time_index = (
        tmp_path / f"{0:020d}{suffix}" for suffix in (".log", ".index", ".timeindex")
    )
    for path, position in ((log, 100), (index, 7), (time_index, 11)):
        sound = path.read_bytes()
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
        assert dump_log_segments([path], "--deep-iteration").problems, path
        path.write_bytes(sound)
        assert not dump_log_segments([path], "--deep-iteration").problems, path


@pytest.mark.parametrize("name", TOPICS)
def test_engine_and_judge_agree_with_it(written: Written, name: str) -> None:
    with eventlog.open(written.path, read_only=True) as log:
        assert_same(engine_reads(log, name), written.records[name])
    assert_same(judge_reads(written.directory(name)), written.records[name])
    for path in segments(written.directory(name)):
        check_indexes(path, index_interval_bytes=TOPICS[name].get("index_interval_bytes", 4 * KIB))


# -- served by a broker -----------------------------------------------------------------------

MOVED = ("plain", "zstd", "segments", "zstd-segments")


@pytest.fixture(scope="module", params=["verified", "trusted"])
def moved(
    request: pytest.FixtureRequest, written: Written, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    """A broker whose partition folders hold our segments.

    ``verified``: as after a crash, so the broker scans everything, checks it and makes the indexes
    anew. ``trusted``: as after a clean stop, with our indexes and our leader-epoch-checkpoint.
    """
    how: Literal["verified", "trusted"] = request.param
    broker = Broker(tmp_path_factory.mktemp("broker"))
    with broker:
        for name in MOVED:
            broker.create_topic(name, segment_bytes=1024 * KIB, segment_ms=10**14)
    for name in MOVED:
        target = broker.partition_directory(name)
        for path in target.iterdir():
            if path.name != "partition.metadata":  # the topic's id is the broker's
                path.unlink()
        for path in written.directory(name).iterdir():
            is_index = path.suffix in (".index", ".timeindex")
            if path.suffix == ".log" or (
                how == "trusted" and (is_index or path.name == "leader-epoch-checkpoint")
            ):
                shutil.copy(path, target)
    if how == "verified":
        (broker.log_directory / ".kafka_cleanshutdown").unlink()
        (broker.log_directory / "recovery-point-offset-checkpoint").unlink()
    with broker:
        yield broker


def test_a_broker_serves_our_segments(moved: Broker, written: Written) -> None:
    """Goal: the data can move to a cluster. Every record arrives at Kafka's consumer as it was
    appended (header values too, which the dump tool does not show), and writing goes on behind it.
    """
    for name in MOVED:
        records = written.records[name]
        assert_same(kafka_consumes(moved, name), records)
        moved.produce(name, [[Row(START_MS + 10**9, b"next", b"from Kafka")]])
        *kept, last = kafka_consumes(moved, name)
        assert len(kept) == len(records)
        assert last == Plain(len(records), START_MS + 10**9, b"next", b"from Kafka", ())
        shown = [path.name for path in segments(moved.partition_directory(name))]
        ours = [path.name for path in segments(written.directory(name))]
        assert shown[: len(ours)] == ours, "segments were cut or renamed"


def test_the_broker_makes_the_same_indexes(moved: Broker, written: Written) -> None:
    """Of the sealed segments; the active one's are still open (and preallocated) in the broker."""
    for name in ("segments", "zstd-segments"):
        active = segments(written.directory(name))[-1].stem
        ours = indexes(written.directory(name))
        theirs = indexes(moved.partition_directory(name))
        for file, data in ours.items():
            if not file.startswith(active):
                assert theirs[file] == data, file
