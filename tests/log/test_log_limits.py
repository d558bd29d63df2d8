"""A machine at its limits: no descriptors, no room, no permission. Each is a typed error, nothing that was
acknowledged is lost, and the store works again once the cause is gone."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import resource
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from log_support import abandon, contents, in_child, values

import eventlog
from eventlog.errors import (
    NotAStoreError,
    StorageError,
    StorageFullError,
    StorageReadOnlyError,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
NOBODY = 65534
MIB = 1 << 20


@contextlib.contextmanager
def limit(kind: int, soft: int) -> Iterator[None]:
    """For the child that runs it (the parent's limits stay)."""
    former = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, former)


@contextlib.contextmanager
def descriptors(room: int) -> Iterator[None]:
    """Leave so many free."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    with limit(resource.RLIMIT_NOFILE, highest + 70):
        taken = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            for _ in range(room):
                os.close(taken.pop())
            yield
        finally:
            for descriptor in taken:
                os.close(descriptor)


@pytest.mark.guarantee("G-21")
class TestOutOfDescriptors:
    def run(self, tmp_path: Path, room: int) -> None:
        with eventlog.open(tmp_path, durability="os") as log:
            topic = log.topic("t", segment_size_bytes_max=1024)
            acknowledged = [b"%d" % n for n in range(5)]
            topic.append_many(acknowledged)
            refused: list[StorageError] = []
            with descriptors(room):
                for n in range(60):
                    value = b"%d" % n * 60
                    try:
                        topic.append(value)
                        acknowledged.append(value)
                    except StorageError as error:
                        refused.append(error)
                with contextlib.suppress(StorageError):
                    assert values(topic) == acknowledged
                with pytest.raises(StorageError):
                    consume(log.topic(f"new-{n}") for n in range(20))
            assert refused or room > 3  # three files and their directory
            assert {error.errno for error in refused} <= {errno.EMFILE}
            assert all("ulimit -n" in str(error) for error in refused)
            assert values(topic) == acknowledged
            topic.append(b"after")
            log.topic("new").append(b"x")
        with eventlog.open(tmp_path) as log:
            assert values(log.topic("t")) == [*acknowledged, b"after"]
            assert values(log.topic("new")) == [b"x"]

    @pytest.mark.parametrize("room", range(9))
    def test_while_it_is_open(self, tmp_path: Path, room: int) -> None:
        in_child(self.run, tmp_path, room)

    def test_while_opening(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t", partitions=3, segment_size_bytes_max=1024)
            for n in range(10):
                topic.append(b"%d" % n * 100, partition=n % 3)

        def run() -> None:
            refused: list[StorageError] = []
            opened = 0
            for room in range(40):
                with descriptors(room):
                    try:
                        log = eventlog.open(tmp_path)
                    except StorageError as error:
                        refused.append(error)
                        continue
                opened += 1
                assert [len(values(log.topic("t"), n)) for n in range(3)] == [4, 3, 3]
                log.close()
            assert opened
            assert {error.errno for error in refused} == {errno.EMFILE}

        in_child(run)


@pytest.mark.guarantee("G-12")
@pytest.mark.guarantee("G-13")
class TestNoRoom:
    @pytest.mark.parametrize("durability", ["sync", "os"])
    @pytest.mark.parametrize("preallocation", [0, 64 << 10, MIB])
    def test_a_file_size_limit(self, tmp_path: Path, durability: str, preallocation: int) -> None:
        """RLIMIT_FSIZE: EFBIG from fallocate and from the middle of a write. (SIGXFSZ is ignored by
        Python.)"""

        def run() -> None:
            with eventlog.open(tmp_path, durability=durability) as log:
                topic = log.topic("t", preallocation_bytes_max=preallocation)
                acknowledged: list[bytes | None] = []
                with limit(resource.RLIMIT_FSIZE, 100_000):
                    with pytest.raises(StorageFullError, match=r"Make room.*nothing") as caught:
                        append_for_ever(topic, 500, acknowledged)
                    assert caught.value.errno == errno.EFBIG
                    assert str(tmp_path) in caught.value.path
                    assert 20 < len(acknowledged) < 200
                    assert values(topic) == acknowledged
                    assert topic.log_end_offset() == len(acknowledged)
                    topic.append(b"small ones still fit")
                for _ in range(50):
                    topic.append(b"after" * 500)
                expected = [*acknowledged, b"small ones still fit", *[b"after" * 500] * 50]
                assert values(topic) == expected
                abandon(log)
            with eventlog.open(tmp_path) as log:
                assert values(log.topic("t")) == expected

        in_child(run)

    def test_a_full_disk(self, small_disk: Path) -> None:
        """A file system of 4 MiB, filled by the log itself, by others, and emptied again."""
        store, ballast = small_disk / "store", small_disk / "ballast"
        log = eventlog.open(store)
        topic = log.topic("t", segment_size_bytes_max=256 << 10)
        acknowledged: list[bytes | None] = []
        ballast.write_bytes(bytes(MIB))
        with pytest.raises(StorageFullError) as caught:
            append_for_ever(topic, 800, acknowledged)
        assert caught.value.errno == errno.ENOSPC
        assert values(topic) == acknowledged
        fill(ballast)
        for _ in range(3):
            with pytest.raises(StorageFullError):
                topic.append(bytes(300 << 10 >> 2))
            with pytest.raises(StorageFullError):
                log.topic("another")
        assert values(topic) == acknowledged
        with eventlog.open(store, read_only=True) as reader:
            assert values(reader.topic("t")) == acknowledged
        abandon(log)
        log = open_if_it_can(store)
        if log is not None:
            assert values(log.topic("t")) == acknowledged
            abandon(log)
        ballast.unlink()
        with eventlog.open(store) as log:
            topic = log.topic("t")
            assert values(topic) == acknowledged
            topic.append(b"after")
            log.topic("another").append(b"x")
        with eventlog.open(store) as log:
            assert values(log.topic("t")) == [*acknowledged, b"after"]

    def test_making_room_is_enough(self, small_disk: Path) -> None:
        with eventlog.open(small_disk / "store", durability="os") as log:
            topic = log.topic("t")
            acknowledged: list[bytes | None] = [b"before"]
            topic.append(b"before")
            fill(small_disk / "ballast")
            with pytest.raises(StorageFullError):
                append_for_ever(topic, 60_000, acknowledged)  # first what was reserved beforehand
            (small_disk / "ballast").unlink()
            assert topic.append(b"after").offset == len(acknowledged)
            assert values(topic) == [*acknowledged, b"after"]

    def test_a_new_store_on_a_full_disk(self, small_disk: Path) -> None:
        fill(small_disk / "ballast")
        with pytest.raises(StorageFullError):
            eventlog.open(small_disk / "store").topic("t")
        (small_disk / "ballast").unlink()
        with eventlog.open(small_disk / "store") as log:
            log.topic("t").append(b"x")


def append_for_ever(topic: Any, size: int, acknowledged: list[bytes | None]) -> None:
    for n in itertools.count():
        value = b"%d" % n * size
        topic.append(value)
        acknowledged.append(value)


def consume(steps: Iterable[object]) -> None:
    for _ in steps:
        pass


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 9, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)


def open_if_it_can(store: Path) -> Any:
    """Opening a full disk may be refused (it writes its checkpoints), but only as what it is."""
    try:
        return eventlog.open(store)
    except StorageFullError:
        return None


def mounted(directory: Path, *arguments: str) -> bool:
    """Mount and tell whether it worked."""
    if os.getuid() != 0 or shutil.which("mount") is None:
        return False
    return (
        subprocess.run(
            ["mount", *arguments, str(directory)], capture_output=True, check=False
        ).returncode
        == 0
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    if not mounted(directory, "-t", "tmpfs", "-o", "size=4m", "none"):
        pytest.skip("no permission to mount a small file system")  # RLIMIT_FSIZE is tested always
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Where another user may look: pytest's own directories are for their owner only."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def as_nobody(function: Callable[[], object]) -> None:
    """Run in a child without root's rights (as root no permission is ever refused)."""

    def run() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        function()

    in_child(run)


def refuse(action: Callable[[], object]) -> StorageReadOnlyError:
    with pytest.raises(StorageReadOnlyError, match="read_only=True") as caught:
        action()
    return caught.value


@pytest.mark.guarantee("G-22")
class TestNoPermission:
    def check(self, store: Path) -> None:
        error = refuse(lambda: eventlog.open(store))
        assert error.errno in (errno.EACCES, errno.EROFS)
        assert str(store) in error.path
        with eventlog.open(store, read_only=True) as reader:
            topic = reader.topic("t")
            assert values(topic) == [b"0", b"1"]
            assert topic.offset_for_time(0) == 0
            assert list(topic.tail(start=2, timeout_s=0.02)) == []
            for action in (
                lambda: topic.append(b"x"),
                lambda: topic.append_many([b"x"]),
                topic.sync,
                lambda: reader.topic("t", segment_ms=5),
            ):
                refuse(action)

    @pytest.fixture
    def store(self, open_directory: Path) -> Path:
        with eventlog.open(open_directory / "store") as log:
            log.topic("t").append_many([b"0", b"1"])
        return open_directory / "store"

    def test_a_reader_without_rights_reads(self, store: Path) -> None:
        before = contents(store)
        as_nobody(lambda: self.check(store))
        assert contents(store) == before

    def test_also_after_a_reboot(self, store: Path) -> None:
        shutil.rmtree(store / "run")
        as_nobody(lambda: self.check(store))

    def test_also_beside_a_writer(self, store: Path) -> None:
        with eventlog.open(store):
            as_nobody(lambda: self.check(store))

    def test_it_follows_a_writer_whose_page_it_may_not_touch(self, store: Path) -> None:
        ready, go = os.pipe()
        with eventlog.open(store) as log:

            def follow() -> None:
                with eventlog.open(store, read_only=True) as reader:
                    tail = reader.topic("t").tail(start=0)
                    assert [next(tail).value, next(tail).value] == [b"0", b"1"]
                    os.write(go, b"r")
                    assert next(tail).value == b"2"

            follower = threading.Thread(target=lambda: as_nobody(follow))
            follower.start()
            os.read(ready, 1)
            log.topic("t").append(b"2")
            follower.join()

    def test_a_directory_where_nothing_can_be_made(self, open_directory: Path) -> None:
        as_nobody(lambda: refuse(lambda: eventlog.open(open_directory / "store")))
        as_nobody(lambda: refuse(lambda: eventlog.open(open_directory)))

    def test_a_directory_that_may_not_be_looked_into(self, open_directory: Path) -> None:
        (open_directory / "closed").mkdir(mode=0o700)
        as_nobody(lambda: refuse(lambda: eventlog.open(open_directory / "closed" / "store")))

    def test_a_read_only_file_system(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        if not mounted(disk, "-t", "tmpfs", "none"):
            pytest.skip("no permission to mount a file system")  # permissions are tested always
        try:
            log = eventlog.open(disk / "store")
            log.topic("t").append_many([b"0", b"1"])
            log.close()
            del log
            gc.collect()  # a mapping for writing keeps the file system from turning read-only
            assert mounted(disk, "-o", "remount,ro")
            self.check(disk / "store")
            with pytest.raises(StorageReadOnlyError):
                eventlog.open(disk / "other")
            with pytest.raises(NotAStoreError):
                eventlog.open(disk / "other", read_only=True)
            assert mounted(disk, "-o", "remount,rw")
            with eventlog.open(disk / "store") as log:
                assert log.topic("t").append(b"2").offset == 2
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
