"""Names of segment files, and what C finds when it scans them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eventlog._native import check, ffi, lib, path_bytes

LOG, INDEX, TIME_INDEX = ".log", ".index", ".timeindex"
TEMPORARY = ".tmp"
OFFSET_DIGITS = 20


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


def scan(path: Path, position: int = 0, offset: int = 0) -> Any:
    """Walk and verify all batches of a segment file from a position; an ``el_scan`` (native/abi.h)."""
    result = ffi.new("el_scan *")
    check(lib.el_segment_scan(path_bytes(path), position, offset, result))
    return result


def text(characters: Any) -> str:
    """A C string field."""
    return str(ffi.string(characters).decode("utf-8", "replace"))
