"""A store moves into a real broker, by the steps that the export wrote, and what the broker made of it moves
back. Nothing may change on the way: offsets, keys, values, headers, times, committed offsets."""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from comparing import Plain, assert_same, engine_reads, segments
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

import eventlog
from eventlog import EventLog
from eventlog.consumer.assignment import TopicPartition as Unit
from eventlog.log.checkpoints import read_topic_id
from eventlog.sourcing import Event
from eventlog.transfer import ExportReport, export_kafka, import_kafka
from tools.kafka.kafka import Broker, Row, dump_log_segments, java_command, send

KIB = 1024
START_MS = 1_790_000_000_000
TIMEOUT_S = 90
TRIMMED_FROM = 37  # inside a batch, inside a segment
ZSTD = 4  # in the attributes of a batch
LARGE_SIZE_BYTES = 3 * 512 * KIB  # more than Kafka's max.message.bytes
TOPICS = {"orders": 3, "numbers": 1, "trimmed": 1, "events": 1, "states": 2, "large": 1, "empty": 1}
TOOLS = {
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-configs.sh": "org.apache.kafka.tools.ConfigCommand",
}
GROUPS = {
    "billing": {("orders", 0): 5, ("orders", 1): 0, ("orders", 2): 11, ("trimmed", 0): 50},
    "audit": {("numbers", 0): 200},
}
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# -- the store --------------------------------------------------------------------------------


def fill(log: EventLog) -> None:
    chance = random.Random(11)
    orders = log.topic(
        "orders",
        partitions=TOPICS["orders"],
        segment_size_bytes_max=8 * KIB,
        compression="zstd",
        compression_size_bytes_min=1 * KIB,
    )
    for batch in range(60):
        count = chance.choice((1, 2, 30, 100))
        orders.append_many(
            [
                chance.choice((None, b"", b"order paid" + chance.randbytes(chance.randrange(200))))
                for _ in range(count)
            ],
            keys=[
                chance.choice((None, b"", b"key-%d" % chance.randrange(40))) for _ in range(count)
            ],
            headers=[
                chance.choice(((), (("type", b"x"), ("née", None)), (("", b"\x00\xff"),)))
                for _ in range(count)
            ],
            timestamps_ms=[START_MS + batch * 1000 - chance.randrange(5000) for _ in range(count)],
            partition=batch % 3,
        )
    numbers = log.topic("numbers", segment_size_bytes_max=8 * KIB)
    with numbers.producer(linger_ms=0, batch_size_bytes=1 * KIB) as producer:
        for number in range(1000):
            producer.send(b"%d" % number, b"n")
    trimmed = log.topic("trimmed", segment_size_bytes_max=2 * KIB)
    for number in range(0, 100, 5):
        trimmed.append_many([b"x%d" % (number + place) * 20 for place in range(5)])
    log.delete_records("trimmed", before=TRIMMED_FROM)
    events = log.event_store("events")
    for number in range(200):
        events.append(f"order-{number % 20}", [Event({"number": number}, type="placed")])
    states = log.topic(
        "states",
        partitions=TOPICS["states"],
        segment_size_bytes_max=4 * KIB,
        cleanup_policy="compact,delete",
        min_compaction_lag_ms=10**10,  # the cleaner must not be at work while this compares
    )
    for number in range(300):
        states.append(b"%d" % number, key=b"k%d" % (number % 30), durability="os")
    states.sync()
    log.topic("large").append(b"\x07" * LARGE_SIZE_BYTES, key=b"large")
    log.topic("empty")
    for group, offsets in GROUPS.items():
        log.groups.commit(
            group,
            {Unit(*at): eventlog.OffsetAndMetadata(offset) for at, offset in offsets.items()},
        )


def places() -> list[tuple[str, int]]:
    return [(name, number) for name, count in TOPICS.items() for number in range(count)]


def all_records(log: EventLog) -> dict[tuple[str, int], list[Plain]]:
    return {place: engine_reads(log, *place) for place in places()}


# -- the broker -------------------------------------------------------------------------------


def consume(broker: Broker, topic: str, partition: int) -> list[Plain]:
    """From the log start, wherever that is, to the end."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    found: list[Plain] = []
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        while True:
            message = consumer.poll(TIMEOUT_S)
            assert message is not None, f"nothing came from {topic}-{partition}"
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                return found
            offset = message.offset()
            assert offset is not None
            headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
            found.append(
                Plain(
                    offset, message.timestamp()[1], message.key(), message.value(), tuple(headers)
                )
            )
    finally:
        consumer.close()


class Shell:
    """Runs the blocks of the steps, with Kafka's tools under the names that its scripts have."""

    def __init__(self, directory: Path, broker: Broker, export: Path) -> None:
        self.broker = broker
        self._tools = directory / "bin"
        self._tools.mkdir()
        self._export = export
        for name, main in TOOLS.items():
            script = self._tools / name
            command = " ".join(f"'{word}'" for word in java_command(main))
            script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            script.chmod(0o755)

    def run(self, script: str) -> str:
        environment = {
            **os.environ,
            "PATH": f"{self._tools}:{os.environ['PATH']}",
            "BOOTSTRAP": self.broker.bootstrap,
            "LOG_DIR": str(self.broker.log_directory),
            "EXPORT": str(self._export),
        }
        done = subprocess.run(
            ["bash", "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Error" not in done.stdout, done.stdout
        return done.stdout


def block(steps: str, title: str) -> str:
    """The commands of the section with that title, behind those that begin the page."""
    head, *sections = steps.split("\n## ")
    (section,) = (each for each in sections if title in each.partition("\n")[0])
    return "\n".join(_BLOCK.findall(head) + _BLOCK.findall(section))


# -- the journey ------------------------------------------------------------------------------


@dataclass
class Journey:
    """What was seen at each station."""

    broker: Broker
    written: dict[tuple[str, int], list[Plain]]
    report: ExportReport
    served: dict[tuple[str, int], list[Plain]] = field(default_factory=dict)
    topic_ids: dict[str, uuid.UUID | None] = field(default_factory=dict)
    sealed: dict[str, bytes] = field(default_factory=dict)
    offsets: str = ""
    grown: dict[tuple[str, int], list[Plain]] = field(default_factory=dict)
    store: Path = Path()


@pytest.fixture(
    scope="module", params=["by the steps, trusted", "into the broker's directory, verified"]
)
def journey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Journey:
    is_direct = "into" in request.param
    directory = tmp_path_factory.mktemp("transplant")
    broker = Broker(directory / "broker")
    with eventlog.open(directory / "ours", maintenance=False) as log:
        fill(log)
        written = all_records(log)
        target = broker.log_directory if is_direct else directory / "export"
        plan = export_kafka(log, directory / "export", dry_run=True)
        assert not (directory / "export").exists()
        shell = Shell(directory, broker, target)
        with broker:
            shell.run(block(plan.steps, "Create"))
        ids = {name: read_topic_id(broker.partition_directory(name)) for name in TOPICS}
        report = export_kafka(log, target)
    if is_direct:
        (broker.log_directory / ".kafka_cleanshutdown").unlink()
    else:
        shell.run(block(report.steps, "files in place"))
    seen = Journey(broker, written, report, topic_ids=ids)
    seen.sealed = {
        f"{name}-{number}/{path.name}": path.read_bytes()
        for name, number in places()
        for path in segments(broker.partition_directory(name, number))[:-1]
    }
    with broker:
        seen.served = {place: consume(broker, *place) for place in places()}
        shell.run(block(report.steps, "Committed offsets"))
        seen.offsets = shell.run(
            'kafka-consumer-groups.sh --bootstrap-server "$BOOTSTRAP" --group billing --group audit'
            " --reset-offsets --to-current --all-topics --dry-run --export"
        )
        now_ms = time.time_ns() // 1_000_000
        for name in set(TOPICS) - {"events"}:
            producer = broker.producer(enable_idempotence="true")
            rows = [Row(now_ms + number, b"new", b"from Kafka %d" % number) for number in range(50)]
            send(producer, name, rows)
            send(producer, name, rows[:1])
        seen.grown = {place: consume(broker, *place) for place in places()}
    seen.store = directory / "back"
    with eventlog.open(seen.store) as log:
        imported = import_kafka(log, broker.log_directory, committed_offsets=seen.offsets)
        assert set(imported.skipped) == {"__consumer_offsets", "__cluster_metadata"}
    return seen


def test_the_broker_serves_what_was_appended(journey: Journey) -> None:
    for place in places():
        assert_same(journey.served[place], journey.written[place])
    assert journey.served["trimmed", 0][0].offset == TRIMMED_FROM
    assert sum(map(len, journey.served.values())) > 3000
    assert len(journey.sealed) > 12
    codecs = {data[22] & 7 for name, data in journey.sealed.items() if name.startswith("orders")}
    assert ZSTD in codecs


def test_the_export_told_of_what_is_special(journey: Journey) -> None:
    found = {(each.name, each.place) for each in journey.report.findings}
    assert found == {("large-batches", "large-0")}


def test_no_segment_was_cut_renamed_or_written_anew(journey: Journey) -> None:
    for name, data in journey.sealed.items():
        assert (journey.broker.log_directory / name).read_bytes() == data


def test_committed_offsets_are_in_place(journey: Journey) -> None:
    assert sorted(journey.offsets.split()) == sorted(journey.report.offsets_csv.split())
    with eventlog.open(journey.store, read_only=True) as log:
        for group, offsets in GROUPS.items():
            assert {
                (unit.topic, unit.partition): committed.offset
                for unit, committed in log.groups.committed(group).items()
            } == offsets


def test_the_broker_goes_on_behind_it(journey: Journey) -> None:
    for name in set(TOPICS) - {"events"}:
        before, after = journey.served[name, 0], journey.grown[name, 0]
        assert after[: len(before)] == before
        assert len(after) == len(before) + 51
        assert after[-1].offset == (before[-1].offset + 51 if before else 50)


def test_all_of_it_comes_back(journey: Journey) -> None:
    with eventlog.open(journey.store) as log:
        for place in places():
            assert_same(engine_reads(log, *place), journey.grown[place])
        for name, topic_id in journey.topic_ids.items():
            assert log.topic(name).topic_id == topic_id
        assert log.topic("trimmed").log_start_offset() == TRIMMED_FROM
        stream = list(log.event_store("events").read_stream("order-7"))
        assert [event.data["number"] for event in stream] == list(range(7, 200, 20))
        log.topic("orders").append(b"and on", partition=0)
        assert log.topic("orders").log_end_offset(0) == journey.grown["orders", 0][-1].offset + 2


def test_the_broker_s_own_tool_finds_nothing_wrong(journey: Journey) -> None:
    files = [
        path
        for name, number in places()
        for path in sorted(journey.broker.partition_directory(name, number).iterdir())
        if path.suffix in (".log", ".index", ".timeindex", ".snapshot")
    ]
    assert dump_log_segments(files).problems == []
