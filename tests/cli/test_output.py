"""Numbers, bytes and errors as people read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventlog.cli.output import (
    bytes_text,
    count,
    describe,
    duration,
    json_value,
    plural,
    preview,
    rate,
    short,
    size,
    time_text,
)


def test_numbers() -> None:
    assert count(98_257) == "98,257"
    assert plural(1, "batch") == "1 batch"
    assert plural(0, "batch") == "0 batches"
    assert plural(2_000, "event") == "2,000 events"
    assert [size(n) for n in (0, 1023, 1024, 1_500_000, 3 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "1.4 MiB", "3.0 TiB",
    ]  # fmt: skip
    assert [short(n) for n in (0, 937, 9_999, 48_213, 1_234_567, 45_678_901, 2.5e9)] == [
        "0", "937", "9,999", "48.2 k", "1.23 M", "45.7 M", "2.50 G",
    ]  # fmt: skip
    assert rate(500, 0.5) == "1,000/s"
    assert rate(1, 0) == "0/s"
    assert [duration(s) for s in (0.00000226, 0.000048, 0.0032, 1.25, 125)] == [
        "2.3 us",
        "48 us", "3.2 ms", "1.25 s", "2 min 5 s",
    ]  # fmt: skip


def test_times() -> None:
    assert time_text(1_312_242_084_007) == "2011-08-01 23:41:24.007"
    assert time_text(-1) == "-"
    assert time_text(1 << 62) == str(1 << 62)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", "plain"),
        (b"two\nlines\t\x1b[2J", "two\\nlines\\t\\x1b[2J"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("é".encode(), "é"),
    ],
)
def test_bytes_become_one_harmless_line(data: bytes, text: str) -> None:
    assert bytes_text(data) == text


def test_previews_are_cut() -> None:
    assert preview(None) == "null"
    assert preview(b"abc", 72) == "abc"
    assert preview(b"x" * 100, 10) == "xxxxxxx..."
    assert len(preview(b"x" * 100_000)) == 72


def test_values_in_json() -> None:
    assert json_value(None) is None
    assert bytes(json_value(b'{"a": 1.50}')) == b'{"a":1.50}'
    assert json_value(b"text") == "text"
    assert json_value(b"\xff") == "\\xff"


def test_errors_of_the_system_are_one_line() -> None:
    with pytest.raises(OSError, match="nowhere") as caught:
        Path("/nowhere/at/all").read_bytes()
    assert describe(caught.value) == "No such file or directory: /nowhere/at/all"
    assert describe(OSError("odd")) == "OSError: odd"
