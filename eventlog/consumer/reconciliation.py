"""How the members of a group come to own what they shall own. No file, no clock, no lock: one step of it
is a function of the rows that a transaction read, and says which rows it changed.

There is no coordinator. Any member takes the step for all of them:

1. Who is dead, or has kept for too long what it was to give up, is thrown out.
2. If members, subscriptions or partition counts are no longer those that the targets were made for, the
   assignor makes new ones: the next generation.
3. The member that takes the step gets those units of its target that nobody holds.

``held`` is what keeps two from owning one unit: a unit enters it only when it is in nobody's, in the same
transaction, before the member hears of it, and leaves it only when its holder said that it let it go, or
died. So every assignor moves only what has to move, and a step that was cut off never happened.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from eventlog.consumer import members as _members
from eventlog.consumer.assignment import (
    ASSIGNORS,
    GroupMember,
    KeySlots,
    TopicPartition,
    choose_assignor,
)
from eventlog.consumer.members import HEARTBEATS, MEMBERS, MILLISECOND_NS, MemberRow
from eventlog.meta import StructTable, Transaction


class GroupRow(msgspec.Struct):
    """A group.

    Attributes:
        version: number of the last transaction that changed anything but heartbeats and offsets.
        generation: counts the targets.
        key_slots: of a group that shares partitions by key; 0: whole partitions.
        assignor: that made the targets.
        basis: what they were made from, as a digest.
    """

    version: int = 0
    generation: int = 0
    key_slots: int = 0
    assignor: str = ""
    basis: bytes = b""


GROUPS = StructTable("groups", GroupRow)


class GroupView(NamedTuple):
    """What a member is told.

    Attributes:
        generation: of the group.
        assigned: what it may own now; what is new in it is its own from this moment.
        revoked: what it said it owns and has to give up; ``sync`` with the smaller set says it did.
        is_stable: every member of the group owns exactly what it shall.
    """

    generation: int
    assigned: frozenset[TopicPartition]
    revoked: frozenset[TopicPartition]
    is_stable: bool


class Event(NamedTuple):
    """Something to be logged once the step is committed."""

    level: int
    message: str
    member_id: str
    generation: int


@dataclass
class Group:
    """A group as one transaction sees it. What is changed here is written by :meth:`store`."""

    name: str
    row: GroupRow
    members: dict[str, MemberRow]
    heartbeats: dict[str, int]
    events: list[Event] = field(default_factory=list)
    _removed: set[str] = field(default_factory=set)
    _changed: set[str] = field(default_factory=set)
    _heard: set[str] = field(default_factory=set)
    _is_new: bool = False
    _is_next: bool = False

    @classmethod
    def load(cls, transaction: Transaction, name: str) -> Group:
        """The group; an empty one where there is none (see :attr:`exists`)."""
        row = GROUPS.get(transaction, name.encode())
        return cls(
            name,
            GroupRow() if row is None else row,
            _members.members_of(transaction, name),
            _members.heartbeats_of(transaction, name),
            _is_new=row is None,
        )

    @property
    def exists(self) -> bool:
        """Whether it was there when it was loaded."""
        return not self._is_new

    @property
    def has_changed(self) -> bool:
        """Whether others have to be told."""
        return bool(self._is_new or self._is_next or self._changed or self._removed)

    @property
    def has_to_be_stored(self) -> bool:
        """Whether there is anything to write."""
        return self.has_changed or bool(self._heard)

    def store(self, transaction: Transaction) -> None:
        """Write what was changed."""
        for place in self._removed:
            key = _members.member_key(self.name, place)
            MEMBERS.delete(transaction, key)
            HEARTBEATS.delete(transaction, key)
        for place in self._changed:
            MEMBERS.put(transaction, _members.member_key(self.name, place), self.members[place])
        for place in self._heard:
            HEARTBEATS.put(
                transaction, _members.member_key(self.name, place), self.heartbeats[place]
            )
        if self.has_changed:
            self.row.version = transaction.id
            GROUPS.put(transaction, self.name.encode(), self.row)

    # -- members --------------------------------------------------------------------------------

    def put(self, place: str, member: MemberRow) -> None:
        """Take in a member, or what has changed of one."""
        self.members[place] = member
        self._changed.add(place)
        self._removed.discard(place)

    def remove(self, place: str) -> None:
        """Take a member out; what it held is free."""
        del self.members[place]
        self.heartbeats.pop(place, None)
        self._removed.add(place)
        self._changed.discard(place)
        self._heard.discard(place)

    def hear(self, place: str, now_ns: int) -> None:
        """A heartbeat."""
        self.heartbeats[place] = now_ns
        self._heard.add(place)

    def note(self, level: int, message: str, member_id: str = "") -> None:
        """Something to be logged."""
        self.events.append(Event(level, message, member_id, self.row.generation))

    def expire(
        self, now_ns: int, is_gone: Callable[[Any], bool], *, caller: str | None = None
    ) -> dict[str, str]:
        """Throw out who is dead or in the way; returns why, by place.

        Args:
            now_ns: of the monotonic clock.
            is_gone: tells of a process that it runs no more.
            caller: place of the member that asks. It lives, whatever the clock says.
        """
        causes: dict[str, str] = {}
        for place, member in self.members.items():
            silent_ns = now_ns - self.heartbeats.get(place, now_ns)
            since_ns = now_ns if member.revoking_since_ns is None else member.revoking_since_ns
            session_ns = member.session_timeout_ms * MILLISECOND_NS
            if now_ns - since_ns > member.rebalance_timeout_ms * MILLISECOND_NS:
                causes[place] = (
                    f"it did not give up what others wait for within {member.rebalance_timeout_ms} ms"
                )
            elif place == caller:
                continue
            elif abs(silent_ns) > session_ns:  # a heartbeat of the future is of another boot
                causes[place] = f"nothing was heard of it for {member.session_timeout_ms} ms"
            # A static member may be starting again: its place is kept until the session timeout.
            elif member.instance_id is None and is_gone(member.process):
                causes[place] = f"its process {member.process.pid} is gone"
        for place, cause in causes.items():
            self.note(logging.WARNING, f"is thrown out: {cause}", self.members[place].member_id)
            self.remove(place)
        return causes

    # -- targets --------------------------------------------------------------------------------

    def settle(self, now_ns: int) -> None:
        """New targets where they are due; and since when who is in the way of them."""
        basis = self._basis()
        if basis != self.row.basis:
            self._make_targets()
            self.row.basis = basis
            self.row.generation += 1
            self._is_next = True
            self.note(logging.INFO, f"{len(self.members)} members, {self.row.assignor or 'idle'}")
        for place, member in self.members.items():
            is_revoking = not member.held <= member.target
            if is_revoking != (member.revoking_since_ns is not None):
                member.revoking_since_ns = now_ns if is_revoking else None
                self._changed.add(place)

    def acquire(self, place: str) -> None:
        """Give a member what it shall own and nobody holds."""
        member = self.members[place]
        missing = member.reachable_target - member.held
        if missing:
            others = (other for at, other in self.members.items() if at != place)
            free = missing.difference(*(other.held for other in others))
            if free:
                member.held |= free
                self._changed.add(place)

    def acknowledge(
        self,
        place: str,
        owned: frozenset[TopicPartition],
        subscription: Mapping[str, int],
    ) -> None:
        """A member says what it owns and what it sees. What it does not own it has let go, unless it
        shall own it: then it is still to come to it."""
        member = self.members[place]
        if member.subscription != subscription:
            member.subscription = dict(subscription)
            self._changed.add(place)
        held = member.held & (owned | member.reachable_target)
        if held != member.held:
            member.held = held
            member.revoking_since_ns = (
                None  # it does what it is asked; for what is left, time begins anew
            )
            self._changed.add(place)

    def view(self, place: str, owned: frozenset[TopicPartition]) -> GroupView:
        """What a member is told."""
        member = self.members[place]
        assigned = member.held & member.reachable_target
        return GroupView(self.row.generation, assigned, owned - assigned, self.is_stable)

    @property
    def is_stable(self) -> bool:
        """Whether every member holds exactly its target."""
        return all(member.held == member.target for member in self.members.values())

    @property
    def state(self) -> str:
        """Kafka's word: Empty, PreparingRebalance (units wait for release), CompletingRebalance (free
        ones wait for their new owner), Stable."""
        if not self.members:
            return "Empty"
        if any(member.revoking_since_ns is not None for member in self.members.values()):
            return "PreparingRebalance"
        return "Stable" if self.is_stable else "CompletingRebalance"

    def _partition_counts(self) -> dict[str, int]:
        """Of each topic; members may see a change one after the other: the largest counts."""
        counts: dict[str, int] = {}
        for member in self.members.values():
            for topic, count in member.subscription.items():
                counts[topic] = max(count, counts.get(topic, 0))
        return counts

    def _basis(self) -> bytes:
        """What targets are made from. A static member that is held by another process is the same."""
        facts = [
            self.row.key_slots,
            sorted(self._partition_counts().items()),
            [
                (place, sorted(member.subscription), member.assignors)
                for place, member in sorted(self.members.items())
            ],
        ]
        return hashlib.blake2b(msgspec.msgpack.encode(facts), digest_size=16).digest()

    def _make_targets(self) -> None:
        if not self.members:
            self.row.assignor = ""
            return
        self.row.assignor = choose_assignor([each.assignors for each in self.members.values()])
        assignor = ASSIGNORS[self.row.assignor]
        if self.row.key_slots:
            assignor = KeySlots(assignor, self.row.key_slots)
        known = [
            GroupMember(
                member.member_id,
                member.instance_id,
                frozenset(member.subscription),
                tuple(sorted(member.target)),  # what was about to move there still does
                self.row.generation if member.target else -1,
            )
            for member in self.members.values()
        ]
        targets = assignor.target(known, self._partition_counts())
        units = [unit for each in targets.values() for unit in each]
        assert len(units) == len(set(units)), "an assignor gave one unit to two members"
        for place, member in self.members.items():
            target = frozenset(targets[member.member_id])
            if target != member.target:
                member.target = target
                self._changed.add(place)


def units_of(key_slots: int, topic: str, partition: int) -> Collection[TopicPartition]:
    """The units that a partition is shared out in."""
    if not key_slots:
        return (TopicPartition(topic, partition),)
    return [TopicPartition(topic, partition, slot) for slot in range(key_slots)]
