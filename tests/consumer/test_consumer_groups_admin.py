"""Groups seen from outside: describe, lag, reset, delete, and offsets as Kafka's tool reads and writes them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from groups_support import Member, Ticking, in_child, kill, memory, settle, unit
from hypothesis import given
from hypothesis import strategies as st

import eventlog
from eventlog.consumer import offsets_csv
from eventlog.consumer.group import Groups, OffsetAndMetadata
from eventlog.errors import (
    GroupNotEmptyError,
    InvalidNameError,
    OffsetOutOfRangeError,
    PartitionMismatchError,
    SettingError,
    UnknownGroupError,
    UnknownTopicError,
)

START_MS = 1_700_000_000_000


@pytest.fixture
def log() -> Iterator[eventlog.EventLog]:
    """Topics t (3 partitions) and u (1): 10 records each, a second apart."""
    with memory() as directory, eventlog.open(directory / "store") as log:
        for name, count in (("t", 3), ("u", 1)):
            topic = log.topic(name, partitions=count)
            for partition in range(count):
                times = [START_MS + 1000 * number for number in range(10)]
                topic.append_many([b"x"] * 10, partition=partition, timestamps_ms=times)
        yield log


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture
def groups(log: eventlog.EventLog, clock: Ticking) -> Iterator[Groups]:
    groups = Groups(log, monotonic_ns=clock)
    yield groups
    groups.close()


def at(offset: int) -> OffsetAndMetadata:
    return OffsetAndMetadata(offset)


def offsets_of(groups: Groups, group: str = "g") -> dict[Any, int]:
    return {each: committed.offset for each, committed in groups.committed(group).items()}


# -- describe ---------------------------------------------------------------------------------------


def test_a_group_is_described(groups: Groups, clock: Ticking) -> None:
    one = Member(groups, {"t": 3}, settings={"instance_id": "1", "client_id": "billing"})
    two = Member(groups, {"t": 3}, settings={"instance_id": "2"})
    settle(one, two)
    one.membership.commit({unit(0): OffsetAndMetadata(4, "half")})
    clock.advance(2)
    found = groups.describe("g")
    assert (found.group, found.state, found.assignor, found.key_slots) == (
        "g",
        "Stable",
        "range",
        0,
    )
    assert found.generation == 2
    assert [each.instance_id for each in found.members] == ["1", "2"]
    first = found.members[0]
    assert first.member_id == one.membership.member_id
    assert first.member_id.startswith("billing-")
    assert (first.client_id, first.topics, first.heartbeat_age_ms) == ("billing", ("t",), 2000)
    assert first.owned == first.target == one.owned
    assert first.pid > 0
    assert first.host
    assert [(p.unit, p.committed, p.lag, p.log_end_offset) for p in found.partitions] == [
        (unit(0), 4, 6, 10),
        (unit(1), None, None, 10),
        (unit(2), None, None, 10),
    ]
    assert found.partitions[0].metadata == "half"
    assert [p.member_id for p in found.partitions] == [
        one.membership.member_id,
        one.membership.member_id,
        two.membership.member_id,
    ]
    assert found.problems == ()
    assert groups.lag("g") == {unit(0): 6}


def test_states_are_those_of_kafka(groups: Groups, clock: Ticking) -> None:
    def state() -> str:
        return groups.describe("g").state

    one = Member(groups, {"t": 3})
    assert state() == "CompletingRebalance"
    one.sync()
    assert state() == "Stable"
    two = Member(groups, {"t": 3})
    assert state() == "PreparingRebalance"
    one.sync()
    one.sync()
    assert state() == "CompletingRebalance"
    two.sync()
    assert state() == "Stable"
    two.membership.leave()
    clock.advance(100)
    assert state() == "Empty", "the silent one does not count"
    assert groups.describe("g").members == ()


def test_what_is_not_there_is_an_error(groups: Groups) -> None:
    groups.commit("known", {unit(0): at(1)})
    for ask in (
        lambda: groups.describe("g"),
        lambda: groups.delete("g"),
        lambda: groups.export_csv("g"),
        lambda: groups.reset("g", to="latest"),
    ):
        with pytest.raises(UnknownGroupError, match="known") as caught:
            ask()
        assert caught.value.group == "g"
    assert groups.committed("g") == {}
    assert groups.lag("g") == {}
    assert groups.list() == ["known"]


# -- commit from outside, delete --------------------------------------------------------------------


def test_offsets_can_be_committed_for_an_idle_group(groups: Groups) -> None:
    groups.commit("g", {unit(0): OffsetAndMetadata(3, "by hand")})
    assert groups.describe("g").state == "Empty"
    one = Member(groups, {"t": 3})
    one.sync()
    assert groups.committed("g") == {unit(0): OffsetAndMetadata(3, "by hand")}


def test_a_group_at_work_is_left_alone(groups: Groups) -> None:
    one = Member(groups, {"t": 3})
    one.sync()
    one.membership.commit({unit(0): at(5)})
    for change in (
        lambda: groups.commit("g", {unit(0): at(1)}),
        lambda: groups.reset("g", to="earliest"),
        lambda: groups.reset("g", to="earliest", dry_run=True),
        lambda: groups.import_csv("t,0,1\n", group="g"),
        lambda: groups.delete("g"),
    ):
        with pytest.raises(GroupNotEmptyError) as caught:
            change()
        assert caught.value.members == (one.membership.member_id,)
    assert offsets_of(groups) == {unit(0): 5}
    one.membership.leave()
    groups.commit("g", {unit(0): at(1)})
    assert offsets_of(groups) == {unit(0): 1}


def test_members_whose_process_was_killed_do_not_count(
    log: eventlog.EventLog, groups: Groups, tmp_path: Path
) -> None:
    path, ready = log.path, tmp_path / "ready"

    def work() -> None:
        with eventlog.open(path) as own:
            Member(Groups(own), {"t": 3}).sync()
            ready.touch()
            own.activity.wait(own.activity.ticket(), 60)

    pid = in_child(work)
    while not ready.exists():
        log.activity.wait(log.activity.ticket(), 0.01)
    with pytest.raises(GroupNotEmptyError):
        Groups(log).delete("g")
    kill(pid)
    Groups(log).delete("g")
    assert groups.list() == []


def test_a_deleted_group_is_forgotten(groups: Groups) -> None:
    groups.commit("g", {unit(0): at(3)})
    groups.commit("gg", {unit(0): at(4)})
    groups.delete("g")
    assert groups.list() == ["gg"]
    assert (groups.committed("g"), offsets_of(groups, "gg")) == ({}, {unit(0): 4})


# -- reset ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "offset"),
    [
        ("earliest", 0),
        ("latest", 10),
        (0, 0),
        (7, 7),
        (10, 10),
        (99, 10),
        (datetime.fromtimestamp(START_MS / 1000 + 3, UTC), 3),
        (datetime.fromtimestamp(START_MS / 1000 + 3.5, UTC), 4),
        (datetime(2100, 1, 1, tzinfo=UTC), 10),
        (datetime(1971, 1, 1, tzinfo=UTC), 0),
    ],
)
def test_an_idle_group_is_reset(groups: Groups, to: Any, offset: int) -> None:
    groups.commit("g", {unit(0): OffsetAndMetadata(5, "m"), unit(2): at(5), unit(0, "u"): at(5)})
    plan = groups.reset("g", to=to, topics=["t"], dry_run=True)
    assert plan == dict.fromkeys([unit(0), unit(1), unit(2)], offset)
    assert set(offsets_of(groups).values()) == {5}
    assert groups.reset("g", to=to, topics=["t"]) == plan
    assert groups.committed("g") == {**dict.fromkeys(plan, at(offset)), unit(0, "u"): at(5)}


def test_what_is_reset_can_be_chosen(groups: Groups) -> None:
    groups.commit("g", {unit(1): at(5), unit(0, "u"): at(5)})
    assert groups.reset("g", to=1) == {unit(1): 1, unit(0, "u"): 1}, "what was committed"
    assert groups.reset("g", to=2, topics=[unit(2), "u"]) == {unit(2): 2, unit(0, "u"): 2}
    assert groups.reset("g", to=3, topics="u") == {unit(0, "u"): 3}
    assert groups.reset("new", to="latest", topics=["u"]) == {unit(0, "u"): 10}
    assert offsets_of(groups) == {unit(1): 1, unit(2): 2, unit(0, "u"): 3}
    assert groups.list() == ["g", "new"]


def test_a_reset_that_cannot_be_changes_nothing(groups: Groups) -> None:
    groups.commit("g", {unit(1): at(5)})
    for to in ("first", -1, 1.5, True, None, datetime(2020, 1, 1), b"latest"):  # noqa: DTZ001
        with pytest.raises(SettingError):
            groups.reset("g", to=to)  # type: ignore[arg-type]
    with pytest.raises(UnknownTopicError):
        groups.reset("g", to="latest", topics=["t", "none"])
    with pytest.raises(PartitionMismatchError):
        groups.reset("g", to="latest", topics=["t", unit(3)])
    with pytest.raises(InvalidNameError):
        groups.reset("", to="latest", topics=["t"])
    assert offsets_of(groups) == {unit(1): 5}


def test_a_reset_concerns_all_key_slots(groups: Groups) -> None:
    one = Member(groups, {"u": 1}, settings={"key_slots": 4})
    one.sync()
    one.membership.commit({unit(0, "u", slot=2): at(5)})
    one.membership.leave()
    assert groups.reset("g", to=3) == {unit(0, "u"): 3}
    assert offsets_of(groups) == {unit(0, "u", slot=slot): 3 for slot in range(4)}
    groups.commit("g", {unit(0, "u", slot=1): at(7)})
    assert offsets_of(groups)[unit(0, "u", slot=1)] == 7
    with pytest.raises(PartitionMismatchError):
        groups.commit("g", {unit(0, "u", slot=4): at(7)})
    groups.commit("plain", {unit(0): at(1)})
    with pytest.raises(PartitionMismatchError):
        groups.commit("plain", {unit(0, slot=0): at(7)})


# -- CSV --------------------------------------------------------------------------------------------


def test_offsets_of_one_group_are_exported_without_its_name(groups: Groups) -> None:
    groups.commit("g", {unit(2): at(5), unit(0): at(10), unit(0, "u"): at(0)})
    assert groups.export_csv("g") == "t,0,10\nt,2,5\nu,0,0\n"
    assert groups.export_csv(["g"]) == groups.export_csv("g")


def test_offsets_of_several_groups_are_exported_with_their_names(groups: Groups) -> None:
    groups.commit('b "the second"', {unit(0): at(5)})
    groups.commit("a", {unit(1): at(6)})
    exported = groups.export_csv(['b "the second"', "a"])
    assert exported == 'a,t,1,6\n"b ""the second""",t,0,5\n'


def test_what_was_exported_is_imported(log: eventlog.EventLog, groups: Groups) -> None:
    long = "a-topic-with-a-name-of-more-than-24-characters"
    log.topic(long).append_many([b"x"] * 3)
    for number, name in enumerate(["a", "b, c", "d"]):
        groups.commit(name, {unit(0): at(number), unit(2): at(9), unit(0, long): at(2)})
    before = {name: offsets_of(groups, name) for name in groups.list()}
    exported = groups.export_csv(groups.list())
    assert f'"{long}"' in exported
    for name in groups.list():
        groups.delete(name)
    assert groups.import_csv(exported, dry_run=True) == before
    assert groups.list() == []
    assert groups.import_csv(exported) == before
    assert {name: offsets_of(groups, name) for name in groups.list()} == before
    one = groups.export_csv("d")
    groups.import_csv(one, group="e")
    assert offsets_of(groups, "e") == before["d"]


def test_key_slots_are_exported_by_what_all_have_read(groups: Groups) -> None:
    one = Member(groups, {"t": 2}, settings={"key_slots": 3})
    one.sync()
    one.membership.commit({unit(0, slot=slot): at(4 + slot) for slot in range(3)})
    one.membership.commit({unit(1, slot=0): at(9), unit(1, slot=2): at(9)})
    one.membership.leave()
    exported = groups.export_csv("g")
    assert exported == "t,0,4\nt,1,0\n", "a slot without an offset has read nothing"
    groups.import_csv("t,0,8\n", group="g")
    assert {offsets_of(groups)[unit(0, slot=slot)] for slot in range(3)} == {8}


def test_offsets_outside_the_log_are_taken_as_its_ends(
    groups: Groups, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "eventlog.consumer"):
        assert groups.import_csv("t,0,11\n", group="g") == {"g": {unit(0): 10}}
    assert "offset 11 of t-0 is outside the log, taken as 10" in caplog.text


def test_lines_are_read_as_kafkas_tool_reads_them(groups: Groups) -> None:
    text = '\ufeff"t",0,1\r\n\nt,"2",3\nt,0,4'
    assert groups.import_csv(text, group="g") == {"g": {unit(0): 4, unit(2): 3}}
    assert groups.import_csv("") == {}


@pytest.mark.parametrize(
    "text",
    [
        "t,0\n",
        "t,0,1,2,3\n",
        "t,0,1\ng,t,0,1\n",
        "t,zero,1\n",
        "t,0,-1\n",
        "t,0,1.5\n",
        "t,0,\n",
        ",0,1\n",
        't,0,"1\n',
        "t,0,99999999999999999999\n",
        "t,0,²\n",
        "TOPIC,PARTITION,OFFSET\n",
    ],
)
def test_lines_of_another_form_are_refused(groups: Groups, text: str) -> None:
    with pytest.raises(SettingError) as caught:
        groups.import_csv("t,1,1\n" + text, group="g")
    assert caught.value.setting == "text"
    assert groups.list() == []


def test_an_import_is_all_or_nothing(groups: Groups) -> None:
    for text, error in (
        ("a,t,0,1\nb,none,0,1\n", UnknownTopicError),
        ("a,t,0,1\nb,t,7,1\n", PartitionMismatchError),
        ("t,0,1\n", SettingError),
        (f"a,t,0,1\n{'b' * 250},t,0,1\n", InvalidNameError),
    ):
        with pytest.raises(error):
            groups.import_csv(text)
    assert groups.list() == []


names = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1)
plans = st.dictionaries(
    st.builds(
        unit, st.integers(0, 2**31 - 1), st.from_regex(r"[A-Za-z0-9._-]{1,30}", fullmatch=True)
    ),
    st.integers(0, 2**63 - 1),
    min_size=1,
)


@given(plans=st.dictionaries(names, plans, min_size=1, max_size=3))
def test_any_offsets_come_back_from_csv(plans: Any) -> None:
    text = offsets_csv.write(plans)
    assert offsets_csv.read(text, next(iter(plans))) == plans


def test_an_offset_from_outside_is_checked_as_any_other(groups: Groups) -> None:
    with pytest.raises(OffsetOutOfRangeError):
        groups.commit("g", {unit(0): at(11)})
    assert groups.list() == []
