"""Packed postings against the plain list of (version, offset) that they stand for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventlog.sourcing import postings
from eventlog.sourcing.postings import FIRST_RECORD_POSITION, POSTING_SIZE_BYTES

Pair = tuple[int, int]


def listed(data: bytes | bytearray) -> list[Pair]:
    runs = postings.columns(data)
    return [
        (version + i, offset + i)
        for version, offset, count in zip(runs.versions, runs.offsets, runs.counts, strict=True)
        for i in range(count)
    ]


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Pair]]:
    """Runs with holes in versions and offsets, some of them adjoining."""
    data, pairs = bytearray(), []
    version = offset = 1
    for _ in range(draw(st.integers(0, 8))):
        version += draw(st.integers(0, 2))
        offset += draw(st.integers(0, 3))
        count = draw(st.integers(1, 5))
        batch_position = draw(st.integers(0, 3))
        postings.extend(data, version, offset, batch_position, count, FIRST_RECORD_POSITION)
        pairs += [(version + i, offset + i) for i in range(count)]
        version += count
        offset += count
    return bytes(data), pairs


@given(streams())
def test_packing(stream: tuple[bytes, list[Pair]]) -> None:
    data, pairs = stream
    assert listed(data) == pairs
    if pairs:
        assert postings.first_version(data) == pairs[0][0]
        assert postings.last_version(data) == pairs[-1][0]


@given(streams(), st.integers(0, 45), st.integers(0, 45))
def test_parts(stream: tuple[bytes, list[Pair]], start: int, end: int) -> None:
    data, pairs = stream
    assert listed(postings.between(data, start, end)) == [p for p in pairs if start <= p[0] < end]
    assert listed(postings.below(data, end)) == [p for p in pairs if p[1] < end]
    assert listed(postings.from_offset(data, start)) == [p for p in pairs if p[1] >= start]
    assert listed(postings.limited(data, start, backwards=False)) == pairs[:start]
    assert (
        listed(postings.limited(data, start, backwards=True)) == pairs[max(len(pairs) - start, 0) :]
    )


@given(streams())
def test_merging_forgets_how_it_was_cut(stream: tuple[bytes, list[Pair]]) -> None:
    data, pairs = stream
    single = bytearray()
    for version, offset in pairs:
        postings.extend(single, version, offset, 0, 1, FIRST_RECORD_POSITION)
    assert postings.merged(data) == postings.merged(bytes(single))


def test_runs_join_inside_a_segment_only() -> None:
    data = bytearray()
    assert postings.extend(data, 1, 10, 0, 2, FIRST_RECORD_POSITION)
    assert not postings.extend(data, 3, 12, 0, 1, 90)  # same batch
    assert not postings.extend(data, 4, 13, 500, 1, FIRST_RECORD_POSITION)  # next batch
    assert postings.extend(data, 5, 14, 0, 1, FIRST_RECORD_POSITION)  # first of a new segment
    assert postings.extend(data, 6, 20, 700, 1, 80)  # others between
    assert len(data) == 3 * POSTING_SIZE_BYTES
