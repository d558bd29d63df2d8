"""The model of a power cut: what it must never take back, and what it must be able to.

A model that is too kind proves nothing, so each liberty that it is to take is asserted to occur.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from crash_states import Disk, Kind, Operation, State, materialise, snapshot
from hypothesis import given
from hypothesis import strategies as st

OLD = b"o" * 6000


def write(path: str, position: int, data: bytes) -> Operation:
    return Operation(Kind.PWRITE, path, position=position, size=len(data), data=data)


def sync(path: str, os_errno: int = 0) -> Operation:
    return Operation(Kind.FSYNC, path, os_errno=os_errno)


def states(operations: list[Operation], initial: State, count: int = 400) -> list[State]:
    disk = Disk(initial)
    for operation in operations:
        disk.apply(operation)
    return [disk.crash(Random(seed)) for seed in range(count)]


changes = st.one_of(
    st.builds(write, st.sampled_from("ab"), st.integers(0, 9000), st.binary(min_size=1)),
    st.builds(
        lambda path, size: Operation(Kind.FTRUNCATE, path, size=size),
        st.sampled_from("ab"),
        st.integers(0, 9000),
    ),
    st.builds(
        lambda path, position, size: Operation(Kind.FALLOCATE, path, position=position, size=size),
        st.sampled_from("ab"),
        st.integers(0, 9000),
        st.integers(1, 9000),
    ),
    st.builds(sync, st.sampled_from("ab")),
)


@given(st.lists(changes, max_size=12), st.integers())
def test_everything_synced_is_everything_kept(operations: list[Operation], seed: int) -> None:
    disk = Disk({"a": OLD, "b": b""})
    for operation in [*operations, sync("a"), sync("b")]:
        disk.apply(operation)
    assert disk.crash(Random(seed)) == disk.running()


@given(st.lists(changes, max_size=6), st.lists(changes, max_size=6), st.integers())
def test_synced_bytes_that_nobody_touched_again_are_kept(
    before: list[Operation], after: list[Operation], seed: int
) -> None:
    disk = Disk({"a": OLD, "b": b""})
    for operation in [*before, sync("a")]:
        disk.apply(operation)
    kept = disk.running()["a"]
    assert kept is not None
    touched: set[int] = set()
    size_min = len(kept)
    for operation in after:
        disk.apply(operation)
        if operation.path == "a" and operation.kind is Kind.PWRITE:
            touched |= set(range(operation.position, operation.position + operation.size))
        if operation.path == "a" and operation.kind is Kind.FTRUNCATE:
            size_min = min(size_min, operation.size)
    state = disk.crash(Random(seed))["a"]
    assert state is not None
    assert len(state) >= size_min
    assert all(state[at] == kept[at] for at in range(size_min) if at not in touched)


def test_writes_not_synced_are_lost_torn_reordered_zeroed_or_kept() -> None:
    first, second = b"1" * 5000, b"2" * 5000
    seen = [
        state["a"]
        for state in states([write("a", 6000, first), write("a", 11000, second)], {"a": OLD})
    ]
    assert all(content is not None and content.startswith(OLD) for content in seen)
    assert OLD in seen
    assert OLD + first in seen
    assert OLD + first + second in seen
    assert OLD + bytes(5000) + second in seen  # the later one without the earlier
    assert any(content and 6000 < len(content) < 11000 for content in seen)  # torn
    assert any(content and content[6000:6100] == bytes(100) for content in seen)
    assert any(
        content and content[6000:6100] not in (b"1" * 100, bytes(100))
        for content in seen
        if content and len(content) > 6100
    )  # garbage


def test_a_truncation_not_synced_may_not_have_happened_or_have_zeroed_its_page() -> None:
    seen = [state["a"] for state in states([Operation(Kind.FTRUNCATE, "a", size=100)], {"a": OLD})]
    assert OLD in seen
    assert OLD[:100] in seen
    assert OLD[:100] + bytes(3996) + OLD[4096:] in seen


def test_names_need_their_directory_synced() -> None:
    made = [Operation(Kind.OPEN, "d/new"), write("d/new", 0, b"n"), sync("d/new")]
    seen = states(made, {"d": None})
    assert {"d": None} in seen
    assert {"d": None, "d/new": b"n"} in seen
    assert states([*made, sync("d")], {"d": None}) == [{"d": None, "d/new": b"n"}] * 400


def test_names_change_in_order_within_a_directory() -> None:
    seen = states(
        [
            Operation(Kind.OPEN, "a.tmp"),
            Operation(Kind.RENAME, "a.tmp", "a"),
            Operation(Kind.UNLINK, "b"),
        ],
        {"a": b"old", "b": b"b"},
    )
    allowed: list[State] = [
        {"a": b"old", "b": b"b"},
        {"a": b"old", "a.tmp": b"", "b": b"b"},
        {"a": b"", "b": b"b"},
        {"a": b""},
    ]
    assert all(state in allowed for state in seen)
    assert all(state in seen for state in allowed)


def test_a_directory_that_is_lost_takes_its_files_with_it() -> None:
    made = [
        Operation(Kind.MKDIR, "d"),
        Operation(Kind.OPEN, "d/a"),
        write("d/a", 0, b"n"),
        sync("d/a"),
        sync("d"),
    ]
    seen = states(made, {})
    assert {} in seen
    assert {"d": None, "d/a": b"n"} in seen
    assert states([*made, sync(".")], {}, 50) == [{"d": None, "d/a": b"n"}] * 50


def test_what_a_failed_sync_covered_stays_uncertain() -> None:
    operations = [write("a", 0, b"1"), sync("a", os_errno=5), write("a", 1, b"2"), sync("a")]
    seen = [state["a"] for state in states(operations, {"a": b""})]
    assert b"12" in seen
    assert b"\x002" in seen


def test_a_state_becomes_a_directory(tmp_path: Path) -> None:
    state: State = {"log": None, "log/a": b"1", "meta": None, "meta/x": b"2", "run": None}
    live = tmp_path / "live"
    materialise({"data.mdb": b"live"}, live)
    materialise(state, tmp_path / "cut", untraced={"meta": live, "run": None})
    assert snapshot(tmp_path / "cut") == {
        "log": None,
        "log/a": b"1",
        "meta": None,
        "meta/data.mdb": b"live",
    }
