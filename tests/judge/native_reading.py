"""What the C core makes of bytes, by its lower functions, in the judge's own types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventlog._native import ffi, lib, path_bytes
from eventlog.errors import CorruptionError
from eventlog.log.compression import decompress
from eventlog.log.record import decode_headers
from tools.segment_reader import HEADER_SIZE_BYTES, Record

FIELD_COUNT = 13


class NativeRefusalError(Exception):
    """The C core refused bytes with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class NativeBatch:
    size_bytes: int
    base_offset: int
    last_offset: int
    record_count: int
    crc: int
    attributes: int
    codec: int

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & 32)


def check_batch(data: bytes) -> NativeBatch:
    """The batch at the beginning of ``data``, or NativeRefusalError."""
    fields = ffi.new("int64_t[]", FIELD_COUNT)
    size = lib.el_batch_check(data, len(data), fields)
    if size < 0:
        raise NativeRefusalError(size)
    return NativeBatch(
        size_bytes=size,
        base_offset=fields[0],
        last_offset=fields[0] + fields[5],
        record_count=fields[11],
        crc=fields[3],
        attributes=fields[4],
        codec=fields[12],
    )


def decode_batch(data: bytes) -> list[Record]:
    """The records of the batch that ``data`` begins with, or NativeRefusalError."""
    batch = check_batch(data)
    plain = data[: batch.size_bytes]
    if batch.codec:
        try:
            payload = decompress(batch.codec, plain[HEADER_SIZE_BYTES:])
        except CorruptionError:
            raise NativeRefusalError(lib.EL_ERR_CORRUPT) from None
        plain = seal(plain[:HEADER_SIZE_BYTES] + payload)
    views = ffi.new("el_view[]", max(batch.record_count, 1))
    count = lib.el_batch_decode(plain, len(plain), views, batch.record_count)
    if count < 0:
        raise NativeRefusalError(count)
    return [
        Record(
            offset=view.offset,
            timestamp_ms=view.timestamp,
            key=None if view.key_size < 0 else ffi.buffer(view.key, view.key_size)[:],
            value=None if view.value_size < 0 else ffi.buffer(view.value, view.value_size)[:],
            headers=decode_headers(ffi.buffer(view.headers, view.headers_size)[:]),
        )
        for view in views[0:count]
    ]


def seal(data: bytes, codec: int = 0) -> bytes:
    """The batch with its length, codec and CRC made to fit its bytes."""
    batch = bytearray(data)
    if lib.el_batch_compressed(ffi.from_buffer(batch), len(batch), codec) != lib.EL_OK:
        raise ValueError("these bytes cannot be sealed")
    return bytes(batch)


def decode_all(data: bytes) -> tuple[list[Record], int]:
    """Records of the batches in ``data`` until the C core refuses one or the bytes end; and where."""
    records: list[Record] = []
    position = 0
    while position < len(data):
        try:
            records += decode_batch(data[position:])
        except NativeRefusalError:
            break
        position += check_batch(data[position:]).size_bytes
    return records, position


def scan(path: Path, offset: int = 0) -> Any:
    """``el_scan`` of a whole segment file."""
    found = ffi.new("el_scan *")
    assert lib.el_segment_scan(path_bytes(path), 0, offset, 1, found) == lib.EL_OK
    return found
