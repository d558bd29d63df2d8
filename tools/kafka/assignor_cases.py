"""Groups to ask Kafka's assignors about, and how a file holds them with the answers.

Where several members could keep an extra partition, Kafka takes them in the order of a Java hash map,
and so it does among several partitions that could go back to a member. The names made here are such
that this order is ours: members by id, the last partition first. With other names Kafka's assignments
may be others, that are as good.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

NAMES = ("range", "roundrobin", "sticky", "cooperative-sticky")
LETTERS = string.ascii_letters

Unit = tuple[str, int]
"""A topic and a partition of it."""
Assigned = dict[str, list[Unit]]
"""What each member id gets, in order."""


@dataclass(frozen=True)
class Member:
    """A member of a group that is asked about."""

    id: str
    instance: str | None
    topics: tuple[str, ...]
    owned: tuple[Unit, ...] = ()
    generation: int = -1


@dataclass(frozen=True)
class Group:
    """What is asked: members in order of their ids, and the partitions of each topic."""

    partitions: Mapping[str, int]
    members: tuple[Member, ...]

    @property
    def units(self) -> list[Unit]:
        """All partitions, in order of topics and numbers."""
        counts = sorted(self.partitions.items())
        return [(topic, number) for topic, count in counts for number in range(count)]


@dataclass(frozen=True)
class Case:
    """A group and what each of Kafka's assignors answers."""

    group: Group
    answers: Mapping[str, Assigned]


# -- names whose order in a Java hash map is the alphabet's ---------------------------------------


def _java_hash(text: str) -> int:
    value = 0
    for letter in text:
        value = (31 * value + ord(letter)) & 0xFFFFFFFF
    return value


def _bucket(hash_code: int, table_size: int) -> int:
    return (hash_code ^ hash_code >> 16) & (table_size - 1)


def member_ids(chance: random.Random, count: int) -> list[str]:
    """So many ids, at most 24; a hash map of some of them has them in alphabetical order."""
    ids = []
    for number in range(count):
        while True:
            suffix = "".join(chance.choices(string.hexdigits, k=6))
            name = f"consumer-{number:02}-{suffix}"
            if _bucket(_java_hash(name), 32) == number * 16 // count:
                ids.append(name)
                break
    return ids


def topic_name(chance: random.Random, number: int) -> str:
    """A topic; a small hash set of its first 16 partitions has the last of them first."""
    while True:
        name = chance.choice(string.ascii_lowercase) + str(chance.randrange(1000)) + f".{number}"
        hash_codes = [(31 * (31 + p) + _java_hash(name)) & 0xFFFFFFFF for p in range(16)]
        buckets = [_bucket(hash_code, 16) for hash_code in hash_codes]
        if buckets == sorted(buckets, reverse=True):
            return name


# -- groups ---------------------------------------------------------------------------------------


class Life:
    """A group that goes through generations: members come and go, topics grow."""

    def __init__(self, chance: random.Random, *, any_names: bool = False) -> None:
        self._chance = chance
        self._ids = member_ids(chance, chance.choice((4, 8, 8, 16, 24)))
        if any_names:
            self._ids = [chance.randbytes(8).hex() for _ in self._ids]
        self._has_same_topics = chance.random() < 0.4
        self._partition_count_max = chance.choice((3, 8, 16))
        topics = [topic_name(chance, number) for number in range(chance.choice((1, 2, 3, 6)))]
        self._partitions = {topic: self._partition_count() for topic in topics}
        self._members: dict[str, Member] = {}
        for member_id in chance.sample(self._ids, chance.randint(1, len(self._ids))):
            self._join(member_id)
        if chance.random() < 0.3:
            self._claim_anything()

    def group(self) -> Group:
        """As it is now."""
        members = [self._members[member_id] for member_id in sorted(self._members)]
        generation = max(member.generation for member in members)
        for place, member in enumerate(members):
            if member.generation < generation:
                # Kafka may give back to a member what it is not subscribed to any more, or fail
                owned = tuple(unit for unit in member.owned if unit[0] in member.topics)
                members[place] = replace(member, owned=owned)
        return Group(dict(self._partitions), tuple(members))

    def assigned(self, answer: Assigned, generation: int) -> None:
        """Members take what they got; one or the other misses it and believes in what it had."""
        for member_id, member in self._members.items():
            if member.generation < 0 or self._chance.random() < 0.9:
                owned = tuple(answer[member_id])
                self._members[member_id] = replace(member, owned=owned, generation=generation)

    def change(self) -> None:
        """Something happens, or nothing."""
        chance = self._chance
        away = sorted(set(self._ids) - set(self._members))
        here = sorted(self._members)
        match chance.choice(("join", "leave", "leave", "subscribe", "grow", "nothing")):
            case "join" if away:
                for member_id in chance.sample(away, chance.randint(1, min(3, len(away)))):
                    self._join(member_id)
            case "leave" if len(here) > 1:
                for member_id in chance.sample(here, chance.randint(1, min(3, len(here) - 1))):
                    del self._members[member_id]
            case "subscribe" if not self._has_same_topics:
                member = self._members[chance.choice(here)]
                self._members[member.id] = replace(member, topics=self._subscription())
            case "grow":
                topic = chance.choice(sorted(self._partitions))
                self._partitions[topic] = min(16, self._partitions[topic] + chance.randint(1, 4))

    def _claim_anything(self) -> None:
        """Members of several generations, some greedy, believe that they have this and that."""
        chance = self._chance
        ids = list(self._members)
        greed = [chance.random() ** 3 for _ in ids]
        owned: dict[str, list[Unit]] = {member_id: [] for member_id in ids}
        for topic, count in self._partitions.items():
            for unit in ((topic, number) for number in range(count)):
                for member_id in set(chance.choices(ids, greed, k=chance.choice((0, 1, 1, 1, 2)))):
                    owned[member_id].append(unit)
        for member_id, member in self._members.items():
            self._members[member_id] = replace(
                member, owned=tuple(owned[member_id]), generation=chance.choice((2, 2, 2, 1, 0))
            )

    def _partition_count(self) -> int:
        return self._chance.randint(1, self._partition_count_max)

    def _subscription(self) -> tuple[str, ...]:
        topics = sorted(self._partitions)
        if self._has_same_topics:
            return tuple(topics)
        return tuple(sorted(self._chance.sample(topics, self._chance.randint(1, len(topics)))))

    def _join(self, member_id: str) -> None:
        instance = None
        if self._chance.random() < 0.3:
            instance = f"static-{self._chance.randrange(100):02}-{member_id}"
        self._members[member_id] = Member(member_id, instance, self._subscription())


# -- in a file ------------------------------------------------------------------------------------


def pack(case: Case) -> dict[str, Any]:
    """A case in little room: which member has which partition is a letter for each partition, in order
    of topics and numbers. Claims need a second line where two members claim one partition."""
    group = case.group
    units = group.units

    def lines(claims: Iterable[Iterable[Unit]]) -> list[str]:
        rows: list[list[str]] = [["-"] * len(units)]
        for letter, claimed in zip(LETTERS, claims, strict=False):
            for unit in claimed:
                place = units.index(unit)
                row = next((row for row in rows if row[place] == "-"), None)
                if row is None:
                    rows.append(row := ["-"] * len(units))
                row[place] = letter
        return ["".join(row) for row in rows]

    return {
        "partitions": group.partitions,
        "members": [[m.id, m.instance, " ".join(m.topics), m.generation] for m in group.members],
        "owned": lines(member.owned for member in group.members),
        **{
            name: lines(answer[member.id] for member in group.members)[0]
            for name, answer in case.answers.items()
        },
    }


def unpack(packed: Mapping[str, Any]) -> Case:
    """The case that was packed."""
    units = Group(packed["partitions"], ()).units

    def claims(letter: str, lines: Iterable[str]) -> list[Unit]:
        return [
            unit
            for line in lines
            for unit, holder in zip(units, line, strict=True)
            if holder == letter
        ]

    members = tuple(
        Member(
            member_id, instance, tuple(topics.split()), tuple(claims(letter, packed["owned"])), age
        )
        for letter, (member_id, instance, topics, age) in zip(
            LETTERS, packed["members"], strict=False
        )
    )
    answers = {
        name: {
            member.id: claims(letter, [packed[name]])
            for letter, member in zip(LETTERS, members, strict=False)
        }
        for name in NAMES
    }
    return Case(Group(packed["partitions"], members), answers)
