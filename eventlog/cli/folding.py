"""Folding streams to the last value of one field of their data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventlog.cli.output import CommandError

if TYPE_CHECKING:
    from eventlog.sourcing import EventStore, RecordedEvent


class Fold:
    """The last value of ``field`` of each stream; gone where the last event is of ``delete_type``.

    An event without the field leaves the value as it was; a stream that never had it has the empty
    text. A stream goes on after its end if events of other types follow.
    """

    def __init__(self, field: str, delete_type: str | None = None) -> None:
        self.field = field
        self.delete_type = delete_type
        self.event_count = 0
        self.last: dict[str, bytes | None] = {}  # stream -> JSON of the value; None: gone
        value_type = msgspec.defstruct(
            "Value",
            [("value", msgspec.Raw, msgspec.field(default=msgspec.Raw(), name=field))],
            gc=False,
        )
        self._decode = msgspec.json.Decoder(value_type).decode

    def add(self, event: RecordedEvent) -> None:
        """Take the next event of its stream."""
        self.event_count += 1
        stream = event.stream
        if event.type == self.delete_type:
            self.last[stream] = None
            return
        try:
            value = bytes(self._decode(event.raw_data).value)  # type: ignore[attr-defined]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CommandError(
                f"the event at offset {event.offset} (stream {stream!r}, version {event.version}) "
                f"has data that is no JSON object: {error}",
                hint="Replaying by --last needs events whose data is a JSON object",
            ) from error
        if value or self.last.get(stream) is None:
            self.last[stream] = value

    def state(self) -> dict[str, str]:
        """Stream -> value as text: strings as they are, all else as JSON."""
        return {stream: _text(value) for stream, value in self.last.items() if value is not None}


def fold_all(fold: Fold, store: EventStore) -> None:
    """Every stream, in one scan of the log."""
    add = fold.add
    for partition in range(store.topic.partition_count):
        for event in store.read_all(partition=partition):
            add(event)


def fold_stream(fold: Fold, store: EventStore, stream: str) -> None:
    """One stream, from its offsets.

    Raises:
        CommandError: there is no such stream.
    """
    if store.stream_version(stream) == 0:
        raise CommandError(
            f"there is no stream {stream!r}", hint="`eventlog streams DIR STORE` lists them"
        )
    for event in store.read_stream(stream):
        fold.add(event)


def _text(value: bytes) -> str:
    if value.startswith(b'"'):
        return str(msgspec.json.decode(value))
    return value.decode()
