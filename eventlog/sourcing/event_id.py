"""Event ids: UUID version 7 (RFC 9562), made for a whole batch at a time.

An id is 48 bits of ms since 1970, 4 bits of version, 12 random bits, 2 bits of variant, and 62 bits
of which the upper 30 are random and the lower 32 count. Once a millisecond the random bits and the
start of the count are drawn anew from the system's generator; within it the count goes up by one. So
the ids of one maker rise, and two makers meet only if they draw the same bits in the same ms.
"""

from __future__ import annotations

import os
from functools import lru_cache

_VERSION = 0x7000
_VARIANT = 1 << 63
_COUNT_END = 1 << 32
_BLOCK = 256


@lru_cache(maxsize=_BLOCK)
def _steps(count: int) -> tuple[int, int]:
    """Two numbers of ``count`` 128-bit digits: all ones, and 0, 1, 2, ... from the left.

    ``base * ones + steps`` is then ``count`` ids in a row: no Python object for each of them.
    """
    ones = steps = 0
    for digit in range(count):
        ones = ones << 128 | 1
        steps = steps << 128 | digit
    return ones, steps


class EventIdMaker:
    """Makes ids. Not thread-safe: the event store calls it under a lock."""

    def __init__(self) -> None:
        self._time_ms = -1
        self._next = 0
        self._left = 0

    def _start(self, time_ms: int) -> None:
        drawn = int.from_bytes(os.urandom(9), "big")  # 12 + 30 + 30 bits
        self._time_ms = time_ms
        high = (time_ms & (1 << 48) - 1) << 16 | _VERSION | drawn & 0xFFF
        count = drawn >> 42 & (1 << 30) - 1
        low = _VARIANT | (drawn >> 12 & (1 << 30) - 1) << 32 | count
        self._next = high << 64 | low
        self._left = _COUNT_END - count

    def one(self, time_ms: int) -> bytes:
        """The 16 bytes of a new id. ``time_ms``: now; an earlier one than before counts on."""
        if time_ms > self._time_ms or not self._left:
            self._start(time_ms)
        id = self._next
        self._next = id + 1
        self._left -= 1
        return id.to_bytes(16, "big")

    def many(self, count: int, time_ms: int) -> bytes:
        """``count`` new ids, 16 bytes each, end to end and rising."""
        if time_ms > self._time_ms or self._left < count:
            self._start(time_ms)
        first = self._next
        self._next = first + count
        self._left -= count
        if count <= _BLOCK:
            return _block(first, count)
        blocks = [_block(first + at, _BLOCK) for at in range(0, count - _BLOCK + 1, _BLOCK)]
        if count % _BLOCK:
            blocks.append(_block(first + count - count % _BLOCK, count % _BLOCK))
        return b"".join(blocks)


def _block(first: int, count: int) -> bytes:
    ones, steps = _steps(count)
    return (first * ones + steps).to_bytes(16 * count, "big")
