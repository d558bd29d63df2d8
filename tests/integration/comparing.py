"""One shape for a record, whoever read it: the engine, the judge or Kafka's consumer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from tools.segment_reader import read_segment

if TYPE_CHECKING:
    from pathlib import Path

    import eventlog
    from tools.kafka.kafka import Broker

Headers = tuple[tuple[str, bytes | None], ...]


class Plain(NamedTuple):
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def engine_reads(log: eventlog.EventLog, topic: str, partition: int = 0) -> list[Plain]:
    return [
        Plain(r.offset, r.timestamp_ms, r.key, r.value, r.headers)
        for r in log.topic(topic).read(partition)
    ]


def judge_reads(directory: Path) -> list[Plain]:
    """Data records of all segments of a partition directory."""
    return [
        Plain(r.offset, r.timestamp_ms, r.key, r.value, r.headers)
        for path in segments(directory)
        for batch in read_segment(path)
        if not batch.is_control
        for r in batch.records
    ]


def kafka_consumes(broker: Broker, topic: str, partition: int = 0) -> list[Plain]:
    return [
        Plain(r.offset, r.timestamp_ms, r.key, r.value, r.headers)
        for r in broker.consume(topic, partition)
    ]


def segments(directory: Path) -> list[Path]:
    """The .log files, oldest first."""
    return sorted(directory.glob("*.log"))


def indexes(directory: Path) -> dict[str, bytes]:
    """The bytes of all .index and .timeindex files by name."""
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if path.suffix in (".index", ".timeindex")
    }


def assert_same(found: Iterable[Plain], expected: Iterable[Plain]) -> None:
    """Equal, with a first difference that can be read (there may be thousands of records)."""
    left, right = list(found), list(expected)
    for one, other in zip(left, right, strict=False):
        assert one == other
    assert len(left) == len(right)
