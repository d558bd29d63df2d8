"""Events: what one appends, what one reads, and how an event lies in a record.

| of the event              | in the record                                                        |
|---------------------------|----------------------------------------------------------------------|
| stream                    | key, UTF-8                                                           |
| data                      | value, bytes made by the codec                                       |
| time                      | record timestamp, ms                                                 |
| type                      | header ``t``, UTF-8                                                  |
| content type              | header ``c``, UTF-8; absent: the codec's own; null: opaque bytes     |
| schema version            | header ``s``, a number; absent: 1                                    |
| tags                      | one header ``g`` each, UTF-8                                         |
| metadata                  | header ``m``, a JSON object; absent: empty                           |
| correlation, causation id | headers ``cor``, ``cau``, UTF-8                                      |
| version in the stream     | header ``v``, a number, counted from 1                               |
| id                        | header ``i``, the 16 bytes of the UUID                               |

Numbers are 8 bytes big-endian. ``v`` and ``i`` are always the last two, in this order: what stands
before them is the same for all plain events of a type and is encoded, and decoded, once.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventlog.errors import EventDecodeError
from eventlog.log.record import decode_headers

if TYPE_CHECKING:
    from eventlog.sourcing.codec import Codec

HEADER_TYPE = "t"
HEADER_CONTENT_TYPE = "c"
HEADER_SCHEMA_VERSION = "s"
HEADER_TAG = "g"
HEADER_METADATA = "m"
HEADER_CORRELATION = "cor"
HEADER_CAUSATION = "cau"
HEADER_VERSION = "v"
HEADER_ID = "i"

OPAQUE = "application/octet-stream"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_ID = uuid.UUID(int=0)

# What the two last headers look like on disk: name length, name, value length, each a zig-zag varint.
VERSION_MARK = b"\x02v\x10"
ID_MARK = b"\x02i\x20"
_ID_SIZE = len(ID_MARK) + 16
_TAIL_SIZE = len(VERSION_MARK) + 8 + _ID_SIZE


class _Data(msgspec.Struct, frozen=True):
    data: Any


class Event(_Data, frozen=True, kw_only=True):
    """An event to be appended.

    ``data`` is an instance of a registered class, bytes that are stored as they are, or plain
    values (dict, list, str, numbers, None) for the codec. ``type`` may be left out for registered
    classes only. ``id`` is made (UUIDv7) where it is None. ``tags`` are short strings, ``metadata``
    a dict of JSON values. ``content_type`` says what bytes given as ``data`` are, where they are not
    of the codec's own format. ``time_ms`` is the time of the event in ms since 1970 (None: now);
    it labels, and changes no order.
    """

    type: str | None = None
    id: uuid.UUID | None = None
    metadata: Mapping[str, Any] | None = None
    tags: Sequence[str] = ()
    schema_version: int = 1
    correlation_id: str | None = None
    causation_id: str | None = None
    content_type: str | None = None
    time_ms: int | None = None


class Envelope(NamedTuple):
    """What the headers of a record say."""

    type: str = ""
    content_type: str | None = None
    is_opaque: bool = False
    schema_version: int = 1
    tags: tuple[str, ...] = ()
    metadata: bytes | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    version: int = 0
    id: bytes = b""


# Headers in front of `v` and `i` -> their meaning. Plain events of a type share one entry.
_envelopes: dict[bytes, Envelope] = {}
_ENVELOPES_MAX = 2048
_CACHED_SIZE_BYTES_MAX = 160


def _known(headers_data: bytes) -> Envelope | None:
    """The cached meaning, if the headers are those of a plain event that was met before.

    The cached prefix holds the header count and whole headers, all but two; so what follows can
    only be two headers, and their marks tell that they are ours.
    """
    size = len(headers_data)
    if headers_data.startswith(VERSION_MARK, size - _TAIL_SIZE) and headers_data.startswith(
        ID_MARK, size - _ID_SIZE
    ):
        return _envelopes.get(headers_data[:-_TAIL_SIZE])
    return None


def envelope_of(headers_data: bytes) -> Envelope:
    """The meaning of a record's headers; without version and id where a cached one serves."""
    known = _known(headers_data)
    if known is not None:
        return known
    envelope, names = _read_envelope(headers_data)
    if (
        _TAIL_SIZE < len(headers_data) <= _CACHED_SIZE_BYTES_MAX
        and names[-2:] == [HEADER_VERSION, HEADER_ID]
        and names.count(HEADER_VERSION) == names.count(HEADER_ID) == 1
        and headers_data.startswith(VERSION_MARK, len(headers_data) - _TAIL_SIZE)
        and headers_data.startswith(ID_MARK, len(headers_data) - _ID_SIZE)
    ):
        if len(_envelopes) >= _ENVELOPES_MAX:
            _envelopes.clear()
        _envelopes[headers_data[:-_TAIL_SIZE]] = envelope._replace(version=0, id=b"")
    return envelope


def _read_envelope(headers_data: bytes) -> tuple[Envelope, list[str]]:
    fields: dict[str, Any] = {}
    tags: list[str] = []
    names: list[str] = []
    for name, value in decode_headers(headers_data):
        names.append(name)
        if name == HEADER_CONTENT_TYPE and value is None:
            fields["is_opaque"] = True
        elif value is None:
            continue
        elif name == HEADER_TYPE:
            fields["type"] = value.decode("utf-8", "replace")
        elif name == HEADER_CONTENT_TYPE:
            fields["content_type"] = value.decode("utf-8", "replace")
        elif name == HEADER_SCHEMA_VERSION:
            fields["schema_version"] = int.from_bytes(value, "big")
        elif name == HEADER_TAG:
            tags.append(value.decode("utf-8", "replace"))
        elif name == HEADER_METADATA:
            fields["metadata"] = value
        elif name == HEADER_CORRELATION:
            fields["correlation_id"] = value.decode("utf-8", "replace")
        elif name == HEADER_CAUSATION:
            fields["causation_id"] = value.decode("utf-8", "replace")
        elif name == HEADER_VERSION:
            fields["version"] = int.from_bytes(value, "big")
        elif name == HEADER_ID and len(value) == 16:
            fields["id"] = value
    if tags:
        fields["tags"] = tuple(tags)
    return Envelope(**fields), names


class _Slots(NamedTuple):
    """The seven slots that C fills: as those of a Record, with the codec in the place of the topic."""

    codec: Codec
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes | None
    headers_data: bytes


class RecordedEvent(_Slots):
    """An event that was read. Made in C; every property is worked out when it is asked for.

    The slots ``partition``, ``offset`` and ``timestamp_ms`` cost nothing. ``data`` is decoded anew
    at each access: keep it in a variable to use it twice.
    """

    __slots__ = ()

    @property
    def stream(self) -> str:
        """The id of the stream."""
        return self.key.decode()

    @property
    def type(self) -> str:
        """The event's type; empty where another client wrote none."""
        return envelope_of(self[6]).type

    @property
    def data(self) -> Any:
        """What was appended, decoded by the store's codec.

        Raises EventDecodeError (bytes that do not fit the registered class; the raw ones are in
        ``raw_data``) and, if the codec was told so, UnknownEventTypeError.
        """
        value = self[5]
        if value is None:
            return None
        envelope = envelope_of(self[6])
        if envelope.is_opaque:
            return value
        try:
            return self[0].decode(envelope.type, value, envelope.content_type)
        except EventDecodeError as error:
            raise EventDecodeError(
                f"the event at offset {self[2]} of partition {self[1]} "
                f"(stream {self.stream!r}): {error.message}",
                hint=error.hint,
                event_type=envelope.type,
                offset=self[2],
                partition=self[1],
            ) from error.__cause__

    @property
    def raw_data(self) -> bytes:
        """The bytes of ``data`` as they are in the record; empty for Kafka's null."""
        return self[5] or b""

    @property
    def version(self) -> int:
        """The event's number in its stream, from 1."""
        data = self[6]
        if _known(data) is not None:
            return int.from_bytes(data[-_ID_SIZE - 8 : -_ID_SIZE], "big")
        return envelope_of(data).version

    @property
    def id(self) -> uuid.UUID:
        """The event's UUID; all zeros where another client wrote none."""
        data = self[6]
        found = data[-16:] if _known(data) is not None else envelope_of(data).id
        return uuid.UUID(bytes=found) if found else _NO_ID

    @property
    def schema_version(self) -> int:
        """The version of the data's shape; 1 unless said otherwise."""
        return envelope_of(self[6]).schema_version

    @property
    def content_type(self) -> str:
        """The media type of ``raw_data``."""
        envelope = envelope_of(self[6])
        if envelope.is_opaque:
            return OPAQUE
        return envelope.content_type or self[0].content_type

    @property
    def tags(self) -> tuple[str, ...]:
        """The event's tags in the order in which they were given."""
        return envelope_of(self[6]).tags

    @property
    def metadata(self) -> dict[str, Any]:
        """The event's metadata; empty where there is none. Raises EventDecodeError if it is no JSON."""
        metadata = envelope_of(self[6]).metadata
        if metadata is None:
            return {}
        try:
            return msgspec.json.decode(metadata, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise EventDecodeError(
                f"the metadata of the event at offset {self[2]} is no JSON object: {error}",
                hint="Read the header from headers_data",
                event_type=self.type,
                offset=self[2],
            ) from error

    @property
    def correlation_id(self) -> str | None:
        """The id of the conversation that the event belongs to."""
        return envelope_of(self[6]).correlation_id

    @property
    def causation_id(self) -> str | None:
        """The id of the message that caused the event."""
        return envelope_of(self[6]).causation_id

    @property
    def time(self) -> datetime:
        """``timestamp_ms`` as an aware datetime in UTC."""
        return _EPOCH + timedelta(milliseconds=self[3])

    def __repr__(self) -> str:
        return (
            f"RecordedEvent(stream={self.stream!r}, version={self.version}, type={self.type!r}, "
            f"offset={self.offset}, partition={self.partition}, raw_data={_shown(self.raw_data)})"
        )


def _shown(data: bytes) -> str:
    return repr(data) if len(data) <= 80 else f"{data[:77]!r}... ({len(data)} bytes)"
