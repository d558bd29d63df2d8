"""Where time comes from. Time only labels records: no order and no promise depends on it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Gives the time that records are labelled with."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that stands still until it is told otherwise; for tests.

    Args:
        now_ms: where it begins, milliseconds since 1970-01-01 UTC.
    """

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Where it was put."""
        return self._now_ms

    def advance(self, milliseconds: int) -> None:
        """Move by so many milliseconds; negative goes back."""
        self._now_ms += milliseconds
