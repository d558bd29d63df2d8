"""Counters and histograms: exact with threads and forks, refused where names disagree."""

from __future__ import annotations

import bisect
import gc
import logging
import math
import os
import threading
import weakref
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.errors import SettingError
from eventlog.metrics import BOUNDS_S, HistogramValue, Metric, Metrics, counter, gauge


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_a_snapshot_says_it_all(metrics: Metrics) -> None:
    metrics.counter("eventlog_b_total", "Bs.", topic="y").add()
    metrics.counter("eventlog_b_total", "Bs.", topic="x").add(3)
    metrics.histogram("eventlog_a_seconds", "As.").observe(0.5)
    first, second, third = metrics.snapshot()
    assert first[:4] == ("eventlog_a_seconds", "As.", "histogram", ())
    assert second == ("eventlog_b_total", "Bs.", "counter", (("topic", "x"),), 3)
    assert third == ("eventlog_b_total", "Bs.", "counter", (("topic", "y"),), 1)
    assert hash(tuple(metrics.snapshot()))  # immutable throughout
    assert metrics.started_ms > 1_700_000_000_000


def test_the_same_name_is_the_same_instrument(metrics: Metrics) -> None:
    one = metrics.counter("a_total", "h", x="1", y="2")
    assert metrics.counter("a_total", "h", y="2", x="1") is one
    assert metrics.counter("a_total", "h", x="1", y="3") is not one


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.counter("a_total", "other help", x="1"),
        lambda m: m.counter("a_total", "h"),
        lambda m: m.counter("a_total", "h", y="1"),
        lambda m: m.histogram("a_total", "h", x="1"),
        lambda m: m.histogram("a_seconds", "h", x="1"),  # is one already, without labels
        lambda m: m.counter("a_seconds", "h"),
        lambda m: m.counter("A_total", "h"),
        lambda m: m.counter("0_total", "h"),
        lambda m: m.counter("a-b_total", "h"),
        lambda m: m.counter(7, "h"),
        lambda m: m.counter("b_total", "h", x=1),
        lambda m: m.counter("b_total", "h", **{"x-y": "1"}),
        lambda m: m.histogram("b_seconds", "h", le="1"),
        lambda m: m.counter("a_total", "h", x="1").add(-1),
    ],
)
def test_what_makes_no_sense_is_refused(metrics: Metrics, ask: object) -> None:
    metrics.counter("a_total", "h", x="1")
    metrics.histogram("a_seconds", "h")
    before = metrics.snapshot()
    with pytest.raises(SettingError) as caught:
        ask(metrics)  # type: ignore[operator]
    assert caught.value.hint
    assert metrics.snapshot() == before


@given(st.lists(st.floats(0, 200)))
def test_a_histogram_counts_each_bucket_like_a_sorted_list(seconds: list[float]) -> None:
    histogram = Metrics().histogram("a_seconds", "h")
    for each in seconds:
        histogram.observe(each)
    value = histogram.value
    ordered = sorted(seconds)
    assert value.count == len(seconds)
    assert value.sum == pytest.approx(sum(seconds))
    assert [bound for bound, _ in value.buckets] == [*BOUNDS_S, math.inf]
    assert [n for _, n in value.buckets] == [
        bisect.bisect_right(ordered, bound) for bound, _ in value.buckets
    ]


@given(st.lists(st.floats(1e-6, 49), min_size=1), st.floats(0, 1))
def test_a_quantile_is_in_the_bucket_of_the_true_one(seconds: list[float], share: float) -> None:
    histogram = Metrics().histogram("a_seconds", "h")
    for each in seconds:
        histogram.observe(each)
    true = sorted(seconds)[max(0, math.ceil(share * len(seconds)) - 1)]
    place = bisect.bisect_left(BOUNDS_S, true)
    lower = BOUNDS_S[place - 1] if place else 0
    assert lower <= histogram.value.quantile(share) <= BOUNDS_S[place] * (1 + 1e-9)


def test_quantiles_at_the_ends() -> None:
    histogram = Metrics().histogram("a_seconds", "h")
    assert math.isnan(histogram.value.quantile(0.5))
    histogram.observe(400)
    assert histogram.value.quantile(0.5) == BOUNDS_S[-1] == 50
    with pytest.raises(SettingError):
        histogram.value.quantile(99)


def test_values_from_counts_elsewhere_add_up() -> None:
    counts = [0] * (len(BOUNDS_S) + 1)
    counts[0], counts[-1] = 2, 1
    one = HistogramValue.of(counts, 71.0)
    assert (one.count, one.buckets[0], one.buckets[-2], one.buckets[-1]) == (
        3, (1e-6, 2), (50.0, 2), (math.inf, 3),
    )  # fmt: skip
    assert one + one == HistogramValue.of([2 * n for n in counts], 142.0)


def test_no_count_is_lost_between_threads(metrics: Metrics) -> None:
    count = metrics.counter("a_total", "h")
    took = metrics.histogram("a_seconds", "h")
    begin = threading.Barrier(5)

    def work() -> None:
        begin.wait()
        for _ in range(2_000):
            count.add()
            took.observe(0.25)

    for _ in range(2):  # identifiers of threads are used again
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        begin.wait()
        last = 0.0
        while any(thread.is_alive() for thread in threads):
            now = count.value
            assert now >= last
            last = now
        for thread in threads:
            thread.join()
    assert count.value == 16_000
    assert took.value.count == 16_000
    assert took.value.sum == 4_000


def test_collectors_are_asked_at_each_snapshot(metrics: Metrics) -> None:
    size = 1

    def figures() -> Iterable[Metric]:
        yield gauge("eventlog_size_bytes", "Size.", size, topic="x")
        yield gauge("eventlog_size_bytes", "Size.", 10, topic="x")  # another partition of it
        yield counter("eventlog_syncs_total", "Syncs.", size)

    metrics.collect(figures)
    assert [m.value for m in metrics.snapshot()] == [11, 1]
    size = 5
    assert [m.value for m in metrics.snapshot()] == [15, 5]
    metrics.forget(figures)
    metrics.forget(figures)
    assert metrics.snapshot() == []


def test_a_collector_adds_to_what_was_counted(metrics: Metrics) -> None:
    metrics.histogram("a_seconds", "h").observe(1)
    value = metrics.histogram("a_seconds", "h").value
    metrics.collect(lambda: [Metric("a_seconds", "h", "histogram", (), value)])
    [metric] = metrics.snapshot()
    assert metric.value == value + value


def test_a_collector_that_fails_hides_no_others(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.counter("a_total", "h").add()
    metrics.collect(lambda: [gauge("z", "h", 1)] * (1 // 0))
    metrics.collect(lambda: [gauge("a_total", "h", 1)])  # the name is a counter's
    metrics.collect(lambda: [gauge("b", "h", 1)])
    with caplog.at_level(logging.WARNING, "eventlog.metrics"):
        assert [m.name for m in metrics.snapshot()] == ["a_total", "b"]
    assert len(caplog.records) == 2
    assert "ZeroDivisionError" in caplog.text


def test_a_forked_child_begins_at_zero(metrics: Metrics) -> None:
    count = metrics.counter("a_total", "h")
    count.add(7)
    metrics.histogram("a_seconds", "h").observe(1)
    metrics.collect(lambda: [gauge("b", "h", 1)])
    started_ms = metrics.started_ms
    reading, writing = os.pipe()
    with metrics._lock:  # as if another thread were inside at the fork
        child = os.fork()
        if child == 0:
            status = 1
            try:
                count.add(2)
                found = [m.value for m in metrics.snapshot()]
                os.write(writing, repr((found[0].count, found[1], len(found))).encode())
                status = 0 if metrics.started_ms >= started_ms else 1
            finally:
                os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "(0, 2, 2)"
    assert os.waitpid(child, 0)[1] == 0
    assert [m.value for m in metrics.snapshot()][1:] == [7, 1]


def test_metrics_are_let_go() -> None:
    gone = weakref.ref(Metrics())
    gc.collect()
    assert gone() is None
