"""What is appended is what is read: data, type, ids, metadata, and how all of it lies in a record."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventlog
from eventlog.clock import ManualClock
from eventlog.errors import (
    EventDecodeError,
    InvalidNameError,
    InvalidRecordError,
    RecordTooLargeError,
    UnknownEventTypeError,
)
from eventlog.log.record import encode_headers
from eventlog.sourcing import Event, EventStore, JsonCodec, RecordedEvent
from eventlog.sourcing.event_id import EventIdMaker


class Placed(msgspec.Struct, frozen=True):
    total: int
    items: list[str] = []


@dataclasses.dataclass(frozen=True)
class Shipped:
    carrier: str


def only(store: EventStore, stream: str = "s") -> RecordedEvent:
    (event,) = store.read_stream(stream)
    return event


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.text(min_size=1, max_size=12)
events = st.builds(
    Event,
    data=st.binary(max_size=40) | json_values,
    type=names,
    id=st.none() | st.uuids(),
    metadata=st.none() | st.dictionaries(names, json_values, max_size=3),
    tags=st.lists(names, max_size=3).map(tuple),
    schema_version=st.integers(0, 2**63 - 1) | st.just(1),
    correlation_id=st.none() | names,
    causation_id=st.none() | names,
    time_ms=st.none() | st.integers(0, 2**43),
)
_shared_store = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@_shared_store
@given(batch=st.lists(events, min_size=1, max_size=6), is_single=st.booleans())
def test_every_attribute_comes_back(store: EventStore, batch: list[Event], is_single: bool) -> None:
    known = store.stream_version("s")
    if is_single:
        for event in batch:
            store.append("s", event)
    else:
        store.append("s", batch)
    read = list(store.read_stream("s", start=known + 1))
    assert [event.version for event in read] == list(range(known + 1, known + len(batch) + 1))
    for given_event, event in zip(batch, read, strict=True):
        assert event.stream == "s"
        assert event.data == given_event.data
        assert type(event.data) is type(given_event.data)
        assert event.type == given_event.type
        assert event.metadata == (given_event.metadata or {})
        assert event.tags == tuple(given_event.tags)
        assert event.schema_version == given_event.schema_version
        assert event.correlation_id == given_event.correlation_id
        assert event.causation_id == given_event.causation_id
        if given_event.id is None:
            assert event.id.version == 7
        else:
            assert event.id == given_event.id
        if given_event.time_ms is not None:
            assert event.timestamp_ms == given_event.time_ms


def test_typed_data(store: EventStore) -> None:
    store.codec.register(Placed)
    store.codec.register(Shipped, type="order-shipped")
    store.append("s", [Placed(3, ["x"]), Shipped("post")])
    store.append("s", Placed(4))
    store.append("s", Event(Shipped("bike"), tags=["fast"]))
    read = list(store.read_stream("s"))
    assert [event.data for event in read] == [
        Placed(3, ["x"]),
        Shipped("post"),
        Placed(4),
        Shipped("bike"),
    ]
    assert [event.type for event in read] == ["Placed", "order-shipped", "Placed", "order-shipped"]
    assert read[0].raw_data == b'{"total":3,"items":["x"]}'
    assert {event.content_type for event in read} == {"application/json"}


def test_register_is_a_decorator() -> None:
    codec = JsonCodec()

    @codec.register
    class Opened(msgspec.Struct):
        pass

    @codec.register(type="account-closed")
    @dataclasses.dataclass
    class Closed:
        pass

    assert codec.type_of(Opened()) == "Opened"
    assert codec.type_of(Closed()) == "account-closed"
    assert codec.type_of({}) is None


def test_a_class_may_have_an_old_name_too() -> None:
    codec = JsonCodec()
    codec.register(Placed, "placed")
    codec.register(Placed, "placed-2")
    assert codec.decode("placed", b'{"total":1}', None) == Placed(1)
    assert codec.type_of(Placed(1)) == "placed-2"


def test_register_refuses() -> None:
    codec = JsonCodec()
    codec.register(Placed, "x")
    with pytest.raises(InvalidNameError, match="taken by Placed"):
        codec.register(Shipped, "x")
    with pytest.raises(InvalidNameError):
        codec.register(Shipped, "")
    with pytest.raises(InvalidNameError):
        codec.register(Shipped, "é" * 513)
    with pytest.raises(TypeError, match="neither"):
        codec.register(int)
    with pytest.raises(ValueError, match="choose"):
        JsonCodec(unknown="other")  # type: ignore[arg-type]


def test_bytes_of_a_registered_type_are_taken_as_encoded(store: EventStore) -> None:
    store.codec.register(Placed)
    store.append("s", Event(b'{"total":5}', type="Placed"))
    assert only(store).data == Placed(5)


def test_bytes_with_a_content_type(store: EventStore) -> None:
    store.append("s", Event(b'{"a":1}', type="t", content_type="application/json"))
    store.append("s", Event(b"<a/>", type="t", content_type="text/xml"))
    store.append("s", Event(bytearray(b"\0"), type="t"))
    json, xml, opaque = store.read_stream("s")
    assert (json.data, json.content_type) == ({"a": 1}, "application/json")
    assert (xml.data, xml.content_type) == (b"<a/>", "text/xml")
    assert (opaque.data, opaque.content_type) == (b"\0", "application/octet-stream")


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain"])
def test_append_raw(store: EventStore, content_type: str | None) -> None:
    receipt = store.append_raw(
        "s", "t", [b"1", b"2"], content_type=content_type, timestamps_ms=[5, 7], expected_version=0
    )
    assert (receipt.version, receipt.count, receipt.first_version) == (2, 2, 1)
    read = list(store.read_stream("s"))
    assert [event.raw_data for event in read] == [b"1", b"2"]
    assert [event.timestamp_ms for event in read] == [5, 7]
    assert read[0].content_type == content_type or content_type is None
    assert read[0].data == (1 if content_type == "application/json" else b"1")
    with pytest.raises(InvalidRecordError):
        store.append_raw("s", "t", [b"1", b"2"], timestamps_ms=[5])
    with pytest.raises(InvalidRecordError):
        store.append_raw("s", "t", ["text"])  # type: ignore[list-item]
    assert store.stream_version("s") == 2


@pytest.mark.parametrize(
    ("unknown", "data"),
    [("builtins", {"total": 1, "items": []}), ("raw", b'{"total":1,"items":[]}')],
)
def test_unknown_types_on_read(log: eventlog.EventLog, unknown: Any, data: object) -> None:
    store = log.event_store("orders", codec=JsonCodec(unknown=unknown))
    store.append("s", Event(Placed(1), type="placed"))
    assert only(store).data == data


def test_unknown_types_may_raise(log: eventlog.EventLog) -> None:
    store = log.event_store("orders", codec=JsonCodec(unknown="raise"))
    store.append("s", Event({"a": 1}, type="placed"))
    with pytest.raises(UnknownEventTypeError, match="placed"):
        _ = only(store).data


def test_bytes_that_do_not_fit(store: EventStore) -> None:
    store.append("other", Event(1, type="t"))
    store.append("s", Event({"total": "many"}, type="Placed"))
    store.codec.register(Placed)
    event = only(store)
    with pytest.raises(EventDecodeError, match="offset 1 of partition 0") as caught:
        _ = event.data
    assert (caught.value.event_type, caught.value.offset) == ("Placed", 1)
    assert event.raw_data == b'{"total":"many"}'


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (Event(b"x"), "type"),
        (Event({"a": 1}), "type"),
        (object(), "events"),
        ("text", "events"),
        (b"bytes", "events"),
        ([Event(1, type="t"), 5], "events"),
        (Event(object(), type="t"), "data"),
        (Event({1j: 2}, type="t", tags=["x"]), "data"),
        (Event(1, type="t", id="x"), "id"),  # type: ignore[arg-type]
        (Event(1, type="t", tags="abc"), "tags"),
        (Event(1, type="t", tags=[1]), "tags"),  # type: ignore[list-item]
        (Event(1, type="t", tags=["\ud800"]), "tags"),
        (Event(1, type="t", tags=5), "tags"),  # type: ignore[arg-type]
        (Event(1, type="t", metadata={"a": object()}), "metadata"),
        (Event(1, type="t", schema_version=-1), "schema_version"),
        (Event(1, type="t", schema_version="2"), "schema_version"),  # type: ignore[arg-type]
        (Event(1, type="t", correlation_id=5), "correlation_id"),  # type: ignore[arg-type]
        (Event(1, type="t", causation_id="\ud800"), "causation_id"),
        (Event(1, type="t", content_type=5), "content_type"),  # type: ignore[arg-type]
        (Event(1, type="t", time_ms=-1), "time_ms"),
        (Event(1, type="t", time_ms=1.5), "time_ms"),  # type: ignore[arg-type]
    ],
)
def test_bad_events_are_refused_before_anything_is_written(
    store: EventStore, bad: object, field: str
) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        store.append("s", bad)
    assert caught.value.field == field
    assert list(store.read_all()) == []


@pytest.mark.parametrize("name", ["", "x" * 401, "é" * 201, "a\0b", "\ud800", None, 5, b"s"])
def test_bad_stream_ids(store: EventStore, name: Any) -> None:
    for call in (
        lambda: store.append(name, Event(1, type="t")),
        lambda: store.append_many({name: Event(1, type="t")}),
        lambda: store.append_raw(name, "t", [b""]),
        lambda: store.read_stream(name),
        lambda: store.stream_version(name),
    ):
        with pytest.raises(InvalidNameError):
            call()


@pytest.mark.parametrize("name", ["", "t" * 1025, "\ud800", 5, ["t"]])
def test_bad_type_names(store: EventStore, name: Any) -> None:
    for event in (Event(b"", type=name), Event(1, type=name), Event(1, type=name, tags=["x"])):
        with pytest.raises(InvalidNameError):
            store.append("s", event)


def test_too_large(log: eventlog.EventLog) -> None:
    store = log.event_store("orders", batch_size_bytes_max=1000)
    for events in (Event(bytes(2000), type="t"), [Event(bytes(300), type="t")] * 5):
        with pytest.raises(RecordTooLargeError):
            store.append("s", events)
    store.append("s", Event(b"x", type="t"), expected_version=0)
    assert only(store).offset == 0


def test_the_record_of_an_event(log: eventlog.EventLog) -> None:
    """The table at the head of event.py, as any Kafka client sees it."""
    store = log.event_store("orders")
    own = uuid.uuid4()
    store.append(
        "s",
        Event(
            {"a": 1},
            type="t",
            id=own,
            metadata={"u": 1},
            tags=["x", "y"],
            schema_version=2,
            correlation_id="c1",
            causation_id="c2",
            content_type="application/cbor",
            time_ms=5,
        ),
    )
    store.append("s", Event(b"raw", type="t", id=own))
    full, plain = log.topic("orders").read()
    assert (full.key, full.value, full.timestamp_ms) == (b"s", b'{"a":1}', 5)
    assert full.headers == (
        ("t", b"t"),
        ("c", b"application/cbor"),
        ("s", bytes(7) + b"\2"),
        ("g", b"x"),
        ("g", b"y"),
        ("m", b'{"u":1}'),
        ("cor", b"c1"),
        ("cau", b"c2"),
        ("v", bytes(7) + b"\1"),
        ("i", own.bytes),
    )
    assert plain.headers == (
        ("t", b"t"),
        ("c", None),
        ("v", bytes(7) + b"\2"),
        ("i", own.bytes),
    )


def test_records_of_other_clients(log: eventlog.EventLog, store: EventStore) -> None:
    topic = log.topic("orders")
    topic.append(None, key=b"s")
    topic.append(b"x", key=b"s", headers=[("t", None), ("i", b"short"), ("m", b"[1]")])
    topic.append(b"no event")
    first, second = store.read_stream("s")
    assert (first.data, first.raw_data, first.type, first.version) == (None, b"", "", 1)
    assert (first.tags, first.metadata, first.schema_version) == ((), {}, 1)
    assert first.id == uuid.UUID(int=0)
    assert (second.type, second.version, second.id) == ("", 2, uuid.UUID(int=0))
    with pytest.raises(EventDecodeError, match="metadata"):
        _ = second.metadata
    assert [event.offset for event in store.read_all()] == [0, 1]


def test_headers_that_only_look_like_ours() -> None:
    """The cache of header meanings must not take a value for headers."""
    codec = JsonCodec()
    fake = b"\x02v\x10" + bytes(7) + b"\x09" + b"\x02i\x20" + bytes(16)
    lists: list[list[tuple[str, bytes | None]]] = [
        [("t", b"a"), ("v", bytes(7) + b"\1"), ("i", bytes(16))],
        [("t", b"b" + fake)],
        [("t", b"a"), ("x", fake)],
        [("t", b"a"), ("v", bytes(7) + b"\2"), ("v", bytes(7) + b"\3"), ("i", bytes(16))],
    ]
    for _ in range(2):  # without the cache, and with it
        made = [RecordedEvent(codec, 0, 0, 0, b"s", b"", encode_headers(item)) for item in lists]
        assert [event.type for event in made] == ["a", "b" + fake.decode(), "a", "a"]
        assert [event.version for event in made] == [1, 0, 0, 3]


def test_the_repr_says_what_it_is(store: EventStore) -> None:
    store.append("s", Event(b"x" * 500, type="t"))
    text = repr(only(store))
    assert "stream='s', version=1, type='t'" in text
    assert len(text) < 250


def test_ids_rise_and_differ() -> None:
    maker = EventIdMaker()
    ids: list[bytes] = []
    for time_ms in (5, 5, 4, 6, 1 << 47):
        ids += (value.to_bytes(16, "big") for value in [_joined(maker.one(time_ms))])
        first = int.from_bytes(maker.first_of(600, time_ms), "big")
        ids += ((first + i).to_bytes(16, "big") for i in range(600))
    assert ids == sorted(set(ids))
    for made in (uuid.UUID(bytes=data) for data in ids):
        assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert uuid.UUID(bytes=ids[0]).int >> 80 == 5


def _joined(pair: tuple[int, int]) -> int:
    return pair[0] << 64 | pair[1]


def test_time_comes_from_the_clock(directory: Path) -> None:
    clock = ManualClock(1_700_000_000_000)
    with eventlog.open(directory / "store", durability="os", clock=clock) as log:
        store = log.event_store("orders")
        store.append("s", Event(1, type="t"))
        clock.advance(-5000)  # time only labels
        store.append("s", [Event(2, type="t")] * 2)
        clock.advance(6000)
        store.append("s", Event(3, type="t"))
        read = list(store.read_stream("s"))
    assert [event.timestamp_ms - 1_700_000_000_000 for event in read] == [0, -5000, -5000, 1000]
    assert read[0].time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    ids = [event.id for event in read]
    assert ids == sorted(set(ids))
