"""Kafka's ``.snapshot`` files: the producers of a partition up to the offset that is the file's name.

Big-endian: int16 version 1, uint32 CRC-32C of all that follows, int32 count, and for each producer
int64 id, int16 epoch, int32 last sequence, int64 last offset, int32 its distance from the first offset
of that batch, int64 timestamp, int32 coordinator epoch, int64 first offset of an open transaction (-1).
Only the last batch of each is kept. Derived: one that is missing or damaged costs a longer look at the log.

The two newest are kept (Kafka keeps one for each segment, and the newest): the newest can turn out to
be damaged, or to lie past the end of a log that was cut.
"""

from __future__ import annotations

import logging
import struct
from pathlib import Path

from eventlog._native import check, lib, path_bytes
from eventlog.errors import EventLogError
from eventlog.log import checkpoints
from eventlog.log.producer_table import (
    NO_SEQUENCE,
    SEQUENCE_COUNT,
    AppendedBatch,
    ProducerEntry,
    ProducerTable,
)
from eventlog.log.segment import OFFSET_DIGITS, SNAPSHOT, segment_name

_logger = logging.getLogger("eventlog.log")

_VERSION = 1
_HEAD = struct.Struct(">hI")
_COUNT = struct.Struct(">i")
_ENTRY = struct.Struct(">qhiqiqiq")
_FILES_KEPT = 2


def encode(table: ProducerTable) -> bytes:
    """The bytes of a snapshot file; producers by id."""
    parts = [_COUNT.pack(len(table.entries))]
    for producer_id, entry in sorted(table.entries.items()):
        last_sequence, last_offset, delta = NO_SEQUENCE, -1, 0
        if entry.batches:
            _, last_sequence, first_offset, last_offset, _ = entry.batches[-1]
            delta = last_offset - first_offset
        parts.append(
            _ENTRY.pack(
                producer_id,
                entry.epoch,
                last_sequence,
                last_offset,
                delta,
                entry.timestamp_ms,
                entry.coordinator_epoch,
                entry.transaction_offset,
            )
        )
    body = b"".join(parts)
    return _HEAD.pack(_VERSION, lib.el_crc32c_of(body, len(body))) + body


def decode(data: bytes) -> ProducerTable:
    """What a snapshot file holds.

    Raises:
        ValueError: it is none, or damaged.
    """
    if len(data) < _HEAD.size + _COUNT.size:
        raise ValueError(f"{len(data)} bytes are too few")
    version, crc = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if version != _VERSION:
        raise ValueError(f"version {version} is not known")
    if crc != lib.el_crc32c_of(body, len(body)):
        raise ValueError("its checksum does not fit")
    (count,) = _COUNT.unpack_from(body)
    if count < 0 or len(body) != _COUNT.size + count * _ENTRY.size:
        raise ValueError(f"{len(body)} bytes do not hold {count} producers")
    entries: dict[int, ProducerEntry] = {}
    for fields in _ENTRY.iter_unpack(body[_COUNT.size :]):
        producer_id, epoch, sequence, offset, delta, timestamp_ms, coordinator, transaction = fields
        entry = ProducerEntry(epoch, timestamp_ms, transaction, coordinator)
        if offset >= 0:
            first_sequence = (sequence - delta) % SEQUENCE_COUNT
            entry.batches.append(
                AppendedBatch(first_sequence, sequence, offset - delta, offset, timestamp_ms)
            )
        entries[producer_id] = entry
    return ProducerTable(entries)


def offsets(directory: Path) -> list[int]:
    """Of the snapshot files in a partition directory, ascending."""
    return sorted(
        int(path.stem)
        for path in directory.glob(f"*{SNAPSHOT}")
        if len(path.stem) == OFFSET_DIGITS and path.stem.isdecimal()
    )


def load(directory: Path, start: int, end: int) -> tuple[int, ProducerTable] | None:
    """The newest one that can be read with an offset in ``[start, end]``, and that offset."""
    for offset in reversed(offsets(directory)):
        path = directory / segment_name(offset, SNAPSHOT)
        if start <= offset <= end:
            try:
                return offset, decode(path.read_bytes())
            except (OSError, ValueError) as error:
                _logger.warning("producer snapshot %s is ignored: %s", path, error)
    return None


def write(directory: Path, offset: int, table: ProducerTable) -> bool:
    """Write one durably and delete older ones. An error is logged and otherwise without consequence:
    nothing depends on it. Did it work?"""
    path = directory / segment_name(offset, SNAPSHOT)
    try:
        checkpoints.replace_file(path, encode(table))
        for older in offsets(directory)[:-_FILES_KEPT]:
            remove(directory, older)
    except EventLogError as error:
        _logger.warning("producer snapshot %s: %s", path, error)
        return False
    return True


def remove(directory: Path, offset: int) -> None:
    """Delete one durably.

    Raises:
        StorageError: the operating system refuses.
    """
    check(lib.el_file_unlink(path_bytes(directory / segment_name(offset, SNAPSHOT))))
