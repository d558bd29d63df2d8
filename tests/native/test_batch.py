"""Record batches: encoding, checking and decoding against a second implementation in Python."""

from __future__ import annotations

import random
from array import array
from typing import Any

import pytest
import reference_batch as reference
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference_batch import Event, Fields, varint

from eventlog._native import ffi, lib

BATCH_SIZE_MAX = 2**31 - 1 - 12
FIELD_NAMES = [
    *("base_offset", "size_bytes", "leader_epoch", "crc", "attributes", "last_offset_delta"),
    *("base_timestamp", "max_timestamp", "producer_id", "producer_epoch", "base_sequence"),
    *("record_count", "codec"),
]

INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.one_of(st.integers(1_700_000_000_000, 1_700_000_100_000), st.integers(0, 2**63 - 1))
BYTES = st.one_of(st.binary(max_size=80), st.integers(60, 70).map(bytes), st.just(b"x" * 8200))
NULLABLE = st.one_of(st.none(), BYTES)
HEADERS = st.lists(st.tuples(st.binary(max_size=12), NULLABLE), max_size=4).map(tuple)
EVENTS = st.builds(Event, NULLABLE, NULLABLE, HEADERS, TIMES)
FOREIGN_EVENTS = st.builds(Event, NULLABLE, NULLABLE, HEADERS, st.one_of(TIMES, INT64))


class Rejected(Exception):  # noqa: N818 - an outcome, not a failure
    def __init__(self, code: int) -> None:
        told = ffi.new("el_error *")
        lib.el_error_last(told)
        super().__init__(code, ffi.string(told.what).decode())
        self.code = code
        assert told.code == code
        assert told.what[0] != b"\0"


def accepted(result: int) -> int:
    if result < 0:
        raise Rejected(result)
    return result


def column(items: list[bytes | None]) -> tuple[bytes, array[int]]:
    sizes = array("q", (-1 if item is None else len(item) for item in items))
    return b"".join(item or b"" for item in items), sizes


def encode(
    events: list[Event],
    *,
    numbers: list[int] | None = None,
    ids: list[bytes] | None = None,
    header_columns: list[bytes | None] | None = None,
    capacity_short_by: int = 0,
) -> bytes:
    """Through el_batch_encode, as packed columns. Bytes behind the capacity must stay untouched."""
    if header_columns is None:
        header_columns = [reference.headers(event.headers) for event in events]
    parts = [
        column([event.value for event in events]),
        column([event.key for event in events]),
        column(header_columns),
    ]
    packed = ffi.from_buffer(b"".join(data for data, _ in parts) + b"\0")
    sizes = [ffi.from_buffer("int64_t[]", size) for _, size in parts]
    timestamps = ffi.new("int64_t[]", [event.timestamp for event in events])
    kept: list[Any] = [packed, sizes, timestamps]  # C columns hold bare pointers
    columns = ffi.new("el_columns *")
    columns.count = len(events)
    columns.packed = packed
    columns.value_sizes, columns.key_sizes, columns.header_sizes = sizes
    columns.timestamps = timestamps
    if numbers is not None:
        kept += [ffi.new("int64_t[]", numbers), ffi.new("char[]", b"number")]
        columns.numbers, columns.number_name = kept[-2:]
    if ids is not None:
        kept += [ffi.from_buffer(b"".join(ids)), ffi.new("char[]", b"id")]
        columns.ids, columns.id_name = kept[-2:]
    size = accepted(lib.el_batch_encode(columns, ffi.NULL, 0))
    capacity = size - capacity_short_by
    out = ffi.new("char[]", size + 8)
    ffi.memmove(out + capacity, b"untouch!"[: size + 8 - capacity], min(8, size + 8 - capacity))
    try:
        assert accepted(lib.el_batch_encode(columns, out, capacity)) == size
    finally:
        assert ffi.buffer(out + capacity, 8)[:] == b"untouch!"
    return bytes(ffi.buffer(out, size))


def exactly(data: bytes) -> Any:
    """A copy with nothing behind it that could be read unnoticed by a sanitizer."""
    copy = ffi.new("char[]", max(1, len(data)))
    ffi.memmove(copy, data, len(data))
    return copy


def check(data: bytes) -> dict[str, int]:
    fields = ffi.new("int64_t[13]")
    size = accepted(lib.el_batch_check(exactly(data), len(data), fields))
    told = dict(zip(FIELD_NAMES, fields, strict=True))
    assert told["size_bytes"] == size
    return told


def bytes_of(pointer: Any, size: int) -> bytes | None:
    return None if size < 0 else bytes(ffi.buffer(pointer, size))


def decode(data: bytes, capacity: int = 1000) -> list[tuple[int, Event]]:
    memory = exactly(data)
    views = ffi.new("el_view[]", capacity)
    count = accepted(lib.el_batch_decode(memory, len(data), views, capacity))
    found = []
    for view in views[0:count]:
        encoded = bytes_of(view.headers, view.headers_size)
        assert encoded is not None
        event = Event(
            bytes_of(view.value, view.value_size),
            bytes_of(view.key, view.key_size),
            header_pairs(encoded),
            view.timestamp,
        )
        found.append((view.offset, event))
        assert 61 <= view.record_position < len(data)
    return found


def header_pairs(encoded: bytes) -> tuple[tuple[bytes, bytes | None], ...]:
    """Through the reference decoder, as the headers of a record that has nothing else."""
    body = bytes([0, 0, 0, 1, 1]) + encoded
    fields = Fields(0, 0, 0, 1)
    [(_, event)] = reference.decode_records(fields, varint(len(body)) + body)
    return event.headers


SMALL = [
    Event(b"value", b"key", ((b"h", b"1"), (b"n", None)), 1000),
    Event(None, None, (), 990),
    Event(b"", b"", (), 1005),
]


# -- round trip ---------------------------------------------------------------------------------


@given(st.lists(EVENTS, min_size=1, max_size=8))
@example(SMALL)
@example([Event(b"a", None, (), 2**63 - 1), Event(b"b", None, (), 0)])
@settings(deadline=None, max_examples=150)
def test_encoded_as_the_reference_does_and_read_back(events: list[Event]) -> None:
    data = encode(events)
    assert data == reference.encode(events)
    assert decode(data) == list(enumerate(events))
    told = check(data)
    assert told["record_count"] == len(events)
    assert told["last_offset_delta"] == len(events) - 1
    assert told["base_timestamp"] == events[0].timestamp
    assert told["max_timestamp"] == max(event.timestamp for event in events)
    assert (told["base_offset"], told["leader_epoch"], told["codec"]) == (0, 0, 0)
    assert (told["producer_id"], told["producer_epoch"], told["base_sequence"]) == (-1, -1, -1)


@given(
    st.lists(st.tuples(EVENTS, INT64, st.binary(min_size=16, max_size=16)), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_number_and_id_columns_come_behind_the_headers(
    rows: list[tuple[Event, int, bytes]],
    with_numbers: bool,
    with_ids: bool,
) -> None:
    expected = []
    for event, number, identifier in rows:
        pairs = event.headers
        if with_numbers:
            pairs += ((b"number", number.to_bytes(8, "big", signed=True)),)
        if with_ids:
            pairs += ((b"id", identifier),)
        expected.append(event._replace(headers=pairs))
    data = encode(
        [event for event, _, _ in rows],
        numbers=[number for _, number, _ in rows] if with_numbers else None,
        ids=[identifier for _, _, identifier in rows] if with_ids else None,
    )
    assert data == reference.encode(expected)
    assert decode(data) == list(enumerate(expected))


@given(st.lists(FOREIGN_EVENTS, min_size=1, max_size=4))
@example([Event(b"a", None, (), 2**63 - 1), Event(b"b", None, (), -(2**63))])
@settings(deadline=None, max_examples=50)
def test_others_may_have_written_any_time(events: list[Event]) -> None:
    """Deltas that do not fit int64 wrap, as Kafka's do."""
    assert decode(reference.encode(events)) == list(enumerate(events))


@pytest.mark.parametrize("timestamp", [-1, -(2**63)])
def test_a_time_before_1970_is_not_written(timestamp: int) -> None:
    with pytest.raises(Rejected, match="time") as rejected:
        encode([SMALL[0], Event(b"", None, (), timestamp)])
    assert rejected.value.code == lib.EL_ERR_TYPE


def test_a_batch_of_many_records() -> None:
    """Offset deltas of one, two and three bytes."""
    rng = random.Random(5)
    events = [
        Event(rng.randbytes(rng.randrange(20)), b"%d" % i, (), 10**12 + i) for i in range(9000)
    ]
    data = encode(events)
    assert data == reference.encode(events)
    assert decode(data, 9000) == list(enumerate(events))


def test_decoding_stops_at_the_capacity() -> None:
    data = encode(SMALL)
    assert decode(data, 2) == list(enumerate(SMALL))[:2]
    assert decode(data, 0) == []


def test_absent_header_slices_are_no_headers() -> None:
    plain = [event._replace(headers=()) for event in SMALL]
    assert encode(plain, header_columns=[None, b"", None]) == reference.encode(plain)


def test_bytes_behind_the_batch_do_not_matter() -> None:
    data = encode(SMALL)
    assert check(data + b"garbage")["size_bytes"] == len(data)
    assert decode(data + b"garbage") == list(enumerate(SMALL))


# -- what cannot be encoded ---------------------------------------------------------------------


def test_no_records() -> None:
    columns = ffi.new("el_columns *")
    with pytest.raises(Rejected) as rejected:
        accepted(lib.el_batch_encode(columns, ffi.NULL, 0))
    assert rejected.value.code == lib.EL_ERR_ARGUMENT


def size_of_values(*sizes: int) -> int:
    """The size is asked for alone: no value is looked at, so none need exist."""
    columns = ffi.new("el_columns *")
    value_sizes = ffi.new("int64_t[]", list(sizes))
    nothing = ffi.new("char[1]")
    columns.count = len(sizes)
    columns.packed = nothing
    columns.value_sizes = value_sizes
    return accepted(lib.el_batch_encode(columns, ffi.NULL, 0))


def test_the_largest_batch_and_one_byte_more() -> None:
    around = size_of_values(2**30) - 2**30
    assert size_of_values(BATCH_SIZE_MAX - around) == BATCH_SIZE_MAX
    with pytest.raises(Rejected) as rejected:
        size_of_values(BATCH_SIZE_MAX - around + 1)
    assert rejected.value.code == lib.EL_ERR_TOO_LARGE


@pytest.mark.parametrize(
    "sizes", [[2**31], [3 * 2**30], [2**63 - 1], [2**30, 2**30], [2**31 - 1] * 64]
)
def test_too_large(sizes: list[int]) -> None:
    with pytest.raises(Rejected) as rejected:
        size_of_values(*sizes)
    assert rejected.value.code == lib.EL_ERR_TOO_LARGE


@pytest.mark.parametrize(
    "encoded",
    [
        b"\x80",  # the count ends inside
        varint(-1),
        varint(1),  # a header announced and not there
        varint(2) + varint(1) + b"a" + varint(-1),
        varint(1) + varint(1) + b"a" + varint(5) + b"123",
        varint(1) + varint(-1) + varint(1) + b"x",  # a null name
        varint(1) + varint(1) + b"a" + varint(-2),
        varint(0) + b"left over",
        varint(2**31 - 1),
        b"\xff\xff\xff\xff\xff\x01",
    ],
)
def test_malformed_headers_are_refused(encoded: bytes) -> None:
    with pytest.raises(Rejected) as rejected:
        encode(SMALL[:2], header_columns=[varint(0), encoded])
    assert rejected.value.code == lib.EL_ERR_ARGUMENT
    assert "headers" in str(rejected.value)


@pytest.mark.parametrize("short_by", [1, 10, 40, 60])
def test_too_little_room_is_refused_and_not_overrun(short_by: int) -> None:
    with pytest.raises(Rejected) as rejected:
        encode(SMALL, capacity_short_by=short_by)
    assert rejected.value.code == lib.EL_ERR_ARGUMENT


# -- damage -------------------------------------------------------------------------------------


def outcome(data: bytes) -> int:
    """The error code of decoding, or the count."""
    result: int = lib.el_batch_decode(exactly(data), len(data), ffi.new("el_view[9]"), 9)
    return result


def test_every_truncation_is_short() -> None:
    data = encode(SMALL)
    for size in range(len(data)):
        for read in (check, decode):
            with pytest.raises(Rejected) as rejected:
                read(data[:size])
            assert rejected.value.code == lib.EL_ERR_SHORT, size


def test_every_change_of_a_byte_is_noticed_or_harmless() -> None:
    """Base offset and leader epoch are outside the CRC, so that they can be assigned in place."""
    data = encode(SMALL)
    for at in range(len(data)):
        for change in range(1, 256):
            damaged = bytearray(data)
            damaged[at] ^= change
            base = int.from_bytes(damaged[:8], "big", signed=True)
            if base >= 0 and (at < 8 or 12 <= at < 16):
                assert decode(bytes(damaged)) == [(base + i, e) for i, e in enumerate(SMALL)]
            else:
                assert outcome(damaged) in (lib.EL_ERR_CORRUPT, lib.EL_ERR_SHORT), (at, change)


PAYLOAD = reference.encode(SMALL)[61:]
SOUND = reference.fields_of(SMALL)


@pytest.mark.parametrize(
    "fields",
    [
        SOUND._replace(record_count=-1),
        SOUND._replace(record_count=4),
        SOUND._replace(record_count=2**31 - 1, last_offset_delta=2**31 - 1),
        SOUND._replace(last_offset_delta=1),
        SOUND._replace(last_offset_delta=-1),
        SOUND._replace(base_offset=-1),
        SOUND._replace(base_offset=2**63 - 2),
        SOUND._replace(attributes=5),
        SOUND._replace(attributes=7),
    ],
    ids=str,
)
def test_impossible_header_fields(fields: Fields) -> None:
    with pytest.raises(Rejected) as rejected:
        check(reference.batch(fields, PAYLOAD))
    assert rejected.value.code == lib.EL_ERR_CORRUPT


@pytest.mark.parametrize("length", [-(2**31), -1, 0, 48, 2**31 - 12, 2**31 - 1])
def test_impossible_lengths(length: int) -> None:
    data = encode(SMALL)
    with pytest.raises(Rejected) as rejected:
        check(data[:8] + length.to_bytes(4, "big", signed=True) + data[12:])
    assert rejected.value.code == lib.EL_ERR_CORRUPT


@pytest.mark.parametrize("magic", [0, 1, 3, 255])
def test_other_magic(magic: int) -> None:
    data = encode(SMALL)
    with pytest.raises(Rejected) as rejected:
        check(data[:16] + bytes([magic]) + data[17:])
    assert rejected.value.code == lib.EL_ERR_CORRUPT
    assert f"magic {magic}" in str(rejected.value)


def sized(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return varint(len(body)) + body


# attributes, timestamp delta, offset delta, key, value, headers: sound but for the one thing named
MALFORMED_RECORDS = {
    "no bytes": b"",
    "length 0": varint(0) + bytes(7),
    "length -1": varint(-1) + bytes(7),
    "length past the end": varint(8) + bytes(7),
    "length of six bytes": b"\x8c\x80\x80\x80\x80\x00" + bytes(6),
    "length over int32": b"\xff\xff\xff\xff\x1f" + bytes(7),
    "only attributes": sized(b"\0") + bytes(7),
    "time of eleven bytes": sized(b"\0", b"\x80" * 10 + b"\0", bytes(4)),
    "time over int64": sized(b"\0", b"\xff" * 9 + b"\x02", bytes(4)),
    "offset -1": sized(b"\0", varint(0), varint(-1), varint(-1), varint(-1), varint(0)),
    "offset past the last": sized(b"\0", varint(0), varint(1), varint(-1), varint(-1), varint(0)),
    "offset over int32": sized(b"\0\0", b"\xff\xff\xff\xff\x10", varint(-1), varint(-1), varint(0)),
    "key size -2": sized(bytes(3), varint(-2), varint(-1), varint(0)),
    "key past the record": sized(bytes(3), varint(3), varint(-1), varint(0)) + bytes(7),
    "key of 2 GiB": sized(bytes(3), varint(2**31 - 1), varint(-1), varint(0)),
    "value size -2": sized(bytes(3), varint(-1), varint(-2), varint(0)),
    "value past the record": sized(bytes(3), varint(-1), varint(2), varint(0)) + bytes(7),
    "no header count": sized(bytes(3), varint(-1), varint(2), b"vv"),
    "header count -1": sized(bytes(3), varint(-1), varint(-1), varint(-1)),
    "header count too large": sized(bytes(3), varint(-1), varint(-1), varint(2**31 - 1)),
    "null header name": sized(bytes(3), varint(-1), varint(-1), varint(1), varint(-1), varint(-1)),
    "header value past": sized(bytes(3), varint(-1), varint(-1), varint(1), bytes(1), varint(1)),
    "bytes left in the record": sized(bytes(3), varint(-1), varint(-1), varint(0), b"x"),
    "bytes left in the batch": sized(bytes(3), varint(-1), varint(-1), varint(0)) + b"x",
}


@pytest.mark.parametrize("payload", MALFORMED_RECORDS.values(), ids=MALFORMED_RECORDS.keys())
def test_malformed_records_under_a_right_crc(payload: bytes) -> None:
    data = reference.batch(Fields(0, 0, 0, 1), payload)
    with pytest.raises(Rejected) as rejected:
        decode(data)
    assert rejected.value.code == lib.EL_ERR_CORRUPT


@given(
    st.lists(FOREIGN_EVENTS, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
    st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_damage_under_a_right_crc_reads_as_the_reference_reads_it(
    events: list[Event],
    changes: list[tuple[int, int]],
    append_time: bool,
) -> None:
    """Nothing but the CRC tells such bytes from good ones: both readers must still agree."""
    fields = reference.fields_of(events)._replace(
        base_offset=1_000_000,
        attributes=8 if append_time else 0,
        last_offset_delta=len(events) + 2,
    )
    payload = bytearray(reference.encode(events)[61:])
    for at, byte in changes:
        payload[at % len(payload)] = byte
    try:
        expected = reference.decode_records(fields, bytes(payload))
    except reference.MalformedError:
        with pytest.raises(Rejected) as rejected:
            decode(reference.batch(fields, bytes(payload)))
        assert rejected.value.code == lib.EL_ERR_CORRUPT
    else:
        assert decode(reference.batch(fields, bytes(payload))) == expected


def test_log_append_time_is_everyones_time() -> None:
    data = reference.batch(SOUND._replace(attributes=8, max_timestamp=5555), PAYLOAD)
    assert decode(data) == [(at, e._replace(timestamp=5555)) for at, e in enumerate(SMALL)]


def test_an_emptied_batch() -> None:
    """Compaction keeps 61 bytes without records to keep the offsets."""
    data = reference.batch(Fields(9, -1, -1, 0, base_offset=40), b"")
    assert check(data)["record_count"] == 0
    assert decode(data) == []


# -- sealing a compressed payload ---------------------------------------------------------------


def sealed(header: bytes, payload: bytes, codec: int) -> bytes:
    memory = exactly(header + payload)
    size = len(header) + len(payload)
    accepted(lib.el_batch_compressed(memory, size, codec))
    return bytes(ffi.buffer(memory, size))


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_sealing_sets_length_codec_and_crc(codec: int) -> None:
    plain = encode(SMALL * 20)
    payload = zstandard.ZstdCompressor().compress(plain[61:])
    data = sealed(plain[:61], payload, codec)
    fields = reference.fields_of(SMALL * 20)._replace(attributes=codec)
    assert data == reference.batch(fields, payload)
    assert check(data)["codec"] == codec
    with pytest.raises(Rejected) as rejected:
        decode(data)
    assert rejected.value.code == lib.EL_ERR_ARGUMENT
    assert sealed(data[:61], plain[61:], 0) == plain


@pytest.mark.parametrize(("size", "codec"), [(60, 4), (0, 4), (-1, 4), (100, 5), (100, -1)])
def test_sealing_refuses_what_is_no_batch(size: int, codec: int) -> None:
    memory = ffi.new("char[100]")
    with pytest.raises(Rejected) as rejected:
        accepted(lib.el_batch_compressed(memory, size, codec))
    assert rejected.value.code == lib.EL_ERR_ARGUMENT
    assert bytes(ffi.buffer(memory)) == bytes(100)
