"""The settings of a topic in Kafka's words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eventlog.settings import TopicSettings
from eventlog.transfer.findings import Finding
from eventlog.transfer.survey import PartitionSurvey

_SEGMENT_BYTES_MIN = 1024 * 1024  # Kafka's, since 4.0
MESSAGE_BYTES_DEFAULT = 1024 * 1024 + 12  # Kafka's max.message.bytes
_KEYS = "it keeps them only until its cleaner comes by: give them keys, or change cleanup_policy"


def config_of(settings: TopicSettings, largest_batch_bytes: int) -> dict[str, str]:
    """Configuration of a Kafka topic that keeps what these settings keep.

    Args:
        settings: of the topic.
        largest_batch_bytes: that there is; Kafka's cleaner and producers need room for it.
    """
    config: dict[str, object] = {
        "cleanup.policy": "delete"
        if settings.cleanup_policy == "none"
        else settings.cleanup_policy,
        # Kafka has no "none": a policy of delete without a limit deletes nothing.
        "retention.ms": settings.retention_ms if settings.deletes else -1,
        "retention.bytes": settings.retention_size_bytes if settings.deletes else -1,
        "segment.bytes": max(settings.segment_size_bytes_max, _SEGMENT_BYTES_MIN),
        "segment.ms": settings.segment_ms,
        "index.interval.bytes": settings.index_interval_bytes,
        "max.message.bytes": max(largest_batch_bytes, MESSAGE_BYTES_DEFAULT),
    }
    if settings.compacts:
        config["min.cleanable.dirty.ratio"] = settings.min_cleanable_dirty_ratio
        config["min.compaction.lag.ms"] = settings.min_compaction_lag_ms
        config["delete.retention.ms"] = settings.delete_retention_ms
        if settings.max_compaction_lag_ms > 0:
            config["max.compaction.lag.ms"] = settings.max_compaction_lag_ms
    return {name: str(value) for name, value in config.items()}


def find_lost_settings(topic: str, settings: TopicSettings) -> Iterator[Finding]:
    """Settings that Kafka has no word for."""
    if settings.deletes and settings.retention_count >= 0:
        yield Finding("settings", False, topic, -1, "Kafka has no retention by count of records")
    if settings.deletes and settings.retention_waits_for_groups:
        detail = "Kafka deletes by age and size, whatever groups have read"
        yield Finding("settings", False, topic, -1, detail)


def find_lost_records(
    survey: PartitionSurvey, settings: TopicSettings, now_ms: int
) -> Iterator[Finding]:
    """What a broker would delete soon after its start, by these settings."""
    if settings.deletes:
        count = max(_too_old(survey, settings, now_ms), _too_much(survey, settings))
        if count:
            end = survey.segments[count - 1].end_offset
            yield Finding(
                "old-records",
                True,
                survey.topic,
                survey.partition,
                f"the broker would delete the records below offset {end} at once: they are past retention",
                "Raise retention_ms or retention_size_bytes of the topic, or apply retention first",
            )


def _too_old(survey: PartitionSurvey, settings: TopicSettings, now_ms: int) -> int:
    """How many of the oldest segments are past retention by their age."""
    if settings.retention_ms < 0:
        return 0
    for count, each in enumerate(survey.segments):
        if each.end_offset == each.base_offset or each.max_timestamp_ms < 0:
            return count
        if now_ms - each.max_timestamp_ms <= settings.retention_ms:
            return count
    return len(survey.segments)


def _too_much(survey: PartitionSurvey, settings: TopicSettings) -> int:
    """The same by size."""
    if settings.retention_size_bytes < 0:
        return 0
    left = survey.size_bytes - settings.retention_size_bytes
    for count, each in enumerate(survey.segments):
        left -= each.size_bytes
        if left < 0 or not each.size_bytes:
            return count
    return len(survey.segments)


def find_keyless(
    survey: PartitionSurvey, chunks: Iterable[list[bytes | None]]
) -> Iterator[Finding]:
    """Records without a key in a topic that is compacted: Kafka's cleaner drops them.

    Args:
        survey: of the partition.
        chunks: the keys of all its records.
    """
    count = sum(chunk.count(None) for chunk in chunks)
    if count:
        detail = f"{count:,} records have no key, and the topic is compacted: {_KEYS}"
        yield Finding("keyless-records", True, survey.topic, survey.partition, detail)
