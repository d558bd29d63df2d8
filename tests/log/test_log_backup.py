"""Backups: made while everybody goes on, whole or not there at all, and found out when damaged."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from log_support import SMALL, abandon, contents, facts, flip, in_child, read_all, scratch, segments
from process_support import Child, cases, forked, wait_until

import eventlog
from eventlog.cli.verifying import check_backup, check_store
from eventlog.errors import (
    CorruptionError,
    FormatVersionError,
    LockedError,
    NotAStoreError,
    StorageError,
    StorageFullError,
)
from eventlog.locks import Members
from eventlog.log import backup as backup_module
from eventlog.log import partition_files
from eventlog.log.backup import verify_backup
from eventlog.log.manifest import MANIFEST_FILE, PARTIAL_SUFFIX, backups_in, read_manifest
from eventlog.log.partition_files import bring_segments
from eventlog.sourcing import Event

QUIET = {"C-A", "C-B"}
"""Cases in which opening finds nothing wrong."""


def fill(log: eventlog.EventLog, count: int = 60, topic: str = "t", **settings: Any) -> Any:
    found = log.topic(topic, **{**SMALL, **settings})
    for number in range(count):
        found.append(b"%04d" % number * 10, key=b"%d" % number, durability="os")
    found.partition(0).sync()
    return found


@pytest.fixture
def log(tmp_path: Path) -> Iterator[eventlog.EventLog]:
    with eventlog.open(tmp_path / "store") as opened:
        yield opened


def restored(backup: Path, target: Path) -> eventlog.EventLog:
    eventlog.restore(backup, target)
    return eventlog.open(target)


def inodes(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): path.stat().st_ino
        for path in (directory / "log").rglob("*.log")
    }


# -- beside writers ---------------------------------------------------------------------------------


def busy(path: Path, name: str, durability: str) -> Callable[[Child], None]:
    def run(child: Child) -> None:
        with eventlog.open(path) as log:
            topic = log.topic(name)
            events = log.event_store("events")
            child.tell()
            for number in itertools.count():
                partition = number % 2
                topic.append(b"%06d" % number * 8, partition=partition, durability=durability)
                if number % 7 == 0:
                    topic.append_many([b"x" * 30] * 5, partition=partition, durability=durability)
                if number % 5 == 0:
                    events.append(f"{name}-{number % 11}", [Event({"n": number}, type="counted")])
                if number % 20 == 0:
                    end = topic.partition(0).high_watermark
                    unit = eventlog.TopicPartition(name, 0)
                    log.groups.commit(f"of {name}", {unit: eventlog.OffsetAndMetadata(end)})

    return run


@pytest.mark.guarantee("G-24")
def test_a_backup_beside_writers_holds_what_was_durable_when_it_began(tmp_path: Path) -> None:
    path, tree = tmp_path / "store", tmp_path / "backups"
    with eventlog.open(path) as log:
        for name in ("safe", "fast"):
            log.topic(name, partitions=2, segment_size_bytes_max=4096, index_interval_bytes=200)
        log.event_store("events", segment_size_bytes_max=4096)
        partitions = [p for name in log.topics() for p in log.topic(name).partitions]
        made = []
        with forked(busy(path, "safe", "sync")), forked(busy(path, "fast", "os")):
            for _ in range(4):
                durable = {(p.topic, p.number): p.durable_end_offset for p in partitions}
                readable = {(p.topic, p.number): p.high_watermark for p in partitions}
                report = log.backup(tree)
                made.append((report, durable, readable))
        assert made[-1][0].ends["fast", 0] > made[0][0].ends["fast", 0], "nobody was writing"
        for number, (report, durable, readable) in enumerate(made):
            assert verify_backup(report.path) == []
            with restored(report.path, tmp_path / f"restored-{number}") as copy:
                assert cases(copy) <= QUIET
                for name in log.topics():
                    for partition in copy.topic(name).partitions:
                        place = name, partition.number
                        end = partition.high_watermark
                        assert end == report.ends[place]
                        assert end >= max(durable[place], readable[place])
                        original = [facts(r) for r in log.topic(name).read(place[1], end=end)]
                        assert read_all(copy.topic(name), partition.number) == original
                assert copy.event_store("events").verify() == []
                assert copy.groups.verify() == []
                for group in copy.groups.list():
                    for unit, committed in copy.groups.committed(group).items():
                        assert committed.offset <= report.ends[unit.topic, unit.partition]
            assert check_store(tmp_path / f"restored-{number}").problems == []


@pytest.mark.guarantee("G-24")
def test_segments_that_are_deleted_meanwhile(log: eventlog.EventLog, tmp_path: Path) -> None:
    """Records go from the front while they come at the end: what a backup holds is without holes."""
    topic = fill(log, 100)
    is_over = threading.Event()

    def churn() -> None:
        while not is_over.is_set():
            for _ in range(20):
                topic.append(b"more" * 20, durability="os")
            log.delete_records("t", 0, before=topic.high_watermark() - 50)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for number in range(5):
            durable = topic.partition(0).durable_end_offset
            report = log.backup(tmp_path / "backups")
            with restored(report.path, tmp_path / f"r{number}") as copy:
                assert cases(copy) <= QUIET
                offsets = [record.offset for record in copy.topic("t").read()]
                assert offsets == list(
                    range(copy.topic("t").log_start_offset(), report.ends["t", 0])
                )
                assert report.ends["t", 0] >= durable
    finally:
        is_over.set()
        thread.join()


@pytest.mark.guarantee("G-24")
def test_a_backup_beside_compaction(log: eventlog.EventLog, tmp_path: Path) -> None:
    """Of each key it has the value that was durable when it began, or a later one."""
    topic = log.topic("t", cleanup_policy="compact", **SMALL)
    keys = [b"%d" % number for number in range(9)]
    is_over, latest = threading.Event(), {}

    def write() -> None:
        for number in itertools.count():
            key = keys[number * 7 % len(keys)]
            topic.append(b"%08d" % number * 5, key=key, durability="os")
            if number % 50 == 0:
                topic.partition(0).sync()
                for record in topic.read(start=max(0, topic.high_watermark() - 9)):
                    latest[record.key] = record.value
            if is_over.is_set():
                return

    def compact() -> None:
        while not is_over.wait(0.01):
            log.compact("t")

    threads = [threading.Thread(target=write), threading.Thread(target=compact)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(latest) == len(keys), "nothing was written")
    try:
        for number in range(4):
            durable = dict(latest)
            report = log.backup(tmp_path / "backups")
            with restored(report.path, tmp_path / f"r{number}") as copy:
                assert cases(copy) <= QUIET
                found = {record.key: record.value for record in copy.topic("t").read()}
                assert all(found[key] >= value for key, value in durable.items())
            assert check_store(tmp_path / f"r{number}").problems == []
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_a_long_copy_does_not_mind_what_is_deleted_meanwhile(
    log: eventlog.EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = fill(log)
    expected = read_all(topic)
    copied: list[str] = []
    copy = backup_module.copy_file

    def copy_slowly(source: Path, target: Path) -> None:
        if not copied:
            log.delete_records("t", 0, before=50)
            assert len(segments(log.path)) < 4
        copied.append(source.name)
        copy(source, target)

    monkeypatch.setattr(backup_module, "copy_file", copy_slowly)
    report = log.backup(tmp_path / "backups", incremental=False)
    assert len(copied) == len(set(copied))
    with restored(report.path, tmp_path / "r") as found:
        assert read_all(found.topic("t")) == expected


def test_files_that_vanish_are_looked_for_again(log: eventlog.EventLog, tmp_path: Path) -> None:
    """A segment that is replaced between the look at the directory and the link: all begins anew."""
    partition = fill(log).partition(0)
    names = [path.name for path in segments(log.path)]
    seen: list[str] = []

    def place(source: Path, target: Path) -> None:
        if source.suffix == ".log":
            seen.append(source.name)
            if len(seen) == 2:  # replaced, as by a compaction, behind our back
                aside = source.with_suffix(".aside")
                shutil.copy(source, aside)
                partition_files.link_or_copy(source, target)
                aside.rename(source)
                return
            if len(seen) == len(names) + 1:
                raise FileNotFoundError(errno.ENOENT, "gone", str(source))
        partition_files.link_or_copy(source, target)

    target = tmp_path / "target"
    target.mkdir()
    found = bring_segments(partition, target, place=place)
    assert seen.count(names[0]) == 3
    assert [path.name for path in sorted(target.glob("*.log"))] == names
    assert found.log_end_offset == 60
    for path in segments(log.path)[:-1]:
        assert path.stat().st_ino == (target / path.name).stat().st_ino


def test_a_topic_that_is_deleted_meanwhile_is_left_out(
    log: eventlog.EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, topic="a")
    fill(log, topic="b", partitions=2)
    bring = backup_module.bring_segments

    def bring_late(partition: Any, *arguments: Any, **named: Any) -> Any:
        if partition.topic == "b" and partition.number == 1:
            log.delete_topic("b")
        return bring(partition, *arguments, **named)

    monkeypatch.setattr(backup_module, "bring_segments", bring_late)
    report = log.backup(tmp_path / "backups")
    assert set(report.ends) == {("a", 0)}
    with restored(report.path, tmp_path / "r") as copy:
        assert copy.topics() == ["a"]


def test_settings_ids_log_starts_and_empty_partitions_come_back(
    log: eventlog.EventLog, tmp_path: Path
) -> None:
    topic = fill(log, partitions=3, segment_ms=1234)
    log.delete_records("t", 0, before=5)
    report = log.backup(tmp_path / "backups")
    with restored(report.path, tmp_path / "r") as copy:
        found = copy.topic("t")
        assert found.topic_id == topic.topic_id
        assert found.settings == topic.settings
        assert found.partition_count == 3
        assert found.log_start_offset(0) == 5
        assert [p.log_end_offset for p in found.partitions] == [
            p.log_end_offset for p in topic.partitions
        ]
        assert cases(copy) <= QUIET
        found.append(b"goes on")


def test_two_copies_of_a_store_give_out_different_producer_ids(
    log: eventlog.EventLog, tmp_path: Path
) -> None:
    first = log.new_producer_id()
    report = log.backup(tmp_path / "backups")
    with restored(report.path, tmp_path / "r") as copy:
        ids = {copy.new_producer_id() for _ in range(10)}
        assert ids.isdisjoint({first, *(log.new_producer_id() for _ in range(10))})


@pytest.mark.parametrize("way", ["reader", "killed"])
def test_without_a_writer_too(tmp_path: Path, way: str) -> None:
    path = tmp_path / "store"
    log = eventlog.open(path)
    topic = fill(log)
    expected = read_all(topic)
    if way == "killed":
        abandon(log)
    else:
        log.close()
    before = contents(path / "log")
    with eventlog.open(path, read_only=True) as reader:
        report = reader.backup(tmp_path / "backups")
    assert contents(path / "log") == before
    with restored(report.path, tmp_path / "r") as copy:
        assert read_all(copy.topic("t")) == expected
        assert cases(copy) <= QUIET


# -- sharing ----------------------------------------------------------------------------------------


def test_sealed_segments_are_shared_and_nothing_else(
    log: eventlog.EventLog, tmp_path: Path
) -> None:
    topic = fill(log)
    first = log.backup(tmp_path / "backups")
    for _ in range(40):
        topic.append(b"later" * 8, durability="os")
    second = log.backup(tmp_path / "backups")
    whole = log.backup(tmp_path / "backups", incremental=False)
    store, one, two, three = map(inodes, (log.path, first.path, second.path, whole.path))
    newest = max(one)
    assert all(one[name] == store[name] for name in one if name != newest)
    assert one[newest] != store[newest]
    assert all(two[name] == store[name] for name in two if name != max(two))
    assert set(three.values()).isdisjoint(store.values())
    assert 0 < first.shared_size_bytes < first.size_bytes
    assert whole.shared_size_bytes == 0
    before = contents(second.path)
    shutil.rmtree(first.path)  # any of them can go
    with eventlog.open(second.path) as opened:  # and is a store by itself, should one use it as one
        opened.topic("t").append(b"into the backup")
    assert read_all(topic)[-1][3] == b"later" * 8
    assert verify_backup(whole.path) == []
    assert contents(second.path)["log/t-0/" + Path(newest).name] != b"" != before["topics.json"]


def test_going_on_in_the_store_leaves_backups_alone(tmp_path: Path) -> None:
    path, tree = tmp_path / "store", tmp_path / "backups"
    for _ in range(3):
        with eventlog.open(path) as log:
            fill(log, 25)
            log.topic("t").partition(0).roll()
            log.backup(tree)
            fill(log, 25)
        log = eventlog.open(path)
        fill(log, 3)
        abandon(log)
    for made in backups_in(tree):
        assert verify_backup(made) == []


def without_links(store: Path) -> Callable[..., None]:
    """os.link as on another file system than the store's."""
    link = os.link

    def fake(source: Any, target: Any) -> None:
        if Path(source).is_relative_to(store):
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
        link(source, target)

    return fake


def test_on_another_file_system_backups_share_with_each_other(
    log: eventlog.EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = fill(log)
    monkeypatch.setattr(os, "link", without_links(log.path))
    first = log.backup(tmp_path / "backups")
    assert first.shared_size_bytes == 0
    topic.append(b"one more" * 50)
    second = log.backup(tmp_path / "backups")
    one, two = inodes(first.path), inodes(second.path)
    assert sum(one[name] == two[name] for name in one) == len(one) - 1
    assert second.shared_size_bytes > 0
    assert set(two.values()).isdisjoint(inodes(log.path).values())
    with restored(second.path, tmp_path / "r") as copy:
        assert read_all(copy.topic("t")) == read_all(topic)


# -- interrupted ------------------------------------------------------------------------------------


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> Iterator[Any]:
    """At the n-th thing that is done to files, counted over all kinds."""
    count = itertools.count()

    def counted(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if next(count) == at:
                act()
            return original(*arguments, **named)

        patch.setattr(module, name, call)

    with monkeypatch.context() as patch:
        counted(os, "link")
        counted(os, "fsync")
        counted(partition_files, "_copy_piece")
        counted(backup_module.checkpoints, "replace_file")
        counted(backup_module, "checksum")
        counted(backup_module, "sync_tree")
        counted(backup_module, "path_bytes")
        yield count


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def stopped() -> None:
    raise KeyboardInterrupt


@pytest.mark.guarantee("G-24")
def test_an_interrupted_backup_leaves_the_former_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At every link, copy, fsync and rename: an error, a Ctrl-C, or the end of the process."""
    with scratch() as place, eventlog.open(place / "store") as log:
        interrupt_everywhere(log, place, monkeypatch)


def interrupt_everywhere(
    log: eventlog.EventLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = directory / "backups"
    topic = fill(log, 15)
    unit = eventlog.TopicPartition("t", 0)
    log.groups.commit("g", {unit: eventlog.OffsetAndMetadata(7)})
    former = log.backup(tree).path
    expected = contents(former)
    topic.append(b"more" * 100)
    for at in itertools.count():
        act = (full, stopped)[at % 2]
        with interrupted(monkeypatch, at, act) as count:
            with suppress(StorageFullError, KeyboardInterrupt):
                log.backup(tree)
            has_happened = next(count) > at
        made = [path for path in backups_in(tree) if path != former]
        assert not list(tree.glob(f"*{PARTIAL_SUFFIX}"))
        assert contents(former) == expected
        if not has_happened:
            break
        for path in made:  # it could do without, or the fsync after the rename failed
            assert verify_backup(path) == []
            shutil.rmtree(path)
    assert at > 20
    assert len(made) == 1
    shutil.rmtree(made[0])

    def die() -> None:
        os._exit(0)

    for place in range(0, at, 5):

        def make(place: int = place) -> None:
            with interrupted(monkeypatch, place, die), eventlog.open(log.path) as child:
                child.backup(tree)

        in_child(make)
        assert backups_in(tree) == [former]
    report = log.backup(tree)
    assert not list(tree.glob(f"*{PARTIAL_SUFFIX}"))
    assert not list((log.path / "run").glob("held+*"))
    with restored(report.path, directory / "r") as copy:
        assert read_all(copy.topic("t")) == read_all(topic)


def test_one_backup_at_a_time(log: eventlog.EventLog, tmp_path: Path) -> None:
    tree = tmp_path / "backups"
    log.backup(tree)
    with Members(tree, "backup", "the backups").mutex(), pytest.raises(LockedError):
        log.backup(tree)
    assert len(backups_in(tree)) == 1


# -- damage -----------------------------------------------------------------------------------------


@pytest.mark.guarantee("G-14")
def test_a_damaged_backup_is_refused(log: eventlog.EventLog, tmp_path: Path) -> None:
    """Whatever byte of whatever file is changed, and whatever file is short or missing."""
    fill(log, 15)
    unit = eventlog.TopicPartition("t", 0)
    log.groups.commit("g", {unit: eventlog.OffsetAndMetadata(7)})
    made = log.backup(tmp_path / "backups", incremental=False).path
    target = tmp_path / "r"
    names = [name for name in contents(made) if (made / name).stat().st_size]
    for number, name in enumerate(names):
        path = made / name
        whole = path.read_bytes()
        if number % 3 == 0:
            flip(path, (number * 97) % len(whole), number % 8)
        elif number % 3 == 1:
            path.write_bytes(whole[:-1])
        else:
            path.unlink()
        if name == MANIFEST_FILE and not path.exists():
            path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CorruptionError) as caught:
            eventlog.restore(made, target)
        assert caught.value.path == str(path)
        assert not any(target.iterdir()) if target.exists() else True
        assert [problem.path for problem in verify_backup(made)] == [path]
        path.write_bytes(whole)
    assert verify_backup(made) == []
    (made / "log" / "t-0" / "00000000000000000099.log").write_bytes(b"")
    assert len(verify_backup(made)) == 1
    assert [p.kind for p in check_backup(made).problems].count("backup") == 1


@pytest.mark.guarantee("G-14")
def test_damage_in_the_store_is_not_backed_up(log: eventlog.EventLog, tmp_path: Path) -> None:
    fill(log)
    tree = tmp_path / "backups"
    log.backup(tree, incremental=False)
    path = segments(log.path)[1]
    flip(path, 100)
    with pytest.raises(CorruptionError) as caught:
        log.backup(tree, incremental=False)
    assert (caught.value.path, caught.value.case) == (str(path), "C-D")
    assert caught.value.offset == int(path.stem)
    newest = segments(log.path)[-1]
    flip(path, 100)
    flip(newest, 100)
    with pytest.raises(CorruptionError) as caught:
        log.backup(tree)
    assert caught.value.path == str(newest)
    flip(newest, 100)
    segments(log.path)[0].unlink()
    with pytest.raises(CorruptionError, match="C-J"):
        log.backup(tree)
    assert [verify_backup(made) for made in backups_in(tree)] == [[]]
    segments(log.path)[-1].unlink()  # closing it goes on in a file that has no name any more


def test_what_is_no_place_for_a_backup(log: eventlog.EventLog, tmp_path: Path) -> None:
    fill(log)
    for place in (log.path, log.path / "backups"):
        with pytest.raises(StorageError, match="inside the store"):
            log.backup(place)
    eventlog.open(tmp_path / "other").close()
    with pytest.raises(StorageError, match="is a store"):
        log.backup(tmp_path / "other")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        log.backup(tmp_path / "file" / "backups")


def test_restoring_never_writes_over_anything(log: eventlog.EventLog, tmp_path: Path) -> None:
    topic = fill(log)
    log.backup(tmp_path / "backups")
    newest = log.backup(tmp_path / "backups").path
    with pytest.raises(StorageError, match="not empty"):
        eventlog.restore(newest, log.path)
    with pytest.raises(NotAStoreError):
        eventlog.restore(tmp_path, tmp_path / "r")
    with pytest.raises(NotAStoreError):
        eventlog.restore(tmp_path / "nowhere", tmp_path / "r")
    report = eventlog.restore(tmp_path / "backups", tmp_path / "a" / "b")
    assert report.backup == newest
    assert report.ends == {"t-0": 60}
    with eventlog.open(report.path) as copy:
        assert read_all(copy.topic("t")) == read_all(topic)
    assert set(inodes(report.path).values()).isdisjoint(inodes(log.path).values())


def test_an_interrupted_restore_is_no_store(
    log: eventlog.EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, 15)
    made = log.backup(tmp_path / "backups").path
    total = len(read_manifest(made).files)
    for at in range(total):
        target = tmp_path / f"r{at}"

        def die(place: int = at, target: Path = target) -> None:
            count = itertools.count()
            copy = backup_module.copy_file

            def copy_or_die(source: Path, to: Path) -> None:
                if next(count) == place:
                    os._exit(0)
                copy(source, to)

            backup_module.copy_file = copy_or_die  # type: ignore[assignment]
            eventlog.restore(made, target)

        in_child(die)
        if any(target.iterdir()):
            with pytest.raises(NotAStoreError):
                eventlog.open(target)


def test_a_manifest_of_a_newer_version_or_of_elsewhere(
    log: eventlog.EventLog, tmp_path: Path
) -> None:
    fill(log, 5)
    made = log.backup(tmp_path / "backups").path
    path = made / MANIFEST_FILE
    whole = json.loads(path.read_bytes())

    def rewrite(change: Callable[[dict[str, Any]], None]) -> None:
        changed = json.loads(json.dumps(whole["manifest"]))
        change(changed)
        data = json.dumps(changed).encode()
        crc = backup_module.lib.el_crc32c_of(data, len(data))
        path.write_bytes(b'{"crc32c":%d,"manifest":%s}' % (crc, data))

    rewrite(lambda manifest: manifest.update(version=2))
    with pytest.raises(FormatVersionError):
        eventlog.restore(made, tmp_path / "r")
    for name in ("../outside", "/etc/passwd", "a/../../b"):
        rewrite(
            lambda manifest, name=name: manifest["files"].update(
                {name: manifest["files"]["topics.json"]}
            )
        )
        with pytest.raises(CorruptionError):
            eventlog.restore(made, tmp_path / "r")
    assert not (tmp_path / "r").exists()
