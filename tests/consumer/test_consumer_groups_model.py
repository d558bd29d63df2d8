"""A group against a model of a few lines: members come, go, hang, die and are slow in any order.

Goal: no two members own one unit at once; nobody is thrown out without cause; offsets move only by commits
of owners; and once everybody does what he is told, the group is stable with what the assignor wants.

Method: members of one process on a clock that is told. What a member believes to own is what it was told,
less what it gave up; what it was asked to give up it may keep for a while. A member that was thrown out
believes on until it asks: that is what fencing is for, so it does not count. Processes die in name only.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from unittest import mock

from groups_support import SECOND_NS, Ticking, memory
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import eventlog
from eventlog.consumer import members
from eventlog.consumer.assignment import ASSIGNORS, GroupMember, KeySlots, TopicPartition
from eventlog.consumer.group import Groups, Membership, OffsetAndMetadata
from eventlog.errors import FencedError, SettingError

SESSION_S, REBALANCE_S, HEARTBEAT_S = 30, 50, 3
RECORDS = 5
COUNTS_MAX = {"t": 6, "u": 2}
pick = st.integers(0, 1_000_000)


@dataclass
class Model:
    """A member as it sees itself."""

    membership: Membership
    pid: int
    topics: list[str]
    heard_ns: int
    owned: frozenset[TopicPartition] = frozenset()
    asked_ns: int | None = None  # since when it keeps what it was asked to give up
    is_replaced: bool = False
    seen: dict[str, int] = field(default_factory=dict)


class GroupAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scratch = memory()
        self.log = eventlog.open(self.scratch.__enter__() / "store")
        for topic, count in COUNTS_MAX.items():
            made = self.log.topic(topic, partitions=count)
            for partition in range(count):
                made.append_many([b"x"] * RECORDS, partition=partition)
        self.clock = Ticking()
        self.gone: set[int] = set()
        self.pids = itertools.count(1)
        self.handles = [Groups(self.log, monotonic_ns=self.clock) for _ in range(2)]
        self.alive: list[Model] = []
        self.offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        self.counts = {"t": 3, "u": 2}
        self.next_pid = 0
        self.patches = [
            mock.patch.object(members, "is_gone", lambda process: process.pid in self.gone),
            mock.patch.object(members, "this_process", self.next_process),
        ]
        for patch in self.patches:
            patch.start()

    @initialize(assignor=st.sampled_from(list(ASSIGNORS)), key_slots=st.sampled_from([0, 0, 3]))
    def begin(self, assignor: str, key_slots: int) -> None:
        self.assignor, self.key_slots = assignor, key_slots

    # -- what members do --------------------------------------------------------------------------

    @precondition(lambda self: len(self.alive) < 5)
    @rule(
        topics=st.sampled_from([["t"], ["t"], ["t", "u"], ["u"]]),
        instance=st.sampled_from([None, None, "a", "b"]),
        handle=st.integers(0, 1),
    )
    def join(self, topics: list[str], instance: str | None, handle: int) -> None:
        self.next_pid = next(self.pids)
        membership = self.handles[handle].join(
            "g",
            self.seen(topics),
            instance_id=instance,
            session_timeout_ms=SESSION_S * 1000,
            rebalance_timeout_ms=REBALANCE_S * 1000,
            heartbeat_interval_ms=HEARTBEAT_S * 1000,
            assignors=[self.assignor],
            key_slots=self.key_slots,
        )
        for other in self.alive:
            if instance is not None and other.membership.instance_id == instance:
                other.is_replaced = True
        self.alive.append(Model(membership, self.next_pid, topics, self.clock.now_ns))

    def next_process(self) -> members.ProcessIdentity:
        return members.ProcessIdentity(self.next_pid, "1", "n", "b")

    def seen(self, topics: list[str]) -> dict[str, int]:
        return {topic: self.counts[topic] for topic in topics}

    @precondition(lambda self: self.alive)
    @rule(which=pick, is_slow=st.sampled_from([False, False, True]))
    def sync(self, which: int, is_slow: bool) -> None:
        member = self.alive[which % len(self.alive)]
        try:
            view = member.membership.sync(member.owned, self.seen(member.topics))
        except FencedError:
            self.check_cause(member)
            self.alive.remove(member)
            return
        assert not member.is_replaced
        assert view.revoked == member.owned - view.assigned
        member.heard_ns = self.clock.now_ns
        if is_slow and view.revoked:
            member.owned |= view.assigned
            if member.asked_ns is None:
                member.asked_ns = self.clock.now_ns
        else:
            member.owned = view.assigned
            member.asked_ns = None

    def check_cause(self, member: Model) -> None:
        now_ns = self.clock.now_ns
        is_silent = now_ns - member.heard_ns > (SESSION_S - HEARTBEAT_S) * SECOND_NS
        assert member.is_replaced or is_silent or self.may_be_in_the_way(member), "for no reason"

    def may_be_in_the_way(self, member: Model) -> bool:
        # It learns of it when it syncs, but the time runs from when others were given its units.
        since_ns = member.heard_ns if member.asked_ns is None else member.asked_ns
        return self.clock.now_ns - since_ns > (REBALANCE_S - SESSION_S) * SECOND_NS

    @precondition(lambda self: self.alive)
    @rule(which=pick, offset=st.integers(0, RECORDS))
    def commit(self, which: int, offset: int) -> None:
        member = self.alive[which % len(self.alive)]
        if not member.owned:
            return
        unit = sorted(member.owned)[which % len(member.owned)]
        value = OffsetAndMetadata(offset, str(which))
        try:
            member.membership.commit({unit: value})
        except FencedError:
            self.check_cause(member)
        else:
            member.heard_ns = self.clock.now_ns
            self.offsets[unit] = value

    @precondition(lambda self: len(self.alive) > 1)
    @rule(which=pick, other=pick)
    def commit_of_others(self, which: int, other: int) -> None:
        member = self.alive[which % len(self.alive)]
        foreign = self.alive[other % len(self.alive)].owned - member.owned
        if self.is_member(self.alive[other % len(self.alive)]) and foreign:
            try:
                member.membership.commit({min(foreign): OffsetAndMetadata(1)})
            except FencedError:
                return
            raise AssertionError("what somebody else owns was committed")

    @precondition(lambda self: self.alive)
    @rule(which=pick, permanently=st.booleans())
    def leave(self, which: int, permanently: bool) -> None:
        member = self.alive.pop(which % len(self.alive))
        member.membership.leave(permanently=permanently)

    @precondition(lambda self: self.alive)
    @rule(which=pick)
    def die(self, which: int) -> None:
        self.gone.add(self.alive.pop(which % len(self.alive)).pid)

    @rule(is_slow=st.booleans())
    def everybody_syncs(self, is_slow: bool) -> None:
        for which in reversed(range(len(self.alive))):
            self.sync(which, is_slow)

    @rule(seconds=st.sampled_from([1, 2, 2, 4, 8, 16, 40]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(count=st.integers(2, 6))
    def partitions_are_added(self, count: int) -> None:
        self.counts["t"] = max(self.counts["t"], count)

    @rule(key_slots=st.sampled_from([1, 5]))
    def somebody_wants_other_slots(self, key_slots: int) -> None:
        if self.offsets:
            try:
                self.handles[0].join("g", {"t": 1}, key_slots=key_slots)
            except SettingError:
                return
            raise AssertionError("offsets of other units would be lost")

    # -- what has to hold -------------------------------------------------------------------------

    def is_member(self, member: Model) -> bool:
        """Whether the group still knows it."""
        known = self.handles[0].describe("g").members
        return member.membership.member_id in {each.member_id for each in known}

    @invariant()
    def no_unit_has_two_owners(self) -> None:
        if not self.alive:
            return
        known = {each.member_id: each for each in self.handles[1].describe("g").members}
        owned: list[TopicPartition] = []
        for member in self.alive:
            if member.membership.member_id in known:
                assert member.owned <= known[member.membership.member_id].owned
                owned += member.owned
        assert len(owned) == len(set(owned))

    @invariant()
    def offsets_are_those_committed(self) -> None:
        assert self.handles[1].committed("g") == self.offsets

    def teardown(self) -> None:
        try:
            if hasattr(self, "assignor"):
                self.end_is_stable()
        finally:
            for patch in self.patches:
                patch.stop()
            for groups in self.handles:
                groups.close()
            self.log.close()
            self.scratch.__exit__(None, None, None)

    def end_is_stable(self) -> None:
        """Whoever is left keeps syncing; those who are not are forgotten after a while."""
        for _ in range(SESSION_S // 5 + 4):
            for which in reversed(range(len(self.alive))):
                self.sync(which, False)
            self.clock.advance(5)
        if not self.alive:
            return
        description = self.handles[0].describe("g")
        assert description.state == "Stable"
        assert len(description.members) == len(self.alive)
        counts = self.seen(sorted({topic for member in self.alive for topic in member.topics}))
        owned = {member.membership.member_id: member.owned for member in self.alive}
        slots = range(self.key_slots) if self.key_slots else [-1]
        assert frozenset().union(*owned.values()) == {
            TopicPartition(topic, partition, slot)
            for topic, count in counts.items()
            for partition in range(count)
            for slot in slots
        }
        if self.assignor in ("range", "roundrobin"):  # the others depend on what was
            assert owned == self.target(counts)

    def target(self, counts: dict[str, int]) -> dict[str, frozenset[TopicPartition]]:
        """What the assignor gives those who are left."""
        assignor = ASSIGNORS[self.assignor]
        wanted = [
            GroupMember(
                each.membership.member_id, each.membership.instance_id, frozenset(each.topics)
            )
            for each in self.alive
        ]
        if self.key_slots:
            assignor = KeySlots(assignor, self.key_slots)
        target = assignor.target(wanted, counts)
        return {member_id: frozenset(units) for member_id, units in target.items()}


TestGroupAgainstModel = GroupAgainstModel.TestCase
TestGroupAgainstModel.settings = settings(
    max_examples=3 * settings().max_examples, stateful_step_count=40
)
