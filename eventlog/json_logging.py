"""Log records as JSON lines, for applications that want them so.

eventlog logs through the standard :mod:`logging` under ``eventlog.*`` and touches no handler. What a
message is about is in the record's ``extra`` fields too (``topic``, ``partition``, ``group`` ...), which
the usual text formats leave out and this one keeps::

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.getLogger("eventlog").addHandler(handler)

gives ``{"time": "2026-11-21T14:07:11.042Z", "level": "WARNING", "logger": "eventlog.log", "message":
"background sync of orders-0: ...", "topic": "orders", "partition": 0}``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from eventlog.errors import EventLogError

# What every record has; the rest came with extra=.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_DEPTH_MAX = 8


class JsonFormatter(logging.Formatter):
    """One line of ASCII JSON for each log record, whatever the record holds.

    The fields are ``time`` (ISO 8601, UTC, milliseconds), ``level``, ``logger``, ``message``, then what
    was given as ``extra``, and where an exception was logged ``error`` (its ``type``, ``message``, and of
    an :class:`eventlog.errors.EventLogError` also ``hint`` and fields) and ``traceback``. An extra field
    that has the name of one of these gets a ``_`` behind it. What JSON cannot say becomes text.

    Args:
        static: fields that every line has, e.g. ``{"service": "shop"}``.

    Thread-safe; writes nothing by itself.
    """

    def __init__(self, static: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._static = dict(static or {})

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, without its end."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _error(record.exc_info[1])
            line["traceback"] = record.exc_text or self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        for name, value in (self._static | extra).items():
            line[f"{name}_" if name in line else name] = _plain(value)
        return json.dumps(line)


def _error(error: BaseException) -> dict[str, Any]:
    found: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, EventLogError):
        fields = {name: _plain(value) for name, value in error.fields.items()}
        found |= {"message": error.message, "hint": error.hint}
        found = fields | found
    return found


def _plain(value: Any, depth: int = 0) -> Any:
    """The value as JSON can say it; text where it cannot."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if depth < _DEPTH_MAX:  # a list may hold itself
        if isinstance(value, Mapping):
            return {str(key): _plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_plain(item, depth + 1) for item in value]
    return _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  logging must not fail because a __str__ does
        return f"<{type(value).__name__}>"
