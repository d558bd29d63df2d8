"""The stream index where it lies on disk: checkpoints, and all that may befall them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from sourcing_support import Opened, kept_in_memory, raw

import eventlog
from eventlog.errors import StorageFullError
from eventlog.meta import Environment, seal
from eventlog.sourcing import Event, EventStore, StreamAppend
from eventlog.sourcing.index_table import Checkpoint, IndexTable, _checkpoints
from eventlog.sourcing.stream_index import STREAM_COST

ONE = Event(b"x", type="t")


def fill(store: EventStore, streams: int = 7, rounds: int = 5) -> dict[str, list[bytes]]:
    """Interleaved streams; returns what each holds."""
    content: dict[str, list[bytes]] = {f"s{i}": [] for i in range(streams)}
    for number in range(rounds):
        for name, values in content.items():
            data = b"%s-%d" % (name.encode(), number)
            store.append(name, Event(data, type="t"))
            values.append(data)
    return content


def read(store: EventStore) -> dict[str, list[bytes]]:
    return {name: [e.raw_data for e in store.read_stream(name)] for name in store.streams()}


def index_of(store: EventStore) -> Any:
    return store._partitions[0].index


def test_opening_folds_only_what_is_behind_the_checkpoint(directory: Path) -> None:
    with Opened(directory / "store", run_count_max=10_000) as opened:
        content = fill(opened.store)
    with Opened(directory / "store", run_count_max=10_000) as opened:
        index = index_of(opened.store)
        assert index._base_offset == index._folded_offset == 35
        assert read(opened.store) == content
        assert kept_in_memory(opened.store) == 0
        assert index.discarded == ""


def test_memory_is_bounded_while_appending_reading_and_opening(directory: Path) -> None:
    """Counted entries, not bytes: whatever the number of streams, the tail keeps to its limit."""
    limit = 40
    most = 0
    with Opened(directory / "store", run_count_max=limit) as opened:
        for i in range(300):
            opened.store.append(f"s{i % 150}", ONE)
            if i % 37 == 0:
                list(opened.store.read_stream(f"s{i % 5}"))
            most = max(most, kept_in_memory(opened.store))
        assert most <= limit + STREAM_COST
        opened.abandon()
    shutil.rmtree(directory / "store" / "meta")
    with Opened(directory / "store", run_count_max=limit) as opened:
        assert opened.store.stream_version("s7") == 2
        # A chunk of the log is folded whole before the limit is looked at.
        assert kept_in_memory(opened.store) <= limit + 4096
        assert len(opened.store._encoder._opaque_starts) <= 1
        assert opened.store.verify() == []


def test_long_streams_go_to_chunks(directory: Path) -> None:
    """Postings of two streams that alternate: thousands of runs, several chunk rows, read in parts."""
    with Opened(directory / "store", run_count_max=2500) as opened:
        store = opened.store
        for _ in range(60):
            store.append_many([StreamAppend(name, ONE) for name in ("a", "b") * 100])
        store.checkpoint()
        with opened.environment.read(f"stream index {index_of(store)._name}") as transaction:
            keys = [key for key, _ in transaction.items(f"stream index {index_of(store)._name}")]
        assert len([key for key in keys if key.startswith(b"a\0")]) > 6
        whole = list(range(1, 6001))
        for name, offset in (("a", 0), ("b", 1)):
            assert [e.offset for e in store.read_stream(name)] == list(range(offset, 12000, 2))
            assert [e.version for e in store.read_stream(name, backwards=True)] == whole[::-1]
            for start, end in ((1, 2), (999, 1003), (2500, 4700), (5990, 7000)):
                part = [v for v in whole if start <= v < end]
                assert [e.version for e in store.read_stream(name, start=start, end=end)] == part
                back = store.read_stream(name, start=start, end=end, backwards=True, limit=5)
                assert [e.version for e in back] == part[::-1][:5]
        assert list(store.streams()) == ["a", "b"]
        assert store.verify() == []


def test_many_streams_are_listed_in_pages(directory: Path) -> None:
    names = sorted(f"s{i}" for i in range(2500))
    with Opened(directory / "store", run_count_max=3000) as opened:
        for at in range(0, 2500, 500):
            opened.store.append_many([StreamAppend(name, ONE) for name in names[at : at + 500]])
        opened.store.append("s1", ONE)
        assert list(opened.store.streams()) == names
        opened.store.checkpoint()
        assert list(opened.store.streams()) == names
        assert list(opened.store.streams("s24")) == [n for n in names if n.startswith("s24")]
        listing = opened.store.streams()
        first = next(listing)
        opened.store.append_many([StreamAppend(f"t{i}", ONE) for i in range(10)])
        opened.store.checkpoint()
        rest = [name for name in listing if name.startswith("s")]
        assert [first, *rest] == names


@pytest.mark.guarantee("G-16")
@pytest.mark.parametrize("is_writer", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        "ahead",
        "format",
        "byte order",
        "row",
        "checkpoint row",
        "file",
        "short file",
        "no data",
        "empty",
        "zeros",
        "not lmdb",
        "a file",
        "gone",
    ],
)
def test_an_index_that_is_of_no_use(
    directory: Path, damage: str, is_writer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with Opened(directory / "store", run_count_max=1000) as opened:
        content = fill(opened.store)
        name = index_of(opened.store)._name
    meta = directory / "store" / "meta"
    spoil(meta, damage, name)
    before = sorted(path.name for path in (directory / "store").iterdir())
    with (
        caplog.at_level(logging.WARNING),
        Opened(directory / "store", run_count_max=1000, read_only=not is_writer) as opened,
    ):
        assert read(opened.store) == content
        assert opened.store.stream_version("s3") == 5
        assert opened.store.verify() == []
        if damage in ("ahead", "format", "byte order", "row", "checkpoint row"):
            assert opened.store.discarded_indexes
            assert "C-H" in caplog.text
        elif is_writer and damage not in ("gone",):
            (aside,) = opened.environment.moved_aside
            assert aside.name == "meta.broken-1"
            assert aside.exists()
        if is_writer:
            opened.store.append("s3", ONE, expected_version=5)
    if not is_writer:
        assert sorted(path.name for path in (directory / "store").iterdir()) == before
        return
    with Opened(directory / "store", run_count_max=1000) as opened:
        assert opened.store.stream_version("s3") == 6
        assert opened.environment.moved_aside == ()
        assert opened.store.discarded_indexes == ()


def spoil(meta: Path, damage: str, name: str) -> None:
    data = meta / "data.mdb"
    if damage == "file":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "short file":
        os.truncate(data, data.stat().st_size - 4096)
    elif damage == "no data":
        data.unlink()
    elif damage == "empty":
        seal.remove(meta)
        os.truncate(data, 0)
    elif damage == "zeros":
        seal.remove(meta)
        data.write_bytes(bytes(data.stat().st_size))
    elif damage == "not lmdb":
        seal.remove(meta)
        data.write_bytes(b"something else" * 1000)
    elif damage in ("a file", "gone"):
        shutil.rmtree(meta)
        if damage == "a file":
            meta.write_bytes(b"not a directory")
    else:
        with Environment.open(meta) as environment:
            table, key = f"stream index {name}", name.encode()
            with environment.write() as transaction:
                if damage == "row":
                    value = transaction.get(table, b"s3\0")
                    assert value is not None
                    changed = bytes([value[0] ^ 1]) + value[1:]
                    transaction.put(table, b"s3\0", changed)
                elif damage == "checkpoint row":
                    transaction.put(_checkpoints.name, key, b"\xc1 no msgpack")
                else:
                    checkpoint = {
                        "ahead": Checkpoint(36, True),
                        "format": Checkpoint(35, True, format_version=2),
                        "byte order": Checkpoint(35, True, byte_order="middle"),
                    }[damage]
                    _checkpoints.put(transaction, key, checkpoint)


@pytest.mark.guarantee("G-16")
def test_damage_met_in_use(directory: Path) -> None:
    """Rows go bad while the store is open: the answer is still that of the log."""
    with Opened(directory / "store", run_count_max=1000) as opened:
        content = fill(opened.store)
        opened.store.checkpoint()
        table = f"stream index {index_of(opened.store)._name}"
        for key in (b"s2\0", b"s4\0"):
            with opened.environment.write() as transaction:
                transaction.put(table, key, b"bad")
            assert read(opened.store) == content
            opened.store.checkpoint()
        assert opened.store.append("s4", ONE, expected_version=5).version == 6
        opened.environment.replace(opened.environment.generation)
        assert opened.store.append("s4", ONE, expected_version=6).version == 7
        opened.store.checkpoint()
        assert opened.store.stream_version("s4") == 7
        assert opened.store.verify() == []
        assert len(opened.environment.moved_aside) == 1


_FLIPS = """
import random, shutil, sys
from pathlib import Path
import eventlog
from eventlog.meta import seal

source, target, seed, is_sealed = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
generator = random.Random(seed)
original = (source / "meta" / "data.mdb").read_bytes()
for number in range(int(sys.argv[5])):
    store = target / str(number)
    shutil.copytree(source, store)
    content = bytearray(original)
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    (store / "meta" / "data.mdb").write_bytes(content)
    if is_sealed != "sealed":
        seal.remove(store / "meta")
    with eventlog.open(store, durability="os") as log:
        events = log.event_store("orders")
        have = {name: [e.raw_data for e in events.read_stream(name)] for name in events.streams()}
        want = {f"s{i}": [b"s%d-%d" % (i, n) for n in range(5)] for i in range(7)}
        assert have == want, number
        assert events.append("s1", eventlog.sourcing.Event(b"", type="t"), expected_version=5)
    shutil.rmtree(store)
print("all read")
"""


@pytest.mark.guarantee("G-14")
@pytest.mark.parametrize("state", ["sealed", "unsealed"])
def test_single_bits_of_the_index_file(directory: Path, state: str, rng: Any) -> None:
    """A flipped bit anywhere in LMDB's file neither changes an answer nor ends the process."""
    with Opened(directory / "store", run_count_max=1000) as opened:
        fill(opened.store)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(_FLIPS),
            directory / "store",
            directory / "flipped",
            str(rng.random()),
            state,
            "40",
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "all read\n"), done.stderr


@pytest.mark.guarantee("G-13")
def test_no_room_for_a_checkpoint(directory: Path, monkeypatch: Any) -> None:
    """The index goes on in memory; appends and reads are not concerned; later it is written."""
    with Opened(directory / "store", run_count_max=20) as opened:
        content = fill(opened.store)

        def full(*_: Any) -> None:
            raise StorageFullError("no room", errno=28)

        with monkeypatch.context() as patch:
            patch.setattr(IndexTable, "write", full)
            for name in content:
                for _ in range(10):
                    opened.store.append(name, Event(b"more", type="t"))
                content[name] += [b"more"] * 10
            assert read(opened.store) == content
            with pytest.raises(StorageFullError):
                opened.store.checkpoint()
        opened.store.checkpoint()
        assert kept_in_memory(opened.store) == 0
        assert read(opened.store) == content
        with monkeypatch.context() as patch:
            patch.setattr(IndexTable, "write", full)
            opened.store.append("s1", ONE)
            opened.store.close()  # says so in the log only
    with Opened(directory / "store") as opened:
        assert opened.store.stream_version("s1") == 16


@pytest.mark.guarantee("G-22")
@pytest.mark.parametrize("is_tiny", [True, False])
def test_a_reader_beside_a_writer(directory: Path, is_tiny: bool) -> None:
    """Another process reads while this one appends and writes checkpoints; then without any."""
    program = """
        import sys
        sys.path.insert(0, sys.argv[2])
        from sourcing_support import Opened, kept_in_memory
        from pathlib import Path
        with Opened(Path(sys.argv[1]), run_count_max=int(sys.argv[3]), read_only=True) as opened:
            store = opened.store
            for line in sys.stdin:
                wanted = int(line)
                for name in store.streams():
                    versions = [event.version for event in store.read_stream(name)]
                    assert versions == list(range(1, wanted + 1)), (name, versions)
                    assert store.stream_version(name) == wanted
                assert len(list(store.streams())) == 7
                assert store.verify() == []
                print("right", flush=True)
    """
    with Opened(directory / "store", run_count_max=1000) as opened:
        fill(opened.store, rounds=1)
        reader = subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(program),
                str(directory / "store"),
                str(Path(__file__).parent),
                "10" if is_tiny else "1000",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert reader.stdin is not None
        assert reader.stdout is not None
        with reader:
            for version in range(1, 7):
                if version > 1:
                    fill(opened.store, rounds=1)
                if version in (3, 4):
                    opened.store.checkpoint()
                if version == 5:
                    opened.store.rebuild_index()
                reader.stdin.write(f"{version}\n")
                reader.stdin.flush()
                assert reader.stdout.readline() == "right\n"
            reader.stdin.close()
        assert reader.returncode == 0


@pytest.mark.guarantee("G-22")
def test_a_reader_with_no_checkpoint_spills_to_a_private_file(directory: Path) -> None:
    with Opened(directory / "store", run_count_max=100_000) as opened:
        names = [f"s{i}" for i in range(1500)]
        for _ in range(4):
            opened.store.append_many([StreamAppend(name, ONE) for name in names])
        opened.abandon()
    with Opened(directory / "store", run_count_max=100, read_only=True) as opened:
        index = index_of(opened.store)
        assert opened.store.stream_version("s1499") == 4
        assert len(index._layers) == 2
        assert [e.version for e in opened.store.read_stream("s3", backwards=True)] == [4, 3, 2, 1]
        assert list(opened.store.streams()) == sorted(names)
        assert opened.store.verify() == []
        private = index._layers[1].environment.path
        assert private.exists()
    assert not private.exists()


@pytest.mark.guarantee("G-22")
def test_reading_without_permission_to_write(directory: Path) -> None:
    with Opened(directory / "store", run_count_max=1000) as opened:
        content = fill(opened.store)
    writable = [directory / "store", *(directory / "store").rglob("*")]
    for path in writable:
        path.chmod(0o555 if path.is_dir() else 0o444)
    program = """
        import os, sys
        import eventlog
        if os.getuid() == 0:  # root may write everywhere
            os.setgid(65534); os.setuid(65534)
        with eventlog.open(sys.argv[1], read_only=True) as log:
            store = log.event_store("orders")
            assert [e.raw_data for e in store.read_stream("s2")] == [b"s2-%d" % n for n in range(5)]
            assert not store._partitions[0].index._layers[0].environment.is_temporary
        print("read")
    """
    directory.chmod(0o755)
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), directory / "store"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        for path in writable:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr
    assert len(content) == 7


def test_verify_tells_what_differs(directory: Path) -> None:
    with Opened(directory / "store", run_count_max=1000) as opened:
        fill(opened.store)
        index = index_of(opened.store)
        opened.store.checkpoint()
        table = index._layers[0]
        with opened.environment.write() as transaction:
            table._rows.put(transaction, b"s3\0", table._rows.get(transaction, b"s4\0") or b"")
        differences = opened.store.verify()
        assert len(differences) == 1
        assert "stream 's3'" in differences[0]
        opened.store.rebuild_index()
        assert opened.store.verify() == []


def test_two_topics_share_the_environment(directory: Path) -> None:
    with eventlog.open(directory / "store", durability="os") as log:
        stores = [log.event_store(name) for name in ("one", "two")]
        for number, store in enumerate(stores):
            store.append("s", raw(number + 1))
        assert [store.stream_version("s") for store in stores] == [1, 2]
        assert log.event_store("one") is stores[0]
    with eventlog.open(directory / "store") as log:
        assert [log.event_store(n).stream_version("s") for n in ("one", "two")] == [1, 2]


def test_an_index_of_another_topic_is_not_taken(directory: Path) -> None:
    """Same name, other topic id: as after a topic was deleted and made anew."""
    with Opened(directory / "old") as opened:
        fill(opened.store)
    with Opened(directory / "new") as opened:
        opened.store.append("s1", ONE)
    shutil.rmtree(directory / "new" / "meta")
    shutil.copytree(directory / "old" / "meta", directory / "new" / "meta")
    with Opened(directory / "new") as opened:
        assert list(opened.store.streams()) == ["s1"]
        assert opened.store.append("s2", ONE, expected_version=0).version == 1
