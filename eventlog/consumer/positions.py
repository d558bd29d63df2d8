"""Where a consumer begins when it has no position, or one that is not kept any more."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from eventlog.errors import SettingError
from eventlog.log.partition import Partition

AutoOffsetReset = Literal["earliest", "latest", "none"] | int | datetime


class ResetPolicy:
    """The setting ``auto_offset_reset``, checked.

    Args:
        reset: ``"earliest"``: the log start; ``"latest"``: the high watermark; ``"none"``: an error;
            a time in ms since 1970 UTC, or a datetime with a time zone: the first record with this time
            or a later one, the high watermark where there is none.

    Raises:
        SettingError: none of these.
    """

    def __init__(self, reset: AutoOffsetReset) -> None:
        self.reset = reset
        self._timestamp_ms = -1
        if isinstance(reset, datetime) and reset.tzinfo is not None:
            self._timestamp_ms = max(0, int(reset.timestamp() * 1000))
        elif type(reset) is int and 0 <= reset < 2**63:
            self._timestamp_ms = reset
        elif reset not in ("earliest", "latest", "none"):
            raise SettingError(
                f"auto_offset_reset is {reset!r}",
                hint="It has to be 'earliest', 'latest', 'none', milliseconds since 1970 UTC, or a "
                "datetime with a time zone",
                setting="auto_offset_reset",
                value=reset,
            )

    def offset(self, partition: Partition) -> int | None:
        """Where to begin in this partition; None: nowhere, the caller raises."""
        if self._timestamp_ms >= 0:
            return partition.offset_for_time(self._timestamp_ms)
        if self.reset == "earliest":
            return partition.log_start_offset
        return partition.high_watermark if self.reset == "latest" else None
