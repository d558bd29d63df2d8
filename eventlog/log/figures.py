"""The figures of a store's partitions, for :class:`eventlog.metrics.Metrics`: read where they stand
anyway, in the pages that processes share, so counting them costs an append nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eventlog._native import ffi, lib
from eventlog.errors import EventLogError
from eventlog.log.partition import Partition
from eventlog.metrics import HistogramValue, Metric, counter, gauge


def partition_figures(partitions: Iterable[Partition]) -> Iterator[Metric]:
    """Of each partition. One that is closed or deleted meanwhile is left out."""
    for partition in partitions:
        try:
            yield from _figures(partition)
        except EventLogError:
            continue


def _figures(partition: Partition) -> Iterator[Metric]:
    state = partition.state()
    place = {"topic": partition.topic, "partition": str(partition.number)}
    yield counter(
        "eventlog_append_batches_total",
        "Batches appended by all processes since the store was opened",
        state.appended_batches,
        **place,
    )
    yield counter(
        "eventlog_append_bytes_total",
        "Bytes appended by all processes since the store was opened",
        state.appended_bytes,
        **place,
    )
    yield counter(
        "eventlog_syncs_total",
        "Times that appended batches were made durable, by all processes",
        state.sync_count,
        **place,
    )
    yield gauge("eventlog_log_start_offset", "First offset kept", state.log_start_offset, **place)
    yield gauge(
        "eventlog_log_end_offset", "Offset of the next record", state.log_end_offset, **place
    )
    yield gauge(
        "eventlog_high_watermark", "Records below it can be read", state.high_watermark, **place
    )
    yield gauge(
        "eventlog_durable_end_offset",
        "Records below it are on disk",
        state.durable_end_offset,
        **place,
    )
    times = ffi.new("el_sync_times *")
    lib.el_partition_sync_times(partition.handle, times)
    yield Metric(
        "eventlog_sync_seconds",
        "How long the fdatasyncs of this process took",
        "histogram",
        tuple(sorted(place.items())),
        HistogramValue.of([int(count) for count in times.counts], times.total_ns / 1e9),
    )
