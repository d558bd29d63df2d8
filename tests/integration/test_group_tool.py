"""Kafka's own group tool reads the offsets that we export, and we read what it exports."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventlog
from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.group import Groups, OffsetAndMetadata
from tools.kafka.kafka import Broker, java_command

TOOL = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
LONG = "a.topic-with_a-name.of-more-than-24-characters"
TOPICS = {"orders": 3, LONG: 2}
RECORDS = 20
OFFSETS = {
    "billing": {("orders", 0): 0, ("orders", 1): 7, ("orders", 2): 20, (LONG, 1): 3},
    'a "quoted", group': {("orders", 1): 19, (LONG, 0): 20},
    "group-with-a-name-of-more-than-24-characters": {("orders", 0): 5},
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """With as many records as the store has: the tool holds offsets against the log."""
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        for name, partitions in TOPICS.items():
            broker.create_topic(name, partitions)
            producer = broker.producer()
            for partition in range(partitions):
                for _ in range(RECORDS):
                    producer.produce(name, b"x", partition=partition)
            assert producer.flush(60) == 0
        yield broker


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[Groups]:
    with eventlog.open(tmp_path / "store") as log:
        for name, partitions in TOPICS.items():
            topic = log.topic(name, partitions=partitions)
            for partition in range(partitions):
                topic.append_many([b"x"] * RECORDS, partition=partition)
        groups = Groups(log)
        for group, offsets in OFFSETS.items():
            groups.commit(
                group,
                {TopicPartition(*at): OffsetAndMetadata(to) for at, to in offsets.items()},
            )
        yield groups
        groups.close()


def run_tool(broker: Broker, groups: list[str], *options: str) -> str:
    names = [word for group in groups for word in ("--group", group)]
    arguments = ("--bootstrap-server", broker.bootstrap, *names, "--reset-offsets", *options)
    done = subprocess.run(
        java_command(TOOL, *arguments), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Error" not in done.stdout, done.stdout
    return done.stdout


def lines(text: str) -> list[str]:
    """In order: the tool writes them as its hash tables have them."""
    return sorted(line for line in text.splitlines() if line)


@pytest.mark.parametrize("names", [["billing"], list(OFFSETS)], ids=["one group", "several"])
def test_offsets_go_to_kafka_and_come_back(
    broker: Broker, groups: Groups, tmp_path: Path, names: list[str]
) -> None:
    exported = groups.export_csv(names)
    file = tmp_path / "offsets.csv"
    file.write_text(exported)
    told = run_tool(broker, names, "--from-file", str(file), "--execute", "--export")
    assert lines(told) == lines(exported), "what the tool read it writes as we do"
    kept = run_tool(broker, names, "--to-current", "--all-topics", "--dry-run", "--export")
    assert lines(kept) == lines(exported), "and it is what the broker has"
    for name in names:
        groups.delete(name)
    groups.import_csv(kept, group=names[0])
    for name in names:
        assert {
            (unit.topic, unit.partition): committed.offset
            for unit, committed in groups.committed(name).items()
        } == OFFSETS[name]
