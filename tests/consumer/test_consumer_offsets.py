"""Committed offsets beside a log that is not what it was: deleted topics, a log that lost its end."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from groups_support import Member, memory, unit
from hypothesis import given
from hypothesis import strategies as st

import eventlog
from eventlog.consumer import offsets
from eventlog.consumer.group import Groups, OffsetAndMetadata, TopicPartition
from eventlog.errors import (
    InvalidRecordError,
    PartitionMismatchError,
    RecordTooLargeError,
    UnknownTopicError,
)


@pytest.fixture
def log() -> Iterator[eventlog.EventLog]:
    with memory() as directory, eventlog.open(directory / "store") as log:
        log.topic("t").append_many([b"x"] * 10)
        yield log


@pytest.fixture
def groups(log: eventlog.EventLog) -> Iterator[Groups]:
    groups = Groups(log)
    yield groups
    groups.close()


def test_metadata_has_a_limit(groups: Groups) -> None:
    most = "ü" * 2048
    groups.commit("g", {unit(0): OffsetAndMetadata(1, most)})
    assert groups.committed("g")[unit(0)].metadata == most
    with pytest.raises(RecordTooLargeError) as caught:
        groups.commit("g", {unit(0): OffsetAndMetadata(2, most + "x")})
    assert (caught.value.size, caught.value.limit) == (4097, 4096)
    assert groups.committed("g")[unit(0)].offset == 1


@pytest.mark.parametrize(
    "value",
    [
        OffsetAndMetadata("1"),  # type: ignore[arg-type]
        OffsetAndMetadata(1.0),  # type: ignore[arg-type]
        OffsetAndMetadata(True),
        OffsetAndMetadata(1, b"m"),  # type: ignore[arg-type]
        OffsetAndMetadata(1, "\ud800"),
        OffsetAndMetadata(1, "m", None),  # type: ignore[arg-type]
    ],
)
def test_wrong_types_are_refused(groups: Groups, value: OffsetAndMetadata) -> None:
    with pytest.raises(InvalidRecordError):
        groups.commit("g", {unit(0): value})
    assert groups.list() == []


def test_only_what_is_there_can_be_committed(log: eventlog.EventLog, groups: Groups) -> None:
    with pytest.raises(UnknownTopicError):
        groups.commit("g", {unit(0, "none"): OffsetAndMetadata(0)})
    assert log.topics() == ["t"], "and it is not made by asking"
    for partition in (1, -1):
        with pytest.raises(PartitionMismatchError):
            groups.commit("g", {unit(partition): OffsetAndMetadata(0)})


def test_offsets_of_a_deleted_topic_do_not_count_for_a_new_one(
    log: eventlog.EventLog, groups: Groups
) -> None:
    groups.commit("g", {unit(0): OffsetAndMetadata(5)})
    log.delete_topic("t")
    assert (groups.committed("g"), groups.lag("g")) == ({}, {})
    assert groups.describe("g").partitions == ()
    assert groups.export_csv("g") == ""
    log.topic("t").append_many([b"y"] * 10)
    assert groups.committed("g") == {}
    assert groups.reset("g", to="latest") == {}
    one = Member(groups, {"t": 1})
    one.sync()
    one.membership.commit({unit(0): OffsetAndMetadata(1)})
    assert groups.committed("g") == {unit(0): OffsetAndMetadata(1)}


def test_an_offset_past_the_end_of_the_log_is_clamped_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Persisted: the committed offset 10. Lost: the last 6 records (a log from an older backup)."""
    with memory() as directory:
        path = directory / "store"
        with eventlog.open(path) as log:
            log.topic("t").append_many([b"x"] * 4)
        shutil.copytree(path, directory / "backup")
        with eventlog.open(path) as log:
            log.topic("t").append_many([b"x"] * 6)
            groups = Groups(log)
            groups.commit("g", {unit(0): OffsetAndMetadata(10, "m")})
            groups.close()
        (path / "groups").rename(directory / "backup" / "groups")
        with eventlog.open(directory / "backup") as log:
            groups = Groups(log)
            with caplog.at_level(logging.WARNING, "eventlog.consumer"):
                assert groups.committed("g") == {unit(0): OffsetAndMetadata(4, "m")}
                assert groups.lag("g") == {unit(0): 0}
            assert caplog.text.count("lies past the end of the log") == 1
            (problem,) = groups.describe("g").problems
            assert "10" in problem
            assert "4" in problem
            assert "C-H" in problem
            assert groups.export_csv("g") == "t,0,4\n"
            log.topic("t").append_many([b"x"] * 10)
            assert groups.committed("g") == {unit(0): OffsetAndMetadata(10, "m")}
            groups.reset("g", to=4)
            assert groups.describe("g").problems == ()
            groups.close()


rows = st.dictionaries(
    st.builds(
        TopicPartition,
        st.from_regex(r"[A-Za-z0-9._-]{1,5}", fullmatch=True),
        st.integers(0, 2**31 - 1),
        st.integers(-1, 4095),
    ),
    st.builds(OffsetAndMetadata, st.integers(0, 2**62), st.text(max_size=5), st.integers(0, 9)),
    max_size=8,
)


@given(first=rows, second=rows)
def test_rows_keep_apart(first: Any, second: Any) -> None:
    import uuid

    from eventlog.meta import Environment

    topic_id = uuid.uuid4()
    with Environment.temporary() as environment:
        with environment.write() as transaction:
            for group, committed in (("g", first), ("g.t", second)):
                known = {
                    each: offsets.OffsetRow(value.offset, topic_id, value.metadata, 0)
                    for each, value in committed.items()
                }
                offsets.put(transaction, group, known)
        with environment.write() as transaction:
            found = offsets.rows_of(transaction, "g")
            assert {each: row.offset for each, row in found.items()} == {
                each: value.offset for each, value in first.items()
            }
            assert list(found) == sorted(found)
            assert offsets.rows_of(transaction, "g", found) == found
            offsets.clear(transaction, "g")
            assert not offsets.has_any(transaction, "g")
            assert offsets.has_any(transaction, "g.t") == bool(second)


def test_threads_commit_at_once(log: eventlog.EventLog, groups: Groups) -> None:
    topic = log.topic("u", partitions=8)
    for partition in range(8):
        topic.append_many([b"x"] * 30, partition=partition)
    one = Member(groups, {"u": 8})
    one.sync()
    errors: list[BaseException] = []

    def work(partition: int) -> None:
        try:
            for offset in range(30):
                one.membership.commit({unit(partition, "u"): OffsetAndMetadata(offset)})
                one.membership.sync(one.owned, one.subscription)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(partition,)) for partition in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {committed.offset for committed in groups.committed("g").values()} == {29}
