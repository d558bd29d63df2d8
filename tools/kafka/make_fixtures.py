"""Make the segments written by a real Kafka that ``make test`` reads without Java.

    python -m tools.kafka.make_fixtures

starts a broker and writes ``tests/data/kafka-<version>/<case>/``: a segment with its indexes, as
the broker left it after a clean stop, and ``expected.json``: the batches as Kafka's own dump tool
shows them and the records as Kafka's consumer received them (bytes as hexadecimal digits).
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.kafka.kafka import (
    Broker,
    Consumed,
    Row,
    dump_log_segments,
    send,
    version,
)

PROJECT = Path(__file__).resolve().parent.parent.parent
START_MS = 1_790_000_000_000
CODECS = ("gzip", "snappy", "lz4", "zstd")
COMPACTION_TIMEOUT_S = 60


def make_rows(count: int, seed: int) -> Iterator[Row]:
    """Records of every shape: null and empty keys and values, headers, times that go back."""
    chance = random.Random(seed)
    for number in range(count):
        value = " ".join(chance.choices(("order", "paid", "shipped", "née", "東京"), k=number % 9))
        headers = [("type", b"event"), ("empty", b""), ("null", None), ("née", b"\x00\xff")]
        yield Row(
            timestamp_ms=START_MS + 1000 * number - (30_000 if number % 7 == 3 else 0),
            key=chance.choice((None, b"", f"key-{number}".encode())),
            value=None if number % 11 == 5 else value.encode() + chance.randbytes(number % 60),
            headers=tuple(chance.sample(headers, k=number % 5)),
        )


def make_batches(seed: int) -> list[list[Row]]:
    rows = list(make_rows(90, seed))
    return [rows[:1], rows[1:3], rows[3:40], rows[40:41], rows[41:]]


def plain(broker: Broker, topic: str) -> None:
    rows = list(make_rows(220, seed=1))
    broker.create_topic(topic)
    broker.produce(topic, [rows[at : at + 20] for at in range(0, len(rows), 20)])


def compressed_by_producer(codec: str) -> Callable[[Broker, str], None]:
    """librdkafka's frames."""

    def make(broker: Broker, topic: str) -> None:
        broker.create_topic(topic)
        broker.produce(topic, make_batches(2), compression_type=codec)

    return make


def compressed_by_broker(codec: str) -> Callable[[Broker, str], None]:
    """The Java libraries' frames."""

    def make(broker: Broker, topic: str) -> None:
        broker.create_topic(topic, compression_type=codec)
        broker.produce(topic, make_batches(3))

    return make


def log_append_time(broker: Broker, topic: str) -> None:
    broker.create_topic(topic, message_timestamp_type="LogAppendTime", compression_type="zstd")
    broker.produce(topic, make_batches(4)[:3])


def transactions(broker: Broker, topic: str) -> None:
    """Data batches and control batches: a transaction committed, one aborted, one committed."""
    # the markers carry the time of today: such a step in time must not roll the segment
    broker.create_topic(topic, segment_ms=10**14)
    producer = broker.producer(transactional_id="judge")
    producer.init_transactions()
    for rows, commit in zip(make_batches(5), (True, False, True), strict=False):
        producer.begin_transaction()
        send(producer, topic, rows)
        if commit:
            producer.commit_transaction()
        else:
            producer.abort_transaction()


def compacted(broker: Broker, topic: str) -> None:
    """Gaps in the offsets, a tombstone with its delete horizon, a batch that lost records."""
    broker.create_topic(
        topic, cleanup_policy="compact", min_cleanable_dirty_ratio="0.01", segment_ms=60_000
    )

    def row(number: int, key: str) -> Row:
        value = None if number == 7 else f"value {number}".encode()
        return Row(START_MS + number, key.encode(), value, (("number", b"%d" % number),))

    keys = ["a", "b", "a", "c", "a", "d", "c", "b", "e", "f", "a", "g"]
    rows = [row(number, key) for number, key in enumerate(keys)]
    broker.produce(topic, [rows[:3], rows[3:6], rows[6:9], rows[9:]])
    # far later in record time: the segment above is sealed, and so may be compacted
    broker.produce(topic, [[Row(START_MS + 600_000, b"last", b"active segment")]])
    deadline = time.monotonic() + COMPACTION_TIMEOUT_S
    while len(list(broker.consume(topic))) > len(set(keys)) + 1:
        if time.monotonic() > deadline:
            raise TimeoutError("the broker does not compact")
        time.sleep(0.2)


CASES: dict[str, Callable[[Broker, str], None]] = {
    "none": plain,
    **{f"{codec}-librdkafka": compressed_by_producer(codec) for codec in CODECS},
    **{f"{codec}-java": compressed_by_broker(codec) for codec in CODECS},
    "log-append-time": log_append_time,
    "transactions": transactions,
    "compacted": compacted,
}


def record_json(record: Consumed) -> dict[str, Any]:
    def digits(data: bytes | None) -> str | None:
        return None if data is None else data.hex()

    return {
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": digits(record.key),
        "value": digits(record.value),
        "headers": [[name, digits(value)] for name, value in record.headers],
    }


def write_case(broker: Broker, case: str, records: list[Consumed], target: Path) -> None:
    """Copy the topic's first segment and write down what is in it."""
    log, *later = broker.segments(case)
    end_offset = int(later[0].stem) if later else sys.maxsize
    (shown,) = dump_log_segments([log]).files.values()
    batches = [
        {
            "position": int(batch.fields["position"]),
            "base_offset": int(batch.fields["baseOffset"]),
            "last_offset": int(batch.fields["lastOffset"]),
            "record_count": int(batch.fields["count"]),
            "size_bytes": int(batch.fields["size"]),
            "codec": batch.fields["compresscodec"].lower(),
            "crc": int(batch.fields["crc"]),
            "is_control": batch.fields["isControl"] == "true",
            "is_transactional": batch.fields["isTransactional"] == "true",
        }
        for batch in shown.batches
    ]
    target.mkdir(parents=True)
    for suffix in (".log", ".index", ".timeindex", ".txnindex"):
        if log.with_suffix(suffix).exists():
            shutil.copy(log.with_suffix(suffix), target)
    kept = [record_json(record) for record in records if record.offset < end_offset]
    (target / "expected.json").write_text(
        f'{{"batches": {lines_json(batches)},\n"records": {lines_json(kept)}}}\n'
    )


def lines_json(items: list[dict[str, Any]]) -> str:
    """A JSON array with a line for each item."""
    return "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]"


def main() -> int:
    target = PROJECT / "tests" / "data" / f"kafka-{version()}"
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="kafka-fixtures-") as directory:
        broker = Broker(Path(directory), log_cleaner_backoff_ms=200)
        with broker:
            records = {}
            for case, make in CASES.items():
                make(broker, case)
                records[case] = list(broker.consume(case))
        for case in CASES:
            write_case(broker, case, records[case], target / case)
            print(f"{target.name}/{case}: {len(records[case])} records")
    return 0


if __name__ == "__main__":
    sys.exit(main())
