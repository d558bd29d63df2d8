"""topics.json: the topics of a store, and what cannot be found out from the log itself.

Not in ``meta/``, which can be deleted: settings are no fold of the log. It is replaced as a whole; who
changes it is alone in that among all processes (:class:`eventlog.locks.Members`).
"""

from __future__ import annotations

import itertools
import os
import re
import uuid
from pathlib import Path
from typing import Any

import msgspec

from eventlog._native import os_error
from eventlog.errors import FormatVersionError, InvalidNameError, StorageError
from eventlog.log import checkpoints, segment

FORMAT_VERSION = 1
TOPICS_FILE = "topics.json"
PARTITIONS_MAX = 10_000
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_PARTITION_DIRECTORY = re.compile(r"(?P<topic>[A-Za-z0-9._-]{1,249})-(?P<number>0|[1-9][0-9]{0,8})")


class TopicEntry(msgspec.Struct):
    """A topic.

    Attributes:
        id: its UUID.
        partitions: how many.
        settings: those that were set; the others are as the store has them.
        has_gaps: offsets may be missing.
        segments_meet: all the same each segment ends where the next one begins (what eventlog compacts),
            so one that is missing is noticed.
        is_event_store: keys stay in their partitions, so there will not be more.
        is_deleted: it is being deleted; whoever comes next ends that.
        growing_from: partitions from this one on may not have been made yet.
    """

    id: uuid.UUID
    partitions: int
    settings: dict[str, Any] = {}
    has_gaps: bool = False
    segments_meet: bool = False
    is_event_store: bool = False
    is_deleted: bool = False
    growing_from: int | None = None

    def compacted(self, compacts: bool) -> TopicEntry:
        """The entry, where the topic's policy compacts from now on."""
        if not compacts or self.has_gaps:
            return self
        return msgspec.structs.replace(self, has_gaps=True, segments_meet=True)


class _Content(msgspec.Struct):
    version: int
    topics: dict[str, TopicEntry]


class TopicsFile:
    """The file of one store. Not thread-safe.

    Attributes:
        entries: the topics by name. Change them, then :meth:`save`.
        deleted: topics whose directories may still be there.
    """

    def __init__(self, directory: Path, log_directory: Path) -> None:
        self.path = directory / TOPICS_FILE
        self.entries: dict[str, TopicEntry] = {}
        self.deleted: dict[str, TopicEntry] = {}
        self._log_directory = log_directory
        self._seen: tuple[int, int, int] | None = None

    def has_changed(self) -> bool:
        """Was it replaced, or not there, since it was loaded or saved here?"""
        return self._seen is None or self._stamp() != self._seen

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.path)  # noqa: PTH116  once a call of topic()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def look_again(self) -> None:
        """What was loaded is not used: the next :meth:`has_changed` says yes."""
        self._seen = None

    def load(self) -> list[str]:
        """What it says, and partition directories that it does not know (brought from a Kafka broker, or
        left by a lost topics.json): they are taken in with default settings. The names of these.

        Raises:
            StorageError: it cannot be read or understood, or does not fit what is there.
            FormatVersionError: of a newer version (C-K).
        """
        self._seen = self._stamp()  # before reading: a change meanwhile is seen later
        known = self._read()
        self.entries = {name: entry for name, entry in known.items() if not entry.is_deleted}
        self.deleted = {name: entry for name, entry in known.items() if entry.is_deleted}
        found: dict[str, dict[int, Path]] = {}
        for name, number, directory in partition_directories(self._log_directory):
            found.setdefault(name, {})[number] = directory
        for name, entry in known.items():
            self._check(name, entry, set(found.pop(name, ())))
        for name, directories in sorted(found.items()):
            first = directories[min(directories)]
            topic_id = checkpoints.read_topic_id(first) or uuid.uuid4()
            has_gaps = any(map(_has_gaps, directories.values()))
            entry = TopicEntry(topic_id, 1 + max(directories), has_gaps=has_gaps)
            self._check(name, entry, set(directories))
            self.entries[name] = entry
        return sorted(found)

    def _read(self) -> dict[str, TopicEntry]:
        try:
            known = msgspec.json.decode(self.path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise os_error(error.errno or 0, str(self.path), "cannot read the topics") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(
                f"{self.path} cannot be understood: {error}",
                hint="Restore it from a backup, or move it away: the topics are then found by their "
                "directories and have default settings",
                path=str(self.path),
            ) from error
        if known.version > FORMAT_VERSION:
            raise FormatVersionError(
                f"C-K: {self.path} has format {known.version}, this eventlog knows up to "
                f"{FORMAT_VERSION}",
                hint="Upgrade eventlog-engine",
                found=known.version,
                known=FORMAT_VERSION,
                path=str(self.path),
            )
        return known.topics

    def _check(self, name: str, entry: TopicEntry, directories: set[int]) -> None:
        """The file has no checksum: see whether what it says of a topic fits what is there. Too few
        partitions would hide records, too many would send keys elsewhere."""
        if entry.is_deleted:
            return
        log_starts = checkpoints.read_offsets(self._log_directory / checkpoints.LOG_START)
        noted = {number for topic, number in log_starts if topic == name}
        made = entry.partitions if entry.growing_from is None else entry.growing_from
        missing = set(range(min(made, PARTITIONS_MAX))) - directories - noted
        if not 1 <= entry.partitions <= PARTITIONS_MAX:
            what = f"has {entry.partitions} partitions"
        elif not is_topic_name(name):
            what = "has a name that cannot be one"
        elif max(directories, default=0) >= entry.partitions:
            what = f"has {entry.partitions} partitions, but a directory {name}-{max(directories)}"
        elif noted and missing:
            what = f"has {entry.partitions} partitions, but never had one {name}-{min(missing)}"
        else:
            return
        raise StorageError(
            f"topic {name!r} {what}: {self.path} or {self._log_directory} is damaged",
            hint="Restore the file from a backup, or move it away: the topics are then found by their "
            "directories and have default settings",
            path=str(self.path),
        )

    def change(self, name: str, **changes: Any) -> TopicEntry:
        """Change an entry and save; undone where that fails."""
        former = self.entries[name]
        self.entries[name] = msgspec.structs.replace(former, **changes)
        try:
            self.save()
        except BaseException:
            self.entries[name] = former
            raise
        return self.entries[name]

    def save(self) -> None:
        """Replace the file, durably."""
        data = msgspec.json.encode(_Content(FORMAT_VERSION, {**self.entries, **self.deleted}))
        checkpoints.replace_file(self.path, msgspec.json.format(data, indent=1) + b"\n")
        self._seen = self._stamp()


def partition_directories(log_directory: Path) -> list[tuple[str, int, Path]]:
    """(topic, partition, directory) of all that there are."""
    found = []
    for directory in log_directory.iterdir() if log_directory.is_dir() else ():
        match = _PARTITION_DIRECTORY.fullmatch(directory.name)
        if match and directory.is_dir():
            found.append((match["topic"], int(match["number"]), directory))
    return found


def is_topic_name(name: object) -> bool:
    """Kafka's rule for topic names."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and name not in (".", "..")


def check_topic_name(name: object) -> None:
    """Kafka's rule for topic names.

    Raises:
        InvalidNameError: it does not hold.
    """
    if not is_topic_name(name):
        raise InvalidNameError(
            f"{name!r} cannot be the name of a topic",
            hint="Use 1 to 249 of A-Z a-z 0-9 . _ - (not . or .. alone)",
            name=name,
        )


def _has_gaps(directory: Path) -> bool:
    """Are offsets missing in a partition that came from elsewhere (a compacted topic of Kafka)?"""
    bases = segment.base_offsets(directory)
    for base, following in itertools.zip_longest(bases, bases[1:]):
        path = directory / segment.segment_name(base)
        found = segment.scan(path, base)
        if following is not None and found.end_offset < following:
            return True
        if found.end_position < segment.scan(path, base, has_gaps=True).end_position:
            return True
    return False
