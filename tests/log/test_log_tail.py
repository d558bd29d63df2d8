"""Following a partition: across threads, across processes, and who may see what when."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_support import abandon, child, stop_flusher, values

import eventlog
from eventlog.errors import ClosedError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
COUNT = 200


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start it; the returned call joins and gives what it returned or raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((True, function()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> Any:
        thread.join(60)
        assert not thread.is_alive()
        good, what = outcome[0]
        if not good:
            raise what
        return what

    return join


def test_tail_gives_what_other_threads_append(tmp_path: Path) -> None:
    with eventlog.open(tmp_path, durability="os") as log:
        topic = log.topic("t", segment_size_bytes_max=2048)
        topic.append(b"before")

        def follow() -> list[bytes | None]:
            seen = []
            for record in topic.tail(start=0):
                seen.append(record.value)
                if record.value == b"end":
                    return seen
            return []

        join = in_thread(follow)
        for n in range(COUNT):
            topic.append(b"%d" % n)
        topic.append(b"end")
        assert join() == [b"before", *(b"%d" % n for n in range(COUNT)), b"end"]


def test_tail_without_start_gives_only_what_comes(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t")
        topic.append(b"before")
        tail = topic.tail()
        topic.append(b"after")
        assert next(tail).value == b"after"


def test_tail_ends_when_nothing_came_for_its_timeout(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t")
        topic.append(b"x")
        assert [each.value for each in topic.tail(start=0, timeout_s=0)] == [b"x"]
        assert list(topic.tail(timeout_s=0.01)) == []


def test_a_timeout_is_not_stretched_by_signals(tmp_path: Path) -> None:
    """A timer signal every few milliseconds (as profilers set) interrupts each wait."""
    former = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    try:
        with eventlog.open(tmp_path) as log:
            assert list(log.topic("t").tail(timeout_s=0.05)) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@pytest.mark.guarantee("G-18")
def test_another_process_follows_the_writer(tmp_path: Path) -> None:
    ready, go = os.pipe()

    def follow() -> None:
        with eventlog.open(tmp_path, read_only=True) as log:
            os.write(go, b"r")
            topic = log.topic("t")
            seen = []
            for record in topic.tail(start=0):
                seen.append(record.value)
                if record.value == b"end":
                    break
            assert seen == [*(b"%d" % n for n in range(COUNT)), b"end"]
            assert topic.high_watermark() == topic.log_end_offset() == COUNT + 1

    with eventlog.open(tmp_path) as log:
        topic = log.topic("t", segment_size_bytes_max=2048)
        topic.append(b"0")
        with child(follow):
            os.read(ready, 1)
            for n in range(1, COUNT):
                topic.append(b"%d" % n, durability="os")
            topic.append(b"end")


def test_a_reader_that_was_there_first_finds_the_writer(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        log.topic("t").append(b"0")
    (tmp_path / "run" / "t-0").unlink()
    with eventlog.open(tmp_path, read_only=True) as reader:
        tail = reader.topic("t").tail(start=0)
        assert next(tail).value == b"0"
        join = in_thread(lambda: next(tail).value)
        with eventlog.open(tmp_path) as log:
            log.topic("t").append(b"1")
            assert join() == b"1"


def test_a_reader_stays_through_writers_that_come_and_go(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        log.topic("t").append(b"0")
        reader = eventlog.open(tmp_path, read_only=True)
    with reader:
        tail = reader.topic("t").tail(start=0)
        assert next(tail).value == b"0"
        for n in (b"1", b"2", b"3"):
            join = in_thread(lambda: next(tail).value)
            log = eventlog.open(tmp_path)
            log.topic("t").append(n)
            assert join() == n
            abandon(log) if n == b"2" else log.close()


@pytest.mark.guarantee("G-03")
class TestHighWatermark:
    """Nothing that a reader has seen is ever lost."""

    def test_under_sync_less_is_seen_only_once_a_sync_covers_it(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            stop_flusher(log)
            reader = eventlog.open(tmp_path, read_only=True)
            topic.append(b"0")
            topic.append(b"1", durability="os")
            for each in (topic, reader.topic("t")):
                assert (each.high_watermark(), each.log_end_offset()) == (1, 2)
                assert values(each) == [b"0"]
            topic.append(b"2")
            for each in (topic, reader.topic("t")):
                assert each.high_watermark() == 3
                assert values(each) == [b"0", b"1", b"2"]
            topic.append(b"3", durability="interval")
            assert topic.high_watermark() == 3
            topic.sync()
            assert values(reader.topic("t"), start=3) == [b"3"]
            reader.close()

    def test_idle_topics_are_synced_in_the_background(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            topic.append(b"0", durability="os")
            assert next(topic.tail(start=0)).value == b"0"

    @pytest.mark.parametrize("durability", ["os", "interval"])
    def test_under_less_than_sync_it_is_the_written_end(
        self, tmp_path: Path, durability: str
    ) -> None:
        with eventlog.open(tmp_path, durability=durability) as log:
            topic = log.topic("t")
            stop_flusher(log)
            topic.append(b"0")
            assert topic.high_watermark() == 1
            assert topic.partition(0).durable_end_offset == 0
            topic.append(b"1", durability="sync")
            assert topic.partition(0).durable_end_offset == 2

    def test_interval_is_kept_in_the_background(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path, durability="interval") as log:
            topic = log.topic("t", interval_ms=1)
            topic.append(b"0")
            tries = 0
            while topic.partition(0).durable_end_offset < 1:
                tries += 1
                assert not topic.partition(0).wait(1, 0.05)
                assert tries < 200


@pytest.mark.guarantee("G-25")
class TestWaitingEnds:
    def test_close_wakes_who_waits(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            joins = [in_thread(lambda: next(topic.tail(start=0))) for _ in range(3)]
            log.close()
            for join in joins:
                with pytest.raises(ClosedError):
                    join()

    def test_closing_a_reader_wakes_who_waits(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            log.topic("t")
            with eventlog.open(tmp_path, read_only=True) as reader:
                join = in_thread(lambda: next(reader.topic("t").tail(start=0)))
            with pytest.raises(ClosedError):
                join()

    def test_keyboard_interrupt_ends_a_waiting_tail(self, tmp_path: Path) -> None:
        """The signal comes again until it is seen: Python cannot tell when the wait has begun."""
        done = threading.Event()

        def press() -> None:
            while not done.wait(0.02):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            thread = threading.Thread(target=press)

            def wait() -> None:
                try:
                    thread.start()
                    next(topic.tail())
                finally:
                    done.set()

            with pytest.raises(KeyboardInterrupt):
                wait()
            thread.join()
            assert topic.append(b"still fine").offset == 0
