"""Partition directories that were made elsewhere become topics of a store that is open.

All of them or none: the topics are first written down as being deleted, which is what the next opening
does with them after a crash; then their directories are renamed into the log; then they are written down
as topics.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from eventlog._native import check, lib, path_bytes
from eventlog.errors import EventLogError, SettingError, StorageReadOnlyError
from eventlog.locks import Members
from eventlog.log.log_starts import LogStarts
from eventlog.log.store import Store
from eventlog.log.topics_file import TopicEntry, TopicsFile, check_topic_name

_logger = logging.getLogger("eventlog.log")


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic that is to be adopted.

    Attributes:
        entry: as it is to stand in topics.json.
        directories: of its partitions by number, complete and durable, in the file system of the store.
        log_starts: first offset that counts, by partition.
    """

    entry: TopicEntry
    directories: Mapping[int, Path]
    log_starts: Mapping[int, int]


def adopt(store: Store, topics: Mapping[str, NewTopic]) -> None:
    """Take topics into a store; other processes notice as if one of them had made the topics.

    Args:
        store: open for writing.
        topics: by name. Their directories are moved.

    Raises:
        StorageReadOnlyError: the store is open for reading only.
        SettingError: there is a topic of that name, or directories of one.
        InvalidNameError: a name that no topic can have.
        LockedError, StorageError: as for :meth:`eventlog.log.store.Store.topic`. Nothing was taken in.

    Crashes: all the topics are there, or none. Threads and processes may use the store meanwhile.
    """
    check_writable(store)
    for name in topics:
        check_topic_name(name)
    store.topics()  # open, and of this process
    with Members(store.run_directory, "writer", str(store.path)).mutex():
        file = TopicsFile(store.path, store.log_directory)
        starts = LogStarts(store.path, store.log_directory)
        starts.load()
        starts.take_in(file.load())
        _check_free(store, file, topics)
        for name, topic in topics.items():
            file.deleted[name] = msgspec.structs.replace(topic.entry, is_deleted=True)
        try:
            file.save()
            _move(store, topics)
            for name, topic in topics.items():
                for number, offset in topic.log_starts.items():
                    starts.note(name, number, offset)
            starts.save()
            for name, topic in topics.items():
                del file.deleted[name]
                file.entries[name] = topic.entry
            file.save()
        except BaseException:
            _forget(store, file, starts, topics)
            raise
    store.topics()  # opens them
    store.activity.wake()


def check_writable(store: Store) -> None:
    """Raises StorageReadOnlyError where no topic can be taken in."""
    if store.read_only:
        raise StorageReadOnlyError(
            "topics cannot be taken into a store that is open for reading only",
            hint="Open it without read_only=True",
            path=str(store.path),
        )


def _check_free(store: Store, file: TopicsFile, topics: Mapping[str, NewTopic]) -> None:
    for name, topic in topics.items():
        places = [store.log_directory / f"{name}-{number}" for number in topic.directories]
        if name in file.entries or name in file.deleted or any(place.exists() for place in places):
            raise SettingError(
                f"there is a topic {name!r} in {store.path}, or one is being deleted",
                hint="Delete it, or leave it out",
                setting="topic",
                value=name,
            )


def _move(store: Store, topics: Mapping[str, NewTopic]) -> None:
    for name, topic in topics.items():
        for number, directory in sorted(topic.directories.items()):
            place = store.log_directory / f"{name}-{number}"
            # A page of a former topic of that name says how far a log goes that is not this one.
            (store.run_directory / place.name).unlink(missing_ok=True)
            check(lib.el_file_rename(path_bytes(directory), path_bytes(place)))


def _forget(
    store: Store, file: TopicsFile, starts: LogStarts, topics: Mapping[str, NewTopic]
) -> None:
    """Nobody was told of them: they may go at once. Else the next opening sees to it."""
    try:
        for name in topics:
            file.entries.pop(name, None)
            file.deleted[name] = msgspec.structs.replace(topics[name].entry, is_deleted=True)
        file.save()
        for name, topic in topics.items():
            for number in topic.directories:
                shutil.rmtree(store.log_directory / f"{name}-{number}", ignore_errors=True)
        check(lib.el_file_sync(path_bytes(store.log_directory)))
        starts.forget(list(topics))
        starts.save()
        for name in topics:
            del file.deleted[name]
        file.save()
    except EventLogError as error:
        _logger.warning("topics that could not be taken in are left to the next opening: %s", error)
