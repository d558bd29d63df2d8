"""Producer ids: each is handed out once in the life of a store, and in no other store or cluster.

``producer-ids.json`` says where the next block of ids begins. Kafka hands out ids from 0, so ours lie high;
where a store's begin is chosen at random, so that partitions can be moved between stores too. That also
is what makes the loss of the file harmless: other ids follow, not the same ones again.
"""

from __future__ import annotations

import json
import logging
import secrets
from pathlib import Path

from eventlog._native import lib
from eventlog.log.checkpoints import replace_file

_logger = logging.getLogger("eventlog.log")

ID_MIN = 2**62
BLOCK_COUNT = 1000
_START_BITS = 51  # of the block that a store begins with: 2^51 blocks end below 2^62 + 2^61
_BLOCK_MAX = 2**63 // BLOCK_COUNT - 1


class ProducerIds:
    """The ids that a process has set aside. The caller sees to it that only one at a time uses it.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._block = range(0)

    @property
    def is_empty(self) -> bool:
        """Has a new block to be taken before the next id?"""
        return not self._block

    def take_block(self) -> None:
        """Set a block aside, durably. Alone among all processes.

        Raises:
            StorageError: the file cannot be written.
        """
        start = self._read()
        if start is None:
            start = ID_MIN + secrets.randbits(_START_BITS) * BLOCK_COUNT
        following = start + BLOCK_COUNT
        data = {"next": following, "crc32c": _checksum(following)}
        replace_file(self._path, json.dumps(data).encode() + b"\n")
        self._block = range(start, following)

    def next(self) -> int:
        """An id that nobody has had."""
        producer_id = self._block[0]
        self._block = self._block[1:]
        return producer_id

    def _read(self) -> int | None:
        """Where the next block begins; None where that is not known."""
        try:
            data = json.loads(self._path.read_bytes())
            start = data["next"]
            if type(start) is not int or data["crc32c"] != _checksum(start):
                raise ValueError("its checksum does not fit")
            if not ID_MIN <= start < _BLOCK_MAX * BLOCK_COUNT:
                raise ValueError(f"{start} is no producer id")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _logger.warning("%s is not used, ids begin elsewhere: %s", self._path, error)
            return None
        return start


def is_good(path: Path) -> bool:
    """Can the file be understood?"""
    return ProducerIds(path)._read() is not None


def _checksum(number: int) -> int:
    data = b"%d" % number
    return int(lib.el_crc32c_of(data, len(data)))
