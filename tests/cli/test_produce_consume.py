"""`eventlog produce`, `consume` and `tail --follow`, alone and beside each other."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog.cli.producing import LineParser, OutgoingRecord, append
from eventlog.sourcing import Event


@pytest.fixture
def store(made_store: Path, tmp_path: Path) -> Path:
    """A copy of the store for each test."""
    directory = tmp_path / "store"
    shutil.copytree(made_store, directory)
    return directory


@pytest.fixture(scope="module")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two topics without records, of one and of three partitions."""
    directory = tmp_path_factory.mktemp("made") / "store"
    with eventlog.open(directory, durability="os") as log:
        log.topic("one", durability="os")
        log.topic("three", partitions=3, durability="os")
    return directory


@pytest.fixture
def records(store: Path) -> Callable[..., list[Any]]:
    """What a topic holds, partition by partition."""

    def read(topic: str = "one") -> list[Any]:
        with eventlog.open(store, read_only=True) as log:
            found = log.topic(topic)
            return [record for n in range(found.partition_count) for record in found.read(n)]

    return read


def _json(data: bytes | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


# -- produce --------------------------------------------------------------------------------------


def test_each_line_is_a_record(store: Path, invoke: Any, records: Any) -> None:
    told = invoke("produce", store, "one", stdin=b"first\n\nl\xc3\xa4st\r\n").stdout
    assert told == "appended 3 records to one: partition 0, offset 0 to 2\n"
    invoke("produce", store, "one", stdin=b"no end")
    assert [r.value for r in records()] == [b"first", b"", b"l\xc3\xa4st\r", b"no end"]
    assert {r.key for r in records()} == {None}
    assert "appended 0 records" in invoke("produce", store, "one", stdin=b"").stdout


def test_values_and_keys_of_the_command_line(store: Path, invoke: Any, records: Any) -> None:
    told = invoke(
        "produce", store, "one", "--value", "a=b", "--value", "", "--key", "k",
        "--header", "from=home=1", "--header", "empty=", "--json",
    ).stdout  # fmt: skip
    assert _json(told) == [{"topic": "one", "partition": 0, "offset": 0, "count": 2}]
    assert [(r.key, r.value) for r in records()] == [(b"k", b"a=b"), (b"k", b"")]
    assert records()[0].headers == (("from", b"home=1"), ("empty", b""))


def test_keys_of_lines_choose_the_partition(store: Path, invoke: Any, records: Any) -> None:
    lines = b"".join(b"key-%d\tvalue\t%d\n" % (n % 7, n) for n in range(100))
    told = invoke("produce", store, "three", "--key-separator", "\\t", "--json", stdin=lines)
    assert sum(receipt["count"] for receipt in _json(told.stdout)) == 100
    with eventlog.open(store, read_only=True) as log:
        topic = log.topic("three")
        for record in records("three"):
            assert record.partition == topic.partition_for_key(record.key)
    by_number = sorted(records("three"), key=lambda r: int(r.value.split(b"\t")[1]))
    assert [r.key for r in by_number] == [b"key-%d" % (n % 7) for n in range(100)]


def test_json_lines_say_it_all(store: Path, invoke: Any, records: Any) -> None:
    lines = [
        {"value": "text", "key": "k", "headers": [["a", "1"], ["b", None]], "timestamp_ms": 5},
        {"value": {"n": 1.50, "x": None}, "partition": 2, "offset": 99, "topic": "ignored"},
        {"key": "gone", "value": None},
        {},
        {"value": 'with "quotes" \u00e9', "partition": 1},
    ]
    data = "\n\n".join(json.dumps(line) for line in lines).encode()
    invoke("produce", store, "three", "--input", "json", "--partition", 0, stdin=data)
    found = {(r.partition, r.offset): r for r in records("three")}
    assert (found[0, 0].key, found[0, 0].value, found[0, 0].timestamp_ms) == (b"k", b"text", 5)
    assert found[0, 0].headers == (("a", b"1"), ("b", None))
    assert found[2, 0].value == b'{"n":1.5,"x":null}'
    assert (found[0, 1].key, found[0, 1].value) == (b"gone", None)
    assert (found[0, 2].key, found[0, 2].value) == (None, None)
    assert found[1, 0].value.decode() == 'with "quotes" é'


def test_what_read_prints_as_json_can_be_produced(store: Path, invoke: Any, records: Any) -> None:
    invoke("produce", store, "one", "--key-separator", "=", stdin=b'a={"n":1}\nb=text\nc=[1,2]\n')
    printed = invoke("read", store, "one", "--json").stdout
    invoke("produce", store, "three", "--input", "json", "--partition", 0, stdin=printed.encode())
    assert [(r.key, r.value, r.timestamp_ms) for r in records("three")] == [
        (r.key, r.value, r.timestamp_ms) for r in records("one")
    ]


@pytest.mark.parametrize(
    ("arguments", "lines", "told", "kept"),
    [
        (("--key-separator", ":"), b"a:1\nb:2\nnone\nc:3\n", "line 3 has no key separator ':'", 2),
        (("--input", "json"), b'{"value":1}\n\n{"value":\n', "line 3:", 1),
        (("--input", "json"), b'{"value":1}\n["value"]\n', "line 2:", 1),
        (("--input", "json"), b'{"key":7}\n', "line 1:", 0),
        (("--input", "json"), b'{"partition":7}\n', "no partition 7", 0),
        (("--input", "json"), b'{"timestamp_ms":-5}\n', "timestamp", 0),
        (("--partition", "7"), b"a\n", "no partition 7", 0),
        (("--header", "bad"), b"a\n", "is no header", 0),
        (("--key", "k", "--key-separator", ":"), b"a:b\n", "--key-separator is for", 0),
        (("--value", "v", "--key-separator", ":"), b"", "--key-separator is for", 0),
        (("--input", "json", "--key-separator", ":"), b"", "--key-separator is for", 0),
        (("--key-separator", ""), b"a\n", "separator is empty", 0),
    ],
)
def test_bad_input_is_one_line_and_what_came_before_is_kept(
    store: Path,
    invoke: Any,
    records: Any,
    arguments: tuple[str, ...],
    lines: bytes,
    told: str,
    kept: int,
) -> None:
    result = invoke("produce", store, "one", *arguments, stdin=lines, code=2)
    assert told in result.stderr
    assert len(records()) == kept
    if kept:
        assert f"appended {kept} record" in result.stdout


def test_a_topic_has_to_be_there_and_to_be_plain(store: Path, invoke: Any) -> None:
    told = invoke("produce", store, "tree", stdin=b"x\n", code=2).stderr
    assert "there is no topic 'tree'" in told
    assert "topics create" in told
    with eventlog.open(store) as log:
        log.event_store("orders").append("order-1", [Event({}, type="placed")])
    assert "event store" in invoke("produce", store, "orders", stdin=b"x\n", code=2).stderr


def test_batches_fit_the_topic(tmp_path: Path) -> None:
    """A batch is refused as a whole where it is too large, so it must never be."""
    sizes = [0, 1, 200, 150, 30, 30, 30, 200, 0, 0, 199] * 20
    with eventlog.open(tmp_path / "s", durability="os") as log:
        topic = log.topic("small", partitions=2, batch_size_bytes_max=300)
        outgoing = [
            OutgoingRecord(b"v" * n, None if n % 2 else b"k%d" % n, (("h", b""),) if n < 50 else ())
            for n in sizes
        ]
        receipts = list(append(topic, outgoing, durability=None))
        assert sum(receipt.count for receipt in receipts) == len(sizes)
        assert len(receipts) < len(sizes)
        read = [record for number in (0, 1) for record in topic.read(number)]
    assert sorted(len(record.value or b"") for record in read) == sorted(sizes)


def test_a_line_can_be_anything() -> None:
    line = bytes(range(256)).replace(b"\n", b"")
    assert LineParser().parse(1, line) == OutgoingRecord(line)


def test_lines_are_there_as_soon_as_they_are_written(store: Path, start: Any) -> None:
    """A pipe that stays open must not hold records back."""
    with (
        start("produce", store, "one", "--json", stdin=subprocess.PIPE) as producing,
        eventlog.open(store) as log,
    ):
        follow = log.topic("one").tail(timeout_s=60)
        for number in range(3):
            producing.stdin.write(b"%d\n" % number)
            producing.stdin.flush()
            assert next(follow).value == b"%d" % number
            assert json.loads(producing.stdout.readline())["offset"] == number
        producing.stdin.close()
        assert producing.wait(60) == 0


# -- consume --------------------------------------------------------------------------------------


def _fill(store: Path, topic: str = "one", count: int = 10) -> None:
    with eventlog.open(store, durability="os") as log:
        found = log.topic(topic)
        for number in range(count):
            found.append(
                b'{"n":%d}' % number,
                key=b"k%d" % number,
                timestamp_ms=1_700_000_000_000 + number * 1000,
            )


def test_a_group_goes_on_where_it_was(store: Path, invoke: Any) -> None:
    _fill(store)

    def numbers(*arguments: object) -> list[int]:
        told = invoke("consume", store, "one", "-g", "mail", "--json", *arguments).stdout
        return [record["value"]["n"] for record in _json(told)]

    assert numbers("--limit", 3, "--no-commit") == [0, 1, 2]
    assert numbers("--limit", 0) == []
    assert numbers("--limit", 3) == [0, 1, 2]
    assert numbers("--limit", 4, "--from", "latest") == [3, 4, 5, 6]
    assert numbers("--timeout", 0.5) == [7, 8, 9]
    assert numbers("--timeout", 0) == []


@pytest.mark.parametrize(
    ("where", "first"),
    [("earliest", 0), ("2023-11-14T22:13:23Z", 3), ("1700000004", 4), ("1700000005000", 5)],
)
def test_where_a_new_group_begins(store: Path, invoke: Any, where: str, first: int) -> None:
    _fill(store)
    told = invoke("consume", store, "one", "-g", "g", "--from", where, "--json", "--limit", 2)
    assert [r["offset"] for r in _json(told.stdout)] == [first, first + 1]


def test_formats(store: Path, invoke: Any) -> None:
    with eventlog.open(store) as log:
        log.topic("one").append(b"\xff\x00", key=b"k", timestamp_ms=1_700_000_000_000)
        log.topic("one").append(None, headers=[("h", b"1")], timestamp_ms=1_700_000_000_000)

    def told(*arguments: str) -> bytes:
        done = invoke("consume", store, "one", "-g", "g", "--no-commit", "--limit", 2, *arguments)
        data: bytes = done.stdout_bytes
        return data

    assert told().decode().splitlines() == [
        "one        0  2023-11-14 22:13:20.000  k  \\xff\\x00",
        "one        1  2023-11-14 22:13:20.000  null  null  [h=1]",
    ]
    assert told("--values") == b"\xff\x00\nnull\n"
    assert told("--values", "--key-separator", "\\t") == b"k\t\xff\x00\nnull\tnull\n"
    first = _json(told("--json"))[0]
    assert (first["topic"], first["partition"], first["offset"]) == ("one", 0, 0)


def test_events_are_shown_as_events(store: Path, invoke: Any) -> None:
    with eventlog.open(store) as log:
        log.event_store("orders").append("order-1", [Event({"n": 1}, type="placed")])
    told = invoke("consume", store, "orders", "-g", "g", "--limit", 1, "--json").stdout
    [event] = _json(told)
    assert (event["topic"], event["stream"], event["type"]) == ("orders", "order-1", "placed")


def test_several_topics_by_name_and_by_pattern(store: Path, invoke: Any) -> None:
    _fill(store, "one", 3)
    _fill(store, "three", 6)
    for topics in (("one", "three"), ("one|thr.*", "--regex")):
        group = "by-pattern" if "--regex" in topics else "by-name"
        told = invoke("consume", store, *topics, "-g", group, "--limit", 9, "--json").stdout
        assert sorted(r["topic"] for r in _json(told)) == ["one"] * 3 + ["three"] * 6


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--from", "yesterday"), "--from is 'yesterday'"),
        (("two", "--regex"), "one TOPIC"),
        (("--json", "--values"), "exclude each other"),
        (("--key-separator", ":"), "needs --values"),
        (("--instance", ""), "cannot be the name"),
        (("--group", ""), "cannot be the name"),
    ],
)
def test_what_consume_refuses(
    store: Path, invoke: Any, arguments: tuple[str, ...], told: str
) -> None:
    result = invoke("consume", store, "one", "-g", "g", *arguments, code=2)
    assert told in result.stderr
    assert "no regular expression" in invoke(
        "consume", store, "(", "--regex", "-g", "g", code=2
    ).stderr  # fmt: skip


def test_consume_needs_a_store_and_a_group(store: Path, tmp_path: Path, invoke: Any) -> None:
    assert "--group" in invoke("consume", store, "one", code=2).stderr
    nowhere = tmp_path / "nowhere"
    assert "no store" in invoke("consume", nowhere, "one", "-g", "g", code=2).stderr
    assert not nowhere.exists()


def test_consume_follows_until_ctrl_c(store: Path, start: Any, invoke: Any) -> None:
    with start("consume", store, "three", "-g", "mail", "--json") as consuming:
        with eventlog.open(store) as log:
            for number in range(5):
                log.topic("three").append(b"%d" % number, partition=number % 3)
                assert json.loads(consuming.stdout.readline())["value"] == number
        while _json(invoke("groups", "list", store, "--json").stdout)[0]["lag"] != 0:
            assert consuming.poll() is None  # printed, and soon committed
        consuming.send_signal(signal.SIGINT)
        assert consuming.wait(60) == 0
        assert consuming.stderr.read() == b""
    [group] = _json(invoke("groups", "list", store, "--json").stdout)
    assert group == {"group": "mail", "state": "Empty", "member_count": 0, "lag": 0}


def test_what_cannot_be_printed_is_not_committed(store: Path, start: Any, invoke: Any) -> None:
    with start("consume", store, "one", "-g", "mail", "--values") as consuming:
        consuming.stdout.close()
        _fill(store)
        assert consuming.wait(60) == 0
        assert b"Traceback" not in consuming.stderr.read()
    told = invoke("consume", store, "one", "-g", "mail", "--json", "--limit", 1).stdout
    assert _json(told)[0]["offset"] == 0


def test_members_share_the_work(store: Path, start: Any, invoke: Any) -> None:
    """Two processes of a group get every record once, and both get some."""
    with (
        start("consume", store, "three", "-g", "work", "--json", "--timeout", 60) as one,
        start("consume", store, "three", "-g", "work", "--json", "--timeout", 60) as other,
    ):
        both = [one, other]

        def await_group(**wanted: object) -> None:
            while True:
                found = _json(invoke("groups", "list", store, "--json").stdout)
                if found and wanted.items() <= found[0].items():
                    return
                assert all(process.poll() is None for process in both)

        await_group(state="Stable", member_count=2)
        _fill(store, "three", 30)
        await_group(lag=0)
        for process in both:
            process.send_signal(signal.SIGINT)
        printed = [_json(process.communicate(timeout=60)[0]) for process in both]
    assert all(printed)
    assert sorted(r["value"]["n"] for each in printed for r in each) == list(range(30))


def test_members_share_one_partition_by_key(store: Path, invoke: Any) -> None:
    _fill(store)
    told = invoke("consume", store, "one", "-g", "k", "--share-keys", "--limit", 10, "--json")
    assert [r["offset"] for r in _json(told.stdout)] == list(range(10))
    [group] = _json(invoke("groups", "describe", store, "k", "--json").stdout)
    assert group["key_slots"] > 0
    assert group["lag"] == 0
    told = invoke("groups", "describe", store, "k").stdout
    assert "shared by key" in told
    assert "one-0 slots 0-63" in told


# -- tail -----------------------------------------------------------------------------------------


def test_tail_follows_a_topic_that_grows(store: Path, start: Any) -> None:
    with eventlog.open(store) as log:
        log.topic("three").append(b"0", partition=0)
    with start("tail", store, "three", "--follow", "-n", "1", "--json") as tail:
        assert json.loads(tail.stdout.readline())["value"] == 0
        with eventlog.open(store) as log:
            log.topic("three").append(b"1", partition=2)
            assert json.loads(tail.stdout.readline())["value"] == 1
            log.add_partitions("three", 5)
            log.topic("three").append(b"2", partition=4)
            assert json.loads(tail.stdout.readline())["partition"] == 4
        tail.send_signal(signal.SIGINT)
        assert tail.wait(60) == 0
        assert tail.stderr.read() == b""


def test_tail_of_one_partition(store: Path, invoke: Any) -> None:
    with eventlog.open(store) as log:
        for number in range(9):
            log.topic("three").append(b"%d" % number, partition=number % 3)
    told = invoke("tail", store, "three", "--partition", 1, "-n", 2, "--json").stdout
    assert [record["value"] for record in _json(told)] == [4, 7]
    assert "no partition 9" in invoke("tail", store, "three", "--partition", 9, code=2).stderr
