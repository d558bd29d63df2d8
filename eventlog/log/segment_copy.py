"""A sealed segment read from its mapping, and a file written from front to back: what compaction copies
from, and to."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from eventlog._native import check, ffi, lib, os_error, path_bytes
from eventlog.errors import CorruptionError
from eventlog.log.compression import decompress
from eventlog.log.retention import RetainedSegment
from eventlog.settings import MIB

HEADER_SIZE = 61
POSITION_MAX = 2**31 - 1
"""Positions in an index have 31 bits."""
_LENGTH = slice(8, 12)  # in a batch
_SYNC_SIZE_BYTES = 2 * MIB
"""So much is written before it is synced: one large fdatasync at the end would hold up the appends'."""
_FORGET_SIZE_BYTES = 32 * MIB


class TooLargeError(Exception):
    """What the copies take is too much for one file."""


class Output:
    """A file that is written from front to back."""

    def __init__(self, path: Path, progress: Callable[[int], None]) -> None:
        self._path = path_bytes(path)
        self._progress = progress
        self._unsynced = 0
        self.size = 0
        check(lib.el_file_extend(self._path, 0, b"", 0))

    def write(self, data: Any, size: int) -> None:
        """Go on with these bytes.

        Raises:
            TooLargeError: no index could lead there.
            StorageFullError, StorageError: the operating system refuses.
        """
        if self.size + size > POSITION_MAX:
            raise TooLargeError
        if size:
            check(lib.el_file_extend(self._path, self.size, data, size))
            self.size += size
            self._unsynced += size
            if self._unsynced >= _SYNC_SIZE_BYTES:
                self.sync()
            self._progress(size)

    def sync(self) -> None:
        """What was written is on disk; the file's name may not be."""
        check(lib.el_file_sync(self._path))
        self._unsynced = 0


class Batches:
    """The batches of a sealed segment, mapped; a context manager.

    ``batches``: an ``el_batches *``, standing at the first one.
    """

    def __init__(self, path: Path, each: RetainedSegment) -> None:
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise os_error(error.errno or 0, str(path), "cannot map the segment") from error
        self._data, self._path = ffi.from_buffer(self._map), ffi.new("char[]", path_bytes(path))
        self._let_go = 0
        self.batches = ffi.new(
            "el_batches *",
            {
                "data": self._data,
                "size": size,
                "next_offset": each.base_offset,
                "end_offset": each.end_offset,
                "path": self._path,
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        ffi.release(self._data)
        if isinstance(self._map, mmap.mmap):
            self._map.close()

    def let_go(self) -> None:
        """What was gone through counts no longer as memory of this process."""
        end = int(self.batches.position) // mmap.PAGESIZE * mmap.PAGESIZE
        if end - self._let_go >= _FORGET_SIZE_BYTES and isinstance(self._map, mmap.mmap):
            self._map.madvise(mmap.MADV_DONTNEED, self._let_go, end - self._let_go)
            self._let_go = end


def unpack(batches: Any) -> bytes:
    """The records of the compressed batch at the position."""
    header = ffi.buffer(batches.data + batches.position, HEADER_SIZE)[:]
    size = 12 + int.from_bytes(header[_LENGTH], "big") - HEADER_SIZE
    start = batches.data + batches.position + HEADER_SIZE
    try:
        return decompress(header[22] & 7, ffi.buffer(start, size)[:])
    except CorruptionError as error:
        path = Path(os.fsdecode(ffi.string(batches.path)))
        raise damage(path, int(batches.position), error.message) from error


def damage(path: Path, position: int, what: str) -> CorruptionError:
    """The error for a segment that cannot be compacted as it is."""
    return CorruptionError(
        f"{path} is damaged at byte {position}: {what or 'it ends too early'}; it is not compacted",
        hint="`eventlog verify` lists all that is wrong; restore the file from a backup, or see "
        "`eventlog repair`",
        path=str(path),
        position=position,
    )
