"""Where each partition begins: the first offset kept, as it was written down.

Kafka's file for that, ``log-start-offset-checkpoint``, has no checksum: one damaged digit in it would hide
records. So the store has the same text once more, in ``log-starts``, with a checksum, and believes only
that. Kafka's file is believed for the partitions of a topic that came from a broker, when it is taken in;
else it only shows that a first segment is missing. See docs/FORMAT.md, "Where the log starts".

It is changed by who is alone in that among all processes, after :meth:`LogStarts.load`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from eventlog._native import lib
from eventlog.log import checkpoints
from eventlog.log.checkpoints import Offsets

_logger = logging.getLogger("eventlog.log")

LOG_STARTS_FILE = "log-starts"
_CHECKSUM = "crc32c "


class LogStart(NamedTuple):
    """What is written down about the start of one partition.

    Attributes:
        offset: the first one kept; None: nothing is written down.
        is_sound: it cannot be damaged. Else it must not hide records.
    """

    offset: int | None
    is_sound: bool


class LogStarts:
    """The log starts of a store. Not thread-safe.

    Args:
        directory: of the store.
        log_directory: where Kafka's file is.
    """

    def __init__(self, directory: Path, log_directory: Path) -> None:
        self._path = directory / LOG_STARTS_FILE
        self._kafka_path = log_directory / checkpoints.LOG_START
        self._sound: Offsets = {}
        self._noted: Offsets = {}  # by Kafka's file

    def load(self) -> None:
        """Take over what is written down, whoever wrote it."""
        self._sound = _read(self._path)
        self._noted = checkpoints.read_offsets(self._kafka_path)

    def take_in(self, topics: Collection[str]) -> None:
        """These came from a broker, so Kafka's file is right about them."""
        for place, offset in self._noted.items():
            if place[0] in topics:
                self._sound.setdefault(place, offset)

    def find(self, topic: str, partition: int) -> LogStart:
        """What is written down about one partition."""
        place = topic, partition
        if place in self._sound:
            return LogStart(self._sound[place], is_sound=True)
        return LogStart(self._noted.get(place), is_sound=False)

    def note(self, topic: str, partition: int, offset: int) -> None:
        """A partition begins there; :meth:`save` writes it down."""
        self._sound[topic, partition] = offset

    def forget(self, topics: Collection[str]) -> None:
        """There are no such topics any more; :meth:`save` writes it down."""
        for offsets in (self._sound, self._noted):
            for place in [place for place in offsets if place[0] in topics]:
                del offsets[place]

    def save(self) -> None:
        """Write down what has changed, durably. Ours comes first, so that it is never behind Kafka's.

        Raises:
            StorageFullError, StorageError: one file or both are as they were.
        """
        data = _encode(self._sound)
        if _bytes_of(self._path) != data:
            checkpoints.replace_file(self._path, data)
        self._noted |= self._sound
        # Of every partition, unlike Kafka: a first segment that is gone is missed by this.
        if checkpoints.read_offsets(self._kafka_path) != self._noted:
            checkpoints.write_offsets(self._kafka_path, self._noted)


def is_good(path: Path) -> bool:
    """Can our file be understood?"""
    return _encode(_read(path)) == _bytes_of(path)


def _encode(offsets: Offsets) -> bytes:
    text = checkpoints.offsets_text(offsets).encode()
    return text + f"{_CHECKSUM}{lib.el_crc32c_of(text, len(text)):08x}\n".encode()


def _read(path: Path) -> Offsets:
    """What our file says; nothing where it is missing or damaged."""
    data = _bytes_of(path)
    if data is None:
        return {}
    text = data[: data.rfind(_CHECKSUM.encode())]
    try:
        offsets = checkpoints.parse_offsets(text.decode())
        if _encode(offsets) != data:
            raise ValueError("its checksum does not fit")
    except ValueError as error:
        _logger.warning("%s is damaged and counts for nothing: %s", path, error)
        return {}
    return offsets


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        what = os.strerror(error.errno or 0)
        _logger.warning("%s cannot be read and counts for nothing: %s", path, what)
        return None
