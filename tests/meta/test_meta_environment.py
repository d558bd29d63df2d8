"""The metadata environment: made whole or not at all, opened once, moved aside when damaged."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest

from eventlog.errors import (
    ClosedError,
    CorruptionError,
    ForkedError,
    StorageError,
    StorageFullError,
    StorageReadOnlyError,
)
from eventlog.meta import BytesTable, Environment, StructTable, files, seal

ROWS = BytesTable("rows")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meta"


@pytest.fixture
def environment(path: Path) -> Iterator[Environment]:
    with Environment.open(path) as environment:
        yield environment


def put(environment: Environment, key: bytes, value: bytes) -> None:
    with environment.write() as transaction:
        ROWS.put(transaction, key, value)


def get(environment: Environment, key: bytes) -> bytes | None:
    with environment.read(ROWS.name) as transaction:
        return ROWS.get(transaction, key)


def test_rows_come_back_also_after_reopening(path: Path) -> None:
    with Environment.open(path) as environment:
        assert get(environment, b"k") is None
        put(environment, b"k", b"v")
        put(environment, b"e", b"")
        assert (get(environment, b"k"), get(environment, b"e")) == (b"v", b"")
    with Environment.open(path) as environment:
        assert (get(environment, b"k"), get(environment, b"none")) == (b"v", None)
        assert environment.is_proven
        assert environment.moved_aside == ()


def test_ranges(environment: Environment) -> None:
    keys = [b"a", b"ab", b"ab\0", b"ab\xff", b"ab\xff\xff", b"b", b"\xff", b"\xff\xff"]
    with environment.write() as transaction:
        for key in keys:
            ROWS.put(transaction, key, b"-" + key)
        assert ROWS.count(transaction) == len(keys)
    with environment.read(ROWS.name) as transaction:
        for prefix in [b"", b"a", b"ab", b"ab\xff", b"b", b"c", b"\xff", b"\xff\xff\xff"]:
            within = [key for key in keys if key.startswith(prefix)]
            assert [key for key, _ in ROWS.items(transaction, prefix=prefix)] == within
            down = [key for key, _ in ROWS.items(transaction, prefix=prefix, backwards=True)]
            assert down == within[::-1]
            for start in (b"ab", b"ab\0\0", b"b", b"\xff\xff\xff"):
                up = [k for k, _ in ROWS.items(transaction, prefix=prefix, start=start)]
                assert up == [key for key in within if key >= start]
                if start.startswith(prefix):
                    down = [
                        k
                        for k, _ in ROWS.items(
                            transaction, prefix=prefix, start=start, backwards=True
                        )
                    ]
                    assert down == [key for key in within if key < start][::-1]
        assert list(ROWS.keys(transaction, prefix=b"b")) == [b"b"]
        assert dict(ROWS.items(transaction, prefix=b"b")) == {b"b": b"-b"}


def test_a_transaction_is_all_or_nothing(environment: Environment) -> None:
    put(environment, b"k", b"old")

    def broken_off() -> None:
        with environment.write() as transaction:
            ROWS.put(transaction, b"k", b"new")
            assert ROWS.delete(transaction, b"k")
            BytesTable("other").put(transaction, b"x", b"y")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert get(environment, b"k") == b"old"
    with environment.read("other") as transaction:
        assert BytesTable("other").get(transaction, b"x") is None
        assert BytesTable("other").count(transaction) == 0
    with environment.write() as transaction:
        ROWS.clear(transaction)
        assert not ROWS.delete(transaction, b"k")
    assert get(environment, b"k") is None


def test_a_reader_sees_one_moment(environment: Environment) -> None:
    put(environment, b"k", b"1")
    with environment.read(ROWS.name) as transaction:
        first = transaction.id
        writer = threading.Thread(target=put, args=(environment, b"k", b"2"))
        writer.start()
        writer.join()
        assert ROWS.get(transaction, b"k") == b"1"
        assert transaction.id == first
    with environment.read(ROWS.name) as transaction:
        assert transaction.id > first
        assert ROWS.get(transaction, b"k") == b"2"


def test_rules_of_transactions(environment: Environment) -> None:
    with environment.write() as transaction:
        ROWS.put(transaction, b"k", b"v")
        with pytest.raises(StorageError, match="open already"), environment.write():
            pass
        with pytest.raises(StorageError, match="BAD_VALSIZE"):
            ROWS.put(transaction, b"k" * 512, b"v")
    with environment.read() as transaction, pytest.raises(ValueError, match="not begun for"):
        ROWS.get(transaction, b"k")


def test_structs(environment: Environment) -> None:
    class Point(msgspec.Struct):
        x: int
        label: str = ""

    points, other = StructTable("points", Point), StructTable("points", dict[str, str])
    with environment.write() as transaction:
        points.put(transaction, b"p", Point(5, "five"))
    with environment.read("points") as transaction:
        assert points.get(transaction, b"p") == Point(5, "five")
        with pytest.raises(CorruptionError) as caught:
            other.get(transaction, b"p")
    assert caught.value.case == "C-H"


@pytest.mark.guarantee("G-14")
def test_every_changed_byte_of_a_row_is_noticed(environment: Environment) -> None:
    put(environment, b"k", b"value")
    with environment.read(ROWS.name) as transaction:
        stored = transaction.get(ROWS.name, b"k")
    assert stored is not None
    for i in range(len(stored)):
        changed = stored[:i] + bytes([stored[i] ^ 4]) + stored[i + 1 :]
        for key, data in ((b"k", changed), (b"j", stored), (b"k", stored[:i])):
            with pytest.raises(CorruptionError):
                ROWS.decode(key, data)


@pytest.mark.guarantee("G-18")
def test_a_path_is_open_once_in_a_process(path: Path) -> None:
    first, second = Environment.open(path), Environment.open(path.parent / "." / "meta")
    reader = Environment.open(path, read_only=True)
    put(first, b"k", b"v")
    assert get(second, b"k") == get(reader, b"k") == b"v"
    first.close()
    first.close()
    with pytest.raises(ClosedError):
        first.read()
    put(second, b"k", b"w")
    second.close()
    assert get(reader, b"k") == b"w"
    with Environment.open(path) as again:  # a writer joins the reader's files
        put(again, b"k", b"x")
        assert get(reader, b"k") == b"x"
    reader.close()


@pytest.mark.guarantee("G-22")
def test_a_reader_changes_nothing(path: Path) -> None:
    with Environment.open(path, read_only=True) as none:
        assert none.is_temporary
        put(none, b"k", b"private")
        assert get(none, b"k") == b"private"
        assert none.path.exists()
    assert not none.path.exists()
    assert list(path.parent.iterdir()) == []
    with Environment.open(path) as environment:
        put(environment, b"k", b"v")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with Environment.open(path, read_only=True) as reader:
        assert get(reader, b"k") == b"v"
        with pytest.raises(StorageReadOnlyError):
            reader.write()
    after = {file.name: file.read_bytes() for file in path.iterdir()}
    assert {**before, "lock.mdb": b""} == {**after, "lock.mdb": b""}


@pytest.mark.guarantee("G-10")
def test_it_is_made_aside_and_its_lock_file_has_blocks(path: Path, monkeypatch: Any) -> None:
    (path.parent / "meta.tmp-123").mkdir()
    (path.parent / "meta.tmp-123" / "data.mdb").write_bytes(b"left by a kill")
    (path.parent / "meta.tmp-notes").mkdir()
    steps: list[str] = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("sync"), sync(fd))[1])
    monkeypatch.setattr(
        Path, "rename", lambda a, b: (steps.append(f"{a.name}>{Path(b).name}"), rename(a, b))[1]
    )
    with Environment.open(path):
        assert (path / "lock.mdb").stat().st_blocks * 512 >= 8192
    made = steps.index(f"meta.tmp-{os.getpid()}>meta")
    assert steps[:made] == ["sync"] * 3  # data, lock file, directory
    assert steps[made + 1] == "sync"  # the parent
    assert sorted(p.name for p in path.parent.iterdir()) == ["meta", "meta.tmp-notes", "run"]


@pytest.mark.guarantee("G-10")
@pytest.mark.parametrize("step", range(6))
def test_a_crash_while_it_is_made(path: Path, step: int, monkeypatch: Any) -> None:
    """Whatever is there when making it breaks off, the next opening works."""
    calls = iter(range(100))
    sync, rename = os.fsync, Path.rename

    def or_fail(what: Any) -> Any:
        def call(*args: Any) -> Any:
            if next(calls) == step:
                raise OSError(errno.EIO, "broken off")
            return what(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", or_fail(sync))
        patch.setattr(Path, "rename", or_fail(rename))
        patch.setattr("shutil.rmtree", lambda *a, **k: None)  # a kill cleans up nothing
        if step < 5:
            with pytest.raises(StorageError):
                Environment.open(path)
    with Environment.open(path) as environment:
        put(environment, b"k", b"v")
        assert get(environment, b"k") == b"v"
        assert environment.moved_aside == ()


@pytest.mark.guarantee("G-16")
@pytest.mark.parametrize("is_sealed", [True, False])
@pytest.mark.parametrize("cut", [0, 1, 4096, 4097, 8192, 12288, -4096, -1])
def test_a_short_file_is_moved_aside(path: Path, cut: int, is_sealed: bool) -> None:
    with Environment.open(path) as environment:
        for number in range(50):
            put(environment, b"%d" % number, bytes(500))
    if not is_sealed:
        seal.remove(path)
    data = path / "data.mdb"
    os.truncate(data, cut if cut >= 0 else data.stat().st_size + cut)
    with Environment.open(path, read_only=True) as reader:
        assert get(reader, b"7") is None
    for number in (1, 2):
        with Environment.open(path) as environment:
            assert get(environment, b"7") is None or number == 2
            put(environment, b"7", b"v")
            assert len(environment.moved_aside) == 2 - number
    assert [p.name for p in path.parent.iterdir() if "broken" in p.name] == ["meta.broken-1"]


def test_the_seal_is_there_only_while_nobody_writes(path: Path) -> None:
    with Environment.open(path) as environment:
        put(environment, b"k", b"v")
        assert not (path / "sealed").exists()
    assert (path / "sealed").exists()
    (path / "sealed").write_bytes(b"a damaged seal says nothing")
    with Environment.open(path) as environment:
        assert not environment.is_proven
        assert get(environment, b"k") == b"v"
        assert environment.moved_aside == ()
    with Environment.open(path) as environment:
        assert environment.is_proven


@pytest.mark.guarantee("G-16")
def test_damage_met_in_use(path: Path) -> None:
    with Environment.open(path) as environment, Environment.open(path) as other:
        put(environment, b"k", b"v")
        generation = environment.generation
        with environment.read(ROWS.name) as transaction:
            environment.replace(generation)
            assert ROWS.get(transaction, b"k") == b"v"  # it ends on what it began with
        environment.replace(generation)  # somebody else met it too: once is enough
        assert other.generation == environment.generation == generation + 1
        assert get(other, b"k") is None
        put(other, b"k", b"w")
        assert get(environment, b"k") == b"w"
        assert [p.name for p in environment.moved_aside] == ["meta.broken-1"]
    with Environment.open(path, read_only=True) as reader:
        reader.replace(reader.generation)
        assert reader.is_temporary
        assert get(reader, b"k") is None
    with Environment.open(path) as environment:
        assert get(environment, b"k") == b"w"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lmdb.MapFullError("x"), StorageFullError),
        (lmdb.DiskError("x"), StorageFullError),
        (OSError(errno.EDQUOT, "x"), StorageFullError),
        (lmdb.ReadonlyError("x"), StorageReadOnlyError),
        (OSError(errno.EROFS, "x"), StorageReadOnlyError),
        (lmdb.CorruptedError("x"), CorruptionError),
        (lmdb.PageNotFoundError("x"), CorruptionError),
        (lmdb.PanicError("x"), StorageError),
        (OSError(errno.EIO, "x"), StorageError),
    ],
)
def test_errors_are_typed(error: Any, kind: type[Exception]) -> None:
    translated = files.translated(error, Path("/somewhere/meta"))
    assert type(translated) is kind
    assert "/somewhere/meta" in str(translated)
    assert translated.hint


@pytest.mark.guarantee("G-13")
def test_a_full_map_is_an_error_and_nothing_is_lost(path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(files, "MAP_SIZES_BYTES", (1 << 18,))
    with Environment.open(path) as environment:
        put(environment, b"k", b"v")

        def put_many() -> None:
            with environment.write() as transaction:
                for number in range(1000):
                    ROWS.put(transaction, b"%d" % number, bytes(1000))

        with pytest.raises(StorageFullError):
            put_many()
        assert get(environment, b"k") == b"v"
        put(environment, b"k", b"w")
        assert get(environment, b"k") == b"w"


def test_less_address_space_will_do(path: Path) -> None:
    program = """
        import resource, sys
        import eventlog.meta
        resource.setrlimit(resource.RLIMIT_AS, (40 << 30, 40 << 30))
        with eventlog.meta.Environment.open(sys.argv[1]) as environment:
            with environment.write() as transaction:
                transaction.put("rows", b"k", b"v")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), path], check=True, timeout=60)
    with Environment.open(path, read_only=True) as environment, environment.read("rows") as rows:
        assert rows.get("rows", b"k") == b"v"


@pytest.mark.guarantee("G-19")
def test_fork(path: Path) -> None:
    with Environment.open(path) as environment:
        put(environment, b"k", b"v")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                environment.read()
            except ForkedError:
                environment.close()
                with Environment.open(path, read_only=True) as own:
                    code = 0 if get(own, b"k") == b"v" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        put(environment, b"k", b"w")
        assert get(environment, b"k") == b"w"


@pytest.mark.guarantee("G-19")
def test_fork_in_the_middle_of_a_transaction(path: Path) -> None:
    """The child's end must not end the parent's transactions, which live in the shared lock file."""
    with Environment.open(path) as environment:
        put(environment, b"k", b"1")
        with environment.read(ROWS.name) as reading, environment.write() as writing:
            ROWS.put(writing, b"k", b"2")
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            assert ROWS.get(reading, b"k") == b"1"
            ROWS.put(writing, b"j", b"3")
        assert (get(environment, b"k"), get(environment, b"j")) == (b"2", b"3")


@pytest.mark.guarantee("G-13")
def test_a_disk_that_takes_no_more(path: Path) -> None:
    """The system refuses to let the file grow, as on a full disk: a typed error, no signal.

    (A write that was cut short LMDB calls EIO: the hint says to look at the disk.)
    """
    program = """
        import resource, sys
        from eventlog.errors import StorageError
        from eventlog.meta import Environment
        with Environment.open(sys.argv[1]) as environment:
            def put(key, value):
                with environment.write() as transaction:
                    transaction.put("rows", key, value)
            put(b"k", b"v")
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
            for size in (1 << 20, 1 << 17):
                try:
                    put(b"large", bytes(size))
                except StorageError as error:
                    print("room on the disk" in error.hint)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            put(b"large", bytes(1 << 20))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True\n" * 2), done.stderr
    with Environment.open(path) as environment, environment.read("rows") as rows:
        assert rows.get("rows", b"k") == b"v"
        assert rows.get("rows", b"large") == bytes(1 << 20)
