"""Options of a consumer, with their limits, and how it joins its group with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.group import TIMEOUT_MS_MAX, Groups, Membership, OffsetAndMetadata
from eventlog.consumer.key_slots import KEY_SLOTS_MAX
from eventlog.consumer.positions import AutoOffsetReset, ResetPolicy
from eventlog.errors import SettingError

POLL_RECORDS_MAX = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """How a consumer reads and shares. What is about the group means nothing without one.

    Attributes:
        auto_offset_reset: where to begin where nothing is committed, or what is committed is not kept any
            more: ``"earliest"`` (the log start; Kafka's default is latest), ``"latest"``, ``"none"``
            (an error), a time in ms since 1970 UTC, or a datetime with a time zone.
        auto_commit_interval_ms: commit that often what the application is done with; None: it
            commits itself. 1 .. a day.
        instance_id: of a static member: its place is kept until the session timeout while it restarts.
        assignors: that it takes, the preferred first; see :mod:`eventlog.consumer.assignment`.
        session_timeout_ms: not heard of for so long, it is thrown out; 1 .. a day. A member whose
            process is gone is thrown out at once.
        heartbeat_interval_ms: how often it is heard of; 1 .. ``session_timeout_ms`` - 1.
        max_poll_interval_ms: it leaves when the application asks for no more records for so long, and is
            thrown out when it keeps for so long what it has to give up; 1 .. a day.
        max_poll_records: most records that a poll gives; 1 .. 10,000,000.
        sharing: ``"key"``: members share the keys of a partition, not whole partitions.
        key_slots: into how many slots keys are divided then, the same in all members; 1 .. 4,096.
        timeout_s: iterating ends when nothing came for so many seconds; None: never.
    """

    auto_offset_reset: AutoOffsetReset = "earliest"
    auto_commit_interval_ms: int | None = None
    instance_id: str | None = None
    assignors: Sequence[str] = ("range", "cooperative-sticky")
    session_timeout_ms: int = 45_000
    heartbeat_interval_ms: int = 3_000
    max_poll_interval_ms: int = 300_000
    max_poll_records: int = 500
    sharing: Literal["key"] | None = None
    key_slots: int = 64
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        ResetPolicy(self.auto_offset_reset)  # refuses
        if self.auto_commit_interval_ms is not None:
            self._check("auto_commit_interval_ms", 1, TIMEOUT_MS_MAX)
        self._check("session_timeout_ms", 2, TIMEOUT_MS_MAX)
        self._check("heartbeat_interval_ms", 1, self.session_timeout_ms - 1)
        self._check("max_poll_interval_ms", 1, TIMEOUT_MS_MAX)
        self._check("max_poll_records", 1, POLL_RECORDS_MAX)
        self._check("key_slots", 1, KEY_SLOTS_MAX)
        if self.sharing not in (None, "key"):
            raise _outside("sharing", self.sharing, "None or 'key'")
        if self.timeout_s is not None and not self.timeout_s >= 0:
            raise _outside("timeout_s", self.timeout_s, "None, or seconds from 0")

    def _check(self, setting: str, least: int, most: int) -> None:
        value = getattr(self, setting)
        if type(value) is not int or not least <= value <= most:
            raise _outside(setting, value, f"a whole number from {least:,} to {most:,}")

    @property
    def slots_in_use(self) -> int:
        """Slots that partitions are shared in; 0: they are not."""
        return self.key_slots if self.sharing == "key" else 0

    def check_without_group(self) -> None:
        """Refuse what needs a group: SettingError."""
        for setting in ("auto_commit_interval_ms", "instance_id", "sharing"):
            if getattr(self, setting) is not None:
                raise _outside(
                    setting, getattr(self, setting), "None in a consumer without a group"
                )


class GroupDoor:
    """Joins a group with these options."""

    def __init__(self, groups: Groups, group: str, options: ConsumerOptions) -> None:
        self.group = group
        self._groups = groups
        self._options = options

    def join(self, counts: Mapping[str, int]) -> Membership:
        """Become a member; see :meth:`Groups.join`."""
        options = self._options
        return self._groups.join(
            self.group,
            counts,
            instance_id=options.instance_id,
            session_timeout_ms=options.session_timeout_ms,
            heartbeat_interval_ms=options.heartbeat_interval_ms,
            rebalance_timeout_ms=options.max_poll_interval_ms,
            assignors=options.assignors,
            key_slots=options.slots_in_use,
        )

    def committed(self, units: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """What the group has committed of these."""
        return self._groups.committed(self.group, units)


def _outside(setting: str, value: object, limits: str) -> SettingError:
    return SettingError(
        f"{setting} is {value!r}", hint=f"It has to be {limits}", setting=setting, value=value
    )
