"""Event ids: UUID version 7 (RFC 9562), made for a whole batch at a time.

An id is 48 bits of ms since 1970, 4 bits of version, 12 random bits, 2 bits of variant, and 62 bits
of which the upper 30 are random and the lower 32 count (and would carry into them). Once a millisecond the random bits and the
start of the count are drawn anew from the system's generator; within it the count goes up by one. So
the ids of one maker rise, and two makers meet only if they draw the same bits in the same ms.
"""

from __future__ import annotations

import os

_VERSION = 0x7000
_VARIANT = 1 << 63


class EventIdMaker:
    """Makes ids. Not thread-safe: the event store calls it under a lock.

    The next id is ``high`` and ``low``, 64 bits each.
    """

    def __init__(self) -> None:
        self.time_ms = -1
        self.high = 0
        self.low = 0

    def start(self, time_ms: int) -> None:
        """Draw anew for a new ``time_ms``."""
        drawn = int.from_bytes(os.urandom(9), "big")  # 12 + 30 + 30 bits
        self.time_ms = time_ms
        self.high = (time_ms & (1 << 48) - 1) << 16 | _VERSION | drawn & 0xFFF
        self.low = _VARIANT | (drawn >> 12 & (1 << 30) - 1) << 32 | drawn >> 42

    def one(self, time_ms: int) -> tuple[int, int]:
        """A new id as two numbers of 64 bits. ``time_ms``: now; an earlier one than before counts on."""
        if time_ms > self.time_ms:
            self.start(time_ms)
        low = self.low
        self.low = low + 1
        return self.high, low

    def first_of(self, count: int, time_ms: int) -> bytes:
        """The first of ``count`` new ids, 16 bytes; the others count up from it in the last 8."""
        if time_ms > self.time_ms:
            self.start(time_ms)
        first = self.high << 64 | self.low
        self.low += count
        return first.to_bytes(16, "big")
