"""RecordBatch v2 in plain Python, written from the format's description: the oracle of test_batch.

Shares nothing with the C core, and is as simple as it can be made.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import crcmod.predefined

crc32c = crcmod.predefined.mkCrcFun("crc-32c")

HEADER = struct.Struct(">qiibIhiqqqhii")
CRC_BEGIN = 21
HEADER_SIZE = 61
INT32_MAX = 2**31 - 1


class Event(NamedTuple):
    """One record as the tests see it."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[bytes, bytes | None], ...] = ()
    timestamp: int = 0


class Fields(NamedTuple):
    """The batch header, without length, magic and CRC."""

    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    record_count: int
    base_offset: int = 0
    leader_epoch: int = 0
    attributes: int = 0
    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1


class MalformedError(Exception):
    """The bytes are no record batch."""


def varint(number: int) -> bytes:
    """Zig-zag, seven bits a byte, low groups first."""
    coded = 2 * number if number >= 0 else -2 * number - 1
    out = bytearray()
    while coded >= 0x80:
        out.append(coded & 0x7F | 0x80)
        coded >>= 7
    out.append(coded)
    return bytes(out)


def nullable(data: bytes | None) -> bytes:
    """A length, -1 for null, and the bytes."""
    return varint(-1) if data is None else varint(len(data)) + data


def headers(pairs: tuple[tuple[bytes, bytes | None], ...]) -> bytes:
    """The header count and the headers."""
    return varint(len(pairs)) + b"".join(nullable(name) + nullable(value) for name, value in pairs)


def wrapped(number: int) -> int:
    """As int64 arithmetic has it."""
    return (number + 2**63) % 2**64 - 2**63


def record(event: Event, base_timestamp: int, offset_delta: int) -> bytes:
    """One record with its length."""
    body = b"".join(
        [
            b"\x00",
            varint(wrapped(event.timestamp - base_timestamp)),
            varint(offset_delta),
            nullable(event.key),
            nullable(event.value),
            headers(event.headers),
        ]
    )
    return varint(len(body)) + body


def batch(fields: Fields, payload: bytes) -> bytes:
    """Header with right length and CRC, and the payload."""
    after_crc = (
        struct.pack(
            ">hiqqqhii",
            fields.attributes,
            fields.last_offset_delta,
            fields.base_timestamp,
            fields.max_timestamp,
            fields.producer_id,
            fields.producer_epoch,
            fields.base_sequence,
            fields.record_count,
        )
        + payload
    )
    before = struct.pack(
        ">qiibI", fields.base_offset, len(after_crc) + 9, fields.leader_epoch, 2, crc32c(after_crc)
    )
    return before + after_crc


def fields_of(events: list[Event]) -> Fields:
    """The header that a fresh batch of these events has."""
    return Fields(
        last_offset_delta=len(events) - 1,
        base_timestamp=events[0].timestamp,
        max_timestamp=max(event.timestamp for event in events),
        record_count=len(events),
    )


def encode(events: list[Event]) -> bytes:
    """An uncompressed batch with base offset 0."""
    base = events[0].timestamp
    payload = b"".join(record(event, base, delta) for delta, event in enumerate(events))
    return batch(fields_of(events), payload)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.data) - self.at:
            raise MalformedError("past the end")
        self.at += size
        return self.data[self.at - size : self.at]

    def varint(self, bits: int = 32) -> int:
        coded = shift = 0
        while shift < bits:
            byte = self.take(1)[0]
            coded |= (byte & 0x7F) << shift
            if byte < 0x80:
                if coded >> bits:
                    raise MalformedError("too large for its type")
                return coded // 2 if coded % 2 == 0 else -(coded // 2) - 1
            shift += 7
        raise MalformedError("too many bytes")

    def nullable(self) -> bytes | None:
        size = self.varint()
        return None if size == -1 else self.take(size)


def decode_records(fields: Fields, payload: bytes) -> list[tuple[int, Event]]:
    """(offset, event) of each record; raises MalformedError."""
    reader = _Reader(payload)
    found = []
    for _ in range(fields.record_count):
        size = reader.varint()
        if size < 1:
            raise MalformedError("an empty record")
        found.append(_decode_record(fields, reader.take(size)))
    if reader.at != len(payload):
        raise MalformedError("bytes left over")
    return found


def _decode_record(fields: Fields, body: bytes) -> tuple[int, Event]:
    reader = _Reader(body)
    reader.take(1)
    timestamp = wrapped(fields.base_timestamp + reader.varint(64))
    delta = reader.varint()
    if not 0 <= delta <= fields.last_offset_delta:
        raise MalformedError("offset outside the batch")
    key, value = reader.nullable(), reader.nullable()
    count = reader.varint()
    if count < 0:
        raise MalformedError("negative header count")
    pairs = []
    for _ in range(count):
        name = reader.nullable()
        if name is None:
            raise MalformedError("null header name")
        pairs.append((name, reader.nullable()))
    if reader.at != len(body):
        raise MalformedError("bytes left over in the record")
    if fields.attributes & 8:
        timestamp = fields.max_timestamp
    return fields.base_offset + delta, Event(value, key, tuple(pairs), timestamp)
