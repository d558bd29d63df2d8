"""``eventlog stats``: what is in a store, and how much room it takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eventlog.cli.arguments import Json, StoreDirectory
from eventlog.cli.output import console, count, plural, size, table, time_text, write_json
from eventlog.cli.store import open_to_read

if TYPE_CHECKING:
    from eventlog import EventLog
    from eventlog.cli.segment_file import Batch
    from eventlog.log.topic import Topic

_SAMPLE_COUNT_MAX = 512  # batches of a topic that are decompressed to tell a ratio


def stats(directory: StoreDirectory, json: Json = False) -> None:
    """Show topics, partitions, sizes, offsets, compression and streams."""
    with open_to_read(directory) as log:
        topics = [_topic_stats(log, log.topic(name)) for name in log.topics()]
    if json:
        write_json({"directory": str(directory), "topics": topics})
        return
    speak = console()
    if not topics:
        speak.print(f"{directory} is an empty store: no topics yet", soft_wrap=True)
        return
    overview = table(
        "topic",
        ">records",
        ">streams",
        ">log",
        ">bytes each",
        ">a batch",
        ">compression",
        "durability",
    )
    for topic in topics:
        records, streams, ratio = (
            topic["record_count"],
            topic["stream_count"],
            topic["compression_ratio"],
        )
        overview.add_row(
            str(topic["name"]),
            count(records),
            "-" if streams is None else count(streams),
            size(topic["log_size_bytes"]),
            f"{topic['log_size_bytes'] / records:.0f}" if records else "-",
            f"{topic['records_per_batch']:.1f}" if topic["records_per_batch"] else "-",
            f"{ratio:.1f}x {topic['codec']}" if ratio else "none",
            str(topic["durability"]),
        )
    speak.print(overview)
    for topic in topics:
        if len(topic["partitions"]) == 1:
            speak.print(_partition_line(topic["name"], topic["partitions"][0]), style="dim")
            continue
        detail = table("partition", ">log start", ">log end", ">segments", ">log", "newest record")
        for partition in topic["partitions"]:
            detail.add_row(
                f"{topic['name']}-{partition['partition']}",
                count(partition["log_start_offset"]),
                count(partition["log_end_offset"]),
                count(partition["segment_count"]),
                size(partition["log_size_bytes"]),
                time_text(partition["newest_timestamp_ms"]),
            )
        speak.print(detail)
    speak.print()
    speak.print(
        f"{plural(len(topics), 'topic')}, {count(sum(t['record_count'] for t in topics))} records, "
        f"{size(sum(t['log_size_bytes'] + t['index_size_bytes'] for t in topics))} under log/, "
        f"{size(_size_of(Path(directory) / 'meta'))} under meta/"
    )


def _partition_line(topic: str, partition: dict[str, Any]) -> str:
    return (
        f"{topic}: offsets {count(partition['log_start_offset'])} to "
        f"{count(partition['log_end_offset'])}, {plural(partition['segment_count'], 'segment')}, "
        f"newest record {time_text(partition['newest_timestamp_ms'])}"
    )


def _topic_stats(log: EventLog, topic: Topic) -> dict[str, Any]:
    from eventlog.cli.stream_checking import is_event_store

    partitions = [_partition_stats(log, topic, n) for n in range(topic.partition_count)]
    sample = _sample(log, topic)
    return {
        "name": topic.name,
        "topic_id": str(topic.topic_id),
        "durability": topic.settings.durability,
        "record_count": sum(p["log_end_offset"] - p["log_start_offset"] for p in partitions),
        "stream_count": (
            sum(1 for _ in log.event_store(topic.name).streams()) if is_event_store(topic) else None
        ),
        "log_size_bytes": sum(p["log_size_bytes"] for p in partitions),
        "index_size_bytes": sum(p["index_size_bytes"] for p in partitions),
        "records_per_batch": sample.records_per_batch,
        "codec": sample.codec,
        "compression_ratio": sample.ratio,
        "settings": topic.settings.as_dict(),
        "partitions": partitions,
    }


def _partition_stats(log: EventLog, topic: Topic, number: int) -> dict[str, Any]:
    start, end = topic.log_start_offset(number), topic.log_end_offset(number)
    newest = -1
    readable = topic.high_watermark(number)
    if readable > start:
        for record in topic.read(number, start=readable - 1, limit=1):
            newest = record.timestamp_ms
    folder = log.path / "log" / f"{topic.name}-{number}"
    segments = sorted(folder.glob("*.log"))
    # The room that is reserved ahead of the writes is no log yet.
    log_size_bytes = sum(path.stat().st_size for path in segments)
    state = topic.partition(number).state()
    if state.generation and int(segments[-1].stem) == state.active_base_offset:
        log_size_bytes += state.active_position - segments[-1].stat().st_size
    return {
        "partition": number,
        "log_start_offset": start,
        "log_end_offset": end,
        "high_watermark": readable,
        "segment_count": len(segments),
        "log_size_bytes": log_size_bytes,
        "index_size_bytes": sum(path.stat().st_size for path in folder.glob("*index")),
        "newest_timestamp_ms": newest,
    }


class _Sample(NamedTuple):
    records_per_batch: float
    codec: str
    ratio: float | None


def _sample(log: EventLog, topic: Topic) -> _Sample:
    """What the last batches of the newest segment of each partition are like."""
    from collections import deque
    from contextlib import suppress

    from eventlog.cli.segment_file import BadBatchError, SegmentFile

    batches = records = packed = plain = 0
    codec = "none"
    for number in range(topic.partition_count):
        folder = log.path / "log" / f"{topic.name}-{number}"
        segments = sorted(folder.glob("*.log"))
        if not segments:
            continue
        with SegmentFile(segments[-1]) as file:
            newest: deque[Batch] = deque(maxlen=_SAMPLE_COUNT_MAX // topic.partition_count or 1)
            # Ends at the reserved room, or at what `eventlog verify` is for.
            with suppress(BadBatchError):
                newest.extend(file.batches(_position_near_end(segments[-1])))
            for batch in newest:
                batches += 1
                records += batch.record_count
                if batch.codec != "none":
                    codec = batch.codec
                    packed += batch.size_bytes
                    plain += file.decompressed_size_bytes(batch)
    return _Sample(records / batches if batches else 0.0, codec, plain / packed if packed else None)


def _position_near_end(segment: Path) -> int:
    """Of a batch from which on about the last batches of a sample follow, by the index."""
    try:
        entries = segment.with_suffix(".index").read_bytes()
    except OSError:
        return 0
    count_before = len(entries) // 8 - _SAMPLE_COUNT_MAX
    if count_before < 0:
        return 0
    return int.from_bytes(entries[count_before * 8 + 4 : count_before * 8 + 8], "big")


def _size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
