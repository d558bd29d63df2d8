"""The C core's lower functions and the judge give one verdict, on good bytes and on bad ones."""

from __future__ import annotations

import struct
from pathlib import Path

import native_reading as native
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka_fixtures import CASES, Case

from eventlog._native import check, ffi, lib, path_bytes
from eventlog.log.partition import native_options
from eventlog.settings import TopicSettings
from tools.segment_reader import (
    CRC_FROM,
    HEADER_SIZE_BYTES,
    Batch,
    Record,
    SegmentError,
    UnsoundError,
    parse_batch,
    read_segment,
)

FLIPS = (0x01, 0x80, 0xFF)
# What the judge holds against the writer of a batch, while a reader may let it pass.
WRITER_FAULTS = ("does not rise", "not the largest")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reads_what_kafka_wrote(case: Case) -> None:
    """Every codec, control batches, compacted batches: fields and records as Kafka has them."""
    data = case.log.read_bytes()
    records: list[Record] = []
    for expected in case.expected_batches:
        batch = native.check_batch(data[expected["position"] :])
        assert batch.size_bytes == expected["size_bytes"]
        assert batch.base_offset == expected["base_offset"]
        assert batch.last_offset == expected["last_offset"]
        assert batch.record_count == expected["record_count"]
        assert batch.crc == expected["crc"]
        assert batch.is_control == expected["is_control"]
        if not batch.is_control:
            records += native.decode_batch(data[expected["position"] :])
    assert records == case.expected_records
    found = native.scan(case.log)
    assert found.stop == lib.EL_SCAN_END
    assert found.batches == len(case.expected_batches)
    assert found.end_offset == case.expected_batches[-1]["last_offset"] + 1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_makes_the_indexes_that_kafka_made(case: Case, tmp_path: Path) -> None:
    log = case.copy_to(tmp_path)
    suffixes = (".index", ".timeindex")
    for suffix in suffixes:
        log.with_suffix(suffix).unlink()
    options = native_options(TopicSettings(), has_gaps=True)
    end = ffi.new("el_log_end *")
    check(lib.el_segment_index(path_bytes(log), 0, log.stat().st_size, 1, options, end))
    for suffix in suffixes:
        made = log.with_suffix(suffix).read_bytes()
        assert made == case.log.with_suffix(suffix).read_bytes()


# -- one byte is changed ----------------------------------------------------------------------


def small_segment(path: Path) -> list[Batch]:
    """Batches of different shapes, plain and compressed, with no gap between their offsets."""
    data = b""
    for name in ("none", "zstd-java", "gzip-java", "snappy-java", "lz4-librdkafka"):
        source = Case(name)
        for batch in list(read_segment(source.log))[:2]:
            if batch.size_bytes < 200:
                data += source.log.read_bytes()[batch.position :][: batch.size_bytes]
    batches, position, offset = b"", 0, 0
    while position < len(data):
        size = native.check_batch(data[position:]).size_bytes
        whole = data[position : position + size]
        batches += struct.pack(">q", offset) + whole[8:]
        offset = native.check_batch(batches[position:]).last_offset + 1
        position += size
    path.write_bytes(batches + bytes(64))  # and a bit of preallocation
    return list(read_segment(path, contiguous=True))


def judged(path: Path) -> tuple[list[Record], int | None]:
    """The judge's records, and the position that it refuses."""
    records: list[Record] = []
    try:
        for batch in read_segment(path):
            records += batch.records
    except SegmentError as error:
        return records, error.position
    return records, None


def test_every_flipped_byte_gives_one_verdict(tmp_path: Path) -> None:
    """Goal: damage never becomes data. Every byte of a small segment is changed in several ways:
    the C core stops where the judge stops, and what it decodes before is what was written.

    The base offset lies outside the CRC, so there the records may come with other offsets; that
    two readers agree is all that bytes alone can give. What the log does about it is tested below.
    """
    path = tmp_path / "00000000000000000000.log"
    batches = small_segment(path)
    original = [record for batch in batches for record in batch.records]
    data = path.read_bytes()
    refused = 0
    for at in range(len(data)):
        holder = next((b for b in batches if b.position <= at < b.position + b.size_bytes), None)
        is_base_offset = holder is not None and at - holder.position < 8
        for flip in FLIPS:
            changed = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            path.write_bytes(changed)
            records, position = judged(path)
            found = native.scan(path)
            assert (found.stop == lib.EL_SCAN_BAD) == (position is not None), at
            decoded, _ = native.decode_all(changed[: found.end_position])
            assert decoded == records, at
            if position is not None:
                refused += 1
                assert found.end_position == position, at
            if not is_base_offset:
                assert records == original[: len(records)], at
                assert position == (holder.position if holder else len(data) - 64) or (
                    holder is not None and 12 <= at - holder.position < 16 and position is None
                ), at
    assert refused > 2 * len(data)


def test_the_leader_epoch_may_be_anything() -> None:
    """It is under no checksum, for a broker sets it; records are the same whatever it says."""
    data = bytearray(Case("none").log.read_bytes())
    before = native.decode_batch(bytes(data))
    data[12:16] = struct.pack(">i", 77)
    assert native.decode_batch(bytes(data)) == before


# -- crafted bytes under a right checksum -----------------------------------------------------

DONORS = [
    whole[batch.position : batch.position + batch.size_bytes]
    for name in ("none", "compacted", "transactions")
    for whole in [Case(name).log.read_bytes()]
    for batch in list(read_segment(Case(name).log))[:3]
]
edits = st.lists(
    st.tuples(
        st.integers(0, 5000),
        st.integers(0, 3),
        st.sampled_from(
            [b"", b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\x80" * 4, b"\xff" * 9]
        )
        | st.binary(min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=3,
)


@given(st.sampled_from(DONORS), edits)
def test_hostile_batches_get_one_verdict(
    donor: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    """Goal: no crafted bytes are read in two ways. A sound batch is edited behind its CRC field and
    sealed again, so that only the decoders' own checks stand between the bytes and the reader.
    """
    data = bytearray(donor)
    for place, cut, put in changes:
        at = CRC_FROM + place % (len(data) - CRC_FROM)
        data[at : at + cut] = put
    data += bytes(max(HEADER_SIZE_BYTES - len(data), 0))
    sealed = native.seal(bytes(data))
    try:
        decoded = native.decode_batch(sealed)
    except native.NativeRefusalError:
        decoded = None
    records, fault = parse(sealed)
    if fault is None:
        assert decoded == records
    elif not any(what in fault for what in WRITER_FAULTS):
        assert decoded is None, fault


def parse(data: bytes) -> tuple[list[Record], str | None]:
    """The judge's records of one batch, or what it says is wrong."""
    try:
        return list(parse_batch(data).records), None
    except UnsoundError as error:
        return [], str(error)
