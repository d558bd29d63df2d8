"""Events from JSON lines: plain or zstd, a file or standard input.

A line is an object. Four of its fields (their names can be chosen) say where the event belongs;
what is left of the object, in its order and to the digit, is the data of the event.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import zstandard

from eventlog.cli.output import CommandError

CHUNK_SIZE_BYTES = 1 << 20
LINE_SIZE_BYTES_MAX = 256 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# An epoch number is told by its size: below 1e11 it can only be seconds (to the year 5138).
_SECONDS_BELOW = 1e11
_MILLISECONDS_BELOW = 1e14
_MICROSECONDS_BELOW = 1e17


class Fields(NamedTuple):
    """The names of the JSON fields that are not data."""

    stream: str = "stream"
    type: str = "type"
    time: str = "time"
    version: str = "version"


class LineEvent(NamedTuple):
    """One line: ``version`` and ``time_ms`` are None where the line has no such field."""

    line: int
    stream: str
    type: str
    version: int | None
    time_ms: int | None
    data: bytes


class LineError(CommandError):
    """A line that is no event; ``line`` counts from 1."""

    line: int = 0


def time_ms_of(value: object) -> int:
    """Milliseconds since 1970 from epoch seconds, milliseconds, micro-, nanoseconds or ISO 8601.

    A number below 1e11 is taken for seconds, below 1e14 for milliseconds, below 1e17 for
    microseconds, else for nanoseconds; ISO text without a zone is UTC. Raises ValueError.
    """
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            return _time_ms_of_iso(str(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no time")
    size = abs(value)
    if size < _SECONDS_BELOW:
        return round(value * 1000)
    if size < _MILLISECONDS_BELOW:
        return round(value)
    if size < _MICROSECONDS_BELOW:
        return int(value // 1000)
    return int(value // 1_000_000)


def _time_ms_of_iso(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    difference = moment - epoch
    return (difference.days * 86_400 + difference.seconds) * 1000 + difference.microseconds // 1000


class LineReader:
    """The lines of a file as chunks of decompressed bytes, with the place in the file for progress.

    ``path`` ``-`` reads standard input. zstd is known by its first bytes, not by the file's name.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.position_bytes = 0
        self.size_bytes: int | None = None
        self._file: BinaryIO
        if path == "-":
            self._file = sys.stdin.buffer
            return
        if not Path(path).is_file():
            raise CommandError(
                f"there is no file {path}",
                hint="Give a file of JSON lines, or - for standard input",
            )
        self._file = Path(path).open("rb")  # noqa: SIM115  closed by close()
        self.size_bytes = Path(path).stat().st_size

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self.path != "-":
            self._file.close()

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(line number from 1, line) of every line that is not blank."""
        number = 0
        rest = b""
        for chunk in self._chunks():
            pieces = (rest + chunk if rest else chunk).split(b"\n")
            rest = pieces.pop()
            if len(rest) > LINE_SIZE_BYTES_MAX:
                raise LineError(
                    f"line {number + len(pieces) + 1} is longer than {LINE_SIZE_BYTES_MAX} bytes",
                    hint="Is this a file of JSON lines, one object a line?",
                    line=number + len(pieces) + 1,
                )
            if number == 0 and pieces and pieces[0].startswith(_BYTE_ORDER_MARK):
                pieces[0] = pieces[0][len(_BYTE_ORDER_MARK) :]
            for piece in pieces:
                number += 1
                if piece and not piece.isspace():
                    yield number, piece
        if number == 0:
            rest = rest.removeprefix(_BYTE_ORDER_MARK)
        if rest and not rest.isspace():
            yield number + 1, rest

    def _read(self) -> bytes:
        chunk = self._file.read(CHUNK_SIZE_BYTES)
        self.position_bytes += len(chunk)
        return chunk

    def _chunks(self) -> Iterator[bytes]:
        chunk = self._read()
        if not chunk.startswith(_ZSTD_MAGIC):
            while chunk:
                yield chunk
                chunk = self._read()
            return
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        frame = decompressor.decompressobj()
        while chunk:
            try:
                data = frame.decompress(chunk)
            except zstandard.ZstdError as error:
                raise CommandError(
                    f"{self.path} is damaged before byte {self.position_bytes}: {error}",
                    hint="What came before was imported; get the file again and run this again",
                ) from error
            yield data
            chunk = b""
            if frame.eof:  # another frame may follow, in this chunk or behind it
                chunk = frame.unused_data
                if not chunk and not (chunk := self._read()):
                    return
                frame = decompressor.decompressobj()
            else:
                chunk = self._read()
        raise CommandError(
            f"{self.path} ends in the middle of its zstd data",
            hint="What came before was imported; get the whole file and run this again",
        )


def event_decoder(fields: Fields) -> Callable[[int, bytes], LineEvent]:
    """A function from (line number, line) to its event; it raises LineError."""
    head_type = msgspec.defstruct(
        "Head",
        [
            ("stream", str, msgspec.field(name=fields.stream)),
            ("type", str, msgspec.field(name=fields.type)),
            ("time", int | float | str | None, msgspec.field(default=None, name=fields.time)),
            ("version", int | None, msgspec.field(default=None, name=fields.version)),
        ],
        gc=False,
    )
    decode_head = msgspec.json.Decoder(head_type).decode
    decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    encode = msgspec.json.Encoder().encode
    name_stream, name_type, name_time, name_version = fields
    times: dict[object, int] = {}  # neighbours often share their time

    def decode(number: int, line: bytes) -> LineEvent:
        try:
            head = decode_head(line)
            members = decode_members(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _line_error(number, line, error, fields) from error
        del members[name_stream], members[name_type]
        members.pop(name_version, None)
        time_ms: int | None = None
        if members.pop(name_time, None) is not None and head.time is not None:  # type: ignore[attr-defined]
            moment = head.time  # type: ignore[attr-defined]
            known = times.get(moment)
            if known is None:
                try:
                    known = time_ms_of(moment)
                    if known < 0:
                        raise ValueError("before 1970")
                except ValueError as error:
                    raise LineError(
                        f"line {number}: field {name_time!r} holds {moment!r}, "
                        "which is no time since 1970",
                        hint="Give epoch seconds or milliseconds, or ISO 8601",
                        line=number,
                    ) from error
                if len(times) > 1024:
                    times.clear()
                times[moment] = known
            time_ms = known
        return LineEvent(
            number,
            head.stream,  # type: ignore[attr-defined]
            head.type,  # type: ignore[attr-defined]
            head.version,  # type: ignore[attr-defined]
            time_ms,
            encode(members),
        )

    return decode


def _line_error(number: int, line: bytes, error: Exception, fields: Fields) -> LineError:
    hint = "Each line must be one JSON object"
    if isinstance(error, msgspec.ValidationError):
        try:
            names = list(msgspec.json.decode(line, type=dict[str, msgspec.Raw]))
        except msgspec.DecodeError:
            names = []
        if names:
            hint = (
                f"The line has the fields {', '.join(names)}; --stream, --type, --time and "
                f"--version name the ones to use (now {', '.join(fields)})"
            )
    return LineError(f"line {number}: {error}", hint=hint, line=number)
