"""Lines of JSON become events: fields, times, compression, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from eventlog.cli.jsonlines import (
    CHUNK_SIZE_BYTES,
    Fields,
    LineError,
    LineReader,
    event_decoder,
    time_ms_of,
)
from eventlog.cli.output import CommandError

SECONDS = 1_312_242_084


def lines_of(path: Path) -> list[tuple[int, bytes]]:
    reader = LineReader(str(path))
    try:
        return list(reader.lines())
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (SECONDS, SECONDS * 1000),
        (SECONDS + 0.5, SECONDS * 1000 + 500),
        (SECONDS * 1000 + 7, SECONDS * 1000 + 7),
        (SECONDS * 1_000_000 + 7999, SECONDS * 1000 + 7),
        (SECONDS * 1_000_000_000 + 7_999_999, SECONDS * 1000 + 7),
        (str(SECONDS), SECONDS * 1000),
        ("1312242084.25", SECONDS * 1000 + 250),
        ("2011-08-01T23:41:24Z", SECONDS * 1000),
        ("2011-08-02T01:41:24.123+02:00", SECONDS * 1000 + 123),
        ("2011-08-01T23:41:24", SECONDS * 1000),
        ("2011-08-01", 1_312_156_800_000),
    ],
)
def test_a_time_is_told_by_its_form(value: object, expected: int) -> None:
    assert time_ms_of(value) == expected


@pytest.mark.parametrize("value", ["", "yesterday", True, None, float("nan"), float("inf"), [1]])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        time_ms_of(value)


@given(
    seconds=st.floats(1.3e8, 4e9),
    offset_minutes=st.integers(-14 * 60, 14 * 60),
)
def test_all_forms_of_a_moment_agree(seconds: float, offset_minutes: int) -> None:
    aware = datetime.fromtimestamp(seconds, UTC)
    milliseconds = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    local = aware.astimezone(timezone(timedelta(minutes=offset_minutes)))
    assert time_ms_of(local.isoformat()) == milliseconds
    assert time_ms_of(milliseconds) == milliseconds
    assert time_ms_of(milliseconds // 1000) == milliseconds // 1000 * 1000
    assert time_ms_of(milliseconds * 1_000_000) == milliseconds


def test_the_rest_of_the_object_is_the_data_to_the_digit() -> None:
    decode = event_decoder(Fields())
    line = (
        b'{"b":1.10000000000000000000001,"stream":"s","type":"t",'
        b'"time":7,"a":[1E5,"\\u00e9"],"version":2}'
    )
    assert decode(3, line) == (
        3, "s", "t", 2, 7000, b'{"b":1.10000000000000000000001,"a":[1E5,"\\u00e9"]}',
    )  # fmt: skip


def test_fields_can_have_other_names_and_two_may_be_absent() -> None:
    decode = event_decoder(Fields(stream="order", type="kind", time="at", version="n"))
    event = decode(1, b'{"order":"o-1","kind":"placed","stream":"kept","at":null}')
    assert event == (1, "o-1", "placed", None, None, b'{"stream":"kept"}')


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=5))
def test_no_member_is_lost(members: dict[str, int | str]) -> None:
    names = {"stream", "type", "time", "version"}
    members = {name: value for name, value in members.items() if name not in names}
    line = msgspec.json.encode({"stream": "s", **members, "type": "t"})
    assert msgspec.json.decode(event_decoder(Fields())(1, line).data) == members


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"[1]", "got `array`"),
        (b"{nonsense", "malformed"),
        (b'{"type":"t"}', "missing required field `stream`"),
        (b'{"stream":7,"type":"t"}', "Expected `str`"),
        (b'{"stream":"s","type":"t","version":"x"}', "Expected `int | null`"),
        (b'{"stream":"s","type":"t","time":"soon"}', "is no time"),
        (b'{"stream":"s","type":"t","time":-5}', "is no time since 1970"),
        (b'{"stream":"\xff","type":"t"}', "can't decode byte"),
    ],
)
def test_a_bad_line_is_named(line: bytes, told: str) -> None:
    with pytest.raises(LineError, match="line 12: ") as caught:
        event_decoder(Fields())(12, line)
    assert told in caught.value.message
    assert caught.value.line == 12
    assert caught.value.hint


def test_the_fields_of_a_line_that_lacks_one_are_listed() -> None:
    with pytest.raises(LineError) as caught:
        event_decoder(Fields())(1, b'{"id":"x","kind":"y"}')
    assert "id, kind" in caught.value.hint


@pytest.mark.parametrize("is_packed", [False, True])
def test_lines_keep_their_numbers(tmp_path: Path, is_packed: bool) -> None:
    text = b"\xef\xbb\xbfone\n\n  \r\nfour\r\n" + b"x" * (CHUNK_SIZE_BYTES + 5) + b"\nlast"
    path = tmp_path / "file"  # zstd is known by its bytes, not by the name
    path.write_bytes(zstandard.compress(text) if is_packed else text)
    lines = lines_of(path)
    assert [(n, len(line)) for n, line in lines] == [
        (1, 3), (4, 5), (5, CHUNK_SIZE_BYTES + 5), (6, 4),
    ]  # fmt: skip


def test_several_zstd_frames_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "file.zst"
    path.write_bytes(zstandard.compress(b"a\nb") + zstandard.compress(b"c\nd\n"))
    assert lines_of(path) == [(1, b"a"), (2, b"bc"), (3, b"d")]


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert lines_of(path) == []


def test_a_zstd_file_that_ends_early_is_told_after_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "file.zst"
    whole = zstandard.compress(b"".join(b"line %d\n" % n for n in range(50_000)))
    path.write_bytes(whole[: len(whole) // 2])
    reader = LineReader(str(path))
    lines: list[bytes] = []
    with pytest.raises(CommandError, match="in the middle of its zstd data"):
        lines.extend(line for _, line in reader.lines())
    reader.close()
    assert lines == [b"line %d" % n for n in range(len(lines))]


def test_damaged_zstd_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file.zst"
    whole = bytearray(
        zstandard.ZstdCompressor(write_checksum=True).compress(bytes(range(256)) * 99)
    )
    whole[len(whole) // 2] ^= 255
    path.write_bytes(whole)
    with pytest.raises(CommandError, match=r"damaged|middle"):
        lines_of(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there is no file"):
        LineReader(str(tmp_path / "nowhere"))
