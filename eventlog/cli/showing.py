"""Records and events as lines of text or JSON."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from eventlog.cli.output import bytes_text, json_value, preview, time_text, write_bytes
from eventlog.log.record import Record, decode_headers
from eventlog.sourcing.event import HEADER_ID, HEADER_VERSION, RecordedEvent

_CHUNK_COUNT = 512


Shown = Record | RecordedEvent


def is_event(item: Shown) -> bool:
    """Has the record the headers by which an event store writes an event?"""
    names = [name for name, _ in decode_headers(item.headers_data)[-2:]]
    return item.key is not None and names == [HEADER_VERSION, HEADER_ID]


class Printer:
    """Prints what it is given, in chunks; :meth:`flush` when a reader waits for it.

    Args:
        json: one JSON object a line, else text.
        with_topic: say of which topic each record is.
    """

    def __init__(self, *, json: bool, with_topic: bool = False) -> None:
        self.count = 0
        self._json = json
        self._with_topic = with_topic
        self._topic = ""
        self._topic_field: dict[str, str] = {}
        self._is_colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._lines: list[bytes] = []

    def add(self, item: Shown) -> None:
        """Print one record; as an event, if its headers are those of one."""
        if self._with_topic:
            self._topic, self._topic_field = f"{item[0]} ", {"topic": str(item[0])}
        if is_event(item):
            event = RecordedEvent(None, *item[1:])  # type: ignore[arg-type]
            line = self._event_json(event) if self._json else self._event_text(event)
        elif self._json:
            line = self._record_json(item)
        else:
            line = self._record_text(item)
        self._lines.append(line)
        self.count += 1
        if len(self._lines) >= _CHUNK_COUNT:
            self.flush()

    def flush(self) -> None:
        """Write what is held back."""
        if self._lines:
            write_bytes(b"\n".join(self._lines) + b"\n")
            self._lines.clear()

    def _label(self, item: Shown) -> str:
        place = f"{item.partition}:{item.offset}" if item.partition else str(item.offset)
        label = f"{self._topic}{place:>8}  {time_text(item.timestamp_ms)}"
        return f"\x1b[2m{label}\x1b[0m" if self._is_colored else label

    def _event_text(self, event: RecordedEvent) -> bytes:
        stream = bytes_text(event.key)
        kind = bytes_text(event.type.encode())
        line = (
            f"{self._label(event)}  {stream} #{event.version}  {kind}  {preview(event.value, 200)}"
        )
        return line.encode()

    def _record_text(self, item: Shown) -> bytes:
        headers = decode_headers(item.headers_data)
        line = f"{self._label(item)}  {preview(item.key, 60)}  {preview(item.value, 200)}"
        if headers:
            shown = " ".join(f"{bytes_text(n.encode())}={preview(v, 40)}" for n, v in headers)
            line += f"  [{shown}]"
        return line.encode()

    def _event_json(self, event: RecordedEvent) -> bytes:
        fields: dict[str, Any] = {
            **self._topic_field,
            "partition": event.partition,
            "offset": event.offset,
            "stream": event.key.decode("utf-8", "backslashreplace"),
            "version": event.version,
            "type": event.type,
            "time_ms": event.timestamp_ms,
            "id": str(event.id),
            "data": json_value(event.value),
        }
        for name in ("tags", "metadata", "correlation_id", "causation_id"):
            if value := getattr(event, name):
                fields[name] = value
        if event.schema_version != 1:
            fields["schema_version"] = event.schema_version
        return msgspec.json.encode(fields)

    def _record_json(self, item: Shown) -> bytes:
        headers = decode_headers(item.headers_data)
        return msgspec.json.encode(
            {
                **self._topic_field,
                "partition": item.partition,
                "offset": item.offset,
                "timestamp_ms": item.timestamp_ms,
                "key": bytes_text(item.key),
                "value": json_value(item.value),
                "headers": [[name, bytes_text(value)] for name, value in headers],
            }
        )
