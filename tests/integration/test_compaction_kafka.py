"""Kafka's own log cleaner and ours over the same segments, and Kafka's dump tool over what we leave.

Goal: the same records survive, in the same batches, round after round; also where Kafka made the first
round and we the second. Method: a broker that does not clean is filled and stopped, its files are copied for
us, and then it is started again and cleans.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparing import Plain, assert_same, engine_reads, judge_reads, kafka_consumes, segments

import eventlog
from eventlog.log.checkpoints import CLEANER, read_offsets
from eventlog.log.compaction import compact
from tools.kafka.kafka import Broker, Row, dump_log_segments
from tools.segment_reader import check_indexes, read_segment

START_MS = 1_790_000_000_000
SEGMENT_SIZE_BYTES = 1024 * 1024  # the least that Kafka allows
NEVER_MS = 10**9
CLEAN_TIMEOUT_S = 120
DELETE_HORIZON = 64
# By topic: settings of the producer, and of the topic.
TOPICS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "at-once": ({}, {"delete_retention_ms": 0}),
    "idempotent": ({"enable_idempotence": True}, {}),
    "log-append-time": ({}, {"message_timestamp_type": "LogAppendTime"}),
    **{codec: ({"compression_type": codec}, {}) for codec in ("gzip", "snappy", "lz4", "zstd")},
}


def make_batches(seed: int, count: int) -> list[list[Row]]:
    """A few hot keys and many cold ones; tombstones; batches of one, of a few, of many."""
    chance = random.Random(seed)
    batches = []
    for size in (1, 3, 40, 200, 1, 7) * count:
        batches.append(
            [
                Row(
                    START_MS + seed * 10**6 + 10 * len(batches) - chance.choice((0, 0, 500)),
                    b"key-%d" % int(chance.paretovariate(0.5)) if chance.random() < 0.9 else b"",
                    None if chance.random() < 0.1 else chance.randbytes(chance.randrange(900)),
                    chance.choice(((), (("h", b"1"), ("n", None)))),
                )
                for _ in range(size)
            ]
        )
    return batches


class Cleaned:
    """The files of a broker before and after each of two rounds of its cleaner."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        idle = {"log_cleaner_backoff_ms": NEVER_MS}
        broker = self.broker = Broker(directory / "broker", **idle)
        with broker:
            for name, (_, settings) in TOPICS.items():
                broker.create_topic(
                    name,
                    **{
                        "cleanup_policy": "compact",
                        "segment_bytes": SEGMENT_SIZE_BYTES,
                        "segment_ms": 10**14,
                        "min_cleanable_dirty_ratio": "0.0",
                        "delete_retention_ms": 10**12,
                    }
                    | settings,
                )
            self.fill(broker, 1)
        for number in (1, 2):
            self.keep(f"before-{number}")
            cleaner = Broker(directory / "broker", log_cleaner_backoff_ms=50)
            with cleaner:
                self.wait_until_cleaned()
                self.consumed = {name: kafka_consumes(cleaner, name) for name in TOPICS}
            self.keep(f"after-{number}")
            if number == 1:
                with broker:
                    self.fill(broker, 2)

    def fill(self, broker: Broker, seed: int) -> None:
        for name, (settings, _) in TOPICS.items():
            broker.produce(name, make_batches(seed, 14), **settings)

    def wait_until_cleaned(self) -> None:
        """Until the checkpoint says so of all segments but the newest."""
        data = self.broker.log_directory
        wanted = {
            (name, 0): int(segments(self.broker.partition_directory(name))[-1].stem)
            for name in TOPICS
        }
        deadline = time.monotonic() + CLEAN_TIMEOUT_S
        while time.monotonic() < deadline:
            if read_offsets(data / CLEANER).items() >= wanted.items():
                return
            time.sleep(0.1)
        raise AssertionError(f"not cleaned: {read_offsets(data / CLEANER)}, wanted {wanted}")

    def keep(self, what: str) -> None:
        target = self.directory / what
        target.mkdir()
        for name in TOPICS:
            shutil.copytree(self.broker.partition_directory(name), target / f"{name}-0")
        checkpoint = self.broker.log_directory / CLEANER
        if checkpoint.exists():
            shutil.copy(checkpoint, target)

    def ours(self, what: str, path: Path) -> eventlog.EventLog:
        """A store that takes over the files kept under that name."""
        eventlog.open(path).close()
        shutil.copytree(self.directory / what, path / "log", dirs_exist_ok=True)
        log = eventlog.open(path, maintenance=False)
        for name, (_, settings) in TOPICS.items():
            log.topic(
                name,
                cleanup_policy="compact",
                segment_size_bytes_max=SEGMENT_SIZE_BYTES,
                delete_retention_ms=settings.get("delete_retention_ms", 10**12),
            )
        return log


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Cleaned:
    return Cleaned(tmp_path_factory.mktemp("cleaned"))


def run(log: eventlog.EventLog, name: str) -> None:
    topic = log.topic(name)
    now_ms = time.time_ns() // 1_000_000
    result = compact(topic.partition(0), topic.settings, now_ms, topic_lock=log._change)
    assert result.is_complete
    assert result.records_kept < result.records_read


def batches_of(directory: Path) -> list[tuple[Any, ...]]:
    """What is said of the batches that hold records; not when their tombstones go."""
    return [
        (
            *(b.base_offset, b.last_offset, b.leader_epoch, b.attributes),
            0 if b.attributes & DELETE_HORIZON else b.base_timestamp_ms,
            *(b.max_timestamp_ms, b.producer_id, b.producer_epoch, b.base_sequence),
            b.record_count,
        )
        for path in segments(directory)
        for b in read_segment(path)
        if b.records
    ]


def both_rounds(cleaned: Cleaned, path: Path) -> list[tuple[str, eventlog.EventLog, str]]:
    """(whose round, store, what Kafka left) of stores that we have compacted."""
    found = []
    for number in (1, 2):
        log = cleaned.ours(f"before-{number}", path / f"store-{number}")
        for name in TOPICS:
            run(log, name)
        found.append((f"round {number}", log, f"after-{number}"))
    return found


@pytest.fixture(scope="module")
def compacted(
    cleaned: Cleaned, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, Path, Path, dict[str, list[Plain]]]]:
    done = []
    for told, log, after in both_rounds(cleaned, tmp_path_factory.mktemp("ours")):
        with log:
            records = {name: engine_reads(log, name) for name in TOPICS}
        done.append((told, log.path / "log", cleaned.directory / after, records))
    return done


def each(check: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("name", TOPICS)(check)


@pytest.mark.guarantee("G-23")
@each
def test_the_same_records_survive(cleaned: Cleaned, compacted: list[Any], name: str) -> None:
    for _, ours, theirs, records in compacted:
        expected = judge_reads(theirs / f"{name}-0")
        assert len(expected) < len(judge_reads(cleaned.directory / "before-2" / f"{name}-0"))
        assert_same(judge_reads(ours / f"{name}-0"), expected)
        assert_same(records[name], expected)
    assert_same(compacted[-1][3][name], cleaned.consumed[name])


@each
def test_in_the_same_batches(compacted: list[Any], name: str) -> None:
    for _, ours, theirs, _ in compacted:
        assert batches_of(ours / f"{name}-0") == batches_of(theirs / f"{name}-0")


def test_tombstones_go_in_the_second_round(cleaned: Cleaned, compacted: list[Any]) -> None:
    """Kafka set their time in the first one, and we keep to it; there is something to see here."""
    *_, records = compacted[-1]
    first_new = int(segments(cleaned.directory / "before-1" / "at-once-0")[-1].stem)
    old = [r for r in records["at-once"] if r.offset < first_new]
    assert old
    assert all(r.value is not None for r in old)
    assert any(r.value is None for r in records["plain"] if r.offset < first_new)


def test_the_dump_tool_finds_nothing_wrong(compacted: list[Any]) -> None:
    for told, ours, _, _ in compacted:
        logs = [path for name in TOPICS for path in segments(ours / f"{name}-0")]
        dump = dump_log_segments(logs, "--deep-iteration")
        gaps = [each for each in dump.problems if each.startswith("non-consecutive")]
        assert [p for p in dump.problems if p not in gaps] == [], told
        assert gaps, "offsets are missing, and the tool says so"
        assert all(batch.is_valid for file in dump.files.values() for batch in file.batches)
        indexes = [path.with_suffix(suffix) for path in logs for suffix in (".index", ".timeindex")]
        dump = dump_log_segments(indexes)
        assert dump.problems == [], told
        for name in TOPICS:
            for path in segments(ours / f"{name}-0")[:-1]:
                check_indexes(path)


def test_kafka_goes_on_with_what_we_compacted(
    cleaned: Cleaned, compacted: list[Any], tmp_path: Path
) -> None:
    """A broker takes the files over, as after a crash: it verifies all, and serves the same."""
    _, ours, _, records = compacted[0]
    broker = Broker(tmp_path / "broker")
    with broker:
        for name in ("plain", "zstd"):
            broker.create_topic(name, segment_bytes=SEGMENT_SIZE_BYTES, segment_ms=10**14)
    for name in ("plain", "zstd"):
        target = broker.partition_directory(name)
        for path in target.iterdir():
            if path.name != "partition.metadata":
                path.unlink()
        for path in segments(ours / f"{name}-0"):
            shutil.copy(path, target)
    (broker.log_directory / ".kafka_cleanshutdown").unlink()
    (broker.log_directory / "recovery-point-offset-checkpoint").unlink()
    with broker:
        for name in ("plain", "zstd"):
            assert_same(kafka_consumes(broker, name), records[name])
