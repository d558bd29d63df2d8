"""The sticky assignment: as even as can be, then as little moved as can be.

Who owned what is taken from what the members say. Of two claims on a partition that of the younger
generation counts; where the youngest claims are of one generation none counts.

**All members have the same topics.** Of P partitions and M members everybody gets P // M, and P % M
members one more. Each keeps what it owned up to that; the extra ones are for those who have so many
already, in order of member ids. What is left over goes around the members that have too few, and then
one each to those who may have one more.

**Subscriptions differ.** Everybody keeps what it owned and is still subscribed to. What nobody owns
goes to the subscriber that has the least, topics with few subscribers first. Then partitions are moved
to the subscriber that has the least, or to the one that had them in an earlier generation, as long as
their holder has at least two more than that one: first only those that nobody owned (unless somebody
has given up a topic, and so more moves anyway), then all. A move from B to A is not made for one
partition of a topic while another of that topic has just been moved from A to B: that one goes back
instead.

These are the rules of Kafka's own client, and the answers are the same but where Kafka's are nobody's
intention: it takes members in the order of a hash map where several could keep an extra partition, and
so it takes one of several partitions that could go back (here it is the first member and the last
partition); and it may give a partition to a member of an older generation that is not subscribed to it
any more, or fail over one (here it does not).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from eventlog.consumer.assignment import GroupMember, TopicPartition


class Outcome(NamedTuple):
    """A sticky assignment.

    Attributes:
        assignment: of each member id what it shall have, in order.
        changing_hands: what has another owner still, so that a cooperative round leaves it out.
    """

    assignment: dict[str, list[TopicPartition]]
    changing_hands: frozenset[TopicPartition]


def stick(members: Sequence[GroupMember], units: Mapping[str, Sequence[TopicPartition]]) -> Outcome:
    """Share ``units`` out; every one of them has a subscriber.

    Args:
        members: each member id once, in any order.
        units: of each topic its partitions, topics in order and partitions in order.
    """
    if not members:
        return Outcome({}, frozenset())
    members = sorted(members, key=lambda member: member.member_id)
    claims = _Claims(members, units)
    if all(member.topics == members[0].topics for member in members):
        holder = _share_equally(members, units, claims)
        changing_hands = {
            unit
            for unit, member_id in holder.items()
            if unit in claims.contested or claims.owner.get(unit, member_id) != member_id
        }
    else:
        holder = _Balance(members, units, claims).holder
        claimed_by: defaultdict[TopicPartition, set[str]] = defaultdict(set)
        for member in members:
            for unit in member.owned:
                claimed_by[unit].add(member.member_id)
        changing_hands = {
            unit
            for unit, member_id in holder.items()
            if unit in claimed_by and member_id not in claimed_by[unit]
        }
    assignment: dict[str, list[TopicPartition]] = {member.member_id: [] for member in members}
    for unit in _in_order(units):
        assignment[holder[unit]].append(unit)
    return Outcome(assignment, frozenset(changing_hands))


class _Claims:
    """What members say they owned, with contradictions resolved.

    Attributes:
        owner: the member whose claim counts.
        contested: claimed by two members of one generation, and by none of a younger one.
        former: the member that owned it last before the present generation of the group.
    """

    def __init__(
        self, members: Sequence[GroupMember], units: Mapping[str, Sequence[TopicPartition]]
    ) -> None:
        self.owner: dict[TopicPartition, str] = {}
        self.contested: set[TopicPartition] = set()
        self.former: dict[TopicPartition, str] = {}
        known = set(_in_order(units))
        generation_of: dict[TopicPartition, int] = {}
        youngest = max(member.generation for member in members)
        # from the youngest generation back; among equals the order of members stays
        for member in sorted(members, key=lambda member: -member.generation):
            for unit in known.intersection(member.owned):
                claimed_in = generation_of.setdefault(unit, member.generation)
                owner = self.owner.setdefault(unit, member.member_id)
                if owner != member.member_id and claimed_in == member.generation:
                    self.contested.add(unit)
                if member.generation < youngest:
                    self.former.setdefault(unit, member.member_id)
        for unit in self.contested:
            del self.owner[unit]


def _share_equally(
    members: Sequence[GroupMember], units: Mapping[str, Sequence[TopicPartition]], claims: _Claims
) -> dict[TopicPartition, str]:
    """Who gets what where all members are subscribed to the same topics."""
    every_unit = list(_in_order(units))
    least, extra_count = divmod(len(every_unit), len(members))
    owned: dict[str, list[TopicPartition]] = {member.member_id: [] for member in members}
    for unit in every_unit:
        if unit in claims.owner:
            owned[claims.owner[unit]].append(unit)

    holder: dict[TopicPartition, str] = {}
    count = dict.fromkeys(owned, 0)
    for member_id, mine in owned.items():
        keep_count = least
        if extra_count and len(mine) > least:
            keep_count += 1
            extra_count -= 1
        # low numbers of every topic stay, not the first topics whole
        mine.sort(key=lambda unit: (unit.partition, unit.topic))
        holder |= dict.fromkeys(mine[:keep_count], member_id)
        count[member_id] = min(len(mine), keep_count)

    below = deque(member_id for member_id in owned if count[member_id] < least)
    enough = deque(member_id for member_id in owned if count[member_id] == least and extra_count)
    for unit in every_unit:
        if unit in holder:
            continue
        member_id = below.popleft() if below else enough.popleft()
        holder[unit] = member_id
        count[member_id] += 1
        if count[member_id] < least:
            below.append(member_id)
        elif count[member_id] == least:
            enough.append(member_id)
    return holder


class _Balance:
    """Who gets what where subscriptions differ: found by moving one partition after the other."""

    def __init__(
        self,
        members: Sequence[GroupMember],
        units: Mapping[str, Sequence[TopicPartition]],
        claims: _Claims,
    ) -> None:
        self.holder: dict[TopicPartition, str] = {}
        self._count = {member.member_id: 0 for member in members}
        self._subscribers = {
            topic: [member.member_id for member in members if topic in member.topics]
            for topic in units
        }
        self._former = claims.former
        # of what was moved where it had been, the same by topic and both members, and what went back
        self._origin: dict[TopicPartition, str] = {}
        self._moved: defaultdict[tuple[str, str, str], set[TopicPartition]] = defaultdict(set)
        self._returned: set[TopicPartition] = set()

        by_topic = sorted(units, key=lambda topic: (len(self._subscribers[topic]), topic))
        every_unit = [unit for topic in by_topic for unit in units[topic]]
        has_left_topic = False
        for unit, member_id in claims.owner.items():
            if member_id in self._subscribers[unit.topic]:
                self._give(unit, member_id)
            else:
                has_left_topic = True
        free = [unit for unit in every_unit if unit not in self.holder]
        for unit in free:
            self._give(unit, self._poorest(unit.topic))
        if not has_left_topic:
            self._even_out(free)
        self._even_out(every_unit)

    def _give(self, unit: TopicPartition, member_id: str) -> None:
        self.holder[unit] = member_id
        self._count[member_id] += 1

    def _poorest(self, topic: str) -> str:
        """The subscriber with the least, by id among equals."""
        return min((self._count[member_id], member_id) for member_id in self._subscribers[topic])[1]

    def _even_out(self, movable: Sequence[TopicPartition]) -> None:
        """Move until nothing of ``movable`` has a better place.

        It comes to an end: a move from a member that has two more makes the whole more even, and what
        goes back in place of another (it may come from a member with less) does so once.
        """
        has_moved = True
        while has_moved:
            has_moved = False
            for unit in movable:
                place = self._better_place(unit)
                if place is not None:
                    self._move(self._stand_in(unit, place), place)
                    has_moved = True

    def _better_place(self, unit: TopicPartition) -> str | None:
        """The member that had it in an earlier generation, or else the poorest; None where its
        holder has hardly more than that."""
        count = self._count[self.holder[unit]]
        former = self._former.get(unit)
        if former in self._subscribers[unit.topic] and count > self._count[former] + 1:
            return former
        poorest = self._poorest(unit.topic)
        return poorest if count > self._count[poorest] + 1 else None

    def _stand_in(self, unit: TopicPartition, member_id: str) -> TopicPartition:
        """What to move to the member: ``unit``, or what that member has just lost to the one that
        ``unit`` comes from, so that no two members swap partitions of a topic."""
        origin = self._origin.get(unit, self.holder[unit])
        lost = self._moved[unit.topic, member_id, origin] - self._returned
        if not lost:
            return unit
        back = max(lost)
        self._returned.add(back)
        return back

    def _move(self, unit: TopicPartition, member_id: str) -> None:
        holder = self.holder[unit]
        origin = self._origin.pop(unit, holder)
        self._moved[unit.topic, origin, holder].discard(unit)
        if origin != member_id:
            self._origin[unit] = origin
            self._moved[unit.topic, origin, member_id].add(unit)
        self._count[holder] -= 1
        self._give(unit, member_id)


def _in_order(units: Mapping[str, Iterable[TopicPartition]]) -> Iterator[TopicPartition]:
    return chain.from_iterable(units.values())
