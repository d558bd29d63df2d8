"""Assignors: Kafka's answers are ours, and what holds for any group."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.consumer.assignment import (
    ASSIGNORS,
    Assignment,
    GroupMember,
    KeySlots,
    TopicPartition,
    choose_assignor,
)
from eventlog.errors import SettingError
from tools.kafka.assignor_cases import NAMES, Assigned, Case, unpack

DATA = Path(__file__).resolve().parent.parent / "data"
KAFKA_CASES = [
    unpack(packed)
    for path in sorted(DATA.glob("assignors-*.json"))
    for packed in json.loads(path.read_text())
]
STICKY = ("sticky", "cooperative-sticky")


def ask(name: str, case: Case) -> Assigned:
    """Our answer in the shape of Kafka's."""
    members = [
        GroupMember(
            member.id,
            member.instance,
            frozenset(member.topics),
            tuple(TopicPartition(*unit) for unit in member.owned),
            member.generation,
        )
        for member in case.group.members
    ]
    assignment = ASSIGNORS[name].assign(members, case.group.partitions)
    return {
        member_id: [(unit.topic, unit.partition) for unit in units]
        for member_id, units in assignment.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_kafka(name: str) -> None:
    """Groups of up to 24 members over up to six generations, asked of kafka-clients beforehand."""
    assert len(KAFKA_CASES) > 300
    for case in KAFKA_CASES:
        assert ask(name, case) == case.answers[name], case.group


# -- any group ------------------------------------------------------------------------------------

TOPICS = ("audit", "invoices", "orders", "payments")
CLAIMABLE = [TopicPartition(topic, number) for topic in (*TOPICS, "gone") for number in range(11)]


def claimed(mask: int) -> tuple[TopicPartition, ...]:
    return tuple(unit for place, unit in enumerate(CLAIMABLE) if mask >> place & 1)


@st.composite
def groups(
    draw: st.DrawFn, *, same_topics: bool = False
) -> tuple[list[GroupMember], dict[str, int]]:
    """Members that claim what they like, even what there is not, and partition counts."""
    partitions = draw(st.dictionaries(st.sampled_from(TOPICS), st.integers(0, 9)))
    topics = st.frozensets(st.sampled_from(TOPICS))
    if same_topics:
        topics = st.just(draw(topics))
    # one number instead of many choices: much quicker to draw
    masks = st.integers(0, 2 ** len(CLAIMABLE) - 1)
    claims = st.builds(lambda some, other: claimed(some & other), masks, masks)
    member = st.builds(
        GroupMember,
        member_id=st.sampled_from([f"member-{number}" for number in range(9)]),
        instance_id=st.none() | st.sampled_from("xyz"),
        topics=topics,
        owned=claims,
        generation=st.integers(1, 3),
    )
    members = st.lists(member, min_size=1, max_size=7, unique_by=lambda member: member.member_id)
    return draw(members), partitions


def existing(members: Sequence[GroupMember], partitions: Mapping[str, int]) -> set[TopicPartition]:
    """What is to be assigned."""
    topics = frozenset().union(*(member.topics for member in members))
    return {
        TopicPartition(topic, number)
        for topic in topics
        for number in range(partitions.get(topic, 0))
    }


def holders(assignment: Assignment) -> dict[TopicPartition, str]:
    return {unit: member_id for member_id, units in assignment.items() for unit in units}


def owning(members: Sequence[GroupMember], assignment: Assignment) -> list[GroupMember]:
    """The members once they have taken what they got."""
    return [
        GroupMember(m.member_id, m.instance_id, m.topics, tuple(assignment[m.member_id]), 9)
        for m in members
    ]


@pytest.mark.parametrize("name", NAMES)
@given(group=groups())
def test_every_partition_goes_to_exactly_one_subscriber(
    name: str, group: tuple[list[GroupMember], dict[str, int]]
) -> None:
    members, partitions = group
    target = ASSIGNORS[name].target(members, partitions)
    assert target.keys() == {member.member_id for member in members}
    given_out = [unit for units in target.values() for unit in units]
    assert Counter(given_out) == Counter(existing(members, partitions))
    for member in members:
        assert {unit.topic for unit in target[member.member_id]} <= member.topics
        assert target[member.member_id] == sorted(target[member.member_id])


@pytest.mark.parametrize("name", NAMES)
@given(group=groups(), data=st.data())
def test_order_of_members_and_claims_does_not_matter(
    name: str, group: tuple[list[GroupMember], dict[str, int]], data: st.DataObject
) -> None:
    members, partitions = group
    shuffled = [
        GroupMember(
            member.member_id,
            member.instance_id,
            member.topics,
            tuple(data.draw(st.permutations(member.owned))),
            member.generation,
        )
        for member in data.draw(st.permutations(members))
    ]
    # two static members of one name are no group
    if len({m.instance_id or m.member_id for m in members}) == len(members):
        for assign in (ASSIGNORS[name].assign, ASSIGNORS[name].target):
            assert assign(members, partitions) == assign(shuffled, partitions)


@given(group=groups())
def test_range_gives_runs_and_aligns_topics(
    group: tuple[list[GroupMember], dict[str, int]],
) -> None:
    members, partitions = group
    target = ASSIGNORS["range"].target(members, partitions)
    parts: dict[tuple[str, str], list[int]] = {}
    for topic in partitions:
        readers = [member for member in members if topic in member.topics]
        for member in readers:
            part = [u.partition for u in target[member.member_id] if u.topic == topic]
            parts[topic, member.member_id] = part
            assert part == list(range(part[0], part[-1] + 1)) if part else True
            assert len(part) - partitions[topic] // len(readers) in (0, 1)
    for topic, other in ((a, b) for a in partitions for b in partitions if a < b):
        subscribers = [[m for m in members if name in m.topics] for name in (topic, other)]
        if partitions[topic] == partitions[other] and subscribers[0] == subscribers[1]:
            for member in subscribers[0]:
                assert parts[topic, member.member_id] == parts[other, member.member_id]


@pytest.mark.parametrize("name", ["roundrobin", *STICKY])
@given(group=groups(same_topics=True))
def test_same_subscriptions_are_shared_evenly(
    name: str, group: tuple[list[GroupMember], dict[str, int]]
) -> None:
    sizes = [len(units) for units in ASSIGNORS[name].target(*group).values()]
    assert max(sizes) - min(sizes) <= 1


@given(group=groups())
def test_sticky_leaves_nobody_two_behind_one_who_could_give(
    group: tuple[list[GroupMember], dict[str, int]],
) -> None:
    members, partitions = group
    target = ASSIGNORS["sticky"].target(members, partitions)
    for unit, holder in holders(target).items():
        for member in members:
            if unit.topic in member.topics:
                assert len(target[holder]) <= len(target[member.member_id]) + 1


@given(group=groups(same_topics=True))
def test_sticky_moves_as_little_as_evenness_allows(
    group: tuple[list[GroupMember], dict[str, int]],
) -> None:
    """With one generation and no contradictions: the most that any even assignment can keep."""
    members, partitions = group
    claimed_by: dict[TopicPartition, str] = {}
    for member in members:
        for unit in existing(members, partitions).intersection(member.owned):
            claimed_by.setdefault(unit, member.member_id)
    owned: Assignment = {member.member_id: [] for member in members}
    for unit, member_id in claimed_by.items():
        owned[member_id].append(unit)
    before = owning(members, owned)
    target = ASSIGNORS["sticky"].target(before, partitions)
    kept_count = sum(len(set(target[member_id]) & set(units)) for member_id, units in owned.items())
    least, extra_count = divmod(len(existing(members, partitions)), len(members))
    rich_count = sum(len(units) > least for units in owned.values())
    most_kept = sum(min(len(units), least) for units in owned.values())
    assert kept_count == most_kept + min(extra_count, rich_count)


@pytest.mark.parametrize("name", STICKY)
@given(group=groups())
def test_sticky_repeats_itself_while_nothing_changes(
    name: str, group: tuple[list[GroupMember], dict[str, int]]
) -> None:
    members, partitions = group
    target = ASSIGNORS[name].target(members, partitions)
    assert ASSIGNORS[name].assign(owning(members, target), partitions) == target


@given(group=groups(), data=st.data())
def test_who_stays_swaps_no_partitions_of_a_topic(
    group: tuple[list[GroupMember], dict[str, int]], data: st.DataObject
) -> None:
    members, partitions = group
    before = ASSIGNORS["sticky"].target(members, partitions)
    staying = data.draw(st.lists(st.sampled_from(owning(members, before)), min_size=1, unique=True))
    joining = data.draw(st.lists(st.sampled_from(TOPICS), max_size=2))
    after = ASSIGNORS["sticky"].target(
        [
            *staying,
            *(GroupMember(f"new-{n}", None, frozenset({t})) for n, t in enumerate(joining)),
        ],
        partitions,
    )
    was, now = holders(before), holders(after)
    moves = {
        (unit.topic, was[unit], now[unit])
        for unit in was.keys() & now.keys()
        if was[unit] != now[unit] and was[unit] in after
    }
    assert not {(topic, there, here) for topic, here, there in moves} & moves


@given(count=st.integers(0, 40), member_count=st.integers(2, 9), data=st.data())
def test_who_leaves_or_joins_moves_only_his_share(
    count: int, member_count: int, data: st.DataObject
) -> None:
    topics = frozenset({"orders"})
    members = [GroupMember(f"member-{n}", None, topics) for n in range(member_count)]
    partitions = {"orders": count}
    sticky = ASSIGNORS["sticky"]
    before = owning(members, sticky.target(members, partitions))

    gone = data.draw(st.sampled_from(before))
    staying = [member for member in before if member != gone]
    after = sticky.target(staying, partitions)
    assert all(set(member.owned) <= set(after[member.member_id]) for member in staying)

    after = sticky.target([*before, GroupMember("member-new", None, topics)], partitions)
    taken = sum(len(set(member.owned) - set(after[member.member_id])) for member in before)
    assert taken == len(after["member-new"]) == count // (member_count + 1)


# -- the two steps of cooperative -----------------------------------------------------------------


@given(group=groups())
def test_cooperative_leaves_out_only_what_others_hold(
    group: tuple[list[GroupMember], dict[str, int]],
) -> None:
    members, partitions = group
    assignor = ASSIGNORS["cooperative-sticky"]
    target, first = holders(assignor.target(members, partitions)), assignor.assign(*group)
    assert holders(first).items() <= target.items()
    claimed = {unit for member in members for unit in member.owned}
    assert target.keys() - holders(first).keys() <= claimed

    given_out, round_count = first, 1
    while holders(given_out).keys() != target.keys():
        before, given_out = given_out, assignor.assign(owning(members, given_out), partitions)
        round_count += 1
        if len({member.topics for member in members}) == 1:
            assert holders(before).items() <= holders(given_out).items()
            assert round_count == 2
        else:  # a round may have to move still more
            assert round_count < 10


def test_cooperative_gives_only_after_it_was_given_up() -> None:
    topics = frozenset({"orders"})
    orders = [TopicPartition("orders", number) for number in range(4)]
    members = [
        GroupMember("a", None, topics, tuple(orders), generation=1),
        GroupMember("b", None, topics),
    ]
    assignor = ASSIGNORS["cooperative-sticky"]
    assert assignor.assign(members, {"orders": 4}) == {"a": orders[:2], "b": []}
    assert assignor.target(members, {"orders": 4}) == {"a": orders[:2], "b": orders[2:]}
    members[0] = GroupMember("a", None, topics, tuple(orders[:2]), generation=2)
    assert assignor.assign(members, {"orders": 4}) == {"a": orders[:2], "b": orders[2:]}


# -- claims ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_general", [False, True])
def test_the_younger_of_two_claims_counts_and_of_equals_none(is_general: bool) -> None:
    topics = frozenset({"orders"})
    first, second = TopicPartition("orders", 0), TopicPartition("orders", 1)
    members = [
        GroupMember("a", None, topics, (second,), generation=3),
        GroupMember("b", None, topics, (second, first), generation=4),
    ]
    if is_general:
        members.append(GroupMember("c", None, frozenset({"other"})))
    target = ASSIGNORS["sticky"].target(members, {"orders": 2})
    assert set(target["a"] + target["b"]) == {first, second}
    assert len(target["a"]) == 1

    members[0] = GroupMember("a", None, topics, (second,), generation=3)
    members[1] = GroupMember("b", None, topics, (second,), generation=4)
    assert ASSIGNORS["sticky"].target(members, {"orders": 2})["b"] == [second]
    members[1] = GroupMember("b", None, topics, (second,), generation=3)
    assert ASSIGNORS["sticky"].target(members, {"orders": 2})["a"] == [first]


def test_a_claim_of_an_older_generation_never_gives_what_is_not_subscribed() -> None:
    """Kafka's sticky assignor gives such a partition back to its former owner, or fails over it."""
    orders = [TopicPartition("orders", number) for number in range(6)]
    members = [
        GroupMember("a", None, frozenset({"orders"}), tuple(orders), generation=5),
        GroupMember("b", None, frozenset({"orders", "audit"}), generation=5),
        GroupMember("c", None, frozenset({"audit"}), tuple(orders), generation=4),
    ]
    target = ASSIGNORS["sticky"].target(members, {"orders": 6, "audit": 1})
    assert target["c"] == [TopicPartition("audit", 0)]
    assert len(target["a"]) == len(target["b"]) == 3


def test_static_members_keep_their_ranges_under_new_member_ids() -> None:
    def members(*ids: str) -> list[GroupMember]:
        return [
            GroupMember(member_id, instance_id, frozenset({"orders"}))
            for member_id, instance_id in zip(ids, ("one", "two", None), strict=True)
        ]

    for name in ("range", "roundrobin"):
        before = ASSIGNORS[name].target(members("1", "2", "3"), {"orders": 7})
        after = ASSIGNORS[name].target(members("9", "8", "3"), {"orders": 7})
        assert [before[i] for i in "123"] == [after[i] for i in "983"]


# -- sharing by key -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_key_slots_are_shared_like_partitions(name: str) -> None:
    topics = frozenset({"events"})
    assignor = KeySlots(ASSIGNORS[name], 8)
    assert assignor.name == name
    members = [GroupMember(member_id, None, topics) for member_id in "abc"]
    target = assignor.target(members, {"events": 2})
    assert Counter(unit for units in target.values() for unit in units) == Counter(
        TopicPartition("events", partition, slot) for partition in range(2) for slot in range(8)
    )
    assert sorted(len(units) for units in target.values()) == [5, 5, 6]
    if name == "range":
        assert target["a"] == [TopicPartition("events", 0, slot) for slot in range(6)]
    if name in STICKY:
        after = assignor.target(owning(members, target)[1:], {"events": 2})
        assert set(target["b"]) < set(after["b"])
        assert set(target["c"]) < set(after["c"])


def test_key_slots_pass_over_claims_of_another_division() -> None:
    topics = frozenset({"events"})
    owned = (TopicPartition("events", 0), TopicPartition("events", 0, 5))
    members = [GroupMember("a", None, topics), GroupMember("b", None, topics, owned, 1)]
    assignor = KeySlots(ASSIGNORS["cooperative-sticky"], 2)
    assert assignor.assign(members, {"events": 1}) == {
        "a": [TopicPartition("events", 0, 0)],
        "b": [TopicPartition("events", 0, 1)],
    }
    with pytest.raises(SettingError):
        KeySlots(ASSIGNORS["range"], 0)


# -- the choice -----------------------------------------------------------------------------------


def test_the_group_uses_what_all_can_and_most_prefer() -> None:
    assert choose_assignor([("range", "cooperative-sticky")]) == "range"
    assert choose_assignor([("range", "sticky"), ("sticky",)]) == "sticky"
    assert choose_assignor([("range", "sticky"), ("roundrobin", "range", "sticky")]) == "range"
    most = [("range", "sticky"), ("sticky", "range"), ("roundrobin", "sticky", "range")]
    assert choose_assignor(most) == "sticky"
    equal = [("range", "cooperative-sticky"), ("cooperative-sticky", "range")]
    assert choose_assignor(equal) == choose_assignor(equal[::-1]) == "cooperative-sticky"


@pytest.mark.parametrize(
    "preferences", [[("range",), ("uniform",)], [("range",), ("sticky",)], [("range",), ()], []]
)
def test_no_choice_is_an_error_with_the_setting(preferences: list[tuple[str, ...]]) -> None:
    with pytest.raises(SettingError) as caught:
        choose_assignor(preferences)
    assert caught.value.setting == "assignors"
