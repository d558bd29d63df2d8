"""What ``eventlog verify`` looks at in a store: plain files, partitions, groups, stream indexes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from eventlog.cli.checking import PartitionCheck, Report
from eventlog.errors import EventLogError, FormatVersionError, NotAStoreError
from eventlog.log import checkpoints, log_starts, producer_ids, producer_snapshot
from eventlog.log.log_starts import LOG_STARTS_FILE
from eventlog.log.segment import INDEX, LOG, SNAPSHOT, TEMPORARY, TIME_INDEX, segment_name
from eventlog.log.store import PRODUCER_IDS_FILE
from eventlog.log.topics_file import is_topic_name
from eventlog.settings import TopicSettings

if TYPE_CHECKING:
    from eventlog import EventLog

_TOPICS_FILE = "topics.json"
_PARTITION_DIRECTORY = re.compile(r"(.+)-(0|[1-9][0-9]*)")
_TEMPORARY = (TEMPORARY, ".cleaned", ".swap", ".deleted")
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
            _check_groups(log, report)
            for name in log.topics():
                check_streams(log, name, report)
    finally:
        if log is not None:
            log.close()
    return report


def check_backup(path: Path, advance: Callable[[int], None] = lambda _: None) -> Report:
    """Check a backup: every file against the manifest, then as the store that it is.

    Args:
        path: of the backup, or of the directory that backups are made in: then the newest one.
        advance: told of each batch's size in bytes.

    Raises:
        NotAStoreError, FormatVersionError: there is nothing that could be checked.
    """
    from eventlog.log.backup import find_backup, verify_backup

    backup = find_backup(path)
    problems = verify_backup(backup)
    report = check_store(backup, advance)
    for problem in problems:
        report.add("backup", problem.path, problem.detail)
    return report


def _check_groups(log: EventLog, report: Report) -> None:
    directory = log.path / "groups"
    if not directory.exists():
        return
    try:
        problems = log.groups.verify()
    except EventLogError as error:
        problems = [error.message]
    for problem in problems:
        report.add("groups", directory, problem)


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
        self._offsets(checkpoints.LOG_START)
        topics = self._topics()
        self._own_files()
        places = self._places(topics)
        self.report.topic_count = len({topic for topic, _ in places})
        for topic, number in places:
            folder = self.log_directory / f"{topic}-{number}"
            entry = topics.get(topic, {})
            has_gaps = bool(entry.get("has_gaps"))
            partition = PartitionCheck(
                folder,
                self._index_interval(topics.get(topic)),
                has_gaps,
                not has_gaps or bool(entry.get("segments_meet")),
                is_clean,
                self.report,
                self.advance,
            )
            partition.run()
            point = recovery_points.pop((topic, number), 0)
            # Read again: retention moves it up before segments go.
            start = checkpoints.read_offsets(self.log_directory / checkpoints.LOG_START)
            self._ends(partition, point, start.get((topic, number)), is_clean=is_clean)
            self._partition_files(folder, topics.get(topic))
            self._producers(partition, is_clean=is_clean)
            if is_clean:  # else a process may be at work on them, or the next opening ends its work
                self._left_over(folder)
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
            for name, entry in topics.items():
                int(entry["partitions"])
                TopicSettings().changed(**entry.get("settings", {}))
                if not is_topic_name(name):
                    self.report.add("store", path, f"{name!r} cannot be the name of a topic")
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            self.report.add("store", path, f"cannot be understood: {error}")
            return {}
        ids = Counter(entry.get("id") for entry in topics.values())
        for topic_id, times in ids.items():
            if times > 1:
                self.report.add("store", path, f"{times} topics have the id {topic_id}")
        return {name: entry for name, entry in topics.items() if not entry.get("is_deleted")}

    def _own_files(self) -> None:
        """The store's plain files beside topics.json. Each has a checksum; losing one loses nothing that
        cannot be done without."""
        for path, is_good in (
            (self.directory / PRODUCER_IDS_FILE, producer_ids.is_good),
            (self.directory / LOG_STARTS_FILE, log_starts.is_good),
        ):
            if path.exists() and not is_good(path):
                self.report.add("checkpoint", path, "cannot be understood; opening does without it")

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
        if not checkpoints.are_leader_epochs(epochs):
            self.report.add("checkpoint", epochs, "is missing or cannot be understood")

    def _producers(self, partition: PartitionCheck, *, is_clean: bool) -> None:
        """Snapshots of producers; derived, like an index."""
        folder = partition.directory
        for offset in producer_snapshot.offsets(folder):
            path = folder / segment_name(offset, SNAPSHOT)
            try:
                producer_snapshot.decode(path.read_bytes())
            except FileNotFoundError:
                continue  # deleted meanwhile for a newer one
            except ValueError as error:
                self.report.add("producers", path, f"{error}; it is ignored", offset=offset)
            if is_clean and offset > partition.log_end_offset:
                end = partition.log_end_offset
                self.report.add("producers", path, f"lies past the log end, {end}", offset=offset)

    def _left_over(self, folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            is_orphan = path.suffix in (INDEX, TIME_INDEX) and not path.with_suffix(LOG).exists()
            if is_orphan or path.suffix in _TEMPORARY:
                self.report.add(
                    "left over", path, "is of no segment; opening for writing removes it"
                )
