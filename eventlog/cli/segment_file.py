"""A segment file, batch by batch, without opening its store.

Reads by pread into a buffer of its own: a writer may cut or extend the file at any moment, which a
mapping would answer with SIGBUS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from eventlog._native import check, ffi, lib
from eventlog.errors import EventLogError
from eventlog.log.compression import decompress

HEADER_SIZE_BYTES = 61
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_WINDOW_SIZE_BYTES = 4 << 20


class Batch(NamedTuple):
    """The header of a batch whose CRC is right, and where it lies in its file."""

    position: int
    base_offset: int
    size_bytes: int
    leader_epoch: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def last_offset(self) -> int:
        """Of the last record, also where compaction took it."""
        return self.base_offset + self.last_offset_delta

    @property
    def codec(self) -> str:
        """Name of the compression, ``none`` without."""
        return CODECS[self.attributes & 7]

    @property
    def is_control(self) -> bool:
        """Holds a marker of a transaction, no records of users."""
        return bool(self.attributes & 32)

    @property
    def is_transactional(self) -> bool:
        """Written inside a transaction."""
        return bool(self.attributes & 16)


class SegmentRecord(NamedTuple):
    """One record; ``headers_data`` as it is encoded on disk."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers_data: bytes


class BadBatchError(EventLogError):
    """What stands at ``position`` is no whole batch; ``is_zeros``: nothing but zeros follows."""

    position: int = 0
    is_zeros: bool = False


class SegmentFile:
    """The batches of one ``.log`` file. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._window = b""
        self._window_position = 0
        self._fields = ffi.new("int64_t[13]")
        self._views = ffi.new("el_view[]", 1024)
        self._views_capacity = 1024

    def __enter__(self) -> SegmentFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def size_bytes(self) -> int:
        """Of the file, now."""
        return os.fstat(self._fd).st_size

    def batches(self, position: int = 0) -> Iterator[Batch]:
        """The batches from a position on, each checked; ends behind the last byte of the file.

        Raises:
            BadBatchError: what follows is no whole sound batch; zeros (reserved room) are told apart.
        """
        while True:
            data = self._at(position, HEADER_SIZE_BYTES)
            if not data:
                return
            size = lib.el_batch_check(ffi.from_buffer(data), len(data), self._fields)
            if size == lib.EL_ERR_SHORT and len(data) >= HEADER_SIZE_BYTES:  # of the window
                whole = int.from_bytes(data[8:12], "big") + 12
                if position + whole <= self.size_bytes:
                    data = self._at(position, whole)
                    size = lib.el_batch_check(ffi.from_buffer(data), len(data), self._fields)
            if size < 0:
                raise self._bad(position, int(size))
            yield Batch(position, *list(self._fields)[:12])
            position += int(size)

    def data(self, batch: Batch) -> bytes:
        """The bytes of a batch."""
        return bytes(self._at(batch.position, batch.size_bytes)[: batch.size_bytes])

    def records(self, batch: Batch) -> list[SegmentRecord]:
        """The records of a batch, decompressed if need be.

        Raises:
            BadBatchError: the CRC is right, and still these are no records.
            CompressionUnavailableError: the library of the batch's codec is not installed.
        """
        views, count, _data = self._decode(batch)
        return [
            SegmentRecord(
                view.offset,
                view.timestamp,
                _bytes(view.key, view.key_size),
                _bytes(view.value, view.value_size),
                _bytes(view.headers, view.headers_size) or b"\0",
            )
            for view in (views[i] for i in range(count))
        ]

    def decompressed_size_bytes(self, batch: Batch) -> int:
        """What the batch would be without compression."""
        if batch.codec == "none":
            return batch.size_bytes
        return len(_decompressed(batch, self.data(batch)))

    def check_records(self, batch: Batch) -> None:
        """Decode the records of a batch without keeping them; raises as :meth:`records` does."""
        self._decode(batch)

    def _decode(self, batch: Batch) -> tuple[Any, int, bytes]:
        """Views of the records, how many, and the bytes they point into."""
        data = self.data(batch)
        if batch.codec != "none":
            data = _decompressed(batch, data)
        if batch.record_count > self._views_capacity:
            self._views = ffi.new("el_view[]", batch.record_count)
            self._views_capacity = batch.record_count
        count = lib.el_batch_decode(
            ffi.from_buffer(data), len(data), self._views, batch.record_count
        )
        if count < 0:
            raise BadBatchError(_last_error_text(), position=batch.position)
        return self._views, int(count), data

    def _at(self, position: int, size_bytes: int) -> memoryview:
        """The bytes from a position on: at least so many, where the file has them."""
        start = position - self._window_position
        if start < 0 or start + size_bytes > len(self._window):
            self._window = _pread(self._fd, max(size_bytes, _WINDOW_SIZE_BYTES), position)
            self._window_position = position
            start = 0
        return memoryview(self._window)[start:]

    def _bad(self, position: int, code: int) -> BadBatchError:
        what = _last_error_text()
        self._window = b""  # another look must see what is there then
        if code == lib.EL_ERR_SHORT:
            what = what or "the file ends inside a batch"
        if self._is_zeros_from(position):
            return BadBatchError("only zeros follow", position=position, is_zeros=True)
        return BadBatchError(what or "no batch", position=position, is_zeros=False)

    def _is_zeros_from(self, position: int) -> bool:
        while data := _pread(self._fd, _WINDOW_SIZE_BYTES, position):
            if data.count(0) != len(data):
                return False
            position += len(data)
        return True


def _pread(fd: int, size_bytes: int, position: int) -> bytes:
    parts: list[bytes] = []
    while size_bytes > 0:
        part = os.pread(fd, size_bytes, position)
        if not part:
            break
        parts.append(part)
        position += len(part)
        size_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _last_error_text() -> str:
    told = ffi.new("el_error *")
    lib.el_error_last(told)
    text: str = ffi.string(told.what).decode("utf-8", "replace")
    return text


def _bytes(pointer: Any, size_bytes: int) -> bytes | None:
    return None if size_bytes < 0 else bytes(ffi.buffer(pointer, size_bytes))


def _decompressed(batch: Batch, data: bytes) -> bytes:
    """The batch with its payload decompressed, sealed anew so that it can be decoded."""
    payload = decompress(batch.attributes & 7, data[HEADER_SIZE_BYTES:])
    plain = bytearray(data[:HEADER_SIZE_BYTES] + payload)
    check(lib.el_batch_compressed(ffi.from_buffer(plain), len(plain), 0))
    return bytes(plain)
