"""What ``eventlog verify`` looks at in a store: plain files, partitions, stream indexes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from eventlog.cli.checking import PartitionCheck, Report
from eventlog.errors import EventLogError, FormatVersionError, NotAStoreError
from eventlog.log import checkpoints
from eventlog.settings import TopicSettings

if TYPE_CHECKING:
    from eventlog import EventLog

_TOPICS_FILE = "topics.json"
_PARTITION_DIRECTORY = re.compile(r"(.+)-(0|[1-9][0-9]*)")
Place = tuple[str, int]


def check_store(directory: Path, advance: Callable[[int], None] = lambda _: None) -> Report:
    """Check everything that is there; changes nothing.

    Args:
        directory: of the store.
        advance: told of each batch's size in bytes.

    Raises:
        NotAStoreError, FormatVersionError: there is nothing that could be checked.
    """
    report = Report()
    log = _open(directory, report)
    try:
        _StoreCheck(directory, report, advance).run()
        if log is not None:
            from eventlog.cli.stream_checking import check_metadata, check_streams

            check_metadata(log, report)
            for name in log.topics():
                check_streams(log, name, report)
    finally:
        if log is not None:
            log.close()
    return report


def _open(directory: Path, report: Report) -> EventLog | None:
    import eventlog

    try:
        return eventlog.open(directory, read_only=True)
    except (NotAStoreError, FormatVersionError):
        raise
    except EventLogError as error:
        report.add("store", directory, f"cannot be opened: {error.message}")
        return None


class _StoreCheck:
    def __init__(self, directory: Path, report: Report, advance: Callable[[int], None]) -> None:
        self.directory = directory
        self.log_directory = directory / "log"
        self.report = report
        self.advance = advance

    def run(self) -> None:
        is_clean = (self.log_directory / checkpoints.CLEAN_SHUTDOWN).exists()
        # Before the log is walked: a writer only moves the end up.
        recovery_points = self._offsets(checkpoints.RECOVERY_POINT)
        log_starts = self._offsets(checkpoints.LOG_START)
        topics = self._topics()
        places = self._places(topics)
        self.report.topic_count = len({topic for topic, _ in places})
        for topic, number in places:
            folder = self.log_directory / f"{topic}-{number}"
            partition = PartitionCheck(
                folder,
                self._index_interval(topics.get(topic)),
                bool(topics.get(topic, {}).get("has_gaps")),
                is_clean,
                self.report,
                self.advance,
            )
            partition.run()
            point = recovery_points.pop((topic, number), 0)
            start = log_starts.pop((topic, number), None)
            self._ends(partition, point, start, is_clean=is_clean)
            self._partition_files(folder, topics.get(topic))
        for (topic, number), point in recovery_points.items():
            if point > 0:
                self.report.add(
                    "segment",
                    self.log_directory / f"{topic}-{number}",
                    f"the partition is missing; it is known to have reached offset {point}",
                )

    def _ends(
        self, partition: PartitionCheck, point: int, start: int | None, *, is_clean: bool
    ) -> None:
        end = partition.log_end_offset
        if point > end:
            self.report.add(
                "segment",
                partition.directory,
                f"the log is known to reach offset {point} and ends at {end}",
                offset=end,
            )
        elif is_clean and point < end:
            self.report.add(
                "checkpoint",
                self.log_directory / checkpoints.RECOVERY_POINT,
                f"{partition.directory.name} was closed at offset {point}, and ends at {end}",
                offset=point,
            )
        if start is not None and start < partition.log_start_offset:
            self.report.add(
                "segment",
                partition.directory,
                f"the log starts at offset {start}, the first segment at "
                f"{partition.log_start_offset}",
                offset=start,
            )

    # -- plain files ----------------------------------------------------------------------------

    def _topics(self) -> dict[str, dict[str, Any]]:
        path = self.directory / _TOPICS_FILE
        try:
            topics: dict[str, dict[str, Any]] = msgspec.json.decode(path.read_bytes())["topics"]
            for entry in topics.values():
                int(entry["partitions"])
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            self.report.add("store", path, f"cannot be understood: {error}")
            return {}
        return topics

    def _places(self, topics: dict[str, dict[str, Any]]) -> list[Place]:
        places = {
            (name, number)
            for name, entry in topics.items()
            for number in range(int(entry["partitions"]))
        }
        found: set[Place] = set()
        for path in sorted(self.log_directory.glob("*/")):
            match = _PARTITION_DIRECTORY.fullmatch(path.name)
            if match is None:
                self.report.add("store", path, "is no partition, and Kafka would not start on it")
            else:
                found.add((match[1], int(match[2])))
        for topic, number in sorted(places - found):
            self.report.add("store", self.log_directory / f"{topic}-{number}", "is missing")
        for topic, number in sorted(found - places):
            if topics:
                folder = self.log_directory / f"{topic}-{number}"
                self.report.add("store", folder, f"is not in {_TOPICS_FILE}")
        return sorted(found)

    def _index_interval(self, entry: dict[str, Any] | None) -> int:
        settings = (entry or {}).get("settings") or {}
        return int(settings.get("index_interval_bytes", TopicSettings().index_interval_bytes))

    def _offsets(self, name: str) -> dict[Place, int]:
        path = self.log_directory / name
        found = checkpoints.read_offsets(path)
        if not found and path.is_file() and path.read_bytes() not in (b"", b"0\n0\n"):
            self.report.add("checkpoint", path, "cannot be understood; recovery does without it")
        return found

    def _partition_files(self, folder: Path, entry: dict[str, Any] | None) -> None:
        metadata = folder / checkpoints.PARTITION_METADATA
        topic_id = checkpoints.read_topic_id(folder)
        if topic_id is None:
            self.report.add("checkpoint", metadata, "is missing or cannot be understood")
        elif entry is not None and str(topic_id) != str(entry.get("id")):
            self.report.add("checkpoint", metadata, f"has another topic id than {_TOPICS_FILE}")
        epochs = folder / checkpoints.LEADER_EPOCHS
        try:
            version, count, *lines = epochs.read_text("utf-8").splitlines()
            pairs = [tuple(map(int, line.split(" "))) for line in lines]
            is_good = int(version) == 0 and int(count) == len(pairs)
            is_good = is_good and all(len(pair) == 2 for pair in pairs)
        except (OSError, ValueError):
            is_good = False
        if not is_good:
            self.report.add("checkpoint", epochs, "is missing or cannot be understood")
