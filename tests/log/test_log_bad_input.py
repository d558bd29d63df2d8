"""Input that makes no sense is refused with an error that says what to do, and harms nothing."""

from __future__ import annotations

import errno
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from log_support import contents, values

import eventlog
from eventlog import errors
from eventlog.errors import (
    EventLogError,
    FormatVersionError,
    InvalidNameError,
    InvalidRecordError,
    NotAStoreError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    SettingError,
    StorageError,
    UnknownTopicError,
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[eventlog.EventLog]:
    """Whatever a test does to it: the store goes on afterwards."""
    with eventlog.open(tmp_path / "store") as log:
        log.topic("t").append(b"before")
        yield log
        end = log.topic("t").append(b"after").offset
        assert values(log.topic("t"))[end] == b"after"
    with eventlog.open(tmp_path / "store") as again:
        assert values(again.topic("t"))[-1] == b"after"


def test_an_unknown_topic(log: eventlog.EventLog) -> None:
    with (
        eventlog.open(log.path, read_only=True) as reader,
        pytest.raises(UnknownTopicError, match=r"no topic 'orders'.*Known are: t") as caught,
    ):
        reader.topic("orders")
    assert caught.value.topic == "orders"
    assert log.topics() == ["t"]


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "../up",
        "",
        ".",
        "..",
        "with space",
        "ä",
        "x" * 250,
        "nul\0",
        "line\n",
        None,
        5,
        b"bytes",
    ],
)
def test_a_topic_name_that_kafka_would_not_take(log: eventlog.EventLog, name: Any) -> None:
    before = contents(log.path / "log")
    with pytest.raises(InvalidNameError, match=re.escape("A-Z a-z 0-9 . _ -")):
        log.topic(name)
    assert contents(log.path / "log") == before
    assert log.topics() == ["t"]


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "...", "-", "x" * 249, "t-0"])
def test_names_that_it_would_take(log: eventlog.EventLog, name: str) -> None:
    log.topic(name).append(b"x")
    assert values(log.topic(name)) == [b"x"]
    assert values(log.topic("t")) == [b"before"]


@pytest.mark.guarantee("G-26")
class TestTooLarge:
    def test_a_value_of_three_gibibytes(self, log: eventlog.EventLog) -> None:
        topic = log.topic("t")
        huge = bytes(3 << 30)  # pages that are never touched
        for append in (
            lambda: topic.append(huge),
            lambda: topic.append(b"", key=huge),
            lambda: topic.append_many([huge]),
            lambda: topic.append_many([b""], keys=huge),
        ):
            with pytest.raises(RecordTooLargeError, match=r"Split it") as caught:
                append()
            assert caught.value.size >= 3 << 30 > caught.value.limit
        with pytest.raises(RecordTooLargeError, match="Split it"):
            topic.append_many([huge[: 1 << 20]] * 4000)
        compressed = log.topic("c", compression="zstd")
        with pytest.raises(RecordTooLargeError, match="Split it"):
            compressed.append(huge)
        assert compressed.log_end_offset() == 0
        assert topic.log_end_offset() == 1

    def test_larger_than_the_topic_allows(self, log: eventlog.EventLog) -> None:
        topic = log.topic("t", batch_size_bytes_max=1000)
        with pytest.raises(
            RecordTooLargeError, match="raise the topic's batch_size_bytes_max"
        ) as caught:
            topic.append(bytes(1000))
        assert (caught.value.limit, caught.value.size > 1000) == (1000, True)
        with pytest.raises(RecordTooLargeError):
            topic.append_many([bytes(100)] * 10)
        topic.append(bytes(900))
        assert topic.log_end_offset() == 2

    def test_larger_than_a_segment(self, log: eventlog.EventLog) -> None:
        topic = log.topic("t", segment_size_bytes_max=2048)
        with pytest.raises(RecordTooLargeError):
            topic.append(bytes(3000))
        assert topic.log_end_offset() == 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"value": "text"}, "value"),
        ({"value": 5}, "value"),
        ({"value": b"", "key": "text"}, "key"),
        ({"value": b"", "key": 5}, "key"),
        ({"value": b"", "headers": [("a", "text")]}, "headers"),
        ({"value": b"", "headers": [(1, b"")]}, "headers"),
        ({"value": b"", "timestamp_ms": -1}, "timestamp_ms"),
        ({"value": b"", "timestamp_ms": 1.5}, "timestamp_ms"),
    ],
    ids=str,
)
def test_a_record_of_the_wrong_types(
    log: eventlog.EventLog, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        log.topic("t").append(**arguments)
    assert caught.value.field == field
    assert caught.value.hint
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("start", [-1, 2, 2**62, -(2**62)])
def test_a_start_outside_the_log(log: eventlog.EventLog, start: int) -> None:
    for read in (log.topic("t").read, log.topic("t").tail, log.topic("t").read_batches):
        with pytest.raises(OffsetOutOfRangeError, match=r"outside 0 \.\. 1.*log start") as caught:
            list(read(start=start))
        assert (caught.value.offset, caught.value.log_end_offset) == (start, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"segment_size_bytes_max": 100},
        {"segment_size_bytes_max": 2**31},
        {"segment_ms": 0},
        {"compression": "gzip"},
        {"compression_level": 20},
        {"nonsense": 1},
        {"interval_ms": 0},
        {"batch_size_bytes_max": True},
        {"gather_us": -1},
    ],
    ids=str,
)
def test_settings_outside_their_limits(log: eventlog.EventLog, settings: dict[str, Any]) -> None:
    for name in ("t", "new"):
        with pytest.raises(SettingError) as caught:
            log.topic(name, **settings)
        assert caught.value.setting in settings
        assert caught.value.hint
    assert log.topics() == ["t"]


@pytest.mark.guarantee("G-27")
class TestFormats:
    def test_recovery_of_a_newer_store(self, tmp_path: Path) -> None:
        """Case C-K."""
        eventlog.open(tmp_path).close()
        (tmp_path / "eventlog.json").write_text(json.dumps({"format": 2}))
        before = contents(tmp_path)
        for read_only in (False, True):
            with pytest.raises(FormatVersionError, match=r"C-K.*format 2.*Upgrade") as caught:
                eventlog.open(tmp_path, read_only=read_only)
            assert (caught.value.found, caught.value.known) == (2, 1)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "{}", '{"format": "1"}', '{"format": 0}', "\xff"]
    )
    def test_a_format_file_that_is_none(self, tmp_path: Path, text: str) -> None:
        eventlog.open(tmp_path).close()
        (tmp_path / "eventlog.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(NotAStoreError, match="backup"):
            eventlog.open(tmp_path)

    def test_newer_topics(self, log: eventlog.EventLog) -> None:
        path = log.path / "topics.json"
        good = path.read_bytes()
        try:
            path.write_text(json.dumps({**json.loads(good), "version": 2}))
            with pytest.raises(FormatVersionError, match="Upgrade"):
                eventlog.open(log.path, read_only=True)
        finally:
            path.write_bytes(good)


@pytest.mark.guarantee("G-14")
@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1, "topics": {"t": 5}}', "\xff"])
def test_topics_that_cannot_be_understood_are_refused_not_forgotten(
    tmp_path: Path, text: str
) -> None:
    with eventlog.open(tmp_path) as log:
        log.topic("t").append(b"x")
    path = tmp_path / "topics.json"
    path.write_bytes(text.encode("latin-1"))
    before = contents(tmp_path / "log", "*.log")
    for read_only in (False, True):
        with pytest.raises(StorageError, match="move it away"):
            eventlog.open(tmp_path, read_only=read_only)
    assert contents(tmp_path / "log", "*.log") == before
    path.unlink()
    with eventlog.open(tmp_path) as log:
        assert values(log.topic("t")) == [b"x"]


class TestNoStore:
    def test_a_directory_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine")
        for read_only in (False, True):
            with pytest.raises(NotAStoreError, match=r"'thesis.txt'.*empty or new directory"):
                eventlog.open(tmp_path, read_only=read_only)
        assert contents(tmp_path) == {"thesis.txt": b"mine"}

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(StorageError) as caught:
                eventlog.open(path)
            assert isinstance(caught.value, NotAStoreError) or caught.value.errno == errno.ENOTDIR

    @pytest.mark.parametrize("arguments", [{"read_only": True}, {"create": False}], ids=str)
    def test_nothing(self, tmp_path: Path, arguments: dict[str, bool]) -> None:
        for path in (tmp_path, tmp_path / "absent", tmp_path / "absent" / "deeper"):
            with pytest.raises(NotAStoreError, match="eventlog init"):
                eventlog.open(path, **arguments)  # type: ignore[arg-type]
        assert contents(tmp_path) == {}
        assert not (tmp_path / "absent").exists()

    def test_parents_are_made(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path / "a" / "b" / "c") as log:
            assert log.topics() == []

    def test_a_path_longer_than_can_be(self, tmp_path: Path) -> None:
        with pytest.raises(EventLogError):
            eventlog.open(tmp_path / "/".join(["d" * 200] * 6)).topic("t")


def all_errors(kind: type[EventLogError] = EventLogError) -> list[type[EventLogError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in all_errors(below))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_errors_can_be_carried_to_another_process(kind: type[EventLogError]) -> None:
    if kind is errors.WrongExpectedVersion:
        error: EventLogError = errors.WrongExpectedVersion("s", 3, 4)
    else:
        error = kind("what", hint="do", path="p", offset=3)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.fields, again.hint) == (str(error), error.fields, error.hint)
