"""Counters and latencies of one open store, as numbers that any monitoring system can be fed with.

The library counts through :class:`Counter` and :class:`Histogram`; what stands in shared memory anyway
is asked for by collectors, and costs nothing until somebody looks. :meth:`Metrics.snapshot` gives all
of it as plain tuples in Prometheus' terms (cumulative counters, cumulative buckets; names end in
``_total``, ``_seconds``, ``_bytes``), from which Prometheus' text and OpenTelemetry's data points follow
without loss.

Counting takes no lock: each thread has a cell of its own in each instrument, and nobody else writes to
it. A snapshot adds the cells up. The cell of a thread that ended stays, and is taken over by the next
thread that gets the same identifier, so there are as many as there were threads at one time.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from math import inf
from threading import get_ident
from typing import Literal, NamedTuple, Self

from eventlog.errors import SettingError

_logger = logging.getLogger("eventlog.metrics")

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[tuple[str, str], ...]

BOUNDS_S = tuple(float(f"{digit}e{power}") for power in range(-6, 2) for digit in (1, 2, 5))
"""Upper bounds of a histogram's buckets, in seconds: 1 us, 2 us, 5 us, 10 us ... 50 s. A last bucket
holds what took longer."""

_BUCKET_COUNT = len(BOUNDS_S) + 1
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SUFFIXES: dict[Kind, str] = {"counter": "_total", "histogram": "_seconds"}


class HistogramValue(NamedTuple):
    """What a histogram has seen.

    Attributes:
        buckets: ``(upper bound in seconds, how many observations were not above it)``, ascending; the
            last bound is infinity, and its number is ``count``.
        sum: of all observations, in seconds.
        count: of all observations.
    """

    buckets: tuple[tuple[float, int], ...]
    sum: float
    count: int  # type: ignore[assignment]  # tuple.count is not missed

    @classmethod
    def of(cls, counts: Sequence[int], sum_s: float) -> Self:
        """From the number of observations in each bucket: one for each of :data:`BOUNDS_S`, and one
        for what took longer."""
        reached = tuple(accumulate(counts))
        return cls(tuple(zip((*BOUNDS_S, inf), reached, strict=True)), sum_s, reached[-1])

    def __add__(self, other: object) -> HistogramValue:
        """Both together, not one behind the other."""
        if not isinstance(other, HistogramValue):
            return NotImplemented
        buckets = tuple(
            (bound, count + more)
            for (bound, count), (_, more) in zip(self.buckets, other.buckets, strict=True)
        )
        return HistogramValue(buckets, self.sum + other.sum, self.count + other.count)

    def quantile(self, share: float) -> float:
        """Seconds that this share of the observations did not exceed, as near as the buckets tell.

        Args:
            share: 0 .. 1; 0.99 is the 99th percentile.

        Returns:
            Seconds, interpolated inside the bucket; 50 where it lies in the last bucket; NaN without
            observations.

        Raises:
            SettingError: ``share`` is outside its limits.
        """
        if not 0 <= share <= 1:
            raise SettingError(
                f"share is {share!r}", hint="It has to be 0 .. 1", setting="share", value=share
            )
        if not self.count:
            return float("nan")
        rank = share * self.count
        lower_s, below = 0.0, 0
        for upper_s, reached in self.buckets[:-1]:
            if reached >= rank and reached > below:
                return lower_s + (upper_s - lower_s) * (rank - below) / (reached - below)
            lower_s, below = upper_s, reached
        return lower_s


class Metric(NamedTuple):
    """One figure at one moment.

    Attributes:
        name: as Prometheus would call it, ``eventlog_append_records_total``.
        help: what it is, one sentence.
        kind: ``"counter"`` (only grows), ``"gauge"`` or ``"histogram"``.
        labels: ``((name, value), ...)`` by name; figures of one name differ in them.
        value: a number, or a :class:`HistogramValue` where ``kind`` is ``"histogram"``.
    """

    name: str
    help: str
    kind: Kind
    labels: Labels
    value: float | HistogramValue


def counter(name: str, help: str, value: float, /, **labels: str) -> Metric:  # noqa: A002
    """A counter's figure, for collectors: something that only grew since the store was opened."""
    return Metric(name, help, "counter", _checked_labels(labels), value)


def gauge(name: str, help: str, value: float, /, **labels: str) -> Metric:  # noqa: A002
    """A gauge's figure, for collectors: something that may rise and fall."""
    return Metric(name, help, "gauge", _checked_labels(labels), value)


Collector = Callable[[], Iterable[Metric]]
"""What :meth:`Metrics.collect` takes: a function without arguments that returns, or yields, the figures
of this moment::

    def figures() -> Iterable[Metric]:
        for partition in topic.partitions:
            state = partition.state()
            yield gauge("eventlog_log_end_offset", "Offset of the next record.",
                        state.log_end_offset, topic=partition.topic)

Figures with the same name and labels are added up: the example gives one sum for each topic."""


class Counter:
    """A number that only grows. Thread-safe, without a lock; made by :meth:`Metrics.counter`."""

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        self._cells: dict[int, float] = {}

    def add(self, amount: float = 1) -> None:
        """Count so many more.

        Raises:
            SettingError: ``amount`` is negative.
        """
        if amount < 0:
            raise SettingError(
                f"a counter cannot go down by {-amount}",
                hint="Add 0 or more",
                setting="amount",
                value=amount,
            )
        thread = get_ident()
        try:
            self._cells[thread] += amount
        except KeyError:
            self._cells[thread] = amount

    @property
    def value(self) -> float:
        """What was counted so far, by all threads of this process."""
        return sum(tuple(self._cells.values()))

    def _reset(self) -> None:
        self._cells = {}


class Histogram:
    """How long things took. Thread-safe, without a lock; made by :meth:`Metrics.histogram`."""

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        # Of each thread: how many in each bucket, and last the sum of seconds.
        self._cells: dict[int, list[float]] = {}

    def observe(self, seconds: float) -> None:
        """Count one thing that took so long."""
        try:
            cell = self._cells[get_ident()]
        except KeyError:
            cell = self._cells.setdefault(get_ident(), [0] * _BUCKET_COUNT + [0.0])
        cell[bisect_left(BOUNDS_S, seconds)] += 1
        cell[-1] += seconds

    @property
    def value(self) -> HistogramValue:
        """What was observed so far, by all threads of this process.

        An observation that another thread makes meanwhile may be in ``count`` and not in ``sum`` yet.
        """
        cells = [tuple(cell) for cell in tuple(self._cells.values())] or [
            (0,) * (_BUCKET_COUNT + 1)
        ]
        *counts, sum_s = map(sum, zip(*cells, strict=True))
        return HistogramValue.of([int(count) for count in counts], float(sum_s))

    def _reset(self) -> None:
        self._cells = {}


class _Family(NamedTuple):
    """What all figures of one name have in common."""

    kind: Kind
    help: str
    label_names: tuple[str, ...]
    instruments: dict[Labels, Counter | Histogram]


class _Figures:
    """A snapshot in the making."""

    def __init__(self) -> None:
        self._metrics: dict[tuple[str, Labels], Metric] = {}
        self._heads: dict[str, tuple[Kind, str]] = {}

    def add(self, metric: Metric) -> None:
        head = (metric.kind, metric.help)
        if self._heads.setdefault(metric.name, head) != head:
            raise SettingError(
                f"{metric.name} is already a {self._heads[metric.name][0]} with another help",
                hint="Use the same kind and help, or another name",
                setting="name",
                value=metric.name,
            )
        place = (metric.name, metric.labels)
        known = self._metrics.get(place)
        if known is not None:
            metric = metric._replace(value=known.value + metric.value)  # type: ignore[operator]
        self._metrics[place] = metric

    def sorted(self) -> list[Metric]:
        return [self._metrics[place] for place in sorted(self._metrics)]


class Metrics:
    """All figures of one open store: ``log.metrics``. Thread-safe.

    They belong to this process and begin with it. In a child of ``fork`` they begin at zero again, so
    that nothing is counted twice, and its collectors are gone: they look at handles that are the
    parent's. Nothing is kept when the process ends; a monitoring system takes that as the restart of
    a counter.

    Attributes:
        started_ms: since when is counted, milliseconds since 1970 UTC.
    """

    def __init__(self) -> None:
        self.started_ms = time.time_ns() // 1_000_000
        self._lock = threading.Lock()
        self._families: dict[str, _Family] = {}
        self._collectors: list[Collector] = []
        _all_metrics.add(self)

    def counter(self, name: str, help: str, /, **labels: str) -> Counter:  # noqa: A002
        """The counter of that name and these labels; made if there is none.

        Asking costs some microseconds: keep the counter where it is used often.

        Args:
            name: lower case letters, digits and ``_``; ends in ``_total``.
            help: what is counted, one sentence.
            **labels: text by which counters of one name differ.

        Raises:
            SettingError: a name that cannot be one, a label that is no text, or the name is in use
                with another kind, help or other labels.
        """
        instrument = self._instrument("counter", name, help, labels, Counter)
        assert isinstance(instrument, Counter)
        return instrument

    def histogram(self, name: str, help: str, /, **labels: str) -> Histogram:  # noqa: A002
        """The histogram of that name and these labels; made if there is none.

        Args:
            name: as for :meth:`counter`, but ends in ``_seconds``.
            help: what is measured, one sentence.
            **labels: as for :meth:`counter`; ``le`` is Prometheus' own.

        Raises:
            SettingError: as for :meth:`counter`.
        """
        instrument = self._instrument("histogram", name, help, labels, Histogram)
        assert isinstance(instrument, Histogram)
        return instrument

    def collect(self, collector: Collector) -> None:
        """Ask this function for further figures at every snapshot; see :data:`Collector`.

        It is called without a lock, by whichever thread wants a snapshot. If it raises, its figures are
        missing in that snapshot and a warning is logged under ``eventlog.metrics``.
        """
        with self._lock:
            self._collectors.append(collector)

    def forget(self, collector: Collector) -> None:
        """Do not ask this function any more; nothing happens if it was not asked before."""
        with self._lock:
            self._collectors = [each for each in self._collectors if each != collector]

    def snapshot(self) -> list[Metric]:
        """All figures as they are now, sorted by name and labels."""
        with self._lock:
            families = [
                (name, family, list(family.instruments.items()))
                for name, family in self._families.items()
            ]
            collectors = tuple(self._collectors)
        figures = _Figures()
        for name, family, instruments in families:
            for labels, instrument in instruments:
                figures.add(Metric(name, family.help, family.kind, labels, instrument.value))
        for collector in collectors:
            try:
                for metric in list(collector()):
                    figures.add(metric)
            except Exception as error:  # noqa: BLE001  a closed partition must not hide all others
                _logger.warning("figures are missing, their collector failed: %r", error)
        return figures.sorted()

    def _instrument(
        self,
        kind: Kind,
        name: str,
        help: str,  # noqa: A002
        labels: dict[str, str],
        make: type[Counter] | type[Histogram],
    ) -> Counter | Histogram:
        if type(name) is not str or not _NAME.fullmatch(name) or not name.endswith(_SUFFIXES[kind]):
            raise SettingError(
                f"{name!r} cannot be the name of a {kind}",
                hint=f"Use lower case letters, digits and _, and end it in {_SUFFIXES[kind]}",
                setting="name",
                value=name,
            )
        checked = _checked_labels(labels)
        label_names = tuple(label for label, _ in checked)
        with self._lock:
            family = self._families.get(name)
            if family is None:
                family = self._families[name] = _Family(kind, help, label_names, {})
            elif family[:3] != (kind, help, label_names):
                known = f"a {family.kind} with the labels {', '.join(family.label_names) or 'none'}"
                raise SettingError(
                    f"{name} is {known}, described as {family.help!r}",
                    hint="Use the same kind, help and label names, or another name",
                    setting="name",
                    value=name,
                )
            instrument = family.instruments.get(checked)
            if instrument is None:
                instrument = family.instruments[checked] = make()
            return instrument

    def _begin_anew(self) -> None:
        """In a child of fork: its only thread may have been born while another held the lock."""
        self._lock = threading.Lock()
        self._collectors = []
        self.started_ms = time.time_ns() // 1_000_000
        for family in self._families.values():
            for instrument in family.instruments.values():
                instrument._reset()


def _checked_labels(labels: dict[str, str]) -> Labels:
    for name, value in labels.items():
        if not _NAME.fullmatch(name) or name == "le":
            raise SettingError(
                f"{name!r} cannot be the name of a label",
                hint="Use lower case letters, digits and _; le is Prometheus' own",
                setting="labels",
                value=name,
            )
        if not isinstance(value, str):
            raise SettingError(
                f"label {name} is {value!r}", hint="Make it text", setting="labels", value=value
            )
    return tuple(sorted(labels.items()))


_all_metrics: weakref.WeakSet[Metrics] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for metrics in list(_all_metrics):
        metrics._begin_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)
