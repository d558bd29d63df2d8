"""`eventlog backup`, `restore`, `repair`, and what `verify` looks at besides."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog.cli.verifying import check_store

SEGMENT_SIZE_BYTES = 2048


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("backup") / "shop"
    with eventlog.open(directory, durability="os") as log:
        topic = log.topic("clicks", partitions=2, segment_size_bytes_max=SEGMENT_SIZE_BYTES)
        for number in range(200):
            topic.append(b"%04d" % number * 10, partition=number % 2)
        topic.partition(0).append_columns([b"once"], producer=(log.new_producer_id(), 0, 0))
        unit = eventlog.TopicPartition("clicks", 0)
        log.groups.commit("billing", {unit: eventlog.OffsetAndMetadata(40)})
    return directory


@pytest.fixture
def shop(whole: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "shop"
    shutil.copytree(whole, directory)
    return directory


def segments(shop: Path) -> list[Path]:
    return sorted((shop / "log" / "clicks-0").glob("*.log"))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def problems_of(shop: Path) -> list[tuple[str, str]]:
    return [(problem.kind, Path(problem.path).name) for problem in check_store(shop).problems]


# -- backup and restore -----------------------------------------------------------------------------


def test_there_and_back(shop: Path, tmp_path: Path, invoke: Any, run: Any) -> None:
    backups = tmp_path / "backups"
    with eventlog.open(shop) as log:  # somebody is using it
        log.topic("clicks").append(b"just now", partition=0)
        assert "backed up" in run("backup", shop, backups).stdout.decode()
        told = json.loads(invoke("backup", shop, backups, "--json").stdout)
        assert told["ends"]["clicks-0"] == log.topic("clicks").high_watermark(0)
        assert 0 < told["shared_size_bytes"] < told["size_bytes"]
        full = json.loads(invoke("backup", shop, backups, "--full", "--json").stdout)
        assert full["shared_size_bytes"] == 0
    assert "all is well" in invoke("verify", "--backup", backups).stdout
    assert "restored" in invoke("restore", backups, tmp_path / "new").stdout
    again = json.loads(invoke("restore", told["path"], tmp_path / "other", "--json").stdout)
    assert again["ends"] == told["ends"]
    assert again["backup"] == told["path"]
    for name in ("new", "other"):
        assert problems_of(tmp_path / name) == []
        with eventlog.open(tmp_path / name) as log:
            assert [r.value for r in log.topic("clicks").read(0)][-1] == b"just now"
            assert [c.offset for c in log.groups.committed("billing").values()] == [40]


def test_errors_are_one_line(shop: Path, tmp_path: Path, invoke: Any) -> None:
    backups = tmp_path / "backups"
    invoke("backup", shop, backups)
    for arguments in (
        ("backup", tmp_path / "nowhere", backups),
        ("backup", shop, shop / "inside"),
        ("restore", backups, shop),
        ("restore", tmp_path / "nowhere", tmp_path / "new"),
        ("verify", "--backup", shop),
        ("repair", tmp_path / "nowhere"),
    ):
        result = invoke(*arguments, code=2)
        assert result.stderr.startswith("error: ")
        assert "hint:" in result.stderr


def test_a_damaged_backup_is_told(shop: Path, tmp_path: Path, invoke: Any) -> None:
    path = Path(
        json.loads(invoke("backup", shop, tmp_path / "b", "--full", "--json").stdout)["path"]
    )
    flip(path / "topics.json", 5)
    flip(segments(path)[0], 300)
    told = json.loads(invoke("verify", "--backup", tmp_path / "b", "--json", code=1).stdout)
    damaged = {p["path"] for p in told["problems"] if p["kind"] == "backup"}
    assert damaged == {str(path / "topics.json"), str(segments(path)[0])}
    invoke("restore", path, tmp_path / "new", code=2)


# -- repair -----------------------------------------------------------------------------------------


def test_repair_shows_a_plan_and_then_does_it(shop: Path, invoke: Any) -> None:
    assert "nothing needs to be repaired" in invoke("repair", shop).stdout
    path = segments(shop)[1]
    flip(path, 70)
    plan = invoke("repair", shop, code=1).stdout
    assert path.name in plan
    assert "--apply" in plan
    [step] = [
        json.loads(line) for line in invoke("repair", shop, "--json", code=1).stdout.splitlines()
    ]
    assert (step["case"], step["first_offset"]) == ("C-D", int(path.stem))
    cut = invoke("repair", shop, "--method", "cut", "--json", code=1).stdout.splitlines()
    assert len(cut) > 1
    assert "repaired" in invoke("repair", shop, "--apply").stdout
    assert "nothing needs to be repaired" in invoke("repair", shop).stdout
    told = json.loads(invoke("verify", shop, "--json").stdout)
    assert told["lost_records"] == step["end_offset"] - step["first_offset"]
    assert "lost and skipped by a repair" in invoke("verify", shop).stdout


def test_repair_of_a_store_that_is_open(shop: Path, run: Any) -> None:
    with eventlog.open(shop):
        assert b"open in another process" in run("repair", shop, "--apply", code=2).stderr


# -- what verify looks at ---------------------------------------------------------------------------


def test_damaged_groups_are_found(shop: Path) -> None:
    assert problems_of(shop) == []
    data = shop / "groups" / "data.mdb"
    flip(data, data.read_bytes().rindex(b"billing") + 20)
    assert ("groups", "groups") in problems_of(shop)


def test_committed_offsets_past_the_end_are_found(shop: Path) -> None:
    with eventlog.open(shop) as log:
        end = log.topic("clicks").high_watermark(0)
        unit = eventlog.TopicPartition("clicks", 0)
        log.groups.commit("ahead", {unit: eventlog.OffsetAndMetadata(end)})
    segments(shop)[-1].unlink()
    eventlog.repair(shop, method="cut", dry_run=False)
    [problem] = check_store(shop).problems
    assert problem.kind == "groups"
    assert "ahead" in problem.detail


def test_damaged_snapshots_of_producers_are_found(shop: Path) -> None:
    path = max(shop.glob("log/clicks-*/*.snapshot"), key=lambda path: path.stat().st_size)
    flip(path, 12)
    assert problems_of(shop) == [("producers", path.name)]
    flip(path, 12)
    path.rename(path.with_name(f"{10**6:020d}.snapshot"))
    assert problems_of(shop) == [("producers", f"{10**6:020d}.snapshot")]


@pytest.mark.parametrize("name", ["producer-ids.json", "log-starts"])
def test_the_stores_own_plain_files(shop: Path, name: str) -> None:
    flip(shop / name, 12)
    assert problems_of(shop) == [("checkpoint", name)]


@pytest.mark.parametrize("suffix", [".log.cleaned", ".log.swap", ".log.deleted", ".log.tmp"])
def test_what_is_left_over_is_found(shop: Path, suffix: str) -> None:
    path = segments(shop)[0].with_suffix(suffix)
    path.write_bytes(b"x")
    assert ("left over", path.name) in problems_of(shop)
    path.unlink()
    orphan = path.with_name(f"{10**6:020d}.index")
    orphan.write_bytes(b"")
    assert problems_of(shop) == [("left over", orphan.name)]


def test_a_hole_is_allowed_only_where_records_may_be_missing(shop: Path) -> None:
    """A batch with fewer records than offsets, its checksum right."""
    with eventlog.open(shop) as log:
        log.topic("clicks").append_many([b"a", b"b", b"c"], partition=0)
    path = segments(shop)[-1]
    data = bytearray(path.read_bytes())
    position = data.rindex(b"\x00" * 3 + b"\x03\x0e") - 57  # the count of three ends the header
    [delta] = struct.unpack_from(">i", data, position + 23)
    assert delta == 2
    struct.pack_into(">i", data, position + 23, 4)
    crc = eventlog._native.lib.el_crc32c_of(bytes(data[position + 21 :]), len(data) - position - 21)
    struct.pack_into(">I", data, position + 17, crc)
    path.write_bytes(data)
    assert "order" in {kind for kind, _ in problems_of(shop)}


def test_topics_that_make_no_sense_are_found(shop: Path) -> None:
    path = shop / "topics.json"
    content = json.loads(path.read_bytes())
    content["topics"]["other"] = {**content["topics"]["clicks"], "partitions": 1}
    path.write_text(json.dumps(content))
    assert ("store", "topics.json") in problems_of(shop)
    del content["topics"]["other"]
    content["topics"]["clicks"]["settings"]["segment_ms"] = -3
    path.write_text(json.dumps(content))
    assert ("store", "topics.json") in problems_of(shop)
