"""`eventlog retention`, `compact`, `roll` and `topics delete-records`, beside a process that uses the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import eventlog

SETTINGS: dict[str, Any] = {"segment_size_bytes_max": 1024, "durability": "os"}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A topic that keeps 8 of 20 records in segments of five, one that is compacted, one that stays."""
    with eventlog.open(tmp_path / "shop", maintenance=False) as log:
        clicks = log.topic("clicks", cleanup_policy="delete", retention_count=8, **SETTINGS)
        prices = log.topic("prices", cleanup_policy="compact", **SETTINGS)
        kept = log.topic("kept", **SETTINGS)
        for number in range(20):
            for topic in (clicks, prices, kept):
                topic.append(bytes(116), key=b"%06d" % (number % 2), timestamp_ms=1000 * number)
    return tmp_path / "shop"


@pytest.fixture
def ask(invoke: Any) -> Any:
    """What a command prints with --json."""
    return lambda *arguments: [
        json.loads(line) for line in invoke(*arguments, "--json").stdout.splitlines()
    ]


def start_of(shop: Path, topic: str) -> int:
    with eventlog.open(shop, read_only=True) as log:
        return log.topic(topic).log_start_offset()


def test_what_would_go_and_what_went(shop: Path, invoke: Any, ask: Any) -> None:
    for _ in range(2):  # planning changes nothing
        told = invoke("retention", "plan", shop).stdout
        assert "clicks-0" in told
        assert "0 to 10" in told
        assert "2 by count" in told
        assert "prices" not in told
    [plan] = ask("retention", "plan", shop, "clicks")
    assert (plan["log_start_offset"], plan["new_log_start_offset"]) == (0, 10)
    assert plan["record_count"] == 10
    assert [each["base_offset"] for each in plan["segments"]] == [0, 5]
    assert {each["reason"] for each in plan["segments"]} == {"count"}
    assert plan["size_bytes"] == sum(each["size_bytes"] for each in plan["segments"])
    assert plan["blocked"] == []
    with eventlog.open(shop) as log:  # somebody uses it
        assert ask("retention", "apply", shop) == [plan]
        assert log.topic("clicks").log_start_offset() == 10
    assert "nothing to delete" in invoke("retention", "apply", shop).stderr
    assert ask("retention", "plan", shop) == []
    assert start_of(shop, "kept") == 0


def test_the_reasons(shop: Path, invoke: Any) -> None:
    invoke(
        "topics", "alter", shop, "clicks", "-s", "retention_ms=1", "-s", "retention_size_bytes=2800",
        "-s", "retention_count=-1",
    )  # fmt: skip
    told = " ".join(invoke("retention", "plan", shop).stdout.split())
    assert "1 by size" in told
    assert "3 by age, up to" in told
    assert "1970-01-01 00:00:19.000" in told


def test_a_group_that_blocks(shop: Path, invoke: Any, ask: Any) -> None:
    invoke("topics", "alter", shop, "clicks", "-s", "retention_waits_for_groups=true")
    invoke("groups", "reset", shop, "mailer", "--to", 7, "--topic", "clicks")
    told = invoke("retention", "plan", shop).stdout
    assert "blocked: 1 segment of clicks-0, by group mailer, which comes to offset 7 next" in told
    [plan] = ask("retention", "apply", shop)
    assert [each["blocked_by"] for each in plan["blocked"]] == [[{"group": "mailer", "offset": 7}]]
    assert start_of(shop, "clicks") == 5
    invoke("groups", "delete", shop, "mailer", "-y")
    invoke("retention", "apply", shop)
    assert start_of(shop, "clicks") == 10


def test_delete_records(shop: Path, invoke: Any, ask: Any) -> None:
    assert "no terminal" in invoke(
        "topics", "delete-records", shop, "kept", "--before", 7, code=2
    ).stderr  # fmt: skip
    assert start_of(shop, "kept") == 0
    told = invoke("topics", "delete-records", shop, "kept", "--before", 7, "-y").stdout
    assert told == "deleted 7 records of kept-0: it begins at offset 7\n"
    with eventlog.open(shop) as log:
        assert ask("topics", "delete-records", shop, "kept", "--before", 8, "-y") == [
            {"topic": "kept", "partition": 0, "log_start_offset": 8}
        ]
        assert [record.offset for record in log.topic("kept").read(limit=1)] == [8]


def test_roll(shop: Path, invoke: Any, ask: Any) -> None:
    told = invoke("roll", shop, "kept").stdout
    assert told == "the newest segment of kept-0 begins at offset 20\n"
    assert ask("roll", shop, "kept", "-p", 0) == [
        {"topic": "kept", "partition": 0, "base_offset": 20}
    ]


def test_compact(shop: Path, invoke: Any, ask: Any) -> None:
    told = invoke("compact", shop, "--dry-run").stdout
    assert "prices-0" in told
    assert "yes, by dirty ratio" in " ".join(told.split())
    [plan] = ask("compact", shop, "prices", "--dry-run")
    assert (plan["reason"], plan["first_uncleanable_offset"]) == ("dirty ratio", 15)
    assert "clicks" not in told
    with eventlog.open(shop) as log:
        [done] = ask("compact", shop)
        # Of each key the last one, and in the newest segment all.
        assert [record.offset for record in log.topic("prices").read()] == [13, 14, *range(15, 20)]
    assert (done["end_offset"], done["is_complete"]) == (15, True)
    assert "yes" in invoke("compact", shop, "prices").stdout
    assert "is not compacted" in invoke("compact", shop, "kept", code=2).stderr
    invoke("topics", "delete", shop, "prices", "-y")
    assert "no topic is compacted" in invoke("compact", shop).stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("retention", "plan", "nothing"), "no topic 'nothing'"),
        (("retention", "apply", "nothing"), "no topic 'nothing'"),
        (("compact", "nothing"), "no topic 'nothing'"),
        (("roll", "nothing"), "no topic 'nothing'"),
        (("roll", "kept", "-p", 3), "no partition 3"),
        (("topics", "delete-records", "nothing", "--before", 1, "-y"), "no topic 'nothing'"),
        (("topics", "delete-records", "kept", "--before", 21, "-y"), "is outside 0 .. 20"),
        (("topics", "delete-records", "kept", "--before", -1, "-y"), "is outside 0 .. 20"),
        (("topics", "alter", "kept", "-s", "retention_waits_for_groups=yes"), "true or false"),
        (("topics", "alter", "kept", "-s", "min_cleanable_dirty_ratio=x"), "a number"),
        (("topics", "alter", "kept", "-s", "cleanup_policy=sometimes"), "cleanup_policy is"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    shop: Path, invoke: Any, arguments: tuple[object, ...], told: str
) -> None:
    verbs = 2 if arguments[0] in ("retention", "topics") else 1
    result = invoke(*arguments[:verbs], shop, *arguments[verbs:], code=2)
    assert told in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stdout == ""
