"""Log records as JSON lines: every record gives one line that any JSON parser takes."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.errors import CorruptionError
from eventlog.json_logging import JsonFormatter


def _line(formatter: JsonFormatter | None = None, **fields: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({"name": "eventlog.log", "levelname": "INFO", **fields})
    text = (formatter or JsonFormatter()).format(record)
    assert text.isascii()
    assert "\n" not in text
    found = json.loads(text, parse_constant=pytest.fail)
    assert isinstance(found, dict)
    return found


def test_the_fields_of_a_line() -> None:
    line = _line(
        created=1_795_269_600.0425, msg="sync of %s: %d", args=("orders", 3), topic="orders", n=0
    )
    assert line == {
        "time": "2026-11-21T14:00:00.042Z",
        "level": "INFO",
        "logger": "eventlog.log",
        "message": "sync of orders: 3",
        "topic": "orders",
        "n": 0,
    }
    assert list(line)[:4] == ["time", "level", "logger", "message"]


def test_static_fields_and_names_that_are_taken() -> None:
    line = _line(JsonFormatter({"service": "shop", "n": 1}), msg="m", level="high", n=2)
    assert (line["service"], line["n"]) == ("shop", 2)
    assert (line["level"], line["level_"]) == ("INFO", "high")


def test_an_error_brings_its_fields() -> None:
    try:
        raise CorruptionError("bad bytes", hint="Restore it", path="/p", position=7)
    except CorruptionError as error:
        line = _line(msg="m", exc_info=(type(error), error, error.__traceback__))
    assert line["error"] == {
        "path": "/p",
        "position": 7,
        "type": "CorruptionError",
        "message": "bad bytes",
        "hint": "Restore it",
    }
    assert line["traceback"].startswith("Traceback")
    line = _line(msg="m", exc_info=(ValueError, ValueError("x"), None))
    assert line["error"] == {"type": "ValueError", "message": "x"}
    assert "error" not in _line(msg="m", exc_info=(None, None, None))


class _Awkward:
    def __str__(self) -> str:
        raise RuntimeError


def test_what_json_cannot_say_becomes_text() -> None:
    around: list[Any] = []
    around.append(around)
    line = _line(
        msg="m", a=float("nan"), b=b"\xff", c={1: {2}}, d=_Awkward(), e=around, f="\ud800", g=(1,)
    )
    assert line["a"] == "nan"
    assert line["b"] == "\\xff"
    assert line["c"] == {"1": [2]}
    assert line["d"] == "<_Awkward>"
    assert line["f"] == "\ud800"
    assert line["g"] == [1]


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=8,
)


@given(st.text(), _ANYTHING)
def test_anything_gives_one_line(message: str, value: Any) -> None:
    assert _line(msg=message, args=(), what=value)["message"] == message


def test_it_works_as_a_formatter(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("eventlog.test_json_logging")
    logger.addHandler(handler)
    try:
        logger.warning("cut %d bytes", 5, extra={"topic": "orders"}, stack_info=True)
    finally:
        logger.removeHandler(handler)
    line = json.loads(capsys.readouterr().err)
    assert (line["message"], line["topic"]) == ("cut 5 bytes", "orders")
    assert "test_it_works_as_a_formatter" in line["stack"]
