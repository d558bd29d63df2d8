"""Batches of idempotent producers, made and read by hand."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import crcmod.predefined
from log_support import segments

crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")

HEADER = struct.Struct(">qiibIhiqqqhii")


def encode_batch(
    producer_id: int, epoch: int, sequence: int, count: int, timestamp_ms: int, attributes: int = 0
) -> bytes:
    """A RecordBatch v2 as a Kafka client sends it; the values are the sequence numbers."""
    records = b""
    for number in range(count):
        value = b"%d" % ((sequence + number) % 2**31)
        body = bytes([0, 0]) + varint(number) + varint(-1) + varint(len(value)) + value + varint(0)
        records += varint(len(body)) + body
    rest = struct.pack(
        ">hiqqqhii",
        attributes,
        count - 1,
        timestamp_ms,
        timestamp_ms,
        producer_id,
        epoch,
        sequence,
        count,
    )
    rest += records
    return struct.pack(">qiibI", 0, 9 + len(rest), -1, 2, crc32c(rest)) + rest


def varint(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def producer_batches(store: Path) -> list[tuple[int, int, int, int, int]]:
    """(producer id, epoch, first sequence, count, first offset) of the batches on disk that have one."""
    found = []
    for path in segments(store):
        data, position = path.read_bytes(), 0
        while position + HEADER.size <= len(data):
            fields: tuple[Any, ...] = HEADER.unpack_from(data, position)
            offset, length, _, _, _, _, delta, _, _, producer_id, epoch, sequence, _ = fields
            if length <= 0:
                break
            if producer_id >= 0:
                found.append((producer_id, epoch, sequence, delta + 1, offset))
            position += 12 + length
    return found


def snapshot_names(directory: Path) -> list[int]:
    """Offsets of the snapshot files of a partition directory."""
    return sorted(int(path.stem) for path in directory.glob("*.snapshot"))
