"""Repair: a damaged store opens again, and exactly what was said is lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from log_support import SMALL, abandon, contents, facts, flip, read_all, scratch, segments

import eventlog
from eventlog.cli.verifying import check_store
from eventlog.errors import (
    CorruptionError,
    FormatVersionError,
    LockedError,
    NotAStoreError,
    SettingError,
    StorageError,
)
from eventlog.log.checkpoints import LOG_START, RECOVERY_POINT
from eventlog.log.repair import METHODS, empty_batch, repair
from eventlog.log.repair_plan import Method, RepairStep
from eventlog.sourcing import Event

COUNT = 40
Facts = dict[tuple[str, int], dict[int, Any]]


def make_store(path: Path) -> None:
    with eventlog.open(path) as log:
        topic = log.topic("t", partitions=2, **SMALL)
        for number in range(COUNT):
            topic.append_many(
                [b"%04d" % number * 8] * (1 + number % 3),
                partition=number % 2,
                durability="os",
            )
        events = log.event_store("e", **SMALL)
        for number in range(COUNT):
            events.append(f"s-{number % 5}", [Event({"n": number}, type="x")], durability="os")
        with topic.producer() as producer:
            producer.send(b"once", key=b"k")


def records_of(log: eventlog.EventLog) -> Facts:
    return {
        (name, partition.number): {r.offset: facts(r) for r in partition.read()}
        for name in log.topics()
        for partition in log.topic(name).partitions
    }


class Whole(NamedTuple):
    path: Path
    records: Facts
    files: list[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    path = tmp_path_factory.mktemp("repair") / "store"
    make_store(path)
    with eventlog.open(path) as log:
        records = records_of(log)
    files = sorted(str(f.relative_to(path)) for f in (path / "log").rglob("*") if f.is_file())
    return Whole(path, records, files)


@pytest.fixture
def store(whole: Whole, tmp_path: Path) -> Path:
    shutil.copytree(whole.path, tmp_path / "store")
    return tmp_path / "store"


def lost_by(steps: list[RepairStep]) -> dict[tuple[str, int], set[int]]:
    lost: dict[tuple[str, int], set[int]] = {}
    for step in steps:
        offsets = range(step.first_offset, step.end_offset)
        lost.setdefault((step.topic, step.partition), set()).update(offsets)
    return lost


def check_repaired(
    whole: Whole, store: Path, steps: list[RepairStep], method: Method = "skip"
) -> None:
    """What is there is as it was; what is not was said to be lost; and it goes on."""
    lost = lost_by(steps)
    with eventlog.open(store) as log:
        found = records_of(log)
        assert found.keys() == whole.records.keys()
        for place, records in whole.records.items():
            missing = records.keys() - found[place].keys()
            assert missing == lost.get(place, set()) & records.keys(), place
            for offset, record in found[place].items():
                assert record == records[offset]
        assert log.event_store("e").verify() == []
        for partition in log.topic("t").partitions:
            receipt = log.topic("t").append(b"after", partition=partition.number)
            taken = (found if method == "cut" else whole.records)["t", partition.number]
            assert receipt.offset not in taken
    assert check_store(store).problems == []
    assert repair(store) == []


def kept_aside(store: Path) -> dict[str, bytes]:
    return {
        name: data
        for directory in (store / "repair").glob("*")
        for name, data in contents(directory).items()
    }


# -- anything ---------------------------------------------------------------------------------------


class Damage(NamedTuple):
    what: str  # flip, cut, delete
    file: int
    place: float
    bit: int


damages = st.builds(
    Damage,
    st.sampled_from(["flip", "flip", "cut", "delete"]),
    st.integers(0, 10_000),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 7),
)


def inflict(store: Path, files: list[str], damage: Damage) -> str:
    name = files[damage.file % len(files)]
    path = store / name
    size = path.stat().st_size if path.exists() else 0
    if damage.what == "delete":
        path.unlink(missing_ok=True)
    elif size == 0:
        return ""
    elif damage.what == "cut":
        os.truncate(path, int(size * damage.place))
    else:
        flip(path, int(size * damage.place), damage.bit)
    return name


@pytest.mark.guarantee("G-14")
@given(st.lists(damages, min_size=1, max_size=3), st.sampled_from(METHODS))
@example([Damage("delete", 0, 0.0, 0)], "skip")
def test_whatever_is_damaged_below_log(
    whole: Whole, happened: list[Damage], method: Method
) -> None:
    with scratch() as directory:
        store = directory / "store"
        shutil.copytree(whole.path, store)
        names = {inflict(store, whole.files, damage) for damage in happened}
        before = contents(store / "log")
        steps = repair(store, method=method)
        assert contents(store / "log") == before
        assert repair(store, method=method, dry_run=False) == steps
        kept = kept_aside(store)
        for step in steps:
            name = str(Path(step.path).relative_to(store))
            if name.removeprefix("log/") in before:
                assert kept[name] == before[name.removeprefix("log/")]
        if any(
            Path(name).name in (RECOVERY_POINT, LOG_START, ".kafka_cleanshutdown") for name in names
        ):
            # What says how far the log went is damaged, too: a lost end cannot be missed.
            with eventlog.open(store) as log:
                for place, records in records_of(log).items():
                    assert records.items() <= whole.records[place].items()
                assert log.event_store("e").verify() == []  # folded anew if it knew more (C-H)
            assert check_store(store).problems == []
        else:
            check_repaired(whole, store, steps, method)


# -- case by case -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_batch_in_the_middle(whole: Whole, store: Path, method: Method) -> None:
    path = segments(store)[1]
    base = int(path.stem)
    flip(path, 70)
    steps = repair(store, method=method)
    assert (steps[0].case, steps[0].path, steps[0].first_offset, steps[0].position) == (
        "C-D",
        str(path),
        base,
        0,
    )
    lost = lost_by(steps)["t", 0]
    if method == "skip":
        assert len(steps) == 1
        assert 1 <= len(lost) <= 3
    else:
        end = max(whole.records["t", 0]) + 1
        assert lost == set(range(base, end))
    assert repair(store, method=method, dry_run=False) == steps
    check_repaired(whole, store, steps, method)
    report = check_store(store)
    assert report.lost_count == (len(lost) if method == "skip" else 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("which", ["first", "middle", "last", "all"])
def test_missing_segments(whole: Whole, store: Path, method: Method, which: str) -> None:
    found = segments(store)
    gone = {"first": found[:1], "middle": found[1:2], "last": found[-1:], "all": found}[which]
    for path in gone:
        path.unlink()
    with pytest.raises(CorruptionError):
        eventlog.open(store)
    steps = repair(store, method=method, dry_run=False)
    assert steps[0].case == ("C-D" if which == "last" else "C-J")
    check_repaired(whole, store, steps, method)
    ends = [int(path.stem) for path in found[1:]] + [max(whole.records["t", 0]) + 1]
    if which == "all":
        with eventlog.open(store) as log:
            assert log.topic("t").log_start_offset(0) == ends[-1]
    if which == "middle" and method == "skip":
        assert lost_by(steps)["t", 0] == set(range(ends[0], ends[1]))


def test_a_killed_process_says_how_far_the_log_went(tmp_path: Path) -> None:
    """The recovery point is old, but the page of the same boot is not: what is lost is known."""
    path = tmp_path / "store"
    log = eventlog.open(path)
    topic = log.topic("t", durability="os", **SMALL)
    for number in range(20):
        topic.append(b"%d" % number)
    expected = read_all(topic)
    abandon(log)
    newest = segments(path)[-1]
    base = int(newest.stem)
    flip(newest, 80)
    with pytest.raises(CorruptionError):
        eventlog.open(path)
    steps = repair(path, method="cut", dry_run=False)
    assert lost_by(steps)["t", 0] == set(range(base + 1, 20))
    with eventlog.open(path) as log:
        assert read_all(log.topic("t")) == expected[: base + 1]


def test_an_ordinary_crash_needs_no_repair(tmp_path: Path) -> None:
    path = tmp_path / "store"
    log = eventlog.open(path)
    log.topic("t", durability="os").append(b"x")
    abandon(log)
    before = contents(path / "log")
    assert repair(path, dry_run=False) == []
    assert contents(path / "log") == before
    assert not (path / "repair").exists()


def test_backups_do_not_share_what_is_repaired(store: Path, tmp_path: Path) -> None:
    """After a cut a sealed segment is written to again: not the file that a backup has, too."""
    with eventlog.open(store) as log:
        made = log.backup(tmp_path / "backups").path
    for path in segments(store)[2:]:
        path.unlink()
    repair(store, method="cut", dry_run=False)
    with eventlog.open(store) as log:
        for number in range(30):
            log.topic("t").append(b"%d" % number * 9, partition=0)
    assert eventlog.log.backup.verify_backup(made) == []


@pytest.mark.parametrize("at", range(12))
def test_a_crash_in_a_repair_is_repaired(
    whole: Whole, store: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    from eventlog.log import repair as module

    for number in (1, 2):
        flip(segments(store)[number], 70)
    planned = repair(store)
    count = 0
    original = module.path_bytes

    def interrupt(path: Any) -> bytes:
        nonlocal count
        count += 1
        if count > at:
            raise KeyboardInterrupt
        return original(path)

    survey = module.Survey.run

    def run(self: Any) -> None:
        survey(self)
        module.path_bytes = interrupt  # type: ignore[assignment]  # from here on files are changed

    with monkeypatch.context() as patch:
        patch.setattr(module, "path_bytes", original)
        patch.setattr(module.Survey, "run", run)
        with pytest.raises(KeyboardInterrupt):
            repair(store, dry_run=False)
    again = repair(store, dry_run=False)
    assert set(again) <= set(planned) | {step for step in again if step.lost_count == 0}
    check_repaired(whole, store, planned)


# -- the store's own files --------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, b"", b"{"])
def test_a_lost_format_file(whole: Whole, store: Path, data: bytes | None) -> None:
    path = store / "eventlog.json"
    path.unlink() if data is None else path.write_bytes(data)
    assert len(repair(store)) == 1
    check_repaired(whole, store, repair(store, dry_run=False))


@pytest.mark.parametrize("data", [b"", b"{", b'{"version":1,"topics":{"t":{}}}'])
def test_unreadable_topics(whole: Whole, store: Path, data: bytes) -> None:
    path = store / "topics.json"
    path.write_bytes(data)
    with pytest.raises(StorageError):
        eventlog.open(store)
    steps = repair(store, dry_run=False)
    assert kept_aside(store)["topics.json"] == data
    assert [step.lost_count for step in steps] == [0]
    ids = {name: entry["id"] for name, entry in json.loads(path.read_bytes())["topics"].items()}
    before = json.loads((whole.path / "topics.json").read_bytes())["topics"]
    assert ids == {name: entry["id"] for name, entry in before.items()}
    check_repaired(whole, store, steps)


def test_topics_that_do_not_fit(whole: Whole, store: Path) -> None:
    path = store / "topics.json"
    content = json.loads(path.read_bytes())
    content["topics"]["t"]["partitions"] = 1
    content["topics"]["e"]["partitions"] = 3
    content["topics"]["t"]["settings"]["segment_size_bytes_max"] = -5
    path.write_text(json.dumps(content))
    with pytest.raises(StorageError):
        eventlog.open(store)
    steps = repair(store, dry_run=False)
    assert len(steps) == 3
    check_repaired(whole, store, steps)
    with eventlog.open(store) as log:
        assert log.topic("t").settings.index_interval_bytes == SMALL["index_interval_bytes"]


# -- what is refused --------------------------------------------------------------------------------


def test_a_store_that_is_open_is_not_touched(store: Path) -> None:
    with eventlog.open(store):
        for dry_run in (True, False):
            with pytest.raises(LockedError):
                repair(store, dry_run=dry_run)
    assert repair(store) == []


def test_what_is_no_store(tmp_path: Path, store: Path) -> None:
    with pytest.raises(NotAStoreError):
        repair(tmp_path)
    with pytest.raises(NotAStoreError):
        repair(tmp_path / "nowhere")
    with pytest.raises(SettingError):
        repair(store, method="all")  # type: ignore[arg-type]
    (store / "eventlog.json").write_text('{"format": 99}')
    with pytest.raises(FormatVersionError):
        repair(store)


def test_an_empty_batch_is_one_of_kafkas(tmp_path: Path) -> None:
    with eventlog.open(tmp_path / "s") as log:
        topic = log.topic("t")
        batch = empty_batch(0, 7)
        assert len(batch) == 61
        topic.partition(0).append_batch(batch)
        topic.append(b"behind it")
        assert [(r.offset, r.value) for r in topic.read()] == [(7, b"behind it")]
