"""Event sourcing on the log: typed events in streams, optimistic appends, folds."""

from eventlog.sourcing.codec import Codec, JsonCodec
from eventlog.sourcing.event import Event, RecordedEvent
from eventlog.sourcing.event_partition import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    EventReceipt,
    ExpectedVersion,
)
from eventlog.sourcing.event_store import EventStore, StreamAppend

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "Codec",
    "Event",
    "EventReceipt",
    "EventStore",
    "ExpectedVersion",
    "JsonCodec",
    "RecordedEvent",
    "StreamAppend",
]
