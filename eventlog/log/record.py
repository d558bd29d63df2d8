"""A record as it is read, and the encoding of its headers.

Header encoding: Kafka's (DefaultRecord): ``varint count``, then per header ``varint key length, key,
varint value length (-1: null), value``; varints are zig-zag.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from eventlog.errors import InvalidRecordError

Headers = tuple[tuple[str, bytes | None], ...]
NO_HEADERS = b"\x00"


class _RecordFields(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers_data: bytes


class Record(_RecordFields):
    """One record of a partition; a tuple, made in C.

    Attributes:
        topic: name of the topic.
        partition: number of the partition, from 0.
        offset: place in the partition, from 0; names this record for ever.
        timestamp_ms: milliseconds since 1970-01-01 UTC; a label, not an order.
        key: bytes or None.
        value: bytes; None is a tombstone.
        headers_data: the headers as they are encoded on disk; see :attr:`headers`.
    """

    __slots__ = ()

    @property
    def headers(self) -> Headers:
        """The headers, decoded when asked for: ``((name, bytes or None), ...)`` in order."""
        return decode_headers(self.headers_data)


class Receipt(NamedTuple):
    """What an append returns.

    Attributes:
        partition: where the records went.
        offset: of the first one.
        count: how many; they have the offsets ``offset .. offset + count - 1``.
    """

    partition: int
    offset: int
    count: int  # type: ignore[assignment]  # tuple.count is not missed

    @property
    def end_offset(self) -> int:
        """One past the last offset."""
        return self.offset + self.count


def _varint(value: int) -> bytes:
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def as_bytes(item: object, field: str) -> bytes | None:
    """bytes, or None, or a copy of another buffer as bytes.

    Raises:
        InvalidRecordError: something else; ``field`` names it.
    """
    if item is None or type(item) is bytes:
        return item
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    raise InvalidRecordError(
        f"{field} is {type(item).__name__}, not bytes",
        hint="Encode it to bytes, e.g. text.encode(); None is allowed for keys and values",
        field=field,
    )


def encode_headers(headers: Iterable[tuple[str, bytes | None]] | None) -> bytes:
    """Headers as Kafka encodes them.

    Raises:
        InvalidRecordError: a name that is not str, or a value that is neither bytes nor None.
    """
    if not headers:
        return NO_HEADERS
    parts: list[bytes] = []
    count = 0
    for name, value in headers:
        if type(name) is not str or not (value is None or type(value) is bytes):
            raise InvalidRecordError(
                f"header {name!r} = {value!r:.60} is not (str, bytes or None)",
                hint="Encode header values to bytes",
                field="headers",
            )
        data = name.encode()
        parts += (_varint(len(data)), data)
        parts += (_varint(-1),) if value is None else (_varint(len(value)), value)
        count += 1
    return b"".join((_varint(count), *parts))


def decode_headers(data: bytes) -> Headers:
    """The reverse of :func:`encode_headers`.

    Raises:
        ValueError: not an encoding of headers (cannot happen to a record that was read: its batch was
            verified).
    """
    if data == NO_HEADERS:
        return ()
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
            shift += 7

    def field() -> bytes | None:
        nonlocal position
        size = number()
        if size < 0:
            return None
        value = data[position : position + size]
        if len(value) != size:
            raise ValueError("headers end too early")
        position += size
        return value

    try:
        headers = []
        for _ in range(number()):
            name = field()
            if name is None:
                raise ValueError("a header has no name")
            headers.append((name.decode("utf-8", "replace"), field()))
    except IndexError:
        raise ValueError("headers end too early") from None
    return tuple(headers)
