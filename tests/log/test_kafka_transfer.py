"""Moving to a Kafka cluster and back, without one: what lies in the files, what is refused, and what an
interruption leaves. tests/integration/test_transplant.py has a real broker do it."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from log_support import SMALL, flip, in_child, read_all, segments
from producer_support import crc32c, encode_batch, varint

import eventlog
from eventlog import EventLog, OffsetAndMetadata, TopicPartition
from eventlog.errors import (
    GroupNotEmptyError,
    LockedError,
    SettingError,
    StorageError,
    StorageReadOnlyError,
    TransferError,
    UnknownTopicError,
)
from eventlog.log import adoption, checkpoints, producer_snapshot
from eventlog.sourcing import Event
from eventlog.transfer import (
    Finding,
    broker_directory,
    export_kafka,
    import_kafka,
    kafka_export,
    kafka_import,
)

FIXTURES = next((Path(__file__).parents[1] / "data").glob("kafka-*"))
HIGH_ID = 2**62 + 5
DAY_MS = 24 * 3_600_000


def fill(log: EventLog) -> None:
    """Several partitions and segments, zstd, an idempotent producer, an event store, an empty topic, a
    group."""
    orders = log.topic(
        "orders", partitions=3, compression="zstd", compression_size_bytes_min=0, **SMALL
    )
    for number in range(90):
        orders.append_many(
            [b"value %d " % number * 5, None],
            keys=[b"k%d" % (number % 7), None],
            headers=[[("h", b"1"), ("n", None)], None],
            partition=number % 3,
            durability="os",
        )
    with log.topic("numbers").producer() as producer:
        for number in range(20):
            producer.send(b"%d" % number)
    log.event_store("events").append("order-1", [Event({"n": 1}, type="placed")])
    log.topic("empty")
    log.groups.commit("billing", {TopicPartition("orders", 1): OffsetAndMetadata(17)})


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with eventlog.open(tmp_path / "store", durability="os", maintenance=False) as log:
        yield log


@pytest.fixture
def other(tmp_path: Path) -> Iterator[EventLog]:
    with eventlog.open(tmp_path / "other", durability="os", maintenance=False) as log:
        yield log


def log_bytes(directory: Path) -> dict[str, bytes]:
    """The batches of all partitions below, by partition and segment."""
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes().rstrip(b"\0")
        for path in directory.glob("*/*.log")
    }


def names(findings: tuple[Finding, ...]) -> set[tuple[str, str]]:
    return {(each.name, each.place) for each in findings}


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> set[str]:
    """Names of the errors with which it is refused."""
    with pytest.raises(TransferError) as caught:
        call(*arguments, **options)
    assert str(caught.value).startswith("nothing was moved: ")
    return {each.name for each in caught.value.findings if each.is_error}


def broker(path: Path, **partitions: int) -> Path:
    """The data directory of a stopped broker in which topics were created."""
    path.mkdir()
    (path / "meta.properties").write_text("version=1\nnode.id=1\n")
    (path / ".lock").touch()
    (path / ".kafka_cleanshutdown").touch()
    checkpoints.write_offsets(path / checkpoints.RECOVERY_POINT, {("theirs", 0): 7})
    for topic, count in partitions.items():
        topic_id = uuid.uuid4()
        for number in range(count):
            directory = path / f"{topic}-{number}"
            directory.mkdir()
            (directory / f"{0:020d}.log").touch()
            checkpoints.write_partition_files(directory, topic_id)
    return path


# -- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("hard_link", [False, True])
def test_there_and_back(log: EventLog, other: EventLog, tmp_path: Path, hard_link: bool) -> None:
    fill(log)
    report = export_kafka(log, tmp_path / "export", hard_link=hard_link)
    assert report.findings == ()
    assert len(segments(log.path, "orders")) > 3
    assert log_bytes(tmp_path / "export") == log_bytes(log.log_directory)
    imported = import_kafka(
        other,
        tmp_path / "export",
        committed_offsets=report.offsets_csv,
        group="billing",
        hard_link=hard_link,
    )
    assert imported.findings == ()
    assert imported.offsets == {"billing": {TopicPartition("orders", 1): 17}}
    assert other.topics() == log.topics()
    for name in log.topics():
        for number in range(log.topic(name).partition_count):
            assert read_all(other.topic(name), number) == read_all(log.topic(name), number)
    assert log_bytes(other.log_directory) == log_bytes(log.log_directory)
    assert other.groups.committed("billing") == log.groups.committed("billing")
    assert [event.type for event in other.event_store("events").read_stream("order-1")] == [
        "placed"
    ]
    assert other.topic("orders").append(b"next", partition=1).offset == 60


def test_the_store_is_not_touched_by_what_happens_to_the_copy(
    log: EventLog, tmp_path: Path
) -> None:
    """A broker writes to its indexes and its newest segment in place."""
    fill(log)
    before = log_bytes(log.log_directory)
    export_kafka(log, tmp_path / "export", hard_link=True)
    for directory in (tmp_path / "export").glob("*-*/"):
        newest = max(directory.glob("*.log"))
        for path in directory.iterdir():
            if path.suffix != ".log" or path == newest:
                path.write_bytes(b"")
    assert log_bytes(log.log_directory) == before
    log.close()
    with eventlog.open(log.path) as again:
        assert not [report for report in again.recovery if report.case not in ("C-A", "C-B")]


def test_what_a_stopped_broker_has_beside_the_log(log: EventLog, tmp_path: Path) -> None:
    fill(log)
    report = export_kafka(log, tmp_path / "export")
    log.close()  # now its indexes are as a clean end leaves them
    for found in report.partitions:
        theirs = tmp_path / "export" / found.name
        ours = log.log_directory / found.name
        for path in theirs.glob("*.index"):
            assert path.read_bytes() == (ours / path.name).read_bytes()
        for path in theirs.glob("*.timeindex"):
            assert path.read_bytes() == (ours / path.name).read_bytes()
        is_empty = found.log_end_offset == 0
        expected = "0\n0\n" if is_empty else "0\n1\n0 0\n"
        assert (theirs / "leader-epoch-checkpoint").read_text() == expected
        assert not (theirs / "partition.metadata").exists()
        (offset,) = producer_snapshot.offsets(theirs)
        assert offset == found.log_end_offset
        table = producer_snapshot.decode((theirs / f"{offset:020d}.snapshot").read_bytes())
        assert len(table.entries) == (found.topic == "numbers")
    assert set(
        checkpoints.read_offsets(tmp_path / "export" / checkpoints.RECOVERY_POINT).values()
    ) == {0}


def test_a_log_start_inside_a_segment(log: EventLog, other: EventLog, tmp_path: Path) -> None:
    topic = log.topic("t", **SMALL)
    for number in range(60):
        topic.append(b"%d" % number * 30)
    log.delete_records("t", before=33)
    export_kafka(log, tmp_path / "export")
    kept = checkpoints.read_offsets(tmp_path / "export" / checkpoints.LOG_START)
    assert kept == {("t", 0): 33}
    import_kafka(other, tmp_path / "export")
    assert read_all(other.topic("t")) == read_all(topic)
    assert other.topic("t").log_start_offset() == 33
    other.close()
    with eventlog.open(other.path) as again:
        assert again.topic("t").log_start_offset() == 33


def test_a_log_of_which_nothing_is_left_keeps_its_place(
    log: EventLog, other: EventLog, tmp_path: Path
) -> None:
    topic = log.topic("t", **SMALL)
    topic.append_many([b"x"] * 20)
    log.delete_records("t", before=20)
    export_kafka(log, tmp_path / "export")
    import_kafka(other, tmp_path / "export")
    assert other.topic("t").append(b"next").offset == 20


def test_the_store_goes_on_and_is_exported_again(log: EventLog, tmp_path: Path) -> None:
    fill(log)
    target = tmp_path / "export"
    export_kafka(log, target)
    log.topic("orders").append(b"more", partition=1)
    log.topic("new").append(b"new")
    report = export_kafka(log, target)
    assert log_bytes(target) == log_bytes(log.log_directory)
    assert {found.name: found.log_end_offset for found in report.partitions}["orders-1"] == 61
    with eventlog.open(log.path, read_only=True) as reader:
        export_kafka(reader, tmp_path / "by a reader")
    assert log_bytes(tmp_path / "by a reader") == log_bytes(target)


def test_what_is_exported_while_others_write_is_a_whole_beginning(
    log: EventLog, other: EventLog, tmp_path: Path
) -> None:
    topic, end = log.topic("t", **SMALL), threading.Event()
    topic.append(b"first")

    def write() -> None:
        number = 0
        while not end.is_set():
            topic.append_many([b"%d" % number] * 3)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reports = [export_kafka(log, tmp_path / "export") for _ in range(5)]
    finally:
        end.set()
        writer.join()
    ends = [report.partitions[0].log_end_offset for report in reports]
    assert ends == sorted(ends)
    import_kafka(other, tmp_path / "export")
    assert read_all(other.topic("t")) == read_all(topic)[: ends[-1]]
    assert other.topic("t").log_end_offset() == ends[-1]


def test_chosen_topics(log: EventLog, other: EventLog, tmp_path: Path) -> None:
    fill(log)
    report = export_kafka(log, tmp_path / "export", topics=["numbers", "orders"])
    assert {found.topic for found in report.partitions} == {"numbers", "orders"}
    with pytest.raises(UnknownTopicError, match="'nothing'"):
        export_kafka(log, tmp_path / "export", topics=["nothing"])
    import_kafka(other, tmp_path / "export", topics="numbers")
    assert other.topics() == ["numbers"]
    import_kafka(
        other, tmp_path / "export" / "orders-0"
    )  # a single directory: partition 0 is a topic
    assert other.topic("orders").partition_count == 1
    with pytest.raises(UnknownTopicError, match="'nothing'"):
        import_kafka(other, tmp_path / "export", topics=["nothing"])
    with pytest.raises(StorageError, match="nothing to import"):
        import_kafka(other, tmp_path / "nowhere")


def test_a_dry_run_only_looks(log: EventLog, other: EventLog, tmp_path: Path) -> None:
    fill(log)
    report = export_kafka(log, tmp_path / "export", dry_run=True)
    assert not (tmp_path / "export").exists()
    assert "--topic orders" in report.steps
    assert "Put the files in place" in report.steps
    assert report.offsets_csv == "orders,1,17\n"
    ends = {found.name: found.log_end_offset for found in report.partitions}
    assert ends == {
        found.name: found.log_end_offset
        for found in export_kafka(log, tmp_path / "export").partitions
    }
    (tmp_path / "export" / "orders-0").rename(tmp_path / "export" / "orders-3")
    imported = import_kafka(other, tmp_path / "export", dry_run=True)
    assert names(imported.findings) == {("partition-missing", "orders")}
    assert other.topics() == []


def test_other_processes_and_consumers_notice(
    log: EventLog, other: EventLog, tmp_path: Path
) -> None:
    fill(log)
    export_kafka(log, tmp_path / "export")
    with eventlog.open(other.path) as beside:
        ticket = beside.activity.ticket()
        import_kafka(other, tmp_path / "export")
        assert beside.activity.wait(ticket, 10)
        assert beside.topics() == log.topics()
        beside.topic("orders").append(b"x", partition=0)
        assert other.topic("orders").log_end_offset(0) == 61


# -- into a broker's directory ----------------------------------------------------------------------


def test_into_the_directory_of_a_broker(log: EventLog, tmp_path: Path) -> None:
    fill(log)
    target = broker(tmp_path / "broker", orders=3, numbers=1, events=1, empty=1, theirs=1)
    ids = {path.name: checkpoints.read_topic_id(path) for path in target.glob("*-*/")}
    assert "Create the topics" in export_kafka(log, target, dry_run=True).steps
    report = export_kafka(log, target)
    assert "Create the topics" not in report.steps
    assert {path.name: checkpoints.read_topic_id(path) for path in target.glob("*-*/")} == ids
    ours = log_bytes(log.log_directory)
    assert {name: data for name, data in log_bytes(target).items() if name in ours} == ours
    points = checkpoints.read_offsets(target / checkpoints.RECOVERY_POINT)
    assert points[("theirs", 0)] == 7
    assert points[("orders", 2)] == 0
    assert {path.name for path in target.iterdir() if path.is_dir()} == set(ids)


def test_a_broker_that_runs_is_left_alone(log: EventLog, other: EventLog, tmp_path: Path) -> None:
    fill(log)
    target = broker(tmp_path / "broker", orders=3)
    ready, end = os.pipe(), os.pipe()

    def run() -> None:
        with (target / ".lock").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(ready[1], b"x")
            os.read(end[0], 1)

    pid = os.fork()
    if pid == 0:
        run()
        os._exit(0)
    try:
        os.read(ready[0], 1)
        with pytest.raises(LockedError, match="a broker runs on"):
            export_kafka(log, target)
        with pytest.raises(LockedError, match="a broker runs on"):
            import_kafka(other, target)
        with pytest.raises(LockedError, match="a broker runs on"):
            import_kafka(other, target / "orders-0")
    finally:
        os.write(end[1], b"x")
        os.waitpid(pid, 0)
        for descriptor in (*ready, *end):
            os.close(descriptor)


# -- what an export refuses, or tells ------------------------------------------------------------------


def test_damage(log: EventLog, tmp_path: Path) -> None:
    fill(log)
    path = segments(log.path, "orders")[2]
    flip(path, 100)
    assert refused(export_kafka, log, tmp_path / "export") == {"damaged"}
    assert not (tmp_path / "export").exists()
    found = export_kafka(log, tmp_path / "export", dry_run=True).findings
    assert {each.name for each in found} == {"damaged"}


def test_records_past_retention(log: EventLog, tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    for name, settings in (
        ("aged", {"retention_ms": 7 * DAY_MS}),
        ("large", {"retention_size_bytes": 2000}),
        ("kept", {"retention_ms": 9 * DAY_MS, "retention_size_bytes": 10**6}),
    ):
        topic = log.topic(name, **SMALL, cleanup_policy="delete", **settings)
        for number in range(40):
            age_ms = (8 if number < 30 else 0) * DAY_MS
            topic.append(b"x" * 100, timestamp_ms=now_ms - age_ms)
    with pytest.raises(TransferError) as caught:
        export_kafka(log, tmp_path / "export")
    assert names(caught.value.findings) == {("old-records", "aged-0"), ("old-records", "large-0")}
    assert "accept" in str(caught.value)
    report = export_kafka(log, tmp_path / "export", accept={"old-records"})
    assert names(report.findings) == {("old-records", "aged-0"), ("old-records", "large-0")}
    assert f"retention.ms={7 * DAY_MS} " in report.steps


def test_records_without_a_key_in_a_compacted_topic(log: EventLog, tmp_path: Path) -> None:
    for name in ("mixed", "keyed"):
        topic = log.topic(name)
        topic.append_many([b"1", b"2"], keys=[b"k", None if name == "mixed" else b"l"])
        log.topic(name, cleanup_policy="compact", min_compaction_lag_ms=5)
    with pytest.raises(TransferError) as caught:
        export_kafka(log, tmp_path / "export")
    assert names(caught.value.findings) == {("keyless-records", "mixed-0")}
    report = export_kafka(log, tmp_path / "export", accept="keyless-records")
    assert report.steps.count("cleanup.policy=compact ") == 2
    assert "min.compaction.lag.ms=5" in report.steps


@pytest.mark.parametrize(("producer_id", "age_ms", "is_refused"), [
    (17, 0, True), (17, 2 * DAY_MS, False), (HIGH_ID, 0, False)])  # fmt: skip
def test_producer_ids_that_a_new_cluster_will_give_out(
    log: EventLog, tmp_path: Path, producer_id: int, age_ms: int, is_refused: bool
) -> None:
    now_ms = time.time_ns() // 1_000_000
    partition = log.topic("t").partition(0)
    partition.append_batch(encode_batch(producer_id, 0, 0, 3, now_ms - age_ms))
    if is_refused:
        assert refused(export_kafka, log, tmp_path / "export") == {"producer-ids"}
        export_kafka(log, tmp_path / "export", accept=["producer-ids"])
    else:
        assert export_kafka(log, tmp_path / "export").findings == ()


def control_batch(producer_id: int, kind: int) -> bytes:
    """A marker that ends a transaction: 0 aborts, 1 commits."""
    key, value = struct.pack(">hh", 0, kind), struct.pack(">hi", 0, 0)
    body = bytes(3) + varint(len(key)) + key + varint(len(value)) + value + varint(0)
    record = varint(len(body)) + body
    now_ms = time.time_ns() // 1_000_000
    rest = struct.pack(">hiqqqhii", 16 | 32, 0, now_ms, now_ms, producer_id, 0, -1, 1) + record
    return struct.pack(">qiibI", 0, 9 + len(rest), 0, 2, crc32c(rest)) + rest


def test_transactions(log: EventLog, other: EventLog, tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    partition = log.topic("t").partition(0)
    for producer_id, count in ((HIGH_ID, 3), (HIGH_ID + 1, 2)):
        partition.append_batch(encode_batch(producer_id, 0, 0, count, now_ms, attributes=16))
    partition.append_batch(control_batch(HIGH_ID, 0))
    assert refused(export_kafka, log, tmp_path / "export") == {"open-transaction"}
    partition.append_batch(control_batch(HIGH_ID + 1, 1))
    assert export_kafka(log, tmp_path / "export").findings == ()
    index = tmp_path / "export" / "t-0" / f"{0:020d}.txnindex"
    assert index.read_bytes() == struct.pack(">hqqqq", 0, HIGH_ID, 0, 5, 3)
    imported = import_kafka(other, tmp_path / "export")
    assert names(imported.findings) == {("aborted-transactions", "t-0")}
    assert not imported.findings[0].is_error
    assert read_all(other.topic("t")) == read_all(log.topic("t"))
    # and out again: the same bytes
    export_kafka(other, tmp_path / "again")
    assert (tmp_path / "again" / "t-0" / index.name).read_bytes() == index.read_bytes()


def test_what_kafka_wrote_comes_back_as_kafka_wrote_it(log: EventLog, tmp_path: Path) -> None:
    """In particular its index of aborted transactions, and a compacted log with its holes."""
    source = tmp_path / "broker"
    for case in ("transactions", "compacted"):
        shutil.copytree(FIXTURES / case, source / f"{case}-0")
    imported = import_kafka(log, source)
    assert names(imported.findings) == {("aborted-transactions", "transactions-0")}
    assert [found.topic for found in imported.partitions if found.has_gaps] == ["compacted"]
    export_kafka(log, tmp_path / "export", accept=["producer-ids"])
    for case in ("transactions", "compacted"):
        for path in (FIXTURES / case).glob("0*"):
            assert (tmp_path / "export" / f"{case}-0" / path.name).read_bytes() == path.read_bytes()
    for found in imported.partitions:
        assert log.topic(found.topic).log_end_offset() == found.log_end_offset
        log.topic(found.topic).append(b"next")


def test_leader_epochs_are_left_behind(log: EventLog, other: EventLog, tmp_path: Path) -> None:
    """They lie outside the checksum, and mean nothing in another cluster."""
    for number in range(40):
        log.topic("t", **SMALL).append(b"%d" % number * 50)
    export_kafka(log, tmp_path / "export")
    before = log_bytes(tmp_path / "export")
    for path in (tmp_path / "export" / "t-0").glob("*.log"):
        data, position = bytearray(path.read_bytes()), 0
        while position < len(data):
            data[position + 12 : position + 16] = (3).to_bytes(4, "big")
            position += 12 + int.from_bytes(data[position + 8 : position + 12], "big")
        path.write_bytes(data)
    (tmp_path / "export" / "t-0" / "leader-epoch-checkpoint").write_text("0\n1\n3 0\n")
    with_epochs = log_bytes(tmp_path / "export")
    assert import_kafka(other, tmp_path / "export").findings == ()
    assert read_all(other.topic("t")) == read_all(log.topic("t"))
    report = export_kafka(other, tmp_path / "again", hard_link=True)
    assert names(report.findings) == {("leader-epochs", "t-0")}
    assert log_bytes(tmp_path / "again") == before
    assert log_bytes(other.log_directory) == with_epochs


def test_names_that_kafka_has_or_takes_for_one(log: EventLog, tmp_path: Path) -> None:
    for name in ("a.b", "a_b", "__consumer_offsets", "x" * 245):
        log.topic(name)
    with pytest.raises(TransferError) as caught:
        export_kafka(log, tmp_path / "export")
    assert names(caught.value.findings) == {
        ("topic-name", place) for place in ("a.b", "__consumer_offsets", "x" * 245)
    }
    assert not (tmp_path / "export").exists()


def test_what_the_cluster_has_to_know(log: EventLog, tmp_path: Path) -> None:
    log.topic("t", cleanup_policy="delete", retention_count=5, retention_waits_for_groups=True)
    receipt = log.topic("t").append(b"x" * 2_000_000)
    assert receipt.offset == 0
    log.topic("keys").append_many([b"x"] * 9)
    with log.consumer("at work", "keys", sharing="key", key_slots=4) as consumer:
        consumer.poll(timeout_s=1)
        consumer.commit()
        report = export_kafka(log, tmp_path / "export")
    found = [(each.name, each.place) for each in report.findings]
    assert sorted(found) == [
        ("active-group", ""), ("key-slots", ""), ("large-batches", "t-0"), ("settings", "t"), ("settings", "t"),
    ]  # fmt: skip
    (large,) = (each for each in report.findings if each.name == "large-batches")
    size = large.detail.partition("max.message.bytes=")[2].partition(",")[0]
    assert int(size) > 2_000_000
    assert f"max.message.bytes={size}\n" in report.steps


def test_the_target_does_not_fit(log: EventLog, tmp_path: Path) -> None:
    fill(log)
    target = broker(tmp_path / "broker", orders=2, numbers=2, events=1, empty=1)
    (target / "events-0" / "partition.metadata").unlink()
    with pytest.raises(TransferError) as caught:
        export_kafka(log, target)
    assert names(caught.value.findings) == {
        ("partition-missing", "orders"), ("partition-count", "numbers"), ("partition-missing", "events"),
    }  # fmt: skip
    assert log_bytes(target).keys() == {
        f"{name}-{number}/{0:020d}.log"
        for name, count in (("orders", 2), ("numbers", 2), ("events", 1), ("empty", 1))
        for number in range(count)
    }


def test_records_that_are_there_already(log: EventLog, other: EventLog, tmp_path: Path) -> None:
    log.topic("t").append(b"ours")
    other.topic("t").append(b"theirs")
    export_kafka(other, tmp_path / "export")
    before = log_bytes(tmp_path / "export")
    assert refused(export_kafka, log, tmp_path / "export") == {"target-not-empty"}
    assert refused(export_kafka, log, tmp_path / "export", accept=["old-records"]) == {
        "target-not-empty"
    }
    assert log_bytes(tmp_path / "export") == before
    assert not list((tmp_path / "export").glob("*-delete"))


def test_a_store_is_no_target(log: EventLog, other: EventLog) -> None:
    log.topic("t").append(b"x")
    for target in (log.path, log.log_directory, other.log_directory):
        with pytest.raises(SettingError, match="belongs to, the store"):
            export_kafka(log, target)
    assert read_all(log.topic("t"))


def test_only_some_findings_can_be_accepted(log: EventLog, other: EventLog, tmp_path: Path) -> None:
    for call in (
        lambda: export_kafka(log, tmp_path / "export", accept=["damaged"]),
        lambda: import_kafka(other, tmp_path, accept=["anything"]),
    ):
        with pytest.raises(SettingError, match="cannot be accepted"):
            call()


# -- what an import refuses, or tells ------------------------------------------------------------------


@pytest.fixture
def source(log: EventLog, tmp_path: Path) -> Path:
    """What a broker of one node has, stopped cleanly."""
    fill(log)
    target = broker(
        tmp_path / "broker", orders=3, numbers=1, events=1, empty=1, __consumer_offsets=2
    )
    export_kafka(log, target)
    return target


def test_topics_of_the_broker_s_own_stay_there(other: EventLog, source: Path) -> None:
    assert refused(import_kafka, other, source, topics=["__consumer_offsets"]) == {"topic-name"}
    assert import_kafka(other, source).skipped == ("__consumer_offsets",)
    assert other.topics() == ["empty", "events", "numbers", "orders"]
    for name in other.topics():
        assert other.topic(name).topic_id == checkpoints.read_topic_id(source / f"{name}-0")


def _damage(source: Path) -> None:
    flip(sorted((source / "orders-1").glob("*.log"))[1], 70)


def _lose_segment(source: Path) -> None:
    path = sorted((source / "orders-1").glob("*.log"))[1]
    path.rename(path.with_name(f"{1:020d}.log"))


def _lose_partition(source: Path) -> None:
    shutil.rmtree(source / "orders-1")


def _mix_topics(source: Path) -> None:
    shutil.copy(source / "numbers-0" / "partition.metadata", source / "orders-1")


def _leave_swap(source: Path) -> None:
    (source / "orders-1" / f"{0:020d}.log.swap").touch()


def _empty_directory(source: Path) -> None:
    for path in (source / "orders-1").glob("*.log"):
        path.unlink()


def _start_behind_end(source: Path) -> None:
    checkpoints.write_offsets(source / checkpoints.LOG_START, {("orders", 1): 1000})


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (_damage, "damaged"),
        (_lose_segment, "damaged"),
        (_lose_partition, "partition-missing"),
        (_mix_topics, "topic-id"),
        (_leave_swap, "unfinished-cleaning"),
        (_empty_directory, "damaged"),
        (_start_behind_end, "damaged"),
    ],
)
def test_nothing_is_imported_if_something_is_wrong(
    other: EventLog, source: Path, spoil: Callable[[Path], None], name: str
) -> None:
    spoil(source)
    assert refused(import_kafka, other, source) == {name}
    assert other.topics() == []
    assert not (other.path / "incoming").exists()


def test_a_torn_tail_can_be_left_out(log: EventLog, other: EventLog, source: Path) -> None:
    """The broker was killed: Kafka would cut that at its next start, and so do we if told to."""
    newest = max((source / "orders-1").glob("*.log"))
    with newest.open("ab") as file:
        file.write(newest.read_bytes()[:90])
    assert refused(import_kafka, other, source) == {"torn-tail"}
    report = import_kafka(other, source, accept=["torn-tail"])
    assert names(report.findings) == {("torn-tail", "orders-1")}
    assert read_all(other.topic("orders"), 1) == read_all(log.topic("orders"), 1)
    assert not [each for each in other.recovery if each.case == "C-C"]


def test_room_that_the_broker_reserved_is_no_tail(
    log: EventLog, other: EventLog, source: Path
) -> None:
    with max((source / "orders-1").glob("*.log")).open("ab") as file:
        file.write(bytes(4096))
    assert import_kafka(other, source).findings == ()
    assert read_all(other.topic("orders"), 1) == read_all(log.topic("orders"), 1)


def test_topics_that_the_store_has_stay_as_they_are(other: EventLog, source: Path) -> None:
    other.topic("orders").append(b"ours")
    assert refused(import_kafka, other, source) == {"topic-exists"}
    assert other.topics() == ["orders"]
    import_kafka(other, source, topics=["numbers"])
    assert other.topics() == ["numbers", "orders"]


def test_several_data_directories(other: EventLog, source: Path, tmp_path: Path) -> None:
    second = broker(tmp_path / "second")
    (source / "orders-1").rename(second / "orders-1")
    shutil.copytree(source / "orders-2", second / "orders-2")
    assert refused(import_kafka, other, [source, second]) == {"partition-twice"}
    shutil.rmtree(second / "orders-2")
    import_kafka(other, [source, second])
    assert other.topic("orders").partition_count == 3


def test_committed_offsets_are_looked_at_first(other: EventLog, source: Path) -> None:
    with pytest.raises(UnknownTopicError, match="'payments'"):
        import_kafka(other, source, committed_offsets="payments,0,5\n", group="g")
    with pytest.raises(SettingError, match="names no group"):
        import_kafka(other, source, committed_offsets="orders,0,5\n")
    assert other.topics() == []
    other.topic("mine").append(b"x")
    with other.consumer("busy", "mine") as consumer:
        consumer.poll(timeout_s=1)
        with pytest.raises(GroupNotEmptyError):
            import_kafka(other, source, committed_offsets="orders,0,5\n", group="busy")
    assert "orders" in other.topics()


def test_a_reader_imports_nothing(log: EventLog, source: Path) -> None:
    with (
        eventlog.open(log.path, read_only=True) as reader,
        pytest.raises(StorageReadOnlyError, match="open for reading only"),
    ):
        import_kafka(reader, source)


# -- interrupted -------------------------------------------------------------------------------------


def die_at(step: int) -> None:
    """From here on the process ends before the step-th change to a disk."""
    left = step

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return function(*arguments, **options)

        return call

    for module, function_names in (
        (adoption, ("check", "path_bytes")),
        (broker_directory, ("check", "path_bytes")),
        (kafka_export, ("write_indexes", "copy_file", "sync_tree")),
        (kafka_import, ("write_indexes", "copy_bytes", "sync_tree")),
        (checkpoints, ("replace_file",)),
    ):
        for name in function_names:
            setattr(module, name, counted(getattr(module, name)))


def survives(function: Callable[[], None], step: int) -> bool:
    """Run it in a child that dies at that step; whether it came to its end before."""
    pid = os.fork()
    if pid == 0:
        try:
            die_at(step)
            function()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return status == 0


def test_an_export_that_is_killed_anywhere_leaves_each_partition_whole(tmp_path: Path) -> None:
    store, target = tmp_path / "store", tmp_path / "broker"
    with eventlog.open(store) as log:
        for number in range(10):
            log.topic("t", partitions=2, **SMALL).append(b"x" * 200, partition=number % 2)
    whole = {name: data for name, data in log_bytes(store / "log").items() if data}

    def run() -> None:
        with eventlog.open(store, read_only=True) as log:
            export_kafka(log, target)

    step, is_done = 0, False
    while not is_done:
        shutil.rmtree(target, ignore_errors=True)
        broker(target, t=2)
        ids = {checkpoints.read_topic_id(path) for path in target.glob("t-*")}
        is_done = survives(run, step)
        there = {path.name for path in target.iterdir() if path.is_dir()}
        assert all(name in ("t-0", "t-1") or name.endswith("-delete") for name in there)
        for number in range(2):
            found = {
                name: data
                for name, data in log_bytes(target).items()
                if name.startswith(f"t-{number}/") and data
            }
            assert not found or found.items() <= whole.items()
            assert not found or len(found) == sum(name.startswith(f"t-{number}/") for name in whole)
        run()
        assert {path.name for path in target.iterdir() if path.is_dir()} == {"t-0", "t-1"}
        assert {name: data for name, data in log_bytes(target).items() if data} == whole
        assert {checkpoints.read_topic_id(path) for path in target.glob("t-*")} == ids
        step += 1
    assert step > 15


def test_an_import_that_is_killed_anywhere_is_there_as_a_whole_or_not_at_all(
    log: EventLog, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        for number in range(10):
            log.topic(name, partitions=2, **SMALL).append(b"x" * 200, partition=number % 2)
    export_kafka(log, tmp_path / "export")
    step, is_done = 0, False
    while not is_done:
        store = tmp_path / f"store {step}"
        eventlog.open(store).close()

        def run(store: Path = store) -> None:
            with eventlog.open(store, maintenance=False) as other:
                import_kafka(other, tmp_path / "export")

        is_done = survives(run, step)
        with eventlog.open(store, maintenance=False) as other:
            assert other.topics() in ([], ["a", "b"])
            if not other.topics():
                assert not list(other.log_directory.glob("*-*/"))
                import_kafka(other, tmp_path / "export")
            for name in ("a", "b"):
                for number in range(2):
                    assert read_all(other.topic(name), number) == read_all(log.topic(name), number)
            assert not (store / "incoming").exists()
        step += 1
    assert step > 15


def test_a_failure_halfway_is_taken_back(
    log: EventLog, other: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log)
    export_kafka(log, tmp_path / "export")
    real, calls = adoption._move, []

    def move(*arguments: Any) -> None:
        real(*arguments)
        calls.append(arguments)
        raise StorageError("no more")

    monkeypatch.setattr(adoption, "_move", move)
    with pytest.raises(StorageError, match="no more"):
        import_kafka(other, tmp_path / "export")
    assert calls
    assert other.topics() == []
    assert not list(other.log_directory.glob("*-*/"))
    monkeypatch.undo()
    import_kafka(other, tmp_path / "export")
    assert other.topics() == log.topics()


def test_a_forked_child_is_refused(log: EventLog, tmp_path: Path) -> None:
    fill(log)

    def run() -> None:
        with pytest.raises(eventlog.errors.ForkedError):
            export_kafka(log, tmp_path / "export")

    in_child(run)
