"""What a move would lose or bend, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from eventlog.errors import SettingError, TransferError

ACCEPTABLE = frozenset({"keyless-records", "old-records", "producer-ids", "torn-tail"})
"""Findings that are errors unless they are accepted: what they cost is told in their detail."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a move would lose or bend.

    Attributes:
        name: what kind, e.g. ``"old-records"``; docs/guide/kafka.md lists them.
        is_error: it forbids the move. A warning (False) only has to be known.
        topic: name of the topic; empty: none in particular.
        partition: number of the partition, -1: the topic as a whole.
        detail: what was found and what follows from it.
        hint: what to do.
    """

    name: str
    is_error: bool
    topic: str
    partition: int
    detail: str
    hint: str = ""

    @property
    def place(self) -> str:
        """``orders-0``, ``orders``, or nothing."""
        return f"{self.topic}-{self.partition}" if self.partition >= 0 else self.topic

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.place}: {self.detail}"
            if self.topic
            else f"{self.name}: {self.detail}"
        )


def check_accepted(accept: Collection[str]) -> frozenset[str]:
    """The argument, if each is the name of a finding that can be accepted.

    Raises:
        SettingError: one is not.
    """
    names = {accept} if isinstance(accept, str) else set(accept)
    for name in sorted(names - ACCEPTABLE):
        raise SettingError(
            f"{name!r} cannot be accepted",
            hint=f"These can: {', '.join(sorted(ACCEPTABLE))}",
            setting="accept",
            value=name,
        )
    return frozenset(names)


def settled(found: Iterable[Finding], accept: frozenset[str]) -> tuple[Finding, ...]:
    """The findings with which a move may go on.

    Raises:
        TransferError: some are errors that nobody accepted.
    """
    findings = tuple(found)
    errors = [each for each in findings if each.is_error and each.name not in accept]
    if not errors:
        return findings
    shown = "; ".join(map(str, errors[:_SHOWN]))
    if len(errors) > _SHOWN:
        shown += f"; and {len(errors) - _SHOWN} more"
    hints = dict.fromkeys(each.hint for each in errors if each.hint)
    acceptable = sorted({each.name for each in errors} & ACCEPTABLE)
    if acceptable:
        hints[f"What can be borne with is named in accept= (--accept): {', '.join(acceptable)}"] = (
            None
        )
    raise TransferError(f"nothing was moved: {shown}", hint=". ".join(hints), findings=findings)
