"""The buffered producer: when it appends, what flush promises, what an error leaves in the buffer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from log_support import values

import eventlog
from eventlog.errors import ClosedError, InvalidRecordError, SettingError, StorageFullError
from eventlog.log.topic import Topic


@pytest.fixture
def topic(tmp_path: Path) -> Iterator[Topic]:
    with eventlog.open(tmp_path, durability="os") as log:
        yield log.topic("t")


def test_linger_appends_by_itself(topic: Topic) -> None:
    with topic.producer(linger_ms=1) as producer:
        producer.send(b"x", key=b"k")
        assert topic.partition(0).wait(0, 60)
        assert [(each.value, each.key) for each in topic.read()] == [(b"x", b"k")]


def test_size_appends_at_once(topic: Topic) -> None:
    with topic.producer(linger_ms=0, batch_size_bytes=1024) as producer:
        producer.send(bytes(900))
        assert topic.log_end_offset() == 0
        producer.send(bytes(200))
        assert topic.log_end_offset() == 2


def test_flush_appends_everything_sent_before_in_order(topic: Topic) -> None:
    producer = topic.producer(linger_ms=0)
    for n in range(1000):
        producer.send(b"%d" % n)
    producer.send(None, b"gone")
    assert topic.log_end_offset() == 0
    producer.flush()
    assert values(topic) == [*(b"%d" % n for n in range(1000)), None]
    assert topic.partition(0).state().appended_batches < 10
    producer.flush()
    assert topic.log_end_offset() == 1001


def test_close_flushes_once(topic: Topic) -> None:
    producer = topic.producer(linger_ms=60_000)
    producer.send(b"x")
    producer.close()
    producer.close()
    assert values(topic) == [b"x"]
    with pytest.raises(ClosedError):
        producer.send(b"y")
    producer.close()
    assert values(topic) == [b"x"]


@pytest.mark.guarantee("G-01")
def test_flush_is_as_durable_as_the_topic_promises(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t")
        with topic.producer(linger_ms=0) as producer:
            producer.send(b"x")
            producer.flush()
            assert topic.partition(0).durable_end_offset == 1


def test_large_buffers_go_in_batches_that_fit(tmp_path: Path) -> None:
    with eventlog.open(tmp_path, durability="os") as log:
        topic = log.topic("t", batch_size_bytes_max=4096)
        with topic.producer(linger_ms=0, batch_size_bytes=1 << 20) as producer:
            for _ in range(100):
                producer.send(bytes(1000))
        assert topic.log_end_offset() == 100
        assert topic.partition(0).state().appended_batches >= 25


def send_for_ever(producer: Any) -> None:
    while True:
        producer.send(b"1")


@pytest.mark.guarantee("G-12")
class TestErrors:
    def fail(self, monkeypatch: pytest.MonkeyPatch, topic: Topic, times: int) -> None:
        """Let the next appends meet a full disk."""
        (partition,) = topic.partitions
        real = partition.append_columns
        left = [times]

        def append_columns(*arguments: Any, **named: Any) -> Any:
            if left[0]:
                left[0] -= 1
                raise StorageFullError("no room")
            return real(*arguments, **named)

        monkeypatch.setattr(partition, "append_columns", append_columns)

    def test_records_stay_and_can_be_flushed_again(
        self, topic: Topic, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        producer = topic.producer(linger_ms=0)
        for n in range(10):
            producer.send(b"%d" % n)
        self.fail(monkeypatch, topic, 2)
        for _ in range(2):
            with pytest.raises(StorageFullError):
                producer.flush()
        producer.send(b"10")
        producer.flush()
        assert values(topic) == [b"%d" % n for n in range(11)]

    def test_what_linger_met_is_raised_by_the_next_call(
        self, topic: Topic, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fail(monkeypatch, topic, 10**9)
        producer = topic.producer(linger_ms=1)
        producer.send(b"0")
        with pytest.raises(StorageFullError):
            send_for_ever(producer)
        monkeypatch.undo()
        producer.close()
        found = values(topic)
        assert found[0] == b"0"
        assert set(found[1:]) <= {b"1"}

    def test_a_close_that_fails_can_be_tried_again(
        self, topic: Topic, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        producer = topic.producer(linger_ms=5)
        producer.send(b"x")
        self.fail(monkeypatch, topic, 10**9)
        with pytest.raises(StorageFullError):
            producer.close()
        monkeypatch.undo()
        producer.close()
        assert values(topic) == [b"x"]

    @pytest.mark.parametrize(
        ("value", "key"), [("x", None), (b"x", "k"), (1, None), (b"", bytearray())]
    )
    def test_not_bytes(self, topic: Topic, value: Any, key: Any) -> None:
        with topic.producer() as producer:
            with pytest.raises(InvalidRecordError):
                producer.send(value, key)
            producer.send(b"good")
        assert values(topic) == [b"good"]

    def test_a_closed_store(self, tmp_path: Path) -> None:
        log = eventlog.open(tmp_path / "other")
        producer = log.topic("t").producer(linger_ms=0)
        producer.send(b"x")
        log.close()
        with pytest.raises(ClosedError):
            producer.flush()


@pytest.mark.parametrize(
    "settings",
    [
        {"linger_ms": -1},
        {"linger_ms": 60_001},
        {"linger_ms": 0.5},
        {"batch_size_bytes": 1023},
        {"batch_size_bytes": 2**30 + 1},
    ],
)
def test_settings_have_limits(topic: Topic, settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        topic.producer(**settings)


def test_many_threads_lose_and_double_nothing(topic: Topic) -> None:
    threads, each = 6, 3000
    with topic.producer(linger_ms=1, batch_size_bytes=4096) as producer:

        def send(thread: int) -> None:
            for n in range(each):
                producer.send(b"%d %d" % (thread, n))
                if n % 500 == 0:
                    producer.flush()

        workers = [threading.Thread(target=send, args=(thread,)) for thread in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    by_thread: dict[bytes, list[int]] = {}
    for value in values(topic):
        assert value is not None
        thread, n = value.split()
        by_thread.setdefault(thread, []).append(int(n))
    assert by_thread == {b"%d" % thread: list(range(each)) for thread in range(threads)}
