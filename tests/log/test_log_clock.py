"""Time only labels: whatever the clock does, order, offsets, waits and syncs are the same."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventlog
from eventlog import ManualClock


class LeapingClock:
    """Gives the times it was told to give, and the last one for ever after."""

    def __init__(self, times_ms: list[int]) -> None:
        self._times_ms = times_ms

    def now_ms(self) -> int:
        return self._times_ms.pop(0) if len(self._times_ms) > 1 else self._times_ms[0]


@pytest.mark.guarantee("G-20")
@given(times_ms=st.lists(st.integers(0, 2**62), min_size=1, max_size=30))
def test_a_clock_that_leaps_changes_no_order(
    tmp_path_factory: pytest.TempPathFactory, times_ms: list[int]
) -> None:
    path = tmp_path_factory.mktemp("clock") / "store"
    count = len(times_ms)
    with eventlog.open(path, durability="os", clock=LeapingClock(list(times_ms))) as log:
        topic = log.topic("t", segment_ms=60_000)
        store = log.event_store("events")
        for n in range(count):
            assert topic.append(b"%d" % n).offset == n
        for n in range(count):
            store.append("s", eventlog.Event(n, type="counted"), expected_version=n)
    with eventlog.open(path) as log:
        records = list(log.topic("t").read())
        assert [record.value for record in records] == [b"%d" % n for n in range(count)]
        assert [record.timestamp_ms for record in records] == times_ms
        assert [event.data for event in log.event_store("events").read_stream("s")] == list(
            range(count)
        )


@pytest.mark.guarantee("G-20")
def test_a_clock_that_stands_still_or_goes_back_stalls_nobody(tmp_path: Path) -> None:
    clock = ManualClock(10**12)
    with eventlog.open(tmp_path, clock=clock) as log:
        topic = log.topic("t", durability="interval", interval_ms=10)
        got = threading.Event()

        def follow() -> None:
            for _ in topic.tail(start=0, timeout_s=30):
                got.set()
                return

        reader = threading.Thread(target=follow)
        reader.start()
        topic.append(b"x", timestamp_ms=0)
        assert got.wait(30)
        reader.join()
        with log.consumer("g", "t") as consumer:
            assert [record.value for record in consumer.poll(timeout_s=30)] == [b"x"]
            consumer.commit()
        # The flusher goes by its own time.
        ticket = log.activity.ticket()
        while topic.partition(0).durable_end_offset < 1:
            log.activity.wait(ticket, timeout_s=0.01)
