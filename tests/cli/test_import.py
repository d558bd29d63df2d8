"""``eventlog import`` and ``replay``: nothing twice, nothing lost, the truth at the end."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

import eventlog
from eventlog.sourcing import Event

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")


def line(stream: str, version: int | None, **data: Any) -> bytes:
    fields = {"stream": stream, "type": "changed", "time": 1_700_000_000, **data}
    if version is not None:
        fields["version"] = version
    return json.dumps(fields).encode() + b"\n"


def stored(directory: Path, store: str = "s") -> list[tuple[str, int, Any]]:
    with eventlog.open(directory, read_only=True) as log:
        events = log.event_store(store)
        partitions = range(events.topic.partition_count)
        return [
            (e.stream, e.version, e.data) for n in partitions for e in events.read_all(partition=n)
        ]


@pytest.fixture
def many(tmp_path: Path) -> tuple[Path, list[tuple[str, int, Any]]]:
    """A file of 5,000 events of 300 streams, and what they are."""
    draw = random.Random(5)
    versions: dict[str, int] = {}
    events = []
    for number in range(5_000):
        stream = f"stream-{draw.randrange(300)}"
        versions[stream] = versions.get(stream, 0) + 1
        events.append((stream, versions[stream], {"n": number}))
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(line(stream, version, **data) for stream, version, data in events))
    return path, events


def test_events_arrive_in_order_with_all_they_have(tmp_path: Path, many: Any, invoke: Any) -> None:
    path, events = many
    told = invoke("import", tmp_path / "store", "s", path).stdout
    assert "imported 5,000 events" in told
    assert stored(tmp_path / "store") == events
    with eventlog.open(tmp_path / "store", read_only=True) as log:
        event = next(iter(log.event_store("s").read_stream("stream-7")))
        assert (event.type, event.timestamp_ms) == ("changed", 1_700_000_000_000)


def test_again_appends_nothing(tmp_path: Path, many: Any, invoke: Any) -> None:
    path, events = many
    for _ in range(2):
        invoke("import", tmp_path / "store", "s", path)
    assert "imported 0 events" in invoke("import", tmp_path / "store", "s", path).stdout
    assert stored(tmp_path / "store") == events


def test_a_longer_file_adds_what_is_new(tmp_path: Path, invoke: Any) -> None:
    path = tmp_path / "f"
    path.write_bytes(line("a", 1) + line("b", 1))
    invoke("import", tmp_path / "store", "s", path)
    path.write_bytes(line("a", 1) + line("b", 1) + line("a", 2))
    told = invoke("import", tmp_path / "store", "s", path).stdout
    assert "imported 1 event " in told
    assert "2 lines skipped" in told


def test_without_versions_the_lines_of_a_stream_are_counted(tmp_path: Path, invoke: Any) -> None:
    path = tmp_path / "f"
    path.write_bytes(line("a", None, n=1) + line("b", None, n=2) + line("a", None, n=3))
    for _ in range(2):
        invoke("import", tmp_path / "store", "s", path)
    assert stored(tmp_path / "store") == [
        ("a", 1, {"n": 1}),
        ("b", 1, {"n": 2}),
        ("a", 2, {"n": 3}),
    ]


def test_standard_input_and_zstd(tmp_path: Path, run: Any) -> None:
    data = zstandard.compress(line("a", 1) + line("a", 2))
    told = run("import", tmp_path / "store", "s", "-", "--durability", "os", stdin=data).stdout
    assert b"imported 2 events" in told


def test_other_fields(tmp_path: Path, invoke: Any) -> None:
    path = tmp_path / "f"
    path.write_bytes(
        b'{"order":"o","kind":"placed","at":"2026-11-21T10:00:00Z","n":1,"stream":"x"}\n'
    )
    options = ("--stream", "order", "--type", "kind", "--time", "at", "--version", "n")
    invoke("import", tmp_path / "store", "s", path, *options)
    assert stored(tmp_path / "store") == [("o", 1, {"stream": "x"})]
    clash = invoke("import", tmp_path / "store", "s", path, "--type", "stream", code=2)
    assert "two purposes" in clash.stderr


def test_a_gap_names_line_stream_and_versions_and_keeps_what_came_before(
    tmp_path: Path, invoke: Any
) -> None:
    path = tmp_path / "f"
    path.write_bytes(line("a", 1) + b"\n" + line("b", 1) + line("a", 4) + line("c", 1))
    told = invoke("import", tmp_path / "store", "s", path, code=2)
    assert "line 4: stream 'a' goes on with version 4" in told.stderr
    assert "up to version 1" in told.stderr
    assert "Versions 2 to 3 are missing" in told.stderr
    assert [(s, v) for s, v, _ in stored(tmp_path / "store")] == [("a", 1), ("b", 1)]


@pytest.mark.parametrize("version", [0, -3])
def test_versions_count_from_one(tmp_path: Path, invoke: Any, version: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(line("a", version))
    told = invoke("import", tmp_path / "store", "s", path, code=2).stderr
    assert "Versions count from 1" in told


@pytest.mark.parametrize(
    "bad",
    [
        b"{oops\n",
        b'{"type":"t"}\n',
        b'{"stream":"","type":"t","version":1}\n',
        b'{"stream":"b","type":"","version":1}\n',
        b'{"stream":"b","type":"t"}\n',  # a version, as line 1 has
    ],
)
def test_a_bad_line_is_one_line_of_error(tmp_path: Path, invoke: Any, bad: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(line("a", 1) + bad)
    told = invoke("import", tmp_path / "store", "s", path, code=2).stderr
    assert told.startswith("error: line 2: ")
    assert "Traceback" not in told
    assert [(s, v) for s, v, _ in stored(tmp_path / "store")] == [("a", 1)]


def test_a_store_of_several_partitions(tmp_path: Path, many: Any, invoke: Any) -> None:
    path, events = many
    with eventlog.open(tmp_path / "store") as log:
        log.event_store("s", partitions=3)
    for _ in range(2):
        invoke("import", tmp_path / "store", "s", path)
    assert sorted(stored(tmp_path / "store")) == sorted(events, key=lambda e: e[:2])


def kill_importing(
    arguments: list[object], until: Callable[[], bool], start: Callable[..., Any]
) -> None:
    """Start an import and SIGKILL it as soon as the condition holds (or it is done)."""
    with start(*arguments) as importer:
        while importer.poll() is None and not until():
            time.sleep(0.001)
        importer.send_signal(signal.SIGKILL)
        importer.communicate()


@pytest.mark.parametrize("durability", ["sync", "os"])
def test_killed_at_a_random_moment_and_run_again(
    tmp_path: Path, many: Any, invoke: Any, start: Any, durability: str
) -> None:
    """Goal: no event twice and none lost, whenever the importer is killed. Method: the moment is
    when the log has grown past a random size; then run to the end and compare with the file."""
    path, events = many
    directory = tmp_path / "store"
    segment = directory / "log" / "s-0" / f"{0:020d}.log"
    command = ["import", directory, "s", path, "--durability", durability]
    for _ in range(3):
        wanted = random.randrange(1, 400_000)

        def has_grown(wanted: int = wanted) -> bool:
            return segment.exists() and len(segment.read_bytes().rstrip(b"\0")) >= wanted

        kill_importing(command, has_grown, start)
    invoke(*command)
    assert stored(directory) == events
    invoke("verify", directory)


def test_replay_of_all_and_of_one(tmp_path: Path, invoke: Any) -> None:
    path = tmp_path / "f"
    lines: list[tuple[str, str, dict[str, Any]]] = [
        ("b", "changed", {"v": "two\ttabs\\"}), ("a", "changed", {"v": 1.50}), ("a", "noted", {"w": 0}),
        ("c", "gone", {}), ("d", "changed", {"v": "x"}), ("d", "gone", {"v": "y"}),
        ("é", "changed", {"v": {"k": [1]}}), ("e", "noted", {}), ("d", "changed", {"w": 2}),
    ]  # fmt: skip
    path.write_bytes(
        b"".join(json.dumps({"stream": s, "type": t, **d}).encode() + b"\n" for s, t, d in lines)
    )
    store = tmp_path / "store"
    invoke("import", store, "s", path)
    options = ("--last", "v", "--delete-type", "gone")
    expected = 'a\t1.5\nb\ttwo\\ttabs\\\\\nd\t\ne\t\né\t{"k":[1]}\n'
    assert (
        invoke("replay", store, "s", "--all", *options).stdout.replace('{"k": [1]}', '{"k":[1]}')
        == expected
    )
    assert invoke("replay", store, "s", "a", *options).stdout == "a\t1.5\n"
    assert invoke("replay", store, "s", "c", *options).stdout == ""
    output = tmp_path / "out.tsv"
    assert (
        "replayed 9 events" in invoke("replay", store, "s", "--all", *options, "-o", output).stderr
    )
    assert output.read_bytes().startswith(b"a\t1.5\nb\t")
    assert "no stream 'zz'" in invoke("replay", store, "s", "zz", *options, code=2).stderr
    assert "--last is missing" in invoke("replay", store, "s", "--all", code=2).stderr
    assert "one STREAM or --all" in invoke("replay", store, "s", *options, code=2).stderr


def test_replay_of_data_that_is_no_object(tmp_path: Path, invoke: Any) -> None:
    with eventlog.open(tmp_path / "store") as log:
        log.event_store("s").append("a", [Event(b"\xff\x00", type="t")])
    told = invoke("replay", tmp_path / "store", "s", "--all", "--last", "v", code=2).stderr
    assert "offset 0 (stream 'a', version 1)" in told


@needs_shared
def test_the_history_of_kafka_comes_to_its_tree(tmp_path: Path, run: Any, start: Any) -> None:
    """The ground truth: 98,257 real events, and again after a kill -9 at a random moment, and after
    everything that is derived was deleted."""
    source = SHARED / "kafka-git.events.jsonl.zst"
    tree = zstandard.ZstdDecompressor().stream_reader(
        (SHARED / "kafka-git.tree.tsv.zst").read_bytes()
    ).read()  # fmt: skip
    replay = ("--all", "--last", "blob", "--delete-type", "file_deleted")

    directory = tmp_path / "store"
    wanted = random.randrange(1, 20_000_000)
    segment = directory / "log" / "files-0" / f"{0:020d}.log"

    def has_grown() -> bool:
        if not segment.exists():
            return False
        with segment.open("rb") as file:
            file.seek(wanted)
            return any(file.read(4096))

    kill_importing(["import", directory, "files", source], has_grown, start)
    run("import", directory, "files", source)
    assert run("replay", directory, "files", *replay).stdout == tree
    assert b"all is well" in run("verify", directory).stdout

    shutil.rmtree(directory / "meta", ignore_errors=True)
    for index in directory.glob("log/*/*index"):
        index.unlink()
    assert b"imported 0 events" in run("import", directory, "files", source).stdout
    assert run("replay", directory, "files", *replay).stdout == tree
    assert run("streams", directory, "files").stdout.count(b"\n") == 10_061
