"""``eventlog verify`` finds what is wrong, and nothing where nothing is."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog.cli.verifying import check_store
from eventlog.sourcing import Event

SEGMENT_SIZE_BYTES = 24 * 1024


def problems_of(directory: Path) -> list[tuple[str, str]]:
    return [(p.kind, Path(p.path).name) for p in check_store(directory).problems]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with several segments of plain and compressed batches, and with streams."""
    directory = tmp_path_factory.mktemp("verify") / "store"
    with eventlog.open(directory, durability="os") as log:
        plain = log.topic("plain", partitions=2, segment_size_bytes_max=SEGMENT_SIZE_BYTES)
        packed = log.topic("packed", compression="zstd", compression_size_bytes_min=0)
        for number in range(400):
            value = b"%06d" % number * 60
            plain.append(value, key=b"%d" % number, timestamp_ms=1_700_000_000_000 + number % 350)
            packed.append_many([value] * 3)
        store = log.event_store("events")
        for number in range(300):
            events = [Event({"n": number}, type="counted")]
            store.append_many({f"stream-{number % 40:02d}": events, f"other-{number}": events})
    return directory


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    directory = tmp_path / "store"
    shutil.copytree(whole, directory)
    return directory


def segments(store: Path, partition: str = "plain-0") -> list[Path]:
    found = sorted((store / "log" / partition).glob("*.log"))
    assert len(found) > 2 or not partition.startswith("plain")
    return found


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(data)


def test_a_sound_store_has_no_problems(whole: Path) -> None:
    report = check_store(whole)
    assert report.problems == []
    assert report.topic_count == 3
    assert report.partition_count == 4
    assert report.segment_count == sum(1 for _ in whole.glob("log/*/*.log"))
    assert report.record_count == 400 + 3 * 400 + 600
    assert report.stream_count == 340


def test_verifying_changes_nothing(whole: Path) -> None:
    def contents() -> dict[Path, bytes]:
        kept = [path for path in whole.rglob("*") if "run" not in path.parts]
        return {path: path.read_bytes() for path in kept if path.is_file()}

    before = contents()
    check_store(whole)
    assert contents() == before


@pytest.mark.parametrize("partition", ["plain-0", "packed-0", "events-0"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_a_flipped_byte_in_a_segment_is_found(store: Path, partition: str, place: float) -> None:
    path = segments(store, partition)[0]
    flip(path, int(path.stat().st_size * place))
    found = check_store(store).problems
    assert any(p.path == str(path) and p.kind in ("batch", "order") for p in found)


def test_the_place_of_the_damage_is_told(store: Path) -> None:
    path = segments(store)[1]
    base = int(path.stem)
    flip(path, 100)
    first = next(p for p in check_store(store).problems if p.kind == "batch")
    assert (first.path, first.position, first.offset) == (str(path), 0, base)


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_a_removed_index_is_found(store: Path, suffix: str) -> None:
    path = segments(store)[1].with_suffix(suffix)
    path.unlink()
    assert problems_of(store) == [("index", path.name)]


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
@pytest.mark.parametrize("partition", ["plain-0", "packed-0"])
def test_each_flipped_byte_of_an_index_is_found(store: Path, suffix: str, partition: str) -> None:
    path = segments(store, partition)[0].with_suffix(suffix)
    size = path.stat().st_size
    assert size > 0
    for position in range(0, size, 11):
        flip(path, position)
        assert ("index", path.name) in problems_of(store), position
        flip(path, position)


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_a_short_or_emptied_index_is_found(store: Path, suffix: str) -> None:
    path = segments(store)[0].with_suffix(suffix)
    data = path.read_bytes()
    entry = 8 if suffix == ".index" else 12
    for size in (len(data) - entry, len(data) - 1, 0):
        path.write_bytes(data[:size])
        assert problems_of(store) == [("index", path.name)]


def test_an_index_that_goes_too_far_is_found(store: Path) -> None:
    path = segments(store)[0].with_suffix(".index")
    path.write_bytes(path.read_bytes() + b"\0\1\0\0\0\1\0\0")
    assert problems_of(store) == [("index", path.name)]


def test_an_index_of_another_segment_is_found(store: Path) -> None:
    first, second, *_ = segments(store)
    shutil.copy(first.with_suffix(".index"), second.with_suffix(".index"))
    kinds = problems_of(store)
    assert kinds
    assert set(kinds) == {("index", second.with_suffix(".index").name)}


@pytest.mark.parametrize("which", [1, -1])
def test_a_missing_segment_is_found(store: Path, which: int) -> None:
    path = segments(store)[which]
    for suffix in (".log", ".index", ".timeindex"):
        path.with_suffix(suffix).unlink()
    assert any(
        p.kind == "segment" and p.offset == int(path.stem) for p in check_store(store).problems
    )


def test_a_missing_partition_is_found(store: Path) -> None:
    shutil.rmtree(store / "log" / "plain-1")
    assert ("segment", "plain-1") in problems_of(store)


def test_segments_in_the_wrong_order_are_found(store: Path) -> None:
    path = segments(store)[1]
    for suffix in (".log", ".index", ".timeindex"):
        path.with_suffix(suffix).rename(path.with_name(f"{int(path.stem) - 3:020d}{suffix}"))
    assert "order" in {kind for kind, _ in problems_of(store)}


def test_zeros_in_a_sealed_segment_are_found(store: Path) -> None:
    path = segments(store)[0]
    path.write_bytes(path.read_bytes() + bytes(500))
    assert ("batch", path.name) in problems_of(store)


def test_a_removed_batch_is_found(store: Path) -> None:
    path = segments(store, "packed-0")[0]
    data = path.read_bytes()
    first = 12 + int.from_bytes(data[8:12], "big")
    second = first + 12 + int.from_bytes(data[first + 8 : first + 12], "big")
    path.write_bytes(data[:first] + data[second:])
    kinds = {kind for kind, _ in problems_of(store)}
    assert {"order", "index"} <= kinds


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_damaged_stream_index_is_found(store: Path, is_sealed: bool) -> None:
    """Sealed: as a clean close leaves it. Unsealed: as a crash does, when rows have checksums."""
    if not is_sealed:
        (store / "meta" / "sealed").unlink()
    data = store / "meta" / "data.mdb"
    flip(data, data.read_bytes().rindex(b"stream-07") + 14)
    assert ("stream index", "meta") in problems_of(store)


def test_a_deleted_stream_index_is_no_problem(store: Path) -> None:
    shutil.rmtree(store / "meta")
    assert problems_of(store) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recovery-point-offset-checkpoint", b"rubbish"),
        ("plain-0/partition.metadata", b"version: 0\ntopic_id: AAAA"),
        ("plain-0/leader-epoch-checkpoint", b"0\n3\n0 0\n"),
    ],
)
def test_a_damaged_checkpoint_is_found(store: Path, name: str, content: bytes) -> None:
    path = store / "log" / name
    path.write_bytes(content)
    assert ("checkpoint", path.name) in problems_of(store)


def test_a_folder_that_is_no_partition_is_found(store: Path) -> None:
    (store / "log" / "notes").mkdir()
    assert problems_of(store) == [("store", "notes")]


def test_lost_topics_are_found(store: Path) -> None:
    (store / "topics.json").write_bytes(b"{")
    assert ("store", "topics.json") in problems_of(store)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """A store that is appended to as long as the test runs."""
    directory = tmp_path / "busy"
    is_over = threading.Event()
    with eventlog.open(directory, durability="os") as log:
        topic = log.topic("plain", segment_size_bytes_max=SEGMENT_SIZE_BYTES)
        store = log.event_store("events")
        has_begun = threading.Event()

        def write() -> None:
            number = 0
            while not is_over.is_set():
                topic.append(b"%d" % number * 50)
                store.append(f"stream-{number % 7}", [Event({"n": number}, type="counted")])
                number += 1
                if number == 500:
                    has_begun.set()

        thread = threading.Thread(target=write)
        thread.start()
        has_begun.wait(30)
        yield directory
        is_over.set()
        thread.join()


def test_a_live_writer_is_no_problem(busy: Path, run: Any) -> None:
    for _ in range(2):
        told = json.loads(run("verify", busy, "--json").stdout)
        assert told["problems"] == []
        assert told["records"] > 900


def test_the_command_lists_what_is_wrong(store: Path, invoke: Any) -> None:
    assert "all is well" in invoke("verify", store).stdout
    path = segments(store)[0]
    flip(path, 200)
    listed = invoke("verify", store, code=1).stdout
    assert path.name in listed
    told = json.loads(invoke("verify", store, "--json", code=1).stdout)
    assert told["ok"] is False
    assert told["problems"][0]["path"].endswith(path.name)


def test_no_store_is_an_error_with_a_hint(tmp_path: Path, invoke: Any) -> None:
    result = invoke("verify", tmp_path / "nowhere", code=2)
    assert "error: there is no store" in result.stderr
    assert "hint:" in result.stderr
    (tmp_path / "file").write_text("x")
    assert "error:" in invoke("verify", tmp_path, code=2).stderr
