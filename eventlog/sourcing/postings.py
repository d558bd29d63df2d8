"""Postings: where the events of one stream lie, packed so that no Python object stands for one.

A posting is a run of events of one stream with consecutive versions and consecutive offsets in one
segment: 32 bytes in the machine's byte order,

    version i64 | offset i64 | batch position i64 | count i32 | record position i32

for the first of them; the positions are bytes in the segment and in the batch. They are hints: C looks
whether the record is there, and a reader that is told it is not reads by the offset.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

POSTING = struct.Struct("=qqqii")
POSTING_SIZE_BYTES = POSTING.size
FIRST_RECORD_POSITION = 61
"""Of a batch's first record: behind the batch header."""
UNKNOWN = -1
_COUNT_MAX = 1 << 30
_COUNT = struct.Struct("=i")
_COUNT_AT = 24


class Runs(NamedTuple):
    """Postings as columns, as C's cursor takes them."""

    versions: array[int]
    offsets: array[int]
    batch_positions: array[int]
    record_positions: array[int]
    counts: array[int]

    def part(self, start: int, end: int) -> Runs:
        """The runs with these indexes."""
        return Runs(*(column[start:end] for column in self))


def columns(data: bytes | bytearray) -> Runs:
    """The postings in ``data`` as columns."""
    wide, narrow = array("q", data), array("i", data)
    return Runs(wide[0::4], wide[1::4], wide[2::4], narrow[7::8], narrow[6::8])


def first_version(data: bytes | bytearray) -> int:
    """Of the first posting."""
    version: int = POSTING.unpack_from(data)[0]
    return version


def last_version(data: bytes | bytearray) -> int:
    """Of the last event of the last posting."""
    version, _, _, count, _ = POSTING.unpack_from(data, len(data) - POSTING_SIZE_BYTES)
    return int(version + count - 1)


def extend(
    data: bytearray,
    version: int,
    offset: int,
    batch_position: int,
    count: int,
    record_position: int,
) -> bool:
    """Add a run; True where it became a posting of its own, False where it goes on with the last."""
    # The first record of a segment never goes on with a run that lies in the segment before.
    if data and (batch_position > 0 or record_position > FIRST_RECORD_POSITION):
        at = len(data) - POSTING_SIZE_BYTES
        last_version, last_offset, _, last_count, _ = POSTING.unpack_from(data, at)
        if (
            last_version + last_count == version
            and last_offset + last_count == offset
            and last_count < _COUNT_MAX
        ):
            _COUNT.pack_into(data, at + _COUNT_AT, last_count + count)
            return False
    data += POSTING.pack(version, offset, batch_position, count, record_position)
    return True


def between(data: bytes, start_version: int, end_version: int) -> bytes:
    """What of the postings lies in ``[start_version, end_version)``."""
    if not data or (start_version <= first_version(data) and last_version(data) < end_version):
        return data
    versions = array("q", data)[0::4]
    first = max(bisect_right(versions, start_version) - 1, 0)
    last = bisect_left(versions, end_version)
    part = bytearray(data[first * POSTING_SIZE_BYTES : last * POSTING_SIZE_BYTES])
    if part:
        cut_front(part, start_version - first_version(part))
    if part:
        _cut_back(part, last_version(part) + 1 - end_version)
    return bytes(part)


def below(data: bytes, end_offset: int) -> bytes:
    """What of the postings lies below the offset."""
    if not data:
        return data
    _, offset, _, count, _ = POSTING.unpack_from(data, len(data) - POSTING_SIZE_BYTES)
    if offset + count <= end_offset:
        return data
    offsets = array("q", data)[1::4]
    part = bytearray(data[: bisect_left(offsets, end_offset) * POSTING_SIZE_BYTES])
    if part:
        _, offset, _, count, _ = POSTING.unpack_from(part, len(part) - POSTING_SIZE_BYTES)
        _cut_back(part, offset + count - end_offset)
    return bytes(part)


def from_offset(data: bytes, start_offset: int) -> bytes:
    """What of the postings lies at the offset or above."""
    if not data or POSTING.unpack_from(data)[1] >= start_offset:
        return data
    offsets = array("q", data)[1::4]
    part = bytearray(data[max(bisect_right(offsets, start_offset) - 1, 0) * POSTING_SIZE_BYTES :])
    cut_front(part, start_offset - POSTING.unpack_from(part)[1])
    return bytes(part)


def cut_front(data: bytearray, count: int) -> None:
    """Take the first ``count`` events off the first posting, or the posting if it has no more."""
    if count <= 0:
        return
    version, offset, batch_position, old_count, _ = POSTING.unpack_from(data)
    if count >= old_count:
        del data[:POSTING_SIZE_BYTES]
    else:
        POSTING.pack_into(
            data, 0, version + count, offset + count, batch_position, old_count - count, UNKNOWN
        )


def _cut_back(data: bytearray, count: int) -> None:
    if count <= 0:
        return
    at = len(data) - POSTING_SIZE_BYTES + _COUNT_AT
    (old_count,) = _COUNT.unpack_from(data, at)
    _COUNT.pack_into(data, at, old_count - count)


def limited(data: bytes, limit: int, *, backwards: bool) -> bytes:
    """The first ``limit`` events of the postings, or the last."""
    if limit <= 0:
        return b""
    part = bytearray(data)
    counts = columns(data).counts
    excess = sum(counts) - limit
    for count in counts if backwards else reversed(counts):
        if excess <= 0:
            break
        if backwards:
            cut_front(part, min(excess, count))
        elif excess >= count:
            del part[-POSTING_SIZE_BYTES:]
        else:
            _cut_back(part, excess)
        excess -= count
    return bytes(part)


def merged(data: bytes) -> list[tuple[int, int, int]]:
    """(version, offset, count) of the longest runs: equal for equal content, however it was cut."""
    runs: list[tuple[int, int, int]] = []
    for i in range(0, len(data), POSTING_SIZE_BYTES):
        version, offset, _, count, _ = POSTING.unpack_from(data, i)
        if runs:
            last_version, last_offset, last_count = runs[-1]
            if last_version + last_count == version and last_offset + last_count == offset:
                runs[-1] = (last_version, last_offset, last_count + count)
                continue
        runs.append((version, offset, count))
    return runs
