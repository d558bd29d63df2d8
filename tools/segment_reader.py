"""An independent reader of Kafka segment files: the judge of what the C core writes and reads.

Pure Python, written from Kafka's format alone; shares no code with the ``eventlog`` package, and
takes its CRC-32C from ``crcmod``. Run it on a file to see its batches and records::

    python tools/segment_reader.py 00000000000000000000.log [--records] [--json] [--indexes]

As a library, :func:`read_segment` yields the batches or raises :class:`SegmentError` at the first
thing that does not hold, and :func:`expected_indexes` tells what a sealed segment's ``.index`` and
``.timeindex`` must hold, byte for byte.

A batch is sound when all of this holds:

1. it has 61 bytes of header, magic 2, and ``batchLength`` (>= 49) does not pass the file's end;
2. the CRC-32C of bytes 21 to its end is the one in its header;
3. ``0 <= recordsCount <= lastOffsetDelta + 1``, no offset passes 2^63-1, the codec is known;
4. its base offset is not below the one in the file's name and is above the last offset so far;
5. its payload, decompressed, is exactly ``recordsCount`` records without a byte left over;
6. in a record every varint fits its type, every length stays inside, nothing is left over, and
   offset deltas rise within ``0 .. lastOffsetDelta``;
7. ``maxTimestamp`` is the largest record timestamp (CreateTime batches that hold records).

Zeros from a batch boundary to the end of the file are preallocated space and end it quietly.
"""

from __future__ import annotations

import argparse
import gzip
import json
import mmap
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crcmod.predefined

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_SIZE_BYTES = 61
LOG_OVERHEAD_BYTES = 12  # baseOffset and batchLength, which batchLength does not count
CRC_FROM = 21
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
XERIAL_MAGIC = b"\x82SNAPPY\x00"
INDEX_INTERVAL_BYTES = 4096

crc32c: Callable[[bytes], int] = crcmod.predefined.mkCrcFun("crc-32c")


class SegmentError(Exception):
    """Something in a segment does not hold.

    ``position`` is where the batch (or the index entry) concerned begins in the file, in bytes.
    """

    def __init__(self, path: Path, position: int, what: str) -> None:
        super().__init__(f"{path}: at {position}: {what}")
        self.path = path
        self.position = position
        self.what = what


@dataclass(frozen=True, slots=True)
class Record:
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Batch:
    position: int
    size_bytes: int
    base_offset: int
    leader_epoch: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp_ms: int
    max_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int
    records: tuple[Record, ...]

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def codec(self) -> str:
        return CODECS[self.attributes & 7]

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & 8)

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & 16)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & 32)


class UnsoundError(Exception):
    """What is wrong with a batch, without the place: the caller knows that."""


def read_segment(path: str | Path, *, contiguous: bool = False) -> Iterator[Batch]:
    """Yield the batches of one ``.log`` file in order; each was checked whole before it is given.

    ``contiguous`` also refuses gaps between offsets (and a first batch that does not begin at the
    offset in the file's name). Gaps are legal where a log was compacted; elsewhere they are damage
    that no checksum shows, for the base offset lies outside the CRC.

    Raises :class:`SegmentError` at the first batch that does not hold; ``ImportError`` where a
    batch's codec needs a package that is not installed.
    """
    path = Path(path)
    next_offset = base_offset_of(path)
    position = 0
    with path.open("rb") as file:
        if not path.stat().st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            while position < len(data) and not _is_zero_from(data, position):
                try:
                    batch = parse_batch(data, position)
                    if batch.base_offset < next_offset:
                        raise UnsoundError(
                            f"base offset {batch.base_offset} is not above {next_offset - 1}"
                        )
                    if contiguous and batch.base_offset != next_offset:
                        raise UnsoundError(
                            f"base offset {batch.base_offset}, expected {next_offset}"
                        )
                except UnsoundError as error:
                    raise SegmentError(path, position, str(error)) from None
                yield batch
                position += batch.size_bytes
                next_offset = batch.last_offset + 1


def base_offset_of(path: Path) -> int:
    """The offset that the file's name promises; 0 for a name that is no 20-digit offset."""
    return int(path.stem) if len(path.stem) == 20 and path.stem.isdecimal() else 0


def parse_batch(data: bytes | mmap.mmap, position: int = 0) -> Batch:
    """Check and decode the batch at a position; raises :class:`UnsoundError`."""
    left = len(data) - position
    if left < HEADER_SIZE_BYTES:
        raise UnsoundError(f"{left} bytes left, too few for a batch header")
    fields = HEADER.unpack(data[position : position + HEADER_SIZE_BYTES])
    base_offset, length, leader_epoch, magic, crc, attributes, last_delta = fields[:7]
    base_timestamp, max_timestamp, producer_id, producer_epoch, sequence, count = fields[7:]
    if magic != 2:
        raise UnsoundError(f"magic {magic}, expected 2")
    if length < HEADER_SIZE_BYTES - LOG_OVERHEAD_BYTES:
        raise UnsoundError(f"batch length {length} is below the header's own")
    size = length + LOG_OVERHEAD_BYTES
    if size > left:
        raise UnsoundError(f"batch of {size} bytes, but only {left} are left")
    computed = crc32c(data[position + CRC_FROM : position + size])
    if computed != crc:
        raise UnsoundError(f"CRC-32C is {computed:08x}, the header says {crc:08x}")
    if base_offset < 0 or last_delta < 0 or base_offset + last_delta > INT64_MAX:
        raise UnsoundError(f"offsets {base_offset} + {last_delta} are out of range")
    if not 0 <= count <= last_delta + 1:
        raise UnsoundError(f"{count} records in {last_delta + 1} offsets")
    codec = attributes & 7
    if codec >= len(CODECS):
        raise UnsoundError(f"unknown codec {codec}")
    payload = data[position + HEADER_SIZE_BYTES : position + size]
    log_append_time = max_timestamp if attributes & 8 else None
    records = tuple(
        _parse_records(
            _decompress(codec, payload), count, base_offset, base_timestamp, log_append_time
        )
    )
    if records and records[-1].offset > base_offset + last_delta:
        raise UnsoundError(f"offset {records[-1].offset} is past the batch's last offset")
    if records and max(record.timestamp_ms for record in records) != max_timestamp:
        raise UnsoundError(f"max timestamp {max_timestamp} is not the largest of the records")
    return Batch(
        position=position,
        size_bytes=size,
        base_offset=base_offset,
        leader_epoch=leader_epoch,
        crc=crc,
        attributes=attributes,
        last_offset_delta=last_delta,
        base_timestamp_ms=base_timestamp,
        max_timestamp_ms=max_timestamp,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=sequence,
        record_count=count,
        records=records,
    )


def _parse_records(
    data: bytes, count: int, base_offset: int, base_timestamp: int, log_append_time: int | None
) -> Iterator[Record]:
    reader = _Reader(data)
    last_delta = -1
    for number in range(count):
        try:
            record = _Reader(reader.take(reader.varint(), "record"))
            record.take(1, "attributes")  # no bit of it is in use
            timestamp = _wrap(base_timestamp + record.varlong())
            delta = record.varint()
            key = record.nullable("key")
            value = record.nullable("value")
            headers = tuple(_parse_headers(record))
            if record.left:
                raise UnsoundError(f"{record.left} bytes are left over")
            if delta <= last_delta:
                raise UnsoundError(f"offset delta {delta} does not rise")
        except UnsoundError as error:
            raise UnsoundError(f"record {number}: {error}") from None
        last_delta = delta
        if log_append_time is not None:
            timestamp = log_append_time
        yield Record(base_offset + delta, timestamp, key, value, headers)
    if reader.left:
        raise UnsoundError(f"{reader.left} bytes follow the last record")


def _wrap(number: int) -> int:
    """As Java's long arithmetic has it: a delta may go round."""
    return (number - INT64_MIN) % 2**64 + INT64_MIN


def _parse_headers(record: _Reader) -> Iterator[tuple[str, bytes | None]]:
    count = record.varint()
    if not 0 <= count <= record.left:  # a header takes two bytes or more
        raise UnsoundError(f"{count} headers in {record.left} bytes")
    for _ in range(count):
        name = record.nullable("header name")
        if name is None:
            raise UnsoundError("a header name is null")
        yield name.decode(errors="replace"), record.nullable("header value")


class _Reader:
    """Takes fields off a byte string from the front; nothing is ever read past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int, what: str) -> bytes:
        if not 0 <= size <= self.left:
            raise UnsoundError(f"{what} of {size} bytes, {self.left} are left")
        self._at += size
        return self._data[self._at - size : self._at]

    def nullable(self, what: str) -> bytes | None:
        size = self.varint()
        return None if size == -1 else self.take(size, what)

    def varint(self) -> int:
        return self._zigzag(32)

    def varlong(self) -> int:
        return self._zigzag(64)

    def _zigzag(self, bits: int) -> int:
        number = 0
        for shift in range(0, bits, 7):
            (byte,) = self.take(1, "varint")
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if number >> bits:
                    break
                return (number >> 1) ^ -(number & 1)
        raise UnsoundError(f"a varint does not fit {bits} bits")


def _decompress(codec: int, payload: bytes) -> bytes:
    try:
        return (bytes, gzip.decompress, _unsnappy, _unlz4, _unzstd)[codec](payload)
    except ImportError:
        raise
    except Exception as error:
        # each library has exceptions of its own, some of them no more than Exception
        raise UnsoundError(f"{CODECS[codec]} payload: {error}") from error


def _unzstd(payload: bytes) -> bytes:
    import zstandard

    # frames may come without their content size, and more than one of them
    with zstandard.ZstdDecompressor().stream_reader(payload, read_across_frames=True) as reader:
        return reader.read()


def _unlz4(payload: bytes) -> bytes:
    import lz4.frame

    return bytes(lz4.frame.decompress(payload))


def _unsnappy(payload: bytes) -> bytes:
    """One raw block (librdkafka), or the Java library's chunks behind a 16-byte header."""
    import cramjam

    if not payload.startswith(XERIAL_MAGIC):
        return bytes(cramjam.snappy.decompress_raw(payload))
    blocks, at = [], 16
    while at < len(payload):
        (size,) = struct.unpack_from(">i", payload, at)
        if not 0 < size <= len(payload) - at - 4:
            raise UnsoundError(f"block of {size} bytes")
        blocks.append(bytes(cramjam.snappy.decompress_raw(payload[at + 4 : at + 4 + size])))
        at += 4 + size
    return b"".join(blocks)


def _is_zero_from(data: mmap.mmap, position: int) -> bool:
    step = HEADER_SIZE_BYTES  # where a batch begins this already tells; then by the MiB
    while position < len(data):
        chunk = data[position : position + step]
        if chunk.count(0) != len(chunk):
            return False
        position += step
        step = 1 << 20
    return True


# -- indexes --------------------------------------------------------------------------------------


def expected_indexes(
    batches: Iterable[Batch],
    base_offset: int,
    *,
    index_interval_bytes: int = INDEX_INTERVAL_BYTES,
    sealed: bool = True,
) -> tuple[bytes, bytes]:
    """The exact ``.index`` and ``.timeindex`` that Kafka's rules give for these batches.

    Before a batch is added, more than ``index_interval_bytes`` since the last entry (or since the
    beginning) make an entry: the batch's last offset and its position; and with it, if it is
    larger than in the entry before, the largest timestamp so far with the last offset of the
    first batch that has it. ``sealed``: the closing entry of the time index is there too.
    """
    index, time_index = bytearray(), bytearray()
    bytes_since_entry = 0
    max_timestamp, max_offset, indexed_timestamp = -1, base_offset, -1

    def add_time() -> None:
        nonlocal indexed_timestamp
        if max_timestamp > indexed_timestamp:
            time_index.extend(struct.pack(">qi", max_timestamp, max_offset - base_offset))
            indexed_timestamp = max_timestamp

    for batch in batches:
        if batch.max_timestamp_ms > max_timestamp:
            max_timestamp, max_offset = batch.max_timestamp_ms, batch.last_offset
        if bytes_since_entry > index_interval_bytes:
            index.extend(struct.pack(">ii", batch.last_offset - base_offset, batch.position))
            add_time()
            bytes_since_entry = 0
        bytes_since_entry += batch.size_bytes
    if sealed:
        add_time()
    return bytes(index), bytes(time_index)


def check_indexes(
    path: str | Path, *, index_interval_bytes: int = INDEX_INTERVAL_BYTES, sealed: bool = True
) -> None:
    """Compare the ``.index`` and ``.timeindex`` beside a ``.log`` with what they must hold.

    Raises :class:`SegmentError` with the index's path and the position of the first difference,
    or whatever is wrong with the segment itself.
    """
    path = Path(path)
    expected = expected_indexes(
        read_segment(path),
        base_offset_of(path),
        index_interval_bytes=index_interval_bytes,
        sealed=sealed,
    )
    for suffix, size, wanted in zip((".index", ".timeindex"), (8, 12), expected, strict=True):
        file = path.with_suffix(suffix)
        if not file.exists():
            raise SegmentError(file, 0, "missing")
        found = file.read_bytes()
        for at in range(0, max(len(found), len(wanted)), size):
            have, want = found[at : at + size], wanted[at : at + size]
            if have != want:
                raise SegmentError(
                    file, at, f"entry {have.hex() or 'missing'}, expected {want.hex() or 'none'}"
                )


# -- the command ----------------------------------------------------------------------------------


def _as_json(batch: Batch, *, with_records: bool) -> dict[str, Any]:
    """A batch for JSON: bytes as hexadecimal digits, null as null."""
    shown: dict[str, Any] = {
        name: getattr(batch, name) for name in Batch.__slots__ if name != "records"
    }
    shown["codec"] = batch.codec
    if with_records:
        shown["records"] = [
            {
                "offset": record.offset,
                "timestamp_ms": record.timestamp_ms,
                "key": _hex(record.key),
                "value": _hex(record.value),
                "headers": [[name, _hex(value)] for name, value in record.headers],
            }
            for record in batch.records
        ]
    return shown


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _lines(batch: Batch, *, with_records: bool) -> Iterator[str]:
    flags = [
        name
        for name, on in (
            ("log-append-time", batch.is_log_append_time),
            ("transactional", batch.is_transactional),
            ("control", batch.is_control),
        )
        if on
    ]
    yield (
        f"position {batch.position}  offsets {batch.base_offset}..{batch.last_offset}"
        f"  records {batch.record_count}  size {batch.size_bytes}  codec {batch.codec}"
        f"  timestamps {batch.base_timestamp_ms}..{batch.max_timestamp_ms}"
        f"  crc {batch.crc:08x}  epoch {batch.leader_epoch}"
        f"  producer {batch.producer_id}/{batch.producer_epoch}/{batch.base_sequence}"
        + "".join(f"  {flag}" for flag in flags)
    )
    if with_records:
        for record in batch.records:
            headers = "".join(f"  {name}={value!r}" for name, value in record.headers)
            yield (
                f"  {record.offset}  {record.timestamp_ms}  {record.key!r}  {record.value!r}"
                + headers
            )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Print and check a Kafka segment (.log) file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--records", action="store_true", help="print the records too")
    parser.add_argument("--json", action="store_true", help="one JSON object a batch, a line each")
    parser.add_argument("--indexes", action="store_true", help="check a sealed segment's indexes")
    parser.add_argument("--contiguous", action="store_true", help="refuse gaps between offsets")
    options = parser.parse_args(arguments)
    batch_count = record_count = 0
    try:
        for batch in read_segment(options.file, contiguous=options.contiguous):
            batch_count += 1
            record_count += batch.record_count
            if options.json:
                print(json.dumps(_as_json(batch, with_records=options.records)))
            else:
                for line in _lines(batch, with_records=options.records):
                    print(line)
        if options.indexes:
            check_indexes(options.file)
    except BrokenPipeError:  # a pager that was closed
        return 0
    except (SegmentError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if not options.json:
        print(f"{batch_count} batches, {record_count} records: all sound")
    return 0


if __name__ == "__main__":
    sys.exit(main())
