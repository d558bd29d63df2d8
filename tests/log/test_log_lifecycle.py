"""Ends of all kinds: close under threads, fork, signals, interpreter exit, use after close."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_support import contents, in_child, python, values

import eventlog
from eventlog.errors import ClosedError, EventLogError, ForkedError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

USES: dict[str, Callable[[eventlog.EventLog, Any, Any], object]] = {
    "topics": lambda log, topic, cursor: log.topics(),
    "topic": lambda log, topic, cursor: log.topic("t"),
    "new topic": lambda log, topic, cursor: log.topic("new"),
    "append": lambda log, topic, cursor: topic.append(b"x"),
    "append_many": lambda log, topic, cursor: topic.append_many([b"x"]),
    "sync": lambda log, topic, cursor: topic.sync(),
    "read": lambda log, topic, cursor: list(topic.read()),
    "tail": lambda log, topic, cursor: list(topic.tail(start=0, timeout_s=0)),
    "log_end_offset": lambda log, topic, cursor: topic.log_end_offset(),
    "high_watermark": lambda log, topic, cursor: topic.high_watermark(),
    "log_start_offset": lambda log, topic, cursor: topic.log_start_offset(),
    "offset_for_time": lambda log, topic, cursor: topic.offset_for_time(0),
    "wait": lambda log, topic, cursor: topic.partition(0).wait(100, 0),
    "settings": lambda log, topic, cursor: topic.partition(0).configure(topic.settings),
    "cursor": lambda log, topic, cursor: cursor.next(),
    "producer": lambda log, topic, cursor: send(topic.producer(linger_ms=0)),
}


def refused(
    name: str, kind: type[EventLogError], use: Callable[..., object], *arguments: Any
) -> None:
    try:
        use(*arguments)
    except kind:
        return
    pytest.fail(f"{name} is not refused")


def send(producer: Any) -> None:
    producer.send(b"x")
    producer.flush()


@pytest.mark.guarantee("G-25")
class TestClose:
    @pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
    def test_twice_is_fine_and_use_after_it_is_refused(
        self, tmp_path: Path, read_only: bool
    ) -> None:
        with eventlog.open(tmp_path) as log:
            log.topic("t").append_many([b"0", b"1"])
        log = eventlog.open(tmp_path, read_only=read_only)
        topic = log.topic("t")
        cursor = topic.partition(0).cursor()
        cursor.seek(0)
        reading = topic.read_batches(batch_count=1, take="values")
        assert next(reading) == [b"0"]
        log.close()
        log.close()
        assert log.closed
        for name, use in USES.items():
            refused(name, ClosedError, use, log, topic, cursor)
        with pytest.raises(ClosedError):
            next(reading)
        cursor.close()
        cursor.close()
        with pytest.raises(ClosedError):
            cursor.next()

    def test_an_exception_inside_with_closes_cleanly(self, tmp_path: Path) -> None:
        def fail() -> None:
            with eventlog.open(tmp_path) as log:
                log.topic("t").append(b"x", durability="os")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        with eventlog.open(tmp_path) as log:
            assert [report.case for report in log.recovery] == ["C-A"]
            assert values(log.topic("t")) == [b"x"]

    def test_forgotten_stores_let_go_of_the_lock(self, tmp_path: Path) -> None:
        log = eventlog.open(tmp_path)
        topic = log.topic("t")
        del log
        gc.collect()
        topic.append(b"a topic keeps its store")
        del topic
        with pytest.warns(ResourceWarning, match="never closed"):
            gc.collect()
        with eventlog.open(tmp_path) as again:
            assert len(values(again.topic("t"))) == 1

    @pytest.mark.parametrize("durability", ["sync", "os"])
    def test_while_others_append_and_read(self, tmp_path: Path, durability: str) -> None:
        def once() -> None:
            log = eventlog.open(tmp_path, durability=durability)
            topic = log.topic("t", segment_size_bytes_max=4096)
            first = topic.log_end_offset()
            acknowledged: list[int] = []
            odd: list[BaseException] = []

            def use(action: Callable[[], object]) -> None:
                try:
                    while True:
                        action()
                except ClosedError:
                    pass
                except BaseException as error:
                    odd.append(error)

            actions: list[Callable[[], object]] = [
                lambda: acknowledged.append(topic.append(b"x" * 50).offset),
                lambda: acknowledged.append(topic.append_many([b"y"] * 3)[0].offset),
                lambda: values(topic, start=first),
                lambda: next(topic.tail()),
                lambda: topic.offset_for_time(0),
                lambda: topic.partition(0).state(),
                lambda: topic.sync(),
            ]
            threads = [threading.Thread(target=use, args=(action,)) for action in actions]
            for thread in threads:
                thread.start()
            while len(acknowledged) < 20 and not odd:
                time.sleep(0.001)
            log.close()
            for thread in threads:
                thread.join(60)
            assert not odd
            with eventlog.open(tmp_path) as log:
                assert [report.case for report in log.recovery] == ["C-A"]
                assert log.topic("t").log_end_offset() > max(acknowledged)

        for _ in range(5):
            once()

    def test_by_several_threads_at_once(self, tmp_path: Path) -> None:
        log = eventlog.open(tmp_path)
        log.topic("t").append(b"x")
        threads = [threading.Thread(target=log.close) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.closed
        eventlog.open(tmp_path).close()


@pytest.mark.guarantee("G-19")
class TestFork:
    def test_a_child_may_not_use_what_it_inherited(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            topic.append(b"parent")
            cursor = topic.partition(0).cursor()
            cursor.seek(0)
            producer = topic.producer(linger_ms=1000)
            producer.send(b"in the buffer")
            before = contents(tmp_path / "log")

            def use() -> None:
                for name, action in USES.items():
                    refused(name, ForkedError, action, log, topic, cursor)
                refused("send", ForkedError, producer.send, b"x")
                refused("flush", ForkedError, producer.flush)
                refused("close", ForkedError, producer.close)
                log.close()

            in_child(use)
            assert contents(tmp_path / "log") == before
            producer.close()
            topic.append(b"after")
            assert values(topic) == [b"parent", b"in the buffer", b"after"]

    def test_a_child_that_ends_like_any_program_harms_nothing(self, tmp_path: Path) -> None:
        """With exit handlers and collected objects, not by os._exit."""
        code = """
import gc, os, sys, eventlog
log = eventlog.open(sys.argv[1])
topic = log.topic("t")
topic.append(b"0")
reading = topic.read()
if os.fork() == 0:
    del topic, reading
    gc.collect()
    sys.exit(0)
_, status = os.wait()
assert status == 0, status
topic.append(b"1")
assert next(reading).value == b"0"
log.close()
"""
        run = python(code, tmp_path)
        assert (run.returncode, run.stderr) == (0, "")
        with eventlog.open(tmp_path) as log:
            assert [report.case for report in log.recovery] == ["C-A"]
            assert values(log.topic("t")) == [b"0", b"1"]

    def test_the_child_holds_no_lock_of_its_parent(self, tmp_path: Path) -> None:
        """A worker that lives on (or was forked by somebody else) does not keep the store locked."""
        wait, go = os.pipe()
        log = eventlog.open(tmp_path)
        log.topic("t").append(b"x")
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(wait, 1)
            os._exit(0)
        try:
            log.close()
            with eventlog.open(tmp_path) as again:
                assert values(again.topic("t")) == [b"x"]
        finally:
            os.close(go)
            os.close(wait)
            assert os.waitpid(pid, 0)[1] == 0

    def test_forks_amid_appending_threads_end(self, tmp_path: Path) -> None:
        """Locks that other threads hold at the moment of the fork stay held in the child for ever."""
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t", segment_size_bytes_max=4096)
            stop = threading.Event()

            def write() -> None:
                while not stop.is_set():
                    topic.append(b"x" * 50)

            threads = [threading.Thread(target=write) for _ in range(3)]
            for thread in threads:
                thread.start()

            def use() -> None:
                signal.alarm(20)
                for action in (lambda: topic.append(b"x"), log.topics, lambda: list(topic.read())):
                    with pytest.raises(ForkedError):
                        action()
                log.close()

            try:
                for _ in range(20):
                    in_child(use)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            assert len(values(topic)) == topic.log_end_offset()


@pytest.mark.guarantee("G-25")
class TestProcessEnds:
    def test_an_open_store_is_closed_at_interpreter_exit(self, tmp_path: Path) -> None:
        run = python(
            """
import sys, threading, eventlog, eventlog.errors
log = eventlog.open(sys.argv[1], durability="os")
topic = log.topic("t")
tail = topic.tail(start=0)
def follow():
    try:
        list(topic.tail())
    except eventlog.errors.ClosedError:
        pass
threading.Thread(target=follow, daemon=True).start()
for n in range(100):
    topic.append(b"%d" % n)
next(tail)
""",
            tmp_path,
        )
        assert (run.returncode, run.stderr) == (0, "")
        with eventlog.open(tmp_path) as log:
            assert [report.case for report in log.recovery] == ["C-A"]
            assert values(log.topic("t")) == [b"%d" % n for n in range(100)]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_an_end_by_signal_is_recovered_from(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                """
import sys, eventlog
topic = eventlog.open(sys.argv[1]).topic("t")
n = 0
while True:
    print(topic.append(b"%d" % n).offset, flush=True)
    n += 1
""",
                str(tmp_path),
            ],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(number)
        acknowledged += [int(line) for line in process.stdout if line.endswith(b"\n")]
        process.wait()
        process.stdout.close()
        with eventlog.open(tmp_path) as log:
            found = values(log.topic("t"))
            assert found[: len(acknowledged)] == [b"%d" % n for n in acknowledged]
            assert len(found) <= len(acknowledged) + 1

    def test_ctrl_c_amid_appends_breaks_no_promise(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            done = threading.Event()
            acknowledged = []

            def press() -> None:
                while not done.wait(0.01):
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

            thread = threading.Thread(target=press)
            try:
                thread.start()
                while True:
                    acknowledged.append(topic.append(b"x").offset)
            except KeyboardInterrupt:
                done.set()
            thread.join()
            topic.append(b"last")
            found = values(topic)
            assert found[-1] == b"last"
            assert acknowledged == list(range(len(acknowledged)))
            assert len(found) - 1 in (len(acknowledged), len(acknowledged) + 1)
