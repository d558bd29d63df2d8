"""From events to what a batch is made of.

Plain events (type, data and nothing else) of one type have the same headers, encoded once; what
differs from event to event, version and id, is written by C behind them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from eventlog.errors import EventLogError, InvalidRecordError
from eventlog.log.record import encode_headers
from eventlog.sourcing import event as _event
from eventlog.sourcing.codec import Codec, type_name
from eventlog.sourcing.event import VERSION_MARK, Event

_Headers = list[tuple[str, bytes | None]]

_CACHED_TYPES_MAX = 4096


class EncodedEvents(NamedTuple):
    """Events as columns; ``ids`` and ``times_ms`` None where none of them has one of its own."""

    values: tuple[bytes, ...]
    headers: bytes | tuple[bytes, ...]
    ids: list[bytes | None] | None = None
    times_ms: list[int | None] | None = None


class EventEncoder:
    """Encodes events with a codec. Thread-safe."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        # By type, for opaque bytes and for data of the codec's format.
        self._opaque_headers: dict[str, bytes] = {}
        self._coded_headers: dict[str, bytes] = {}
        self._opaque_starts: dict[str, bytes] = {}
        self._coded_starts: dict[str, bytes] = {}

    def is_one(self, events: object) -> bool:
        """Whether this is one event, not several."""
        return isinstance(events, Event) or self.codec.type_of(events) is not None

    def plain_headers(self, name: str, *, is_opaque: bool) -> bytes:
        """The encoded headers of plain events of a type, without version and id."""
        known = self._opaque_headers if is_opaque else self._coded_headers
        headers = known.get(name)
        if headers is None:
            if len(known) >= _CACHED_TYPES_MAX:
                known.clear()
            headers = encode_headers(_first_headers(type_name(name), None, is_opaque=is_opaque))
            known[name] = headers
        return headers

    def plain(self, event: Event) -> tuple[bytes, bytes] | None:
        """The short way for one plain event: its value, and its headers up to the version's value.

        None: it is no plain one.
        """
        if not _is_plain(event):
            return None
        value, name, is_opaque = self._encode(event)
        known = self._opaque_starts if is_opaque else self._coded_starts
        start = known.get(name)
        if start is None:
            if len(known) >= _CACHED_TYPES_MAX:
                known.clear()
            headers = self.plain_headers(name, is_opaque=is_opaque)
            # Two headers more than were counted, in a zig-zag varint of one byte.
            start = known[name] = bytes((headers[0] + 4,)) + headers[1:] + VERSION_MARK
        return value, start

    def encode_one(self, event: Event) -> EncodedEvents:
        """As :meth:`encode`, for one event."""
        value, name, is_opaque = self._encode(event)
        return EncodedEvents(
            (value,),
            self._headers_of(event, name, is_opaque=is_opaque),
            None if event.id is None else [_id_bytes(event.id)],
            None if event.time_ms is None else [_time(event.time_ms)],
        )

    def encode(self, events: Iterable[object]) -> EncodedEvents:
        """Encode one or more events.

        Raises:
            InvalidRecordError: something that is no event and of no registered class; an event
                without a type; data that the codec cannot encode; an attribute of a wrong type.
            InvalidNameError: a type that cannot be one.
        """
        wrapped = [item if item.__class__ is Event else self._event_of(item) for item in events]
        if all(map(_is_plain, wrapped)):
            return self._encode_plain(wrapped)
        values, headers = [], []
        for item in wrapped:
            value, name, is_opaque = self._encode(item)
            values.append(value)
            headers.append(self._headers_of(item, name, is_opaque=is_opaque))
        ids = [None if item.id is None else _id_bytes(item.id) for item in wrapped]
        times = [None if item.time_ms is None else _time(item.time_ms) for item in wrapped]
        return EncodedEvents(
            tuple(values),
            tuple(headers),
            ids if any(ids) else None,
            None if times.count(None) == len(times) else times,
        )

    def _encode_plain(self, events: list[Event]) -> EncodedEvents:
        datas, names = [event.data for event in events], [event.type for event in events]
        has_type = self.codec.has_type
        if set(map(type, datas)) == {bytes} and None not in names:
            kinds = {
                name: self.plain_headers(name, is_opaque=not has_type(name))
                for name in set(names)
                if name is not None
            }
            if len(kinds) == 1:
                (headers,) = kinds.values()
                return EncodedEvents(tuple(datas), headers)
            return EncodedEvents(tuple(datas), tuple(kinds[name] for name in names if name))
        encoded = list(map(self._encode, events))
        each = tuple(self.plain_headers(name, is_opaque=flag) for _, name, flag in encoded)
        return EncodedEvents(
            tuple(value for value, _, _ in encoded), each[0] if len(set(each)) == 1 else each
        )

    def _event_of(self, item: object) -> Event:
        if isinstance(item, Event):
            return item
        if self.codec.type_of(item) is not None:
            return Event(item)
        raise InvalidRecordError(
            f"{item!r:.80} is no event",
            hint="Wrap it, Event(data, type=...), or register its class with the codec",
            field="events",
        )

    def _encode(self, event: Event) -> tuple[bytes, str, bool]:
        """(value, type, whether the value is opaque bytes)."""
        data, name = event.data, event.type
        if name is not None and type(name) is not str:
            name = type_name(name)
        if type(data) is bytes and name is not None and event.content_type is None:
            return data, name, not self.codec.has_type(name)
        if isinstance(data, bytes | bytearray | memoryview):
            if name is None:
                raise _no_type(data)
            is_opaque = event.content_type is None and not self.codec.has_type(name)
            return bytes(data), name, is_opaque
        if name is None:
            name = self.codec.type_of(data)
            if name is None:
                raise _no_type(data)
        try:
            return self.codec.encode(data), name, False
        except EventLogError:
            raise
        except (
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
            msgspec.MsgspecError,
        ) as error:
            raise InvalidRecordError(
                f"data of type {name!r} cannot be encoded: {error}",
                hint="Use values that the codec knows, or encode the data to bytes yourself",
                field="data",
            ) from error

    def _headers_of(self, event: Event, name: str, *, is_opaque: bool) -> bytes:
        content_type = event.content_type
        if content_type == self.codec.content_type:
            content_type = None
        if (
            content_type is None
            and event.metadata is None
            and event.tags == ()
            and event.schema_version == 1
            and event.correlation_id is None
            and event.causation_id is None
        ):
            return self.plain_headers(name, is_opaque=is_opaque)
        headers = _first_headers(type_name(name), content_type, is_opaque=is_opaque)
        if event.schema_version != 1:
            headers.append((_event.HEADER_SCHEMA_VERSION, _number(event.schema_version)))
        if event.tags != ():
            headers += [(_event.HEADER_TAG, tag) for tag in _tags(event.tags)]
        if event.metadata is not None:
            headers.append((_event.HEADER_METADATA, _metadata(event.metadata)))
        if event.correlation_id is not None:
            data = _text("correlation_id", event.correlation_id)
            headers.append((_event.HEADER_CORRELATION, data))
        if event.causation_id is not None:
            headers.append((_event.HEADER_CAUSATION, _text("causation_id", event.causation_id)))
        return encode_headers(headers)


def _is_plain(event: Event) -> bool:
    return (
        event.id is None
        and event.metadata is None
        and event.tags == ()
        and event.schema_version == 1
        and event.correlation_id is None
        and event.causation_id is None
        and event.content_type is None
        and event.time_ms is None
    )


def _first_headers(name: str, content_type: str | None, *, is_opaque: bool) -> _Headers:
    headers: _Headers = [(_event.HEADER_TYPE, name.encode())]
    if is_opaque:
        headers.append((_event.HEADER_CONTENT_TYPE, None))
    elif content_type is not None:
        headers.append((_event.HEADER_CONTENT_TYPE, _text("content_type", content_type)))
    return headers


def _wrong(field: str, value: object, what: str) -> InvalidRecordError:
    return InvalidRecordError(f"{field} is {value!r:.80}", hint=f"Pass {what}", field=field)


def _no_type(data: object) -> InvalidRecordError:
    return InvalidRecordError(
        f"an event of {type(data).__name__} has no type",
        hint="Pass Event(data, type=...), or register the class with the codec",
        field="type",
    )


def _number(value: object) -> bytes:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise _wrong("schema_version", value, "an int of 0 or more")
    return value.to_bytes(8, "big")


def _text(field: str, value: object) -> bytes:
    if isinstance(value, str | uuid.UUID):
        try:
            return str(value).encode()
        except UnicodeEncodeError:
            pass
    raise _wrong(field, value, "text that UTF-8 can encode")


def _tags(tags: Sequence[str]) -> list[bytes]:
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise _wrong("tags", tags, "a sequence of str")
    return [_text("tags", tag) for tag in tags]


def _metadata(metadata: Mapping[str, Any]) -> bytes:
    try:
        data = msgspec.json.encode(dict(metadata))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise _wrong("metadata", metadata, "a dict of JSON values") from error
    return data


def _id_bytes(event_id: object) -> bytes:
    if not isinstance(event_id, uuid.UUID):
        raise _wrong("id", event_id, "a uuid.UUID, or None to have one made")
    return event_id.bytes


def _time(time_ms: object) -> int:
    if type(time_ms) is not int or not 0 <= time_ms < 1 << 62:
        raise _wrong("time_ms", time_ms, "ms since 1970 as an int of 0 or more")
    return time_ms
