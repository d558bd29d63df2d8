"""The two passes of compaction over bytes: against Kafka's rules in plain Python, and over hostile bytes.

What comes out is read by the independent reader of tools/. The hash is checked against its authors' vectors.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import reference_batch as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_batch import Event, Fields

from eventlog._native import ffi, lib
from eventlog.errors import CorruptionError
from eventlog.log.compression import compress, decompress

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.segment_reader import Batch, parse_batch

HASH_KEY = bytes(range(16))
LARGE_MAP = 64 * 1024
START_MS, NOW_MS, HORIZON_MS = 1_790_000_000_000, 1_790_000_500_000, 1_790_000_900_000
LOG_APPEND_TIME, TRANSACTIONAL, CONTROL, DELETE_HORIZON = 8, 16, 32, 64


class Given(NamedTuple):
    """A batch before compaction: records by offset delta, and how far it reaches beyond them."""

    events: dict[int, Event]
    last_delta: int
    codec: int = 0
    bits: int = 0
    producer_id: int = -1
    hole: int = 0  # offsets missing before it
    horizon_ms: int = 0


KEYS = st.one_of(st.none(), st.sampled_from([b"", b"a", b"b", b"long key " * 9]))
VALUES = st.one_of(st.none(), st.binary(max_size=20))
EVENTS = st.builds(
    Event,
    value=VALUES,
    key=KEYS,
    headers=st.sampled_from([(), ((b"h", b"1"),), ((b"n", None), (b"n", b""))]),
    timestamp=st.integers(START_MS, START_MS + 100_000),
)


@st.composite
def batches(draw: st.DrawFn) -> Given:
    last_delta = draw(st.integers(0, 20))
    deltas = draw(st.lists(st.integers(0, last_delta), max_size=last_delta + 1, unique=True))
    bits = draw(st.sampled_from([0, 0, 0, 0, LOG_APPEND_TIME, TRANSACTIONAL, DELETE_HORIZON]))
    return Given(
        events={delta: draw(EVENTS) for delta in sorted(deltas)},
        last_delta=last_delta,
        codec=draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4])),
        bits=bits,
        producer_id=draw(st.sampled_from([-1, -1, 7])) if bits != TRANSACTIONAL else 7,
        hole=draw(st.sampled_from([0, 0, 0, 3])),
        horizon_ms=draw(st.sampled_from([NOW_MS - 1, NOW_MS, NOW_MS + 1])),
    )


def written(items: list[Given], base_offset: int = 0) -> bytes:
    data, offset = b"", base_offset
    for item in items:
        offset += item.hole
        times = [event.timestamp for event in item.events.values()] or [START_MS]
        base = item.horizon_ms if item.bits & DELETE_HORIZON else times[0]
        payload = b"".join(reference.record(e, base, delta) for delta, e in item.events.items())
        if item.codec and payload:
            payload = compress(item.codec, payload, 1)
        data += reference.batch(
            Fields(
                last_offset_delta=item.last_delta,
                base_timestamp=base,
                max_timestamp=max(times),
                record_count=len(item.events),
                base_offset=offset,
                leader_epoch=3,
                attributes=item.bits | (item.codec if item.events else 0),
                producer_id=item.producer_id,
                producer_epoch=0 if item.producer_id >= 0 else -1,
                base_sequence=5 if item.producer_id >= 0 else -1,
            ),
            payload,
        )
        offset += item.last_delta + 1
    return data


def read(data: bytes) -> list[Batch]:
    found, position = [], 0
    while position < len(data):
        found.append(parse_batch(data, position))
        position += found[-1].size_bytes
    return found


# -- the C core, driven as compaction.py drives it ------------------------------------------------


class Refused(Exception):  # noqa: N818 - an outcome, not a failure
    pass


class Compactor:
    """One map; `fill` and `filter` are the two passes over one segment's bytes."""

    def __init__(self, size_bytes: int = LARGE_MAP) -> None:
        self.map = ffi.gc(lib.el_key_map_new(size_bytes, HASH_KEY), lib.el_key_map_free)
        self.filtered = ffi.new("el_filtered *")

    @property
    def end(self) -> int:
        return int(lib.el_key_map_end(self.map, ffi.new("int64_t *")))

    def batches(self, data: bytes, end_offset: int) -> Any:
        self._keep = (ffi.from_buffer(data), ffi.new("char[]", b"a file"))
        fields = {"data": self._keep[0], "size": len(data), "end_offset": end_offset}
        return ffi.new("el_batches *", {**fields, "path": self._keep[1]})

    def payload(self, b: Any) -> bytes:
        batch = ffi.buffer(b.data, b.size)[b.position : b.size]
        size = 12 + int.from_bytes(batch[8:12], "big")
        return decompress(batch[22] & 7, bytes(batch[61:size]))

    def fill(self, data: bytes, start: int = 0, end_offset: int = 2**62) -> int:
        b, payload, result = self.batches(data, end_offset), b"", lib.EL_OK
        while result in (lib.EL_OK, lib.EL_COMPRESSED):
            given_payload = payload if result == lib.EL_COMPRESSED else ffi.NULL
            result = lib.el_key_map_add(self.map, b, start, given_payload, len(payload))
            payload = self.payload(b) if result == lib.EL_COMPRESSED else b""
        if result < 0:
            raise Refused(result)
        return int(result)

    def filter(
        self,
        data: bytes,
        *,
        kept_ends: tuple[int, ...] = (),
        keeps_last: bool = True,
        horizon_ms: int = HORIZON_MS,
        capacity: int = 1 << 16,
        end_offset: int = 2**62,
    ) -> bytes:
        kept = ffi.new("int64_t[]", list(kept_ends))
        rules = ffi.new(
            "el_compaction_rules *",
            {"now_ms": NOW_MS, "horizon_ms": horizon_ms, "kept_ends": kept}
            | {"kept_count": len(kept_ends), "keeps_last": keeps_last},
        )
        b, f, payload, result = self.batches(data, end_offset), self.filtered, None, lib.EL_OK
        f.size, done = 0, b""
        out = ffi.new("char[]", capacity)
        while result != lib.EL_END:
            result = lib.el_key_map_filter(
                self.map,
                rules,
                b,
                ffi.NULL if payload is None else payload,
                0 if payload is None else len(payload),
                out,
                len(out),
                f,
            )
            if result < 0:
                raise Refused(result)
            if result == lib.EL_FULL:
                done += ffi.buffer(out, f.size)[:]
                f.size = 0
                if f.size_needed > len(out):
                    out = ffi.new("char[]", f.size_needed)
                continue
            payload = self.payload(b) if result == lib.EL_COMPRESSED else None
            if result == lib.EL_OK and f.unpacked_position >= 0:
                batch = bytearray(ffi.buffer(out, f.size)[f.unpacked_position :])
                batch[61:] = compress(f.codec, bytes(batch[61:]), 1)
                assert lib.el_batch_compressed(ffi.from_buffer(batch), len(batch), f.codec) == 0
                done += ffi.buffer(out, f.unpacked_position)[:] + batch
                f.size = 0
        return bytes(done + ffi.buffer(out, f.size)[:])


# -- the rules, in plain Python -------------------------------------------------------------------


def mapped(found: list[Batch], start: int) -> dict[bytes, int]:
    return {
        record.key: record.offset
        for batch in found
        if not batch.is_control and not batch.is_transactional
        for record in batch.records
        if record.key is not None and record.offset >= start
    }


def expected(
    found: list[Batch], keys: dict[bytes, int], end: int, kept_ends: tuple[int, ...]
) -> list[tuple[Any, ...]]:
    """(base offset, last offset, attributes, base timestamp, max timestamp, producer, records)."""
    result = []
    for batch in found:
        has_horizon = bool(batch.attributes & DELETE_HORIZON)
        is_expired = has_horizon and batch.base_timestamp_ms <= NOW_MS
        left = [
            r
            for r in batch.records
            if batch.is_control
            or r.offset >= end
            or (
                r.key is not None
                and r.offset >= keys.get(r.key, -1)
                and (r.value is not None or batch.is_transactional or not is_expired)
            )
        ]
        attributes, base, latest = (
            batch.attributes,
            batch.base_timestamp_ms,
            batch.max_timestamp_ms,
        )
        begins = (
            any(r.value is None and r.offset < end for r in left)
            and not has_horizon
            and not batch.is_transactional
        )
        if not left and batch is not found[-1] and batch.last_offset not in kept_ends:
            continue
        if not left and batch.records:
            attributes, base = attributes & ~(7 | DELETE_HORIZON), -1
            latest = latest if batch.producer_id >= 0 else -1
        elif len(left) < len(batch.records) or begins:
            if begins:
                attributes, base = attributes | DELETE_HORIZON, HORIZON_MS
            elif not has_horizon:
                base = left[0].timestamp_ms
            if not batch.is_log_append_time:
                latest = max(r.timestamp_ms for r in left)
        producer = (batch.producer_id, batch.producer_epoch, batch.base_sequence)
        place = (batch.base_offset, batch.last_offset, batch.leader_epoch)
        result.append((*place, attributes, base, latest, producer, tuple(left)))
    return result


def facts(found: list[Batch]) -> list[tuple[Any, ...]]:
    return [
        (
            *(b.base_offset, b.last_offset, b.leader_epoch, b.attributes),
            *(b.base_timestamp_ms, b.max_timestamp_ms),
            (b.producer_id, b.producer_epoch, b.base_sequence),
            b.records,
        )
        for b in found
    ]


@given(
    st.lists(batches(), min_size=1, max_size=8),
    st.integers(0, 60),
    st.sets(st.integers(0, 100), max_size=10),
    st.sampled_from([61, 200, 1 << 16]),
)
def test_what_stays_is_what_kafkas_rules_say(
    items: list[Given], start: int, ends: set[int], capacity: int
) -> None:
    data = written(items)
    found = read(data)
    compactor = Compactor()
    assert compactor.fill(data, start) == lib.EL_END
    assert compactor.end == found[-1].last_offset + 1
    kept_ends = tuple(sorted(ends))
    out = compactor.filter(data, kept_ends=kept_ends, capacity=capacity)
    keys = mapped(found, start)
    left = read(out)
    assert facts(left) == expected(found, keys, compactor.end, kept_ends)
    before = {b.base_offset: data[b.position : b.position + b.size_bytes] for b in found}
    changed = {
        b.base_offset: out[b.position : b.position + b.size_bytes] != before[b.base_offset]
        for b in left
    }
    assert compactor.filtered.batches_changed == len(found) - len(left) + sum(changed.values())
    for old in found:  # what has lost nothing is copied as it is, compressed bytes and all
        for new in left:
            if facts([new]) == facts([old]):
                assert not changed[new.base_offset]
    # A second round over what came out changes nothing more.
    again = Compactor()
    again.fill(out, start)
    assert again.filter(out, kept_ends=kept_ends) == out or any(
        b.attributes & DELETE_HORIZON for b in left
    )


@given(st.lists(batches(), min_size=1, max_size=8), st.integers(2, 6))
def test_a_map_that_is_too_small_is_used_as_far_as_it_goes(
    items: list[Given], entries: int
) -> None:
    data = written(items)
    found = read(data)
    keyed = [
        (record.key, record.offset)
        for batch in found
        if not batch.is_transactional
        for record in batch.records
        if record.key is not None
    ]
    compactor = Compactor(entries * lib.EL_KEY_MAP_ENTRY)
    room = min(entries - entries // 5, entries - 1)
    result = compactor.fill(data)
    known: dict[bytes, int] = {}
    end = found[-1].last_offset + 1
    for key, offset in keyed:
        if key not in known and len(known) == room:
            end = offset
            break
        known[key] = offset
    assert compactor.end == end
    assert (result == lib.EL_FULL) == (end <= found[-1].last_offset and len(known) == room)
    for key, offset in known.items():
        assert lib.el_key_map_find(compactor.map, key, len(key), ffi.NULL) == offset
    assert facts(read(compactor.filter(data))) == expected(found, known, end, ())


def test_control_batches_are_copied_and_not_looked_at() -> None:
    marker = Event(b"\0\0\0\0\0\0", b"\0\0\0\1")
    items = [
        Given({0: Event(b"1", b"\0\0\0\1", timestamp=START_MS)}, 0),
        Given({0: marker}, 0, bits=TRANSACTIONAL | CONTROL, producer_id=7),
        Given({0: Event(b"2", b"k", timestamp=START_MS)}, 0),
    ]
    data = written(items)
    compactor = Compactor()
    compactor.fill(data)
    assert compactor.filter(data) == data


def test_a_transaction_replaces_nothing_and_its_tombstones_stay() -> None:
    """It may have been aborted, and then what it seems to replace is what counts."""
    old, new = Event(b"old", b"k"), Event(None, b"k")
    items = [Given({0: old}, 0), Given({0: new}, 0, bits=TRANSACTIONAL, producer_id=7)]
    data = written(items)
    compactor = Compactor()
    compactor.fill(data)
    assert compactor.filter(data) == data
    later = data + written([Given({0: Event(b"newer", b"k")}, 0)], 2)
    compactor = Compactor()
    compactor.fill(later)
    assert [r.value for b in read(compactor.filter(later)) for r in b.records] == [b"newer"]


# -- the hash -------------------------------------------------------------------------------------

# SipHash-2-4 with 128 bits of 0, 1, 2, ... bytes 00 01 02 ..., by its authors.
VECTORS = (
    "a3817f04ba25a8e66df67214c7550293",
    "da87c1d86b99af44347659119b22fc45",
    "8177228da4a45dc7fca38bdef60affe4",
)


@pytest.mark.parametrize("size", range(len(VECTORS)))
def test_the_hash_is_siphash(size: int) -> None:
    digest = ffi.new("char[16]")
    lib.el_key_map_find(Compactor().map, bytes(range(size)), size, digest)
    assert ffi.buffer(digest)[:].hex() == VECTORS[size]


@given(st.binary(max_size=70), st.binary(min_size=16, max_size=16))
def test_the_hash_of_anything(data: bytes, key: bytes) -> None:
    digest = ffi.new("char[16]")
    keys = ffi.gc(lib.el_key_map_new(1024, key), lib.el_key_map_free)
    assert lib.el_key_map_find(keys, data, len(data), digest) == -1
    assert ffi.buffer(digest)[:] == siphash_128(key, data)


def siphash_128(key: bytes, data: bytes) -> bytes:
    mask = 2**64 - 1

    def rotated(word: int, bits: int) -> int:
        return (word << bits | word >> (64 - bits)) & mask

    k0, k1 = (int.from_bytes(key[i : i + 8], "little") for i in (0, 8))
    v = [0x736F6D6570736575 ^ k0, 0x646F72616E646F6D ^ k1 ^ 0xEE]
    v += [0x6C7967656E657261 ^ k0, 0x7465646279746573 ^ k1]

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[1] = rotated(v[1], 13) ^ v[0]
            v[0] = rotated(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = rotated(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = rotated(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = rotated(v[1], 17) ^ v[2]
            v[2] = rotated(v[2], 32)

    tail = len(data) % 8
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data) - tail, 8)]
    last = int.from_bytes(data[len(data) - tail :], "little") | (len(data) & 0xFF) << 56
    for word in [*words, last]:
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xEE
    rounds(4)
    low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(4)
    return low.to_bytes(8, "little") + (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")


def test_a_map_must_have_room() -> None:
    for size in (0, lib.EL_KEY_MAP_ENTRY, -1, 2**62):
        assert lib.el_key_map_new(size, HASH_KEY) == ffi.NULL


# -- hostile bytes --------------------------------------------------------------------------------


@pytest.mark.guarantee("G-26")
@settings(max_examples=200)
@given(
    st.lists(batches(), min_size=1, max_size=4),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_damaged_bytes_are_refused_or_change_nothing(
    items: list[Given], seed: int, is_sealed_again: bool
) -> None:
    """Any byte may be wrong, also with the CRC made to fit. What is not refused stays within rules."""
    data = bytearray(written(items))
    chance = random.Random(seed)
    for _ in range(chance.randrange(1, 4)):
        data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
    if is_sealed_again:
        size = 12 + int.from_bytes(data[8:12], "big", signed=True)
        if 61 <= size <= len(data):
            data[17:21] = reference.crc32c(bytes(data[21:size])).to_bytes(4, "big")
    damaged = bytes(data)
    try:
        compactor = Compactor()
        compactor.fill(damaged)
        out = compactor.filter(damaged)
    except (Refused, CorruptionError):  # the latter by the decompressor
        return
    offsets = [b.base_offset for b in read_leniently(out)]
    assert offsets == sorted(offsets)


def read_leniently(data: bytes) -> list[Batch]:
    try:
        return read(data)
    except Exception:
        return []


def test_what_does_not_follow_is_refused() -> None:
    data = written([Given({0: Event(b"v", b"k")}, 4)], 10)
    for start, end in ((11, 100), (10, 14), (10, 12)):
        compactor = Compactor()
        b = compactor.batches(data, end)
        b.next_offset = start
        assert lib.el_key_map_add(compactor.map, b, 0, ffi.NULL, 0) == lib.EL_ERR_CORRUPT
        told = ffi.new("el_error *")
        lib.el_error_last(told)
        assert ffi.string(told.path) == b"a file"


def test_a_batch_that_claims_too_many_records_costs_no_memory() -> None:
    packed = compress(4, reference.record(Event(b"v", b"k"), 0, 0), 1)
    fields = Fields(2**31 - 1, 0, 0, 2**31 - 1, attributes=4)
    data = reference.batch(fields, packed)
    with pytest.raises(Refused):
        Compactor().filter(data)
