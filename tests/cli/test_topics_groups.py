"""`eventlog topics` and `eventlog groups`, also beside a process that uses the store."""

from __future__ import annotations

import json
import os
import pty
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog.errors import UnknownTopicError
from eventlog.sourcing import Event


@pytest.fixture
def shop(made_shop: Path, tmp_path: Path) -> Path:
    """A copy of the shop for each test that changes it."""
    directory = tmp_path / "shop"
    shutil.copytree(made_shop, directory)
    return directory


@pytest.fixture(scope="module")
def made_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A topic of two partitions with ten records, an event store, and a group that read it all."""
    directory = tmp_path_factory.mktemp("made") / "shop"
    with eventlog.open(directory, durability="os") as log:
        clicks = log.topic("clicks", partitions=2)
        for number in range(10):
            clicks.append(
                b"%d" % number, partition=number % 2, timestamp_ms=1_700_000_000_000 + number * 1000
            )
        log.event_store("orders").append("order-1", [Event({}, type="placed")])
        log.groups.reset("done", to="latest", topics=["clicks"])
    return directory


def _lines(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def ask(invoke: Any) -> Callable[..., list[dict[str, Any]]]:
    """What a command prints with --json."""
    return lambda *arguments: _lines(invoke(*arguments, "--json"))


# -- topics ---------------------------------------------------------------------------------------


def test_list_topics(shop: Path, invoke: Any, ask: Any) -> None:
    told = invoke("topics", "list", shop).stdout
    assert "clicks" in told
    assert "orders" in told
    assert ask("topics", "list", shop) == [
        {"name": "clicks", "partition_count": 2, "record_count": 10, "durability": "sync"},
        {"name": "orders", "partition_count": 1, "record_count": 1, "durability": "sync"},
    ]


def test_an_empty_store_has_no_topics_and_no_groups(tmp_path: Path, invoke: Any) -> None:
    invoke("init", tmp_path / "s")
    for command in ("topics", "groups"):
        result = invoke(command, "list", tmp_path / "s")
        assert result.stdout == ""
        assert f"no {command} yet" in result.stderr


def test_create_a_topic_and_the_store(tmp_path: Path, invoke: Any, ask: Any) -> None:
    store = tmp_path / "new"
    told = invoke(
        "topics", "create", store, "clicks", "-p", 3, "-s", "durability=interval", "--set",
        "interval_ms=50",
    )  # fmt: skip
    assert "made topic clicks, with 3 partitions" in told.stdout
    [topic] = ask("topics", "describe", store, "clicks")
    assert len(topic["partitions"]) == 3
    assert topic["settings"]["durability"] == "interval"
    assert topic["settings"]["interval_ms"] == 50
    assert "there is a topic clicks already" in invoke(
        "topics", "create", store, "clicks", code=2
    ).stderr  # fmt: skip
    [again] = ask("topics", "create", store, "clicks", "--if-not-exists")
    assert again == {**topic, "is_new": False}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", "no/name"), "cannot be the name of a topic"),
        (("create", "t", "-p", 0), "partitions is 0"),
        (("create", "t", "-s", "durability"), "is no setting"),
        (("create", "t", "-s", "colour=red"), "there is no setting 'colour'"),
        (("create", "t", "-s", "interval_ms=soon"), "whole number"),
        (("create", "t", "-s", "interval_ms=0"), "interval_ms is 0"),
        (("create", "t", "-s", "durability=maybe"), "durability is 'maybe'"),
        (("alter", "clicks"), "nothing to change"),
        (("alter", "clicks", "-p", 1), "cannot have 1 partition"),
        (("alter", "nothing", "-p", 3), "no topic 'nothing'"),
        (("alter", "orders", "-p", 3), "event store"),
        (("delete", "nothing", "-y"), "no topic 'nothing'"),
        (("delete", "clicks"), "no terminal"),
        (("describe", "nothing"), "no topic 'nothing'"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    made_shop: Path, invoke: Any, arguments: tuple[object, ...], told: str
) -> None:
    verb, *rest = arguments
    result = invoke("topics", verb, made_shop, *rest, code=2)
    assert told in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stdout == ""


def test_what_made_no_sense_changed_nothing(made_shop: Path, ask: Any) -> None:
    found = ask("topics", "list", made_shop)
    assert [(topic["name"], topic["partition_count"]) for topic in found] == [
        ("clicks", 2), ("orders", 1),
    ]  # fmt: skip
    assert _offsets(ask("groups", "describe", made_shop, "done")) == {0: 5, 1: 5}


def test_alter_a_topic_beside_a_process_that_uses_it(shop: Path, run: Any) -> None:
    with eventlog.open(shop) as log:
        clicks = log.topic("clicks")
        told = run("topics", "alter", shop, "clicks", "-p", "4", "-s", "durability=os").stdout
        assert b"altered topic clicks: 4 partitions, durability=os" in told
        assert log.topic("clicks").partition_count == 4
        assert clicks.partition_count == 4
        assert clicks.settings.durability == "os"
        clicks.append(b"x", partition=3)
        assert [record.value for record in clicks.read(3)] == [b"x"]
        assert len(list(clicks.read(0))) == 5


def test_delete_topics_beside_a_process_that_uses_them(shop: Path, run: Any) -> None:
    with eventlog.open(shop) as log:
        assert b"deleted topic clicks, 10 records" in run(
            "topics", "delete", shop, "clicks", "-y"
        ).stdout  # fmt: skip
        assert log.topics() == ["orders"]
    with eventlog.open(shop, read_only=True) as log, pytest.raises(UnknownTopicError):
        log.topic("clicks")


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 2), (b"y\n", 1)])
def test_deleting_is_asked_at_a_terminal(
    shop: Path, ask: Any, start: Any, answer: bytes, left: int
) -> None:
    ours, theirs = pty.openpty()
    with start("topics", "delete", shop, "clicks", stdin=theirs) as deleting:
        os.write(ours, answer)
        _, told = deleting.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert b"delete clicks (10 records)" in told
    assert deleting.returncode == (0 if left == 1 else 1)
    assert len(ask("topics", "list", shop)) == left


def test_describe_topics(shop: Path, invoke: Any, ask: Any) -> None:
    told = invoke("topics", "describe", shop).stdout
    assert "durability = sync" in told
    assert "2023-11-14 22:13:28.000" in told
    clicks, orders = ask("topics", "describe", shop)
    assert (clicks["name"], orders["name"]) == ("clicks", "orders")
    assert clicks["partitions"] == [
        {
            "partition": number,
            "log_start_offset": 0,
            "high_watermark": 5,
            "log_end_offset": 5,
            "newest_timestamp_ms": 1_700_000_008_000 + number * 1000,
        }
        for number in (0, 1)
    ]


# -- groups ---------------------------------------------------------------------------------------


@pytest.fixture
def read_by(invoke: Any, shop: Path) -> Callable[[str, int], None]:
    """Let a group commit after so many records."""

    def read(group: str, count: int) -> None:
        invoke("consume", shop, "clicks", "-g", group, "--limit", count, "--timeout", 30)

    return read


def _offsets(groups: list[dict[str, Any]]) -> dict[int, int]:
    [group] = groups
    return {p["partition"]: p["committed"] for p in group["partitions"]}


def test_list_and_describe_groups(shop: Path, invoke: Any, ask: Any, read_by: Any) -> None:
    read_by("mail", 7)
    assert "mail" in invoke("groups", "list", shop).stdout
    assert ask("groups", "list", shop) == [
        {"group": "done", "state": "Empty", "member_count": 0, "lag": 0},
        {"group": "mail", "state": "Empty", "member_count": 0, "lag": 3},
    ]
    told = invoke("groups", "describe", shop, "mail").stdout
    assert "Empty" in told
    assert "clicks-1" in told
    [group] = ask("groups", "describe", shop, "mail")
    assert sum(partition["committed"] for partition in group["partitions"]) == 7
    assert sum(partition["lag"] for partition in group["partitions"]) == group["lag"] == 3


def test_a_group_at_work(shop: Path, invoke: Any, ask: Any, start: Any) -> None:
    with start("consume", shop, "clicks", "-g", "mail", "--json") as consuming:
        for _ in range(10):
            consuming.stdout.readline()
        [group] = ask("groups", "describe", shop, "mail")
        assert group["state"] == "Stable"
        [member] = group["members"]
        assert member["pid"] == consuming.pid
        assert member["topics"] == ["clicks"]
        assert [unit["partition"] for unit in member["owned"]] == [0, 1]
        told = invoke("groups", "describe", shop, "mail").stdout
        assert str(consuming.pid) in told
        for command in (("reset", "--to", "earliest"), ("delete", "-y")):
            verb, *rest = command
            refused = invoke("groups", verb, shop, "mail", *rest, code=2)
            assert "live members" in refused.stderr
        consuming.kill()
    gone = ask("groups", "describe", shop, "mail")[0]  # at once, not after a timeout
    assert gone["members"] == []


@pytest.mark.parametrize(
    ("to", "offsets"),
    [
        ("earliest", {0: 0, 1: 0}),
        ("latest", {0: 5, 1: 5}),
        ("3", {0: 3, 1: 3}),
        ("99", {0: 5, 1: 5}),
        ("2023-11-14T22:13:23", {0: 2, 1: 1}),
        ("2023-11-14T23:13:23+01:00", {0: 2, 1: 1}),
    ],
)
def test_where_a_reset_would_go(
    made_shop: Path, ask: Any, to: str, offsets: dict[int, int]
) -> None:
    rows = ask("groups", "reset", made_shop, "done", "--to", to, "--dry-run")
    assert {row["partition"]: row["offset"] for row in rows} == offsets
    assert all(row["dry_run"] for row in rows)


def test_reset_a_group(shop: Path, invoke: Any, ask: Any) -> None:
    assert "clicks-1" in invoke("groups", "reset", shop, "done", "--to", 2).stdout
    assert _offsets(ask("groups", "describe", shop, "done")) == {0: 2, 1: 2}
    ask("groups", "reset", shop, "done", "--to", "1", "--topic", "clicks:1")
    assert _offsets(ask("groups", "describe", shop, "done")) == {0: 2, 1: 1}
    ask("groups", "reset", shop, "fresh", "--to", "2", "--topic", "clicks")
    assert _offsets(ask("groups", "describe", shop, "fresh")) == {0: 2, 1: 2}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("describe", "nobody"), "no consumer group 'nobody'"),
        (("reset", "done", "--to", "yesterday"), "--to is 'yesterday'"),
        (("reset", "nobody", "--to", "latest"), "no consumer group 'nobody'"),
        (("reset", "done", "--to", "0", "--topic", "nothing"), "no topic 'nothing'"),
        (("reset", "done", "--to", "0", "--topic", "clicks:x"), "is no partition"),
        (("reset", "done", "--to", "0", "--topic", "clicks:7"), "no partition 7"),
        (("delete", "done"), "no terminal"),
        (("delete", "done", "nobody", "-y"), "no consumer group 'nobody'"),
        (("export", "nobody"), "no consumer group 'nobody'"),
        (("import", "nofile.csv"), "there is no file"),
    ],
)
def test_what_a_group_refuses(
    made_shop: Path, invoke: Any, arguments: tuple[str, ...], told: str
) -> None:
    verb, *rest = arguments
    assert told in invoke("groups", verb, made_shop, *rest, code=2).stderr


def test_what_was_refused_changed_nothing(made_shop: Path, ask: Any) -> None:
    assert [group["group"] for group in ask("groups", "list", made_shop)] == ["done"]
    assert _offsets(ask("groups", "describe", made_shop, "done")) == {0: 5, 1: 5}


def test_delete_a_group(shop: Path, invoke: Any, ask: Any) -> None:
    ask("groups", "reset", shop, "stock", "--to", "2", "--topic", "clicks")
    assert ask("groups", "delete", shop, "done", "-y") == [{"group": "done"}]
    assert [group["group"] for group in ask("groups", "list", shop)] == ["stock"]
    assert "deleted group stock" in invoke("groups", "delete", shop, "stock", "-y").stdout


def test_offsets_go_out_and_come_back(shop: Path, tmp_path: Path, invoke: Any, ask: Any) -> None:
    told = invoke("groups", "export", shop, "done").stdout
    assert told == "clicks,0,5\nclicks,1,5\n"
    file = tmp_path / "offsets.csv"
    invoke("groups", "export", shop, "done", "-o", file)
    assert file.read_text() == told
    rows = ask("groups", "import", shop, file, "--group", "copy", "--dry-run")
    assert [row["offset"] for row in rows] == [5, 5]
    assert len(ask("groups", "list", shop)) == 1
    invoke("groups", "import", shop, file, "-g", "copy")
    assert _offsets(ask("groups", "describe", shop, "copy")) == {0: 5, 1: 5}
    both = invoke("groups", "export", shop, "done", "copy").stdout
    assert both.startswith("copy,clicks,0,5\n")
    invoke("groups", "import", shop, "-", stdin=both.replace(",5", ",2").encode())
    assert _offsets(ask("groups", "describe", shop, "done")) == {0: 2, 1: 2}
    assert "names no group" in invoke("groups", "import", shop, file, code=2).stderr
    assert "no text" in invoke("groups", "import", shop, "-", code=2, stdin=b"\xff").stderr
