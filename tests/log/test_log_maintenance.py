"""The thread that deletes and compacts: when there is one, who does it, and what ends it."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from log_support import SMALL, in_child, scratch, segments, values
from process_support import Child, forked, wait_until

import eventlog
from eventlog.errors import EventLogError, ForkedError, LockedError, SettingError, StorageError
from eventlog.log import compaction, maintenance, retention
from eventlog.log.maintenance import Pace

THREAD = "eventlog-maintenance"
OFTEN_S = 0.01


@pytest.fixture
def path() -> Iterator[Path]:
    with scratch() as directory:
        yield directory / "store"


def opened(path: Path, **options: Any) -> eventlog.EventLog:
    """With maintenance that is eager."""
    return eventlog.open(path, durability="os", **{"maintenance_interval_s": OFTEN_S, **options})


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def fill(topic: eventlog.Topic, count: int = 50) -> None:
    for n in range(count):
        topic.append(bytes(100), key=b"%d" % (n % 3))


def figure(log: eventlog.EventLog, name: str, **labels: str) -> Any:
    return sum(
        each.value  # type: ignore[misc]
        for each in log.metrics.snapshot()
        if each.name == name and labels.items() <= dict(each.labels).items()
    )


# -- when there is one ----------------------------------------------------------------------------


def test_it_begins_with_the_first_topic_that_needs_it_and_ends_with_the_store(path: Path) -> None:
    with opened(path) as log:
        log.topic("kept", retention_ms=1)  # without a policy that says nothing
        log._keep_up()  # as the flusher does once a second
        assert threads() == []
        log.topic("t", cleanup_policy="delete")
        wait_until(lambda: len(threads()) == 1, "no thread began")
        log._keep_up()
        assert len(threads()) == 1
        with opened(path) as another:  # every process has its own
            another._keep_up()
            assert len(threads()) == 2
        assert len(threads()) == 1
    assert threads() == []


@pytest.mark.parametrize("options", [{"maintenance": False}, {"read_only": True}])
def test_there_is_none(path: Path, options: dict[str, Any]) -> None:
    with opened(path, maintenance=False) as log:
        fill(log.topic("t", cleanup_policy="delete", retention_count=0, **SMALL))
    with opened(path, **options) as log:
        log._keep_up()
        assert threads() == []
        assert len(values(log.topic("t"))) == 50


def test_it_does_not_keep_a_forgotten_store_alive(path: Path) -> None:
    log: eventlog.EventLog | None = opened(path, maintenance_interval_s=3600)
    assert log is not None
    log.topic("t", cleanup_policy="delete")
    log._keep_up()
    [thread] = threads()
    log = None

    def forget() -> None:
        while thread.is_alive():  # a thread may have it in its hands just now
            gc.collect()
            thread.join(0.01)

    with pytest.warns(ResourceWarning):
        forget()


# -- what it does ---------------------------------------------------------------------------------


@pytest.mark.guarantee("G-23")
def test_settings_count_as_they_are_now(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "eventlog.log")
    with opened(path) as log:
        topic = log.topic("t", **SMALL)
        kept = log.topic("kept", **SMALL)
        for each in (topic, kept):
            fill(each)
        log.topic("t", cleanup_policy="delete", retention_count=30)
        wait_until(lambda: topic.log_start_offset() > 0, "nothing was deleted")
        assert 30 <= len(values(topic)) < 40
        log.topic("t", retention_count=10)
        wait_until(lambda: topic.log_start_offset() >= 30, "the setting does not count")
        assert 10 <= len(values(topic)) < 20
        wait_until(lambda: figure(log, "eventlog_retention_segments_total", topic="t") > 4, "count")
        assert figure(log, "eventlog_retention_bytes_total", topic="t") > 30 * 100
        assert figure(log, "eventlog_maintenance_failures_total") == 0
        assert len(values(kept)) == 50
    [record, *_] = [each for each in caplog.records if each.getMessage().startswith("retention of")]
    assert record.__dict__["topic"] == "t"
    assert record.__dict__["segment_count"] > 0


def test_what_is_compacted_and_deleted(path: Path) -> None:
    with opened(path) as log:
        topic = log.topic(
            "t", cleanup_policy="compact,delete", min_cleanable_dirty_ratio=0.0,
            retention_count=200, **SMALL,
        )  # fmt: skip
        fill(topic, 100)
        wait_until(
            lambda: figure(log, "eventlog_compactions_total", topic="t") > 0, "not compacted"
        )
        wait_until(lambda: len(values(topic)) < 30, "old records of a key are there")
        assert [record.offset for record in topic.read()][-1] == 99
        assert topic.log_start_offset() == 0
        assert figure(log, "eventlog_compaction_bytes_total", topic="t") > 0
        fill(topic, 300)
        wait_until(lambda: topic.log_start_offset() >= 150, "nothing was deleted")


def test_compaction_by_hand(path: Path) -> None:
    with opened(path, maintenance=False) as log:
        topic = log.topic("t", cleanup_policy="compact", **SMALL)
        plain = log.topic("plain", **SMALL)
        fill(topic)
        fill(plain)
        [plan] = log.compaction_plan()
        assert (plan.topic, plan.reason) == ("t", "dirty ratio")
        [done] = log.compact()
        assert done.size_bytes_after < done.size_bytes_before
        assert log.compaction_plan("t")[0].reason == ""
        assert len(values(plain)) == 50
        with pytest.raises(SettingError, match="is not compacted"):
            log.compact("plain")


def test_the_dirtiest_is_compacted_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    compact = compaction.compact

    def noting(partition: eventlog.Partition, *arguments: Any, **options: Any) -> Any:
        order.append(partition.topic)
        return compact(partition, *arguments, **options)

    monkeypatch.setattr(compaction, "compact", noting)
    with opened(path, maintenance=False) as log:
        for name, more in (("little", 10), ("much", 500)):
            topic = log.topic(name, cleanup_policy="compact", **SMALL)
            for n in range(50):
                topic.append(bytes(100), key=b"%d" % n)
            log.roll(name)
            log.compact(name)
            fill(topic, more)
            log.roll(name)
        order.clear()
        log.topic("little", min_cleanable_dirty_ratio=0.0)
        log._maintenance.run()
        assert order == ["much", "little"]


# -- what fails -----------------------------------------------------------------------------------


def test_what_fails_is_told_and_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = [StorageError("no"), RuntimeError("what?")]
    plan = retention.plan_retention

    def failing(partition: eventlog.Partition, *arguments: Any) -> Any:
        if partition.topic == "bad" and errors:
            raise errors.pop()
        return plan(partition, *arguments)

    monkeypatch.setattr(retention, "plan_retention", failing)
    with opened(path) as log:
        topics = [
            log.topic(name, cleanup_policy="delete", retention_count=0, **SMALL)
            for name in ("bad", "good")
        ]
        for topic in topics:
            fill(topic)
        wait_until(lambda: all(t.log_start_offset() == 50 for t in topics), "it has given up")
        assert figure(log, "eventlog_maintenance_failures_total", work="retention") == 2
    told = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert [each.getMessage() for each in told] == [
        "retention of bad: what?",
        "retention of bad: no",
    ]
    assert {each.__dict__["topic"] for each in told} == {"bad"}
    assert told[0].exc_info
    assert not told[1].exc_info


def test_a_topic_that_is_deleted_meanwhile_is_no_failure(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path, maintenance_interval_s=0.0) as log:
        for _ in range(20):
            topic = log.topic("t", cleanup_policy="compact,delete", retention_count=5, **SMALL)
            log._keep_up()
            fill(topic, 20)
            log.delete_topic("t")
        assert figure(log, "eventlog_maintenance_failures_total") == 0
    assert [each.getMessage() for each in caplog.records if each.levelno > logging.INFO] == []


def test_groups_are_asked_until_the_store_is_closed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        with opened(path, maintenance_interval_s=0.0) as log:
            topic = log.topic(
                "t", cleanup_policy="delete", retention_count=0, retention_waits_for_groups=True,
                **SMALL,
            )  # fmt: skip
            fill(topic, 10)
            log.groups.reset("g", to="earliest", topics=["t"])
            log._keep_up()
            assert len(values(topic)) % 10 == 0
    assert [each.getMessage() for each in caplog.records if each.levelno > logging.INFO] == []


# -- one at a time --------------------------------------------------------------------------------


@pytest.mark.guarantee("G-17")
def test_one_process_does_it_and_the_next_one_when_that_is_killed(path: Path) -> None:
    with opened(path, maintenance=False) as log:
        topic = log.topic("t", cleanup_policy="delete", retention_count=0, **SMALL)
        fill(topic)

    def hold(us: Child) -> None:
        with opened(path, maintenance=False) as log, log._maintenance._alone(0):
            us.tell()
            us.hear()

    with opened(path, maintenance=False) as log, forked(hold) as holder:
        topic = log.topic("t")
        log._maintenance.run()
        assert topic.log_start_offset() == 0
        with (
            pytest.raises(LockedError, match=f"process {holder.pid} is deleting"),
            log._maintenance._alone(0),
        ):
            pass
        holder.kill()
        log._maintenance.run()
        assert topic.log_start_offset() == 50


def test_threads_of_one_process_take_turns(path: Path) -> None:
    with opened(path, maintenance=False) as log:
        log.topic("t", cleanup_policy="delete", retention_count=0)
        found: list[Exception] = []

        def ask() -> None:
            try:
                with log._maintenance._alone(0.01):
                    pass
            except EventLogError as error:
                found.append(error)

        with log._maintenance._alone(0):
            log.apply_retention("t")  # the same thread may
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
        assert isinstance(found[0], LockedError)
        assert "this process" in str(found[0])


@pytest.mark.guarantee("G-19")
def test_a_forked_child_cannot_harm_it(path: Path) -> None:
    with opened(path) as log:
        topic = log.topic("t", cleanup_policy="delete", retention_count=0, **SMALL)
        fill(topic)

        def use() -> None:
            for call in (
                log.apply_retention,
                log.retention_plan,
                log.compact,
                log.compaction_plan,
                lambda: log.roll("t"),
                lambda: log.delete_records("t", before=1),
            ):
                with pytest.raises(ForkedError):
                    call()
            log.close()
            with opened(path) as own:
                own.apply_retention()

        with log._maintenance._alone(20):
            pass
        in_child(use)
        wait_until(lambda: topic.log_start_offset() == 50, "it has stopped")


# -- the rate -------------------------------------------------------------------------------------


class Naps(threading.Event):
    """Notes what would be slept, and moves the clock by it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.naps: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.naps.append(timeout)
        self.now_s += timeout
        return False


@pytest.mark.parametrize("piece_bytes", [100, 1_000, 100_000])
def test_a_rate_is_kept(piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Naps()
    monkeypatch.setattr(maintenance.time, "monotonic", lambda: clock.now_s)
    pace = Pace(10_000, clock)
    for _ in range(1_000_000 // piece_bytes):
        pace(piece_bytes)
    assert clock.now_s == pytest.approx(200, abs=0.1)
    assert len(clock.naps) < 5_001
    clock.now_s += 1000  # what was not copied is not made up for
    pace(10_000)
    assert clock.naps[-1] == pytest.approx(1)


def test_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Naps()
    pace = Pace(0, clock)
    pace(10**12)
    assert clock.naps == []


def test_closing_does_not_wait_for_a_slow_compaction(path: Path) -> None:
    log = opened(path, maintenance_rate_bytes_s=1)
    topic = log.topic("t", cleanup_policy="compact", **SMALL)
    fill(topic, 200)
    before = len(segments(path))
    log._keep_up()
    log.close()
    assert len(segments(path)) == before
    with opened(path, maintenance=False) as again:
        assert len(values(again.topic("t"))) == 200
        again.compact()
        assert len(values(again.topic("t"))) < 20
