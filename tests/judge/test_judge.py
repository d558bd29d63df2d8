"""The judge itself, tried on segments that a real Kafka wrote (tests/data, made by tools/kafka)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kafka_fixtures import CASES, PROJECT, Case

from tools.segment_reader import (
    CRC_FROM,
    Batch,
    SegmentError,
    base_offset_of,
    check_indexes,
    crc32c,
    expected_indexes,
    read_segment,
)

READER = PROJECT / "tools" / "segment_reader.py"
LEADER_EPOCH = range(12, 16)  # under no checksum, and nothing that a record shows
BASE_OFFSET = range(8)  # under no checksum either: only the neighbours can tell


def test_crc_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reads_what_kafka_wrote(case: Case) -> None:
    """Batches as Kafka's dump tool shows them, records as Kafka's consumer received them."""
    batches = list(read_segment(case.log))
    shown = [{name: getattr(batch, name) for name in case.expected_batches[0]} for batch in batches]
    assert shown == case.expected_batches
    records = [r for batch in batches if not batch.is_control for r in batch.records]
    assert records == case.expected_records


@pytest.mark.parametrize("case", CASES, ids=str)
def test_expects_the_indexes_that_kafka_wrote(case: Case) -> None:
    index, time_index = expected_indexes(read_segment(case.log), base_offset_of(case.log))
    assert index == case.log.with_suffix(".index").read_bytes()
    assert time_index == case.log.with_suffix(".timeindex").read_bytes()
    check_indexes(case.log)


def test_index_check_names_the_first_wrong_entry(tmp_path: Path) -> None:
    log = Case("none").copy_to(tmp_path)
    index = log.with_suffix(".index")
    data = bytearray(index.read_bytes())
    data[8 + 7] ^= 1
    index.write_bytes(data)
    with pytest.raises(SegmentError) as caught:
        check_indexes(log)
    assert (caught.value.path, caught.value.position) == (index, 8)
    index.unlink()
    with pytest.raises(SegmentError, match="missing"):
        check_indexes(log)


def test_zeros_behind_the_last_batch_end_it_quietly(tmp_path: Path) -> None:
    log = Case("none").copy_to(tmp_path)
    whole = list(read_segment(log))
    for count in (1, 60, 61, 2_000_000):
        log.write_bytes(Case("none").log.read_bytes() + bytes(count))
        assert list(read_segment(log)) == whole
    with log.open("ab") as file:
        file.write(b"\x01")
    with pytest.raises(SegmentError) as caught:
        list(read_segment(log))
    assert caught.value.position == whole[-1].position + whole[-1].size_bytes


@pytest.mark.parametrize("size_bytes", [8, 12, 60, 61, 100])
def test_a_torn_tail_is_an_error_where_it_begins(tmp_path: Path, size_bytes: int) -> None:
    log = Case("none").copy_to(tmp_path)
    *whole, last = read_segment(log)
    log.write_bytes(log.read_bytes()[: last.position + size_bytes])
    reading = read_segment(log)
    assert [next(reading) for _ in whole] == whole
    with pytest.raises(SegmentError) as caught:
        next(reading)
    assert caught.value.position == last.position


def test_every_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    """Goal: the judge is strict. Each byte of a segment is changed in turn: where it may not notice
    (the leader epoch) the records are the same; a wrong base offset is found once gaps are refused.
    """
    log = Case("compacted").copy_to(tmp_path)
    data = log.read_bytes()
    batches = list(read_segment(log))
    harmless = 0
    for at in range(len(data)):
        log.write_bytes(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
        holder = next(batch for batch in reversed(batches) if batch.position <= at)
        within = at - holder.position
        found: list[Batch] = []
        position = None
        try:
            found += read_segment(log)
        except SegmentError as error:
            position = error.position
        if position is not None:
            assert position == holder.position or (
                within in BASE_OFFSET and position > holder.position
            )
            continue
        harmless += 1
        assert within in LEADER_EPOCH or within in BASE_OFFSET
        if within in LEADER_EPOCH:
            assert [batch.records for batch in found] == [batch.records for batch in batches]
    assert 0 < harmless < CRC_FROM * len(batches)


def test_contiguous_refuses_what_leaves_a_gap(tmp_path: Path) -> None:
    log = Case("zstd-librdkafka").copy_to(tmp_path)
    batches = list(read_segment(log, contiguous=True))
    data = bytearray(log.read_bytes())
    data[batches[-1].position + 6] ^= 0x20
    log.write_bytes(data)
    assert list(read_segment(log))[-1].base_offset == batches[-1].base_offset + 0x2000
    with pytest.raises(SegmentError) as caught:
        list(read_segment(log, contiguous=True))
    assert caught.value.position == batches[-1].position


def test_the_command_prints_and_judges(tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(READER), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    case = Case("none")
    shown = run(case.log, "--records", "--indexes")
    assert shown.returncode == 0
    assert shown.stdout.endswith(f"{len(case.expected_records)} records: all sound\n")
    lines = run(case.log, "--records", "--json").stdout.splitlines()
    records = [record for line in lines for record in json.loads(line)["records"]]
    assert records == json.loads(case.expected_path.read_text())["records"]

    log = case.copy_to(tmp_path)
    log.write_bytes(log.read_bytes()[:-1])
    refused = run(log)
    assert refused.returncode == 1
    assert str(log) in refused.stderr
    assert run(tmp_path / "nothing.log").returncode == 1
