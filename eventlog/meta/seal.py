"""The seal of a cleanly closed environment: proof that its bytes are those that were left.

LMDB has no checksums and trusts each page, so a damaged byte could crash the process or answer
wrongly. The seal holds size and CRC-32C of the data file; it exists only while nobody may write.
"""

from __future__ import annotations

import mmap
import os
from enum import Enum
from pathlib import Path

from eventlog._native import ffi, lib

SEAL_FILE = "sealed"
_HEAD = "eventlog-meta-seal 1"
UNSEALED_SIZE_BYTES_MAX = 4 << 20
"""Larger files without a seal are not walked: it takes microseconds a row."""


def checksum(data: object) -> int:
    """CRC-32C of anything with the buffer protocol."""
    buffer = ffi.from_buffer(data)
    return int(lib.el_crc32c_of(buffer, len(buffer)))


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _content_of(data_path: Path) -> tuple[int, int]:
    with data_path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return 0, 0
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            return size, checksum(data)


def write(directory: Path, data_path: Path) -> None:
    """Seal the files. Raises OSError."""
    size, crc = _content_of(data_path)
    line = f"{_HEAD} {size} {crc:08x}"
    aside = directory / f"{SEAL_FILE}.tmp"
    with aside.open("w", encoding="ascii") as file:
        file.write(f"{line} {checksum(line.encode()):08x}\n")
        file.flush()
        os.fsync(file.fileno())
    aside.rename(directory / SEAL_FILE)
    sync_directory(directory)


def remove(directory: Path) -> None:
    """Take the seal away before the first write. Raises OSError."""
    try:
        (directory / SEAL_FILE).unlink()
    except FileNotFoundError:
        return
    sync_directory(directory)


def _read(directory: Path) -> tuple[int, int] | None:
    """Size and checksum; None: no seal, or one that is itself damaged and says nothing."""
    try:
        text = (directory / SEAL_FILE).read_bytes()[:200].decode("ascii").strip()
        line, _, own = text.rpartition(" ")
        head, size, crc = line.rsplit(" ", 2)
        if head == _HEAD and int(own, 16) == checksum(line.encode()):
            return int(size), int(crc, 16)
    except (FileNotFoundError, ValueError):
        pass
    return None


class State(Enum):
    """What is known of a data file."""

    PROVEN = "its bytes are those of a clean close"
    UNPROVEN = "no seal: a process was killed, or one is at work"
    DAMAGED = "it may not be given to LMDB"


def state_of(directory: Path, data_path: Path, *, is_writer: bool) -> State:
    """Look at seal and file.

    Without a seal a writer walks small files page by page; a reader cannot, for a writer may be at
    work on them. Raises OSError.
    """
    size_bytes = data_path.stat().st_size
    if size_bytes == 0:
        return State.DAMAGED
    sealed = _read(directory)
    if sealed is not None:
        if _content_of(data_path) == sealed:
            return State.PROVEN
        if _read(directory) == sealed:
            return State.DAMAGED
        return State.UNPROVEN  # a writer opened it just now: what was read is half of a change
    if is_writer and size_bytes <= UNSEALED_SIZE_BYTES_MAX and not _is_walkable(directory):
        return State.DAMAGED
    return State.UNPROVEN


def _is_walkable(directory: Path) -> bool:
    try:
        from lmdb.verify import VerifyError, verify
    except ImportError:  # lmdb before 3.0
        return True
    try:
        return not verify(str(directory))  # type: ignore[no-untyped-call]
    except VerifyError:
        return False
