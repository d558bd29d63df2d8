"""Each command says what it should, to people and as JSON; errors are one line and exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog.sourcing import Event

COMMANDS = (
    "demo", "init", "import", "streams", "read", "tail", "replay", "stats", "verify", "dump",
    "bench", "topics", "groups", "produce", "consume",
)  # fmt: skip


@pytest.fixture
def shop(made_shop: Path, tmp_path: Path) -> Path:
    """A copy of the shop for each test."""
    directory = tmp_path / "shop"
    shutil.copytree(made_shop, directory)
    return directory


@pytest.fixture(scope="module")
def made_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten orders of three events in an event store, and a plain topic of two partitions."""
    directory = tmp_path_factory.mktemp("made") / "shop"
    with eventlog.open(directory, durability="os") as log:
        orders = log.event_store("orders")
        for kind in ("placed", "paid", "shipped"):
            for number in range(10):
                event = Event(
                    {"n": number}, type=kind, time_ms=1_700_000_000_000 + number, tags=["t"]
                )
                orders.append(f"order-{number}", [event])
        clicks = log.topic("clicks", partitions=2)
        for number in range(6):
            clicks.append(
                b"\x00\xff" if number == 3 else b"click %d" % number,
                partition=number % 2,
                headers=[("from", b"home")],
                timestamp_ms=1_700_000_000_000 + number,
            )
        log.topic("empty")
    return directory


# -- the frame ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(invoke: Any, name: str) -> None:
    assert "Usage:" in invoke(name, "--help").stdout


def test_help_lists_all_commands(run: Any) -> None:
    told = run("--help").stdout.decode()
    assert all(f" {name} " in told for name in COMMANDS)


def test_version(run: Any, invoke: Any) -> None:
    assert run("--version").stdout.startswith(b"eventlog")
    assert invoke("--version").stdout.startswith("eventlog")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_is_named(missing: str, tmp_path: Path) -> None:
    """The extra is made absent by a module of the same name that fails as a missing one does."""
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError(name={missing!r})")
    code = "import sys; from eventlog.cli import main; sys.argv[1:] = ['stats', '.']; main()"
    path = os.pathsep.join([str(tmp_path), str(Path(eventlog.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"needs {missing}" in done.stderr.decode()
    assert b'pip install "eventlog-engine[cli]"' in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("streams", "DIR", "s"), ("read", "DIR", "s"), ("tail", "DIR", "s"), ("stats", "DIR"),
        ("replay", "DIR", "s", "--all", "--last", "f"), ("verify", "DIR"), ("dump", "DIR"),
    ],
)  # fmt: skip
def test_a_store_that_is_not_there(arguments: tuple[str, ...], tmp_path: Path, invoke: Any) -> None:
    nowhere = str(tmp_path / "nowhere")
    done = invoke(*(nowhere if a == "DIR" else a for a in arguments), code=2)
    assert done.stderr.startswith("error: ")
    assert "hint:" in done.stderr
    assert done.stdout == ""
    assert not Path(nowhere).exists()


@pytest.mark.parametrize("command", ["streams", "read", "tail"])
def test_a_topic_that_is_not_there(shop: Path, invoke: Any, command: str) -> None:
    told = invoke(command, shop, "invoices", code=2).stderr
    assert "invoices" in told
    assert "orders" in told  # the hint lists what there is


def test_a_command_writes_beside_an_application(shop: Path, run: Any, tmp_path: Path) -> None:
    (tmp_path / "f").write_text('{"stream":"beside","type":"t"}\n')
    with eventlog.open(shop) as log:
        orders = log.event_store("orders")
        run("import", shop, "orders", tmp_path / "f")
        assert orders.stream_version("beside") == 1
        assert (
            orders.append("beside", eventlog.Event(type="t", data=1), expected_version=1).version
            == 2
        )


def test_a_reader_that_has_had_enough_is_no_error(shop: Path, start: Any) -> None:
    with start("read", shop, "orders") as reading:
        reading.stdout.close()
        assert reading.wait(30) == 0
        assert b"Traceback" not in reading.stderr.read()


# -- init and streams -----------------------------------------------------------------------------


def test_init(tmp_path: Path, invoke: Any) -> None:
    assert "made" in invoke("init", tmp_path / "a" / "b").stdout
    assert "made" in invoke("init", tmp_path / "a" / "b").stdout
    assert (tmp_path / "a" / "b" / "eventlog.json").is_file()


def test_init_of_a_store_that_is_there(shop: Path, invoke: Any) -> None:
    assert "a store already, with 3 topics" in invoke("init", shop).stdout


def test_init_of_a_directory_with_something_else(tmp_path: Path, invoke: Any) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "notes.txt" in invoke("init", tmp_path, code=2).stderr


def test_streams(shop: Path, invoke: Any) -> None:
    lines = invoke("streams", shop, "orders").stdout.splitlines()
    assert sorted(lines) == [f"order-{n}\t3" for n in range(10)]
    assert invoke("streams", shop, "orders", "--prefix", "order-7").stdout == "order-7\t3\n"
    assert len(invoke("streams", shop, "orders", "--limit", 4).stdout.splitlines()) == 4
    told = invoke("streams", shop, "orders", "--prefix", "order-7", "--json").stdout
    assert json.loads(told) == {"stream": "order-7", "version": 3}


# -- read and tail --------------------------------------------------------------------------------


def test_read_shows_events(shop: Path, invoke: Any) -> None:
    lines = invoke("read", shop, "orders").stdout.splitlines()
    assert len(lines) == 30
    assert lines[0].split() == [
        "0", "2023-11-14", "22:13:20.000", "order-0", "#1", "placed", '{"n":0}',
    ]  # fmt: skip


def test_read_a_range(shop: Path, invoke: Any) -> None:
    lines = invoke("read", shop, "orders", "--start", 5, "--end", 9).stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == [5, 6, 7, 8]
    lines = invoke("read", shop, "orders", "--start", 5, "--limit", 2).stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == [5, 6]


def test_read_a_stream(shop: Path, invoke: Any) -> None:
    def versions(*options: object) -> list[int]:
        told = invoke("read", shop, "orders", "--stream", "order-4", "--json", *options).stdout
        events = [json.loads(line) for line in told.splitlines()]
        assert {event["stream"] for event in events} <= {"order-4"}
        return [event["version"] for event in events]

    assert versions() == [1, 2, 3]
    assert versions("--backwards") == [3, 2, 1]
    assert versions("--backwards", "--limit", 1) == [3]
    assert versions("--start", 2, "--end", 3) == [2]
    assert "no stream 'order-44'" in invoke(
        "read", shop, "orders", "--stream", "order-44", code=2
    ).stderr  # fmt: skip


def test_read_as_json_has_it_all(shop: Path, invoke: Any) -> None:
    event = json.loads(invoke("read", shop, "orders", "--limit", 1, "--json").stdout)
    assert event.pop("id").count("-") == 4
    assert event == {
        "partition": 0,
        "offset": 0,
        "stream": "order-0",
        "version": 1,
        "type": "placed",
        "time_ms": 1_700_000_000_000,
        "data": {"n": 0},
        "tags": ["t"],
    }


def test_read_a_plain_topic(shop: Path, invoke: Any) -> None:
    lines = invoke("read", shop, "clicks").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "1:0", "1:1", "1:2"]
    assert lines[0].endswith("null  click 0  [from=home]")
    assert lines[4].endswith("null  \\x00\\xff  [from=home]")
    assert len(invoke("read", shop, "clicks", "--partition", 1).stdout.splitlines()) == 3
    assert len(invoke("read", shop, "clicks", "--limit", 4).stdout.splitlines()) == 4
    told = invoke("read", shop, "clicks", "--partition", 1, "--start", 1, "--limit", 1, "--json")
    assert json.loads(told.stdout) == {
        "partition": 1,
        "offset": 1,
        "timestamp_ms": 1_700_000_000_003,
        "key": None,
        "value": "\x00\\xff",
        "headers": [["from", "home"]],
    }


def test_read_nothing(shop: Path, invoke: Any) -> None:
    result = invoke("read", shop, "empty")
    assert result.stdout == ""
    assert "no events" in result.stderr


def test_read_out_of_range(shop: Path, invoke: Any) -> None:
    assert "outside 0 .. 30" in invoke("read", shop, "orders", "--start", 99, code=2).stderr
    assert "no partition 7" in invoke("read", shop, "clicks", "--partition", 7, code=2).stderr
    assert "--backwards needs" in invoke("read", shop, "orders", "--backwards", code=2).stderr


def test_tail(shop: Path, invoke: Any) -> None:
    lines = invoke("tail", shop, "orders").stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(20, 30))
    assert invoke("tail", shop, "orders", "-n", 0).stdout == ""
    lines = invoke("tail", shop, "clicks", "-n", 3, "--json").stdout.splitlines()
    assert [json.loads(line)["timestamp_ms"] % 100 for line in lines] == [3, 4, 5]


@pytest.mark.parametrize("topic", ["orders", "clicks"])
def test_tail_follows(shop: Path, start: Any, topic: str) -> None:
    with start("tail", shop, topic, "-f", "-n", "1", "--json") as tail:
        assert json.loads(tail.stdout.readline())["offset"] == (29 if topic == "orders" else 2)
        with eventlog.open(shop) as log:
            for number in range(3):
                if topic == "orders":
                    log.event_store("orders").append("order-0", [Event(number, type="noted")])
                    assert json.loads(tail.stdout.readline())["data"] == number
                else:
                    log.topic("clicks").append(b"%d" % number, partition=number % 2)
                    assert json.loads(tail.stdout.readline())["value"] == number
        tail.send_signal(2)  # Ctrl-C
        assert tail.wait(30) == 0
        assert b"Traceback" not in tail.stderr.read()


# -- stats, dump and bench ------------------------------------------------------------------------


def test_stats(shop: Path, invoke: Any) -> None:
    told = invoke("stats", shop).stdout
    assert "orders" in told
    assert "clicks-1" in told
    topics = {t["name"]: t for t in json.loads(invoke("stats", shop, "--json").stdout)["topics"]}
    assert topics["orders"]["record_count"] == 30
    assert topics["orders"]["stream_count"] == 10
    assert topics["clicks"]["stream_count"] is None
    assert [p["log_end_offset"] for p in topics["clicks"]["partitions"]] == [3, 3]
    segment = shop / "log" / "orders-0" / f"{0:020d}.log"
    assert topics["orders"]["log_size_bytes"] == segment.stat().st_size
    assert topics["empty"]["record_count"] == 0


def test_stats_tell_what_compression_brings(tmp_path: Path, invoke: Any) -> None:
    with eventlog.open(tmp_path / "s") as log:
        log.topic("packed", compression="zstd").append_many([b"the same again " * 20] * 500)
    [topic] = json.loads(invoke("stats", tmp_path / "s", "--json").stdout)["topics"]
    assert topic["codec"] == "zstd"
    assert topic["compression_ratio"] > 10
    assert "zstd" in invoke("stats", tmp_path / "s").stdout


def test_stats_of_an_empty_store(tmp_path: Path, invoke: Any) -> None:
    invoke("init", tmp_path / "s")
    assert "no topics yet" in invoke("stats", tmp_path / "s").stdout


def test_dump(shop: Path, invoke: Any) -> None:
    segment = shop / "log" / "orders-0" / f"{0:020d}.log"
    assert "30 batches, 30 records" in invoke("dump", segment).stdout
    told = invoke("dump", segment, "--records").stdout
    assert 'order-3  {"n":3}' in told
    batches = [
        json.loads(x) for x in invoke("dump", segment, "--records", "--json").stdout.splitlines()
    ]
    assert [b["base_offset"] for b in batches] == list(range(30))
    assert batches[4]["records"][0]["key"] == "order-4"
    assert dict(batches[4]["records"][0]["headers"])["t"] == "placed"


def test_dump_of_compressed_batches(tmp_path: Path, invoke: Any) -> None:
    with eventlog.open(tmp_path / "s") as log:
        log.topic("packed", compression="zstd").append_many([b"%d " % n * 50 for n in range(300)])
    segment = tmp_path / "s" / "log" / "packed-0" / f"{0:020d}.log"
    [batch] = map(json.loads, invoke("dump", segment, "--records", "--json").stdout.splitlines())
    assert batch["codec"] == "zstd"
    assert [r["value"] for r in batch["records"]] == [f"{n} " * 50 for n in range(300)]


def test_dump_of_a_damaged_segment(shop: Path, invoke: Any) -> None:
    segment = shop / "log" / "orders-0" / f"{0:020d}.log"
    data = bytearray(segment.read_bytes())
    segment.write_bytes(data + bytes(100))
    assert "100 B of zeros" in invoke("dump", segment).stdout
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    assert "bad at byte" in invoke("dump", segment, code=1).stdout
    last = json.loads(invoke("dump", segment, "--json", code=1).stdout.splitlines()[-1])
    assert last["bytes_left"] == len(data) - last["position"]


def test_bench(tmp_path: Path, invoke: Any) -> None:
    told = json.loads(invoke("bench", tmp_path, "--seconds", 0.2, "--json").stdout)
    assert told["machine"]["cpu_count"] >= 1
    works = {result["work"]: result for result in told["results"]}
    assert len(works) == 10
    assert all(result["rate"] > 0 for result in works.values())
    assert all(r["ratio"] == r["rate"] / r["limit_rate"] for r in works.values() if r["limit"])
    assert list(tmp_path.iterdir()) == []
    assert "durable append, 8 threads" in works
