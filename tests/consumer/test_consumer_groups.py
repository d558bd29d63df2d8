"""Members of a group: who owns what, when it changes hands, and who is fenced off."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from groups_support import SECOND_NS, Member, Ticking, in_child, memory, numbers, settle, unit

import eventlog
from eventlog.consumer import members
from eventlog.consumer.assignment import ASSIGNORS
from eventlog.consumer.group import Groups, OffsetAndMetadata
from eventlog.errors import (
    ClosedError,
    CorruptionError,
    FencedError,
    ForkedError,
    InvalidNameError,
    OffsetOutOfRangeError,
    SettingError,
    StorageReadOnlyError,
)
from eventlog.meta import Environment

PARTITIONS = 6


@pytest.fixture
def log() -> Iterator[eventlog.EventLog]:
    with memory() as directory, eventlog.open(directory / "store") as log:
        topic = log.topic("t", partitions=PARTITIONS)
        for partition in range(PARTITIONS):
            topic.append_many([b"x"] * 10, partition=partition)
        yield log


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture
def groups(log: eventlog.EventLog, clock: Ticking) -> Iterator[Groups]:
    groups = Groups(log, monotonic_ns=clock)
    yield groups
    groups.close()


@pytest.fixture
def member(groups: Groups) -> Callable[..., Member]:
    def join(**settings: Any) -> Member:
        subscription = settings.pop("subscription", {"t": PARTITIONS})
        return Member(groups, subscription, settings=settings)

    return join


Join = Callable[..., Member]


# -- who owns what ----------------------------------------------------------------------------------


def test_the_only_member_owns_everything_at_its_first_sync(member: Join) -> None:
    one = member()
    view = one.sync()
    assert numbers(view.assigned) == set(range(PARTITIONS))
    assert view.is_stable
    assert view.revoked == frozenset()


@pytest.mark.parametrize("assignor", list(ASSIGNORS))
def test_units_change_hands_only_after_they_were_given_up(member: Join, assignor: str) -> None:
    one = member(assignors=[assignor])
    one.sync()
    two = member(assignors=[assignor])
    assert two.sync().assigned == frozenset(), "all is held by the first"
    view = one.membership.sync(one.owned, one.subscription)
    assert len(view.assigned) == 3
    assert view.revoked == one.owned - view.assigned
    assert two.sync().assigned == frozenset(), "it was told, but has not given up"
    one.sync()
    one.sync()
    view = two.sync()
    assert view.is_stable
    assert view.assigned | one.owned == {unit(n) for n in range(PARTITIONS)}
    assert not view.assigned & one.owned


@pytest.mark.parametrize("assignor", ["sticky", "cooperative-sticky"])
def test_who_leaves_is_followed_by_moving_only_what_has_to_move(
    member: Join, assignor: str
) -> None:
    three = [member(assignors=[assignor]) for _ in range(3)]
    settle(*three)
    kept = {id(each): each.owned for each in three}
    three.pop().membership.leave()
    settle(*three)
    for each in three:
        assert kept[id(each)] < each.owned


def test_a_unit_that_is_on_its_way_can_come_back(member: Join) -> None:
    one = member()
    one.sync()
    two = member()
    view = one.membership.sync(one.owned, one.subscription)
    assert view.revoked
    two.membership.leave()
    view = one.sync()
    assert (len(view.assigned), view.revoked) == (PARTITIONS, frozenset())


def test_each_gets_topics_that_it_is_subscribed_to(log: eventlog.EventLog, member: Join) -> None:
    log.topic("u", partitions=2)
    one, two = member(subscription={"t": 6}), member(subscription={"u": 2, "none yet": 0})
    settle(one, two)
    assert {each.topic for each in one.owned} == {"t"}
    assert two.owned == {unit(0, "u"), unit(1, "u")}


def test_new_partitions_are_given_to_those_who_see_them(member: Join) -> None:
    one, two = member(instance_id="1"), member(instance_id="2")
    settle(one, two)
    one.subscription = {"t": 10}
    for _ in range(3):
        one.sync()
        view = two.sync()
    assert not view.is_stable, "the second does not see its new ones yet"
    assert max(numbers(two.owned)) < PARTITIONS
    generation = view.generation
    two.subscription = {"t": 10}
    settle(one, two)
    assert one.owned | two.owned == {unit(n) for n in range(10)}
    assert one.sync().generation == generation


def test_a_topic_that_is_gone_is_given_up(member: Join) -> None:
    one = member(subscription={"t": 6, "u": 2})
    one.sync()
    one.subscription = {"t": 6}
    view = one.membership.sync(one.owned, one.subscription)
    assert view.revoked == {unit(0, "u"), unit(1, "u")}


def test_claiming_a_unit_does_not_make_it_ones_own(member: Join) -> None:
    one, two = member(), member()
    settle(one, two)
    claim = two.owned | one.owned
    view = two.membership.sync(claim, two.subscription)
    assert view.assigned == two.owned
    assert view.revoked == one.owned
    with pytest.raises(FencedError, match="does not own t-"):
        two.membership.commit(dict.fromkeys(one.owned, OffsetAndMetadata(1)))


def test_the_generation_counts_targets(member: Join) -> None:
    one = member()
    first = one.sync().generation
    assert one.sync().generation == first
    two = member()
    assert two.sync().generation == first + 1
    two.membership.leave()
    assert one.sync().generation == first + 2


# -- who is dead ------------------------------------------------------------------------------------


def test_a_silent_member_is_thrown_out_after_its_session_timeout(
    member: Join, clock: Ticking
) -> None:
    one, two = member(session_timeout_ms=10_000), member(session_timeout_ms=30_000)
    settle(one, two)
    for _ in range(3):
        clock.advance(5)
        two.sync()
    assert numbers(two.sync().assigned) == set(range(PARTITIONS))
    with pytest.raises(FencedError) as caught:
        one.sync()
    assert (caught.value.group, caught.value.member_id) == ("g", one.membership.member_id)
    assert caught.value.generation == two.sync().generation


def test_a_member_that_nobody_threw_out_goes_on(member: Join, clock: Ticking) -> None:
    one = member(session_timeout_ms=10_000)
    one.sync()
    clock.advance(3600)
    assert numbers(one.sync().assigned) == set(range(PARTITIONS))


def test_who_does_not_give_up_in_time_is_thrown_out(member: Join, clock: Ticking) -> None:
    one = member(rebalance_timeout_ms=20_000)
    one.sync()
    stuck = one.owned
    two, three = member(), member()
    for _ in range(3):
        clock.advance(5)
        one.membership.sync(stuck, one.subscription)  # it lives, but holds on
        two.sync()
        three.sync()
    assert two.owned == three.owned == frozenset()
    clock.advance(6)
    with pytest.raises(FencedError, match="give up in time"):
        one.membership.sync(stuck, one.subscription)
    settle(two, three)
    with pytest.raises(FencedError):
        one.sync()


def test_giving_up_bit_by_bit_takes_as_long_as_it_takes(member: Join, clock: Ticking) -> None:
    one = member(rebalance_timeout_ms=20_000, assignors=["sticky"])
    one.sync()
    member(assignors=["sticky"])
    while one.owned != (view := one.membership.sync(one.owned, one.subscription)).assigned:
        clock.advance(15)
        one.owned -= {max(view.revoked)}
    assert len(one.owned) == 3


def test_a_member_whose_process_is_gone_is_dead_at_once(
    log: eventlog.EventLog, groups: Groups, clock: Ticking, member: Join
) -> None:
    path = log.path

    def work() -> None:
        with eventlog.open(path) as own:
            Member(Groups(own, monotonic_ns=clock), {"t": PARTITIONS}).sync()
            os._exit(0)  # no goodbye

    assert os.waitpid(in_child(work), 0)[1] == 0
    assert numbers(member().sync().assigned) == set(range(PARTITIONS))


def test_a_killed_process_that_nobody_waited_for_is_gone() -> None:
    pid = in_child(lambda: None)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    process = members.ProcessIdentity(
        pid, members._stat(pid)[1], members._pid_namespace(), members.boot_id()
    )
    try:
        assert members.is_gone(process)
    finally:
        os.waitpid(pid, 0)
    assert members.is_gone(process)


def test_what_is_known_of_processes() -> None:
    me = members.this_process()
    assert me.started
    assert me.namespace
    assert me.boot_id
    changed = members.ProcessIdentity
    assert not members.is_gone(me)
    assert members.is_gone(changed(me.pid, "1", me.namespace, me.boot_id)), "the pid came again"
    assert members.is_gone(changed(me.pid, me.started, me.namespace, "another boot"))
    assert not members.is_gone(changed(2**22 - 1, "1", "pid:[1]", me.boot_id)), "a container's"
    assert not members.is_gone(changed(2**22 - 1, "1", "", me.boot_id))
    assert members.is_gone(changed(2**22 - 1, "1", me.namespace, me.boot_id))
    assert not members.is_gone(changed(1, members._stat(1)[1], me.namespace, me.boot_id))


def test_a_heartbeat_of_the_future_is_of_another_boot(member: Join, clock: Ticking) -> None:
    clock.advance(10_000)
    one = member()
    one.sync()
    clock.now_ns = SECOND_NS
    assert numbers(member().sync().assigned) == set(range(PARTITIONS))


# -- static members ---------------------------------------------------------------------------------


def test_a_static_member_that_comes_again_takes_its_place(member: Join) -> None:
    one, two = member(instance_id="one"), member(instance_id="two")
    settle(one, two)
    before = two.sync()
    again = member(instance_id="one")
    view = again.sync()
    assert (view.generation, view.is_stable) == (before.generation, True)
    assert view.assigned == one.owned
    assert again.membership.member_id != one.membership.member_id
    again.membership.commit({min(again.owned): OffsetAndMetadata(3)})
    for fenced in (one.sync, lambda: one.membership.commit({min(one.owned): OffsetAndMetadata(1)})):
        with pytest.raises(FencedError, match="joined as 'one'"):
            fenced()
    one.membership.leave()
    assert again.sync().assigned == view.assigned, "the former holder cannot give up the place"
    assert two.sync() == before


def test_the_place_of_a_static_member_is_kept_until_the_session_timeout(
    member: Join, clock: Ticking, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = member(instance_id="one", session_timeout_ms=60_000)
    two = member(instance_id="two", session_timeout_ms=600_000)
    settle(one, two)
    one.membership.leave(permanently=False)
    with pytest.raises(FencedError, match="has left"):
        one.sync()
    monkeypatch.setattr(members, "is_gone", lambda process: True)
    clock.advance(59)
    assert len(two.sync().assigned) == 3
    again = member(instance_id="one", session_timeout_ms=60_000)
    assert again.sync().assigned == one.owned
    again.membership.leave(permanently=False)
    clock.advance(61)
    assert numbers(two.sync().assigned) == set(range(PARTITIONS))


def test_a_static_member_can_leave_for_good(member: Join) -> None:
    one, two = member(instance_id="one"), member()
    settle(one, two)
    one.membership.leave()
    one.membership.leave()
    assert numbers(two.sync().assigned) == set(range(PARTITIONS))


# -- commits ----------------------------------------------------------------------------------------


def test_what_a_member_commits_is_kept(groups: Groups, member: Join) -> None:
    one = member()
    one.sync()
    offsets = {unit(0): OffsetAndMetadata(7, "so far"), unit(1): OffsetAndMetadata(0)}
    one.membership.commit(offsets)
    one.membership.commit({})
    assert groups.committed("g") == offsets
    one.membership.commit({unit(0): OffsetAndMetadata(2)})
    assert groups.committed("g", [unit(0), unit(5)]) == {unit(0): OffsetAndMetadata(2)}


@pytest.mark.parametrize("offset", [-1, 11, 2**63])
def test_nothing_past_the_end_of_the_log_is_committed(
    groups: Groups, member: Join, offset: int
) -> None:
    one = member()
    one.sync()
    with pytest.raises(OffsetOutOfRangeError) as caught:
        one.membership.commit({unit(0): OffsetAndMetadata(1), unit(1): OffsetAndMetadata(offset)})
    assert (caught.value.offset, caught.value.log_end_offset) == (offset, 10)
    assert groups.committed("g") == {}


def test_who_is_no_member_any_more_commits_nothing(groups: Groups, member: Join) -> None:
    one, two = member(), member()
    settle(one, two)
    moved = one.owned
    one.membership.leave()
    two.sync()
    with pytest.raises(FencedError):
        one.membership.commit(dict.fromkeys(moved, OffsetAndMetadata(5)))
    with pytest.raises(FencedError):
        one.sync()
    assert groups.committed("g") == {}
    two.membership.leave()
    groups.delete("g")
    with pytest.raises(FencedError):
        two.sync()


def test_a_unit_that_was_given_up_cannot_be_committed(groups: Groups, member: Join) -> None:
    one = member()
    one.sync()
    member()
    view = one.membership.sync(one.owned, one.subscription)
    leaving = min(view.revoked)
    one.membership.commit({leaving: OffsetAndMetadata(4)})  # the last chance
    one.sync()
    one.sync()
    with pytest.raises(FencedError):
        one.membership.commit({leaving: OffsetAndMetadata(5)})
    assert groups.committed("g") == {leaving: OffsetAndMetadata(4)}


def test_commits_are_heartbeats(groups: Groups, member: Join, clock: Ticking) -> None:
    one, two = member(session_timeout_ms=10_000), member(session_timeout_ms=600_000)
    settle(one, two)
    for _ in range(4):
        clock.advance(6)
        one.membership.commit({min(one.owned): OffsetAndMetadata(1)})
        two.sync()
    assert one.sync().is_stable


# -- key slots --------------------------------------------------------------------------------------


def test_partitions_can_be_shared_by_key(groups: Groups, member: Join) -> None:
    one, two = (member(subscription={"t": 1}, key_slots=8) for _ in range(2))
    settle(one, two)
    assert one.owned | two.owned == {unit(0, slot=slot) for slot in range(8)}
    assert len(one.owned) == len(two.owned) == 4
    mine = min(one.owned)
    one.membership.commit({mine: OffsetAndMetadata(3)})
    assert groups.committed("g") == {mine: OffsetAndMetadata(3)}
    with pytest.raises(FencedError):
        one.membership.commit({unit(0): OffsetAndMetadata(3)})


def test_the_number_of_slots_stays_while_offsets_depend_on_it(groups: Groups, member: Join) -> None:
    one = member(key_slots=8)
    with pytest.raises(SettingError, match="key_slots=8, not 0"):
        member()
    one.sync()
    one.membership.commit({unit(0, slot=0): OffsetAndMetadata(1)})
    one.membership.leave()
    with pytest.raises(SettingError):
        member(key_slots=16)
    groups.delete("g")
    member(key_slots=16)


# -- cheap, awake, and refused ----------------------------------------------------------------------


def test_a_sync_without_news_writes_nothing(
    member: Join, clock: Ticking, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = member(), member()
    settle(one, two)
    written = []
    write = Environment.write
    monkeypatch.setattr(Environment, "write", lambda self: written.append(1) or write(self))
    for _ in range(10):
        assert one.sync() is one.sync()
    assert written == []
    clock.advance(3)
    one.sync()
    one.sync()
    assert written == [1], "one heartbeat"


def test_waiting_for_others_writes_nothing_either(
    member: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = member()
    one.sync()
    two = member()
    two.sync()
    monkeypatch.setattr(Environment, "write", None)
    for _ in range(3):
        assert not two.sync().is_stable


def test_who_has_to_look_is_woken(log: eventlog.EventLog, member: Join) -> None:
    one = member()
    one.sync()
    ticket = log.activity.ticket()
    one.sync()
    assert not log.activity.wait(ticket, 0)
    two = member()
    assert log.activity.wait(ticket, 0)
    settle(one, two)
    ticket = log.activity.ticket()
    two.membership.leave()
    assert log.activity.wait(ticket, 0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("session_timeout_ms", 0),
        ("session_timeout_ms", 10**9),
        ("heartbeat_interval_ms", 45_000),
        ("heartbeat_interval_ms", -1),
        ("rebalance_timeout_ms", 0),
        ("key_slots", -1),
        ("key_slots", 10**6),
        ("assignors", ["fair"]),
        ("assignors", []),
        ("subscription", {"t": -1}),
        ("subscription", {"t": "6"}),
    ],
)
def test_settings_have_limits(member: Join, groups: Groups, setting: str, value: Any) -> None:
    with pytest.raises(SettingError):
        member(**{setting: value})
    assert groups.list() == []


def test_members_need_an_assignor_in_common(member: Join) -> None:
    one = member(assignors=["range"])
    with pytest.raises(SettingError, match="in common"):
        member(assignors=["sticky"])
    assert one.sync().is_stable


@pytest.mark.parametrize("name", ["", "a\nb", "\0", "x" * 250, "\ud800", None, b"g"])
def test_names_have_limits(groups: Groups, name: Any) -> None:
    with pytest.raises(InvalidNameError):
        groups.join(name, {"t": 1})
    if name is not None:
        with pytest.raises(InvalidNameError):
            groups.join("g", {"t": 1}, instance_id=name)


def test_the_longest_names_fit(log: eventlog.EventLog, groups: Groups) -> None:
    topic, group = "t" * 249, "ü" * 124 + "g"
    log.topic(topic).append(b"x")
    one = Member(groups, {topic: 1}, group, {"instance_id": "i" * 249})
    one.sync()
    one.membership.commit({unit(0, topic): OffsetAndMetadata(1)})
    assert groups.committed(group) == {unit(0, topic): OffsetAndMetadata(1)}
    assert groups.list() == [group]


def test_groups_do_not_see_each_other(groups: Groups) -> None:
    names = ["a", "aa", "a a", "a/"]
    joined = [Member(groups, {"t": 1}, name) for name in names]
    for number, each in enumerate(joined):
        assert each.sync().is_stable
        each.membership.commit({unit(0): OffsetAndMetadata(number)})
    for number, name in enumerate(names):
        assert groups.committed(name) == {unit(0): OffsetAndMetadata(number)}
    assert groups.list() == sorted(names)


def test_a_reader_looks_and_changes_nothing(log: eventlog.EventLog, member: Join) -> None:
    one = member()
    one.sync()
    one.membership.commit({unit(0): OffsetAndMetadata(2)})
    with eventlog.open(log.path, read_only=True) as reading:
        groups = Groups(reading)
        assert groups.list() == ["g"]
        assert groups.committed("g") == {unit(0): OffsetAndMetadata(2)}
        for change in (
            lambda: groups.join("g", {"t": 1}),
            lambda: groups.delete("g"),
            lambda: groups.commit("h", {unit(0): OffsetAndMetadata(2)}),
        ):
            with pytest.raises(StorageReadOnlyError):
                change()
        groups.close()


def test_a_reader_finds_no_groups_where_there_are_none(log: eventlog.EventLog) -> None:
    with eventlog.open(log.path, read_only=True) as reading:
        groups = Groups(reading)
        assert groups.list() == []
        with pytest.raises(StorageReadOnlyError):
            groups.join("g", {"t": 1})
        groups.close()
    assert not (log.path / "groups").exists()


def test_a_forked_child_is_refused(member: Join, groups: Groups) -> None:
    one = member()
    one.sync()

    def work() -> None:
        for refused in (one.sync, groups.list, one.membership.leave):
            with pytest.raises(ForkedError):
                refused()

    one.membership._lock.acquire()  # as another thread may hold it at the fork
    pid = in_child(work)
    one.membership._lock.release()
    assert os.waitpid(pid, 0)[1] == 0
    assert one.sync().is_stable


def test_after_closing_nothing_works(member: Join, groups: Groups) -> None:
    one = member()
    groups.close()
    groups.close()
    for refused in (one.sync, groups.list, one.membership.leave):
        with pytest.raises(ClosedError):
            refused()


def test_damage_is_an_error_and_nothing_is_forgotten(
    log: eventlog.EventLog, groups: Groups, member: Join
) -> None:
    one = member()
    one.sync()
    one.membership.commit({unit(0): OffsetAndMetadata(2)})
    groups.close()
    path = log.path / "groups" / "data.mdb"
    good = path.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2 :] = bytes(len(bad) - len(bad) // 2)
    path.write_bytes(bad)
    for _ in range(2):
        broken = Groups(log)
        with pytest.raises(CorruptionError, match="Restore the directory from a backup") as caught:
            broken.committed("g")
        assert caught.value.path == str(path.parent)
        broken.close()
    assert path.read_bytes() == bytes(bad)
    path.write_bytes(good)
    restored = Groups(log)
    assert restored.committed("g") == {unit(0): OffsetAndMetadata(2)}
    restored.close()


def test_a_damaged_row_is_an_error(log: eventlog.EventLog, groups: Groups, member: Join) -> None:
    one = member()
    one.sync()
    with (
        Environment.open(log.path / "groups", is_derived=False) as environment,
        environment.write() as transaction,
    ):
        ((key, data),) = transaction.items("members")
        transaction.put("members", key, data[:-1] + bytes((data[-1] ^ 1,)))
    with pytest.raises(CorruptionError, match="move it away"):
        groups.describe("g")


def test_what_happens_is_logged(
    member: Join, caplog: pytest.LogCaptureFixture, clock: Ticking
) -> None:
    with caplog.at_level(logging.INFO, "eventlog.consumer"):
        one = member(session_timeout_ms=10_000)
        two = member()
        settle(one, two)
        clock.advance(11)
        two.sync()
    found = [
        (record.levelname, record.member_id, record.generation)  # type: ignore[attr-defined]
        for record in caplog.records
        if record.group == "g"  # type: ignore[attr-defined]
    ]
    assert ("WARNING", one.membership.member_id, 2) in found
    assert {generation for _, _, generation in found} >= {1, 2, 3}


def test_state_outlives_the_process(log: eventlog.EventLog, member: Join, groups: Groups) -> None:
    one = member(instance_id="one")
    one.sync()
    one.membership.commit({unit(0): OffsetAndMetadata(2, "m", 0)})
    groups.close()
    path: Path = log.path
    log.close()
    with eventlog.open(path) as again:
        reopened = Groups(again, monotonic_ns=Ticking())
        assert reopened.committed("g") == {unit(0): OffsetAndMetadata(2, "m", 0)}
        back = Member(reopened, {"t": PARTITIONS}, settings={"instance_id": "one"})
        assert back.sync().generation == 1
        reopened.close()
