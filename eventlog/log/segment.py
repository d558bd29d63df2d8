"""Names of segment files, and what C finds when it scans them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from eventlog._native import check, ffi, lib, path_bytes

LOG, INDEX, TIME_INDEX, SNAPSHOT = ".log", ".index", ".timeindex", ".snapshot"
TRANSACTION_INDEX = ".txnindex"
TEMPORARY, DELETED = ".tmp", ".deleted"
OFFSET_DIGITS = 20
_HEADER = struct.Struct(">qi 11x i")  # base offset, length, ..., last offset delta


def segment_name(base_offset: int, suffix: str = LOG) -> str:
    """``00000000000000000000.log`` and the like."""
    return f"{base_offset:0{OFFSET_DIGITS}d}{suffix}"


def base_offsets(directory: Path) -> list[int]:
    """Base offsets of the segments in a partition directory, ascending."""
    return sorted(
        int(path.stem)
        for path in directory.glob(f"*{LOG}")
        if len(path.stem) == OFFSET_DIGITS and path.stem.isdecimal()
    )


def scan(path: Path, offset: int, *, has_gaps: bool = False) -> Any:
    """Walk and verify all batches of a segment file; an ``el_scan`` (native/abi.h).

    Args:
        path: of the ``.log`` file.
        offset: that the first batch has to have.
        has_gaps: offsets may be missing, they need only rise.
    """
    result = ffi.new("el_scan *")
    check(lib.el_segment_scan(path_bytes(path), 0, offset, has_gaps, result))
    return result


def position_of(path: Path, offset: int, end_position: int) -> int:
    """Where the batch that holds ``offset`` begins, in a verified segment; its end if none does."""
    position = 0
    with path.open("rb") as file:
        while position < end_position:
            file.seek(position)
            base, length, last_delta = _HEADER.unpack(file.read(_HEADER.size))
            if base + last_delta >= offset:
                break
            position += 12 + length
    return position


def text(characters: Any) -> str:
    """A C string field."""
    return str(ffi.string(characters).decode("utf-8", "replace"))
