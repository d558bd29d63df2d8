"""Which member of a group reads which partition.

Four assignors with the names and the rules of Kafka's own client (kafka-clients 4.3, without racks):
given the same members they give what it gives.

* ``range``: topic by topic, each member a run of neighbouring partitions; where it does not come
  out even the first members have one more. Partition 3 of two topics that have equally many
  partitions and the same subscribers so goes to the same member.
* ``roundrobin``: all partitions of all topics dealt out one by one.
* ``sticky``: as even as can be, then as little moved as can be. See
  :mod:`eventlog.consumer.sticky_assignment`.
* ``cooperative-sticky``: the same in two steps, so that nobody stops reading what stays with him.

An assignor is a pure function of what it is given: no state, any thread, and the order in which the
members are handed in does not matter.

Kafka says cooperative rebalancing by leaving things out: what has to change hands is given to nobody
at first (:meth:`Assignor.assign`); the former owner sees it missing, gives it up and joins again, and
the second round gives it to the new owner (and where subscriptions differ it may move still more). A
group of this package needs no second round: it knows the final picture from the start
(:meth:`Assignor.target`) and itself holds back a partition until its former owner has let it go. For
the three other assignors both are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, Protocol

from eventlog.consumer.sticky_assignment import stick
from eventlog.errors import SettingError


class TopicPartition(NamedTuple):
    """What a member reads: a partition, or one slot of its keys.

    Attributes:
        topic: its name.
        partition: its number, from 0.
        slot: -1: the whole partition; from 0: one of the key slots of a group that shares
            partitions by key.
    """

    topic: str
    partition: int
    slot: int = -1


@dataclass(frozen=True, slots=True)
class GroupMember:
    """What an assignor knows of a member.

    Attributes:
        member_id: unique in the group.
        instance_id: the lasting name of a static member, or None.
        topics: what it is subscribed to; topics that do not exist count for nothing.
        owned: what it read until now, as far as it says. Two members may claim the same.
        generation: of the group when it came to own that; of two claims the younger counts. -1: none.
    """

    member_id: str
    instance_id: str | None
    topics: frozenset[str]
    owned: tuple[TopicPartition, ...] = ()
    generation: int = -1


Assignment = dict[str, list[TopicPartition]]
"""What each member id gets, ordered by topic, partition and slot; every member is in it."""


class Assignor(Protocol):
    """A way to share partitions out among members."""

    @property
    def name(self) -> str:
        """As settings and Kafka's ``partition.assignment.strategy`` call it."""

    def assign(self, members: Sequence[GroupMember], partitions: Mapping[str, int]) -> Assignment:
        """What Kafka's assignor of this name answers.

        Args:
            members: all of the group, in any order, each member id once.
            partitions: how many partitions each topic has; a topic that is missing or has none is not
                assigned. Neither is a topic without subscribers.

        Returns:
            for every member its part. No partition is in it twice, and nobody gets a topic that he
            is not subscribed to. What ``owned`` says of slots, partitions and topics that there are
            not is passed over.
        """

    def target(self, members: Sequence[GroupMember], partitions: Mapping[str, int]) -> Assignment:
        """Who is to have what in the end; like :meth:`assign`, but nothing is left out.

        Every partition that has subscribers is in it exactly once.
        """


class RangeAssignor:
    """Runs of neighbouring partitions, topic by topic."""

    name = "range"

    def assign(self, members: Sequence[GroupMember], partitions: Mapping[str, int]) -> Assignment:
        """See :meth:`Assignor.assign`."""
        assignment: Assignment = {member.member_id: [] for member in members}
        in_order = sorted(members, key=_static_first)
        for topic, units in _subscribed(members, partitions).items():
            readers = [member.member_id for member in in_order if topic in member.topics]
            size, extra_count = divmod(len(units), len(readers))
            start = 0
            for place, reader in enumerate(readers):
                end = start + size + (place < extra_count)
                assignment[reader] += units[start:end]
                start = end
        return assignment

    target = assign


class RoundRobinAssignor:
    """One by one around the members, over all topics."""

    name = "roundrobin"

    def assign(self, members: Sequence[GroupMember], partitions: Mapping[str, int]) -> Assignment:
        """See :meth:`Assignor.assign`."""
        assignment: Assignment = {member.member_id: [] for member in members}
        in_order = sorted(members, key=_static_first)
        turn = 0
        for topic, units in _subscribed(members, partitions).items():
            for unit in units:
                while topic not in in_order[turn % len(in_order)].topics:
                    turn += 1
                assignment[in_order[turn % len(in_order)].member_id].append(unit)
                turn += 1
        return assignment

    target = assign


class StickyAssignor:
    """Even, and near to what was."""

    name = "sticky"

    def assign(self, members: Sequence[GroupMember], partitions: Mapping[str, int]) -> Assignment:
        """See :meth:`Assignor.assign`."""
        return stick(members, _subscribed(members, partitions)).assignment

    target = assign


class CooperativeStickyAssignor:
    """The sticky assignment; what moves is first given up and only then given."""

    name = "cooperative-sticky"

    def assign(self, members: Sequence[GroupMember], partitions: Mapping[str, int]) -> Assignment:
        """The target without what another member still holds; see :meth:`Assignor.assign`."""
        outcome = stick(members, _subscribed(members, partitions))
        return {
            member_id: [unit for unit in units if unit not in outcome.changing_hands]
            for member_id, units in outcome.assignment.items()
        }

    def target(self, members: Sequence[GroupMember], partitions: Mapping[str, int]) -> Assignment:
        """The sticky assignment, whole; see :meth:`Assignor.target`."""
        return stick(members, _subscribed(members, partitions)).assignment


ASSIGNORS: Mapping[str, Assignor] = MappingProxyType(
    {
        assignor.name: assignor
        for assignor in (
            # the first wins where as many members want it as another: whoever moves the least
            CooperativeStickyAssignor(),
            StickyAssignor(),
            RangeAssignor(),
            RoundRobinAssignor(),
        )
    }
)
"""All there are, by name."""


class KeySlots:
    """An assignor of the key slots of partitions, made of one that assigns partitions.

    To the assignor inside, a topic of 2 partitions with 64 slots each is one of 128 partitions, the
    slots of a partition being neighbours.

    Args:
        assignor: shares the slots out.
        slot_count: slots of each partition, from 1.
    """

    def __init__(self, assignor: Assignor, slot_count: int) -> None:
        if slot_count < 1:
            raise SettingError(
                f"key_slots is {slot_count}",
                hint="It has to be at least 1",
                setting="key_slots",
                value=slot_count,
            )
        self.name = assignor.name
        self._assignor = assignor
        self._slot_count = slot_count

    def assign(self, members: Sequence[GroupMember], partitions: Mapping[str, int]) -> Assignment:
        """See :meth:`Assignor.assign`; ``partitions`` are numbers of partitions, not of slots."""
        return self._slots(
            self._assignor.assign(self._flat(members), self._flat_counts(partitions))
        )

    def target(self, members: Sequence[GroupMember], partitions: Mapping[str, int]) -> Assignment:
        """See :meth:`Assignor.target`; ``partitions`` are numbers of partitions, not of slots."""
        return self._slots(
            self._assignor.target(self._flat(members), self._flat_counts(partitions))
        )

    def _flat(self, members: Sequence[GroupMember]) -> list[GroupMember]:
        return [
            replace(
                member,
                owned=tuple(
                    TopicPartition(topic, partition * self._slot_count + slot)
                    for topic, partition, slot in member.owned
                    if 0 <= slot < self._slot_count
                ),
            )
            for member in members
        ]

    def _flat_counts(self, partitions: Mapping[str, int]) -> dict[str, int]:
        return {topic: count * self._slot_count for topic, count in partitions.items()}

    def _slots(self, assignment: Assignment) -> Assignment:
        return {
            member_id: [
                TopicPartition(topic, *divmod(number, self._slot_count))
                for topic, number, _ in units
            ]
            for member_id, units in assignment.items()
        }


def choose_assignor(preferences: Iterable[Sequence[str]]) -> str:
    """The assignor that a group uses, chosen as Kafka's coordinator chooses it.

    Of the names that every member lists each member votes for the one it lists first; most votes
    win. Where two have as many (there Kafka leaves it open) the one that comes first in
    :data:`ASSIGNORS` wins.

    Args:
        preferences: of each member the names it can do, best first; at least one member.

    Raises:
        SettingError: a name that is none of :data:`ASSIGNORS`, or no name that all members list.
            ``setting`` is ``"assignors"``. Give all members of a group a name in common.
    """
    lists = list(preferences)
    for names in lists:
        for name in names:
            if name not in ASSIGNORS:
                raise SettingError(
                    f"there is no assignor {name!r}",
                    hint=f"Known are: {', '.join(ASSIGNORS)}",
                    setting="assignors",
                    value=name,
                )
    common = [name for name in ASSIGNORS if lists and all(name in names for names in lists)]
    if not common:
        raise SettingError(
            "the members of the group have no assignor in common",
            hint="Let every member list one that the others list too",
            setting="assignors",
            value=[list(names) for names in lists],
        )
    votes = [next(name for name in names if name in common) for names in lists]
    return max(common, key=votes.count)


def _static_first(member: GroupMember) -> tuple[bool, str, str]:
    """Kafka's order of members: the static ones by instance id, then the others by member id."""
    return (member.instance_id is None, member.instance_id or "", member.member_id)


def _subscribed(
    members: Sequence[GroupMember], partitions: Mapping[str, int]
) -> dict[str, list[TopicPartition]]:
    """The partitions of each topic that has any and has subscribers, in order of topics."""
    topics = set().union(*(member.topics for member in members))
    return {
        topic: [TopicPartition(topic, number) for number in range(partitions[topic])]
        for topic in sorted(topics)
        if partitions.get(topic, 0) > 0
    }
