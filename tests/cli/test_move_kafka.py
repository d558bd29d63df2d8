"""`eventlog export-kafka` and `eventlog import-kafka`; what they do is tested in tests/log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import OffsetAndMetadata, TopicPartition


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    directory = tmp_path / "shop"
    with eventlog.open(directory, durability="os", maintenance=False) as log:
        for number in range(10):
            log.topic("clicks", partitions=2).append(
                b"%d" % number, partition=number % 2, timestamp_ms=1_700_000_000_000
            )
        log.topic("old", cleanup_policy="delete", retention_ms=1000).append(b"x", timestamp_ms=1)
        log.groups.commit("mailer", {TopicPartition("clicks", 1): OffsetAndMetadata(3)})
    return directory


def test_there_and_back(shop: Path, tmp_path: Path, invoke: Any) -> None:
    told = invoke("export-kafka", shop, tmp_path / "move", "--topic", "clicks").stdout
    assert "clicks-1" in told
    assert "exported 2 partitions in" in told
    assert (tmp_path / "move" / "eventlog-steps.md").read_text().startswith("# Moving to Kafka")
    offsets = tmp_path / "move" / "eventlog-offsets.csv"
    told = invoke(
        "import-kafka", tmp_path / "again", tmp_path / "move", "--offsets", offsets, "-g", "mailer"
    ).stdout
    assert "imported 2 partitions, committed offsets of 1 group" in told
    with eventlog.open(tmp_path / "again", read_only=True) as log:
        assert [record.value for record in log.topic("clicks").read(1)] == [
            b"1",
            b"3",
            b"5",
            b"7",
            b"9",
        ]
        assert log.groups.lag("mailer") == {TopicPartition("clicks", 1): 2}


def test_as_json(shop: Path, tmp_path: Path, invoke: Any) -> None:
    result = invoke("export-kafka", shop, tmp_path / "move", "-t", "clicks", "--link", "--json")
    told = json.loads(result.stdout)
    assert told["findings"] == []
    assert told["offsets_csv"] == "clicks,1,3\n"
    assert told["partitions"][0] == {
        "topic": "clicks",
        "partition": 0,
        "log_start_offset": 0,
        "log_end_offset": 5,
        "segments": 1,
        "size_bytes": 5 * 69,
        "has_gaps": False,
    }
    told = json.loads(
        invoke("import-kafka", tmp_path / "again", tmp_path / "move" / "clicks-0", "--json").stdout
    )
    assert [each["topic"] for each in told["partitions"]] == ["clicks"]
    assert told["offsets"] == []


def test_what_is_refused_is_listed(shop: Path, tmp_path: Path, invoke: Any) -> None:
    result = invoke("export-kafka", shop, tmp_path / "move", code=2)
    assert "nothing was moved: old-records: old-0" in result.stderr
    told = invoke("export-kafka", shop, tmp_path / "move", "--dry-run", code=1).stdout
    assert "old-records" in told
    assert "--topic clicks" in told
    assert not (tmp_path / "move").exists()
    told = invoke("export-kafka", shop, tmp_path / "move", "--accept", "old-records").stdout
    assert "old-records" in told
    invoke("export-kafka", shop, tmp_path / "move", "--accept", "damaged", code=2)


def test_a_dry_run_of_an_import_changes_nothing(shop: Path, tmp_path: Path, invoke: Any) -> None:
    invoke("export-kafka", shop, tmp_path / "move", "-t", "clicks")
    invoke("import-kafka", tmp_path / "new", tmp_path / "move", "--dry-run", code=2)
    assert not (tmp_path / "new").exists()
    told = json.loads(
        invoke("import-kafka", shop, tmp_path / "move", "--dry-run", "--json", code=1).stdout
    )
    assert [(each["name"], each["topic"], each["partition"]) for each in told["findings"]] == [
        ("topic-exists", "clicks", None)
    ]
