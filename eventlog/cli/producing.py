"""From lines to batches: what ``eventlog produce`` reads, and what it hands to the log.

Lines that arrive together go together: a pipe that is full makes large batches, a person who types
makes one record a line, at once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from eventlog.cli.jsonlines import CHUNK_SIZE_BYTES, LINE_SIZE_BYTES_MAX, LineError
from eventlog.log.record import Headers, encode_headers

if TYPE_CHECKING:
    from eventlog.log.record import Receipt
    from eventlog.log.topic import Topic

# More than a record and a batch can need besides key, value and headers.
_RECORD_OVERHEAD_BYTES = 32
_BATCH_OVERHEAD_BYTES = 64
_BATCH_SIZE_BYTES = 1 << 20


class OutgoingRecord(NamedTuple):
    """A record to be appended; ``partition`` and ``timestamp_ms`` may be left open."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int | None = None
    partition: int | None = None


class _JsonRecord(msgspec.Struct):
    """A line as ``eventlog read --json`` and ``consume --json`` write it, as far as it can be chosen."""

    value: msgspec.Raw = msgspec.Raw(b"null")
    key: str | None = None
    headers: list[tuple[str, str | None]] = []
    timestamp_ms: int | None = None
    partition: int | None = None


class LineParser:
    """Makes records of lines.

    Args:
        is_json: each line is an object with ``value``, ``key``, ``headers``, ``timestamp_ms`` and
            ``partition``, of which any may be missing; else each line is a value as it stands.
        key: of all records.
        key_separator: splits each line into key and value.
        headers: of all records, before their own.
        partition: of all records that name none.
    """

    def __init__(
        self,
        *,
        is_json: bool = False,
        key: bytes | None = None,
        key_separator: bytes | None = None,
        headers: Headers = (),
        partition: int | None = None,
    ) -> None:
        self._decode = msgspec.json.Decoder(_JsonRecord).decode if is_json else None
        self._key = key
        self._key_separator = key_separator
        self._headers = headers
        self._partition = partition

    def parse(self, number: int, line: bytes) -> OutgoingRecord | None:
        """The record of a line; None for a blank line between JSON.

        Raises:
            LineError: the line is not what it has to be; ``line`` is its number.
        """
        if self._decode is not None:
            return self._parse_json(number, line) if line.strip() else None
        if self._key_separator is None:
            return OutgoingRecord(line, self._key, self._headers, None, self._partition)
        key, separator, value = line.partition(self._key_separator)
        if not separator:
            raise LineError(
                f"line {number} has no key separator {self._key_separator.decode()!r}",
                hint="Each line must be a key, the separator and a value",
                line=number,
            )
        return OutgoingRecord(value, key, self._headers, None, self._partition)

    def _parse_json(self, number: int, line: bytes) -> OutgoingRecord:
        assert self._decode is not None
        try:
            record = self._decode(line)
            own = tuple((n, None if v is None else v.encode()) for n, v in record.headers)
            return OutgoingRecord(
                _value(bytes(record.value)),
                self._key if record.key is None else record.key.encode(),
                self._headers + own,
                record.timestamp_ms,
                self._partition if record.partition is None else record.partition,
            )
        except (msgspec.DecodeError, UnicodeError) as error:
            raise LineError(
                f"line {number}: {error}",
                hint="Each line must be one JSON object with any of value, key, headers, "
                "timestamp_ms, partition",
                line=number,
            ) from error


def _value(document: bytes) -> bytes | None:
    """A string's text, null as null, anything else as JSON."""
    if document == b"null":
        return None
    if document.startswith(b'"'):
        return msgspec.json.decode(document, type=str).encode()
    return msgspec.json.format(document, indent=-1)


def standard_input_lines() -> Iterator[list[tuple[int, bytes]]]:
    """(line number from 1, line) of what standard input has, as it comes."""
    number = 0
    rest = b""
    source = cast(BufferedReader, sys.stdin.buffer)  # read() would wait until a chunk is full
    while chunk := source.read1(CHUNK_SIZE_BYTES):
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop()
        if len(rest) > LINE_SIZE_BYTES_MAX:
            raise LineError(
                f"line {number + len(pieces) + 1} is longer than {LINE_SIZE_BYTES_MAX} bytes",
                hint="Is this text of lines?",
                line=number + len(pieces) + 1,
            )
        if pieces:
            yield list(enumerate(pieces, number + 1))
            number += len(pieces)
    if rest:
        yield [(number + 1, rest)]


def append(
    topic: Topic, records: Iterable[OutgoingRecord], *, durability: str | None
) -> Iterator[Receipt]:
    """Append records in order, in batches that the topic takes; gives the receipt of each.

    What comes before a line that is no record is appended before its LineError is raised.
    """
    most = min(_BATCH_SIZE_BYTES, topic.settings.batch_size_bytes_max) - _BATCH_OVERHEAD_BYTES
    batch: list[OutgoingRecord] = []
    size_bytes = 0
    try:
        for record in records:
            needed = _size_bytes(record)
            if batch and (size_bytes + needed > most or record.partition != batch[0].partition):
                yield from _append_batch(topic, batch, durability)
                batch, size_bytes = [], 0
            batch.append(record)
            size_bytes += needed
    except LineError:
        if batch:
            yield from _append_batch(topic, batch, durability)
        raise
    if batch:
        yield from _append_batch(topic, batch, durability)


def _append_batch(
    topic: Topic, batch: Sequence[OutgoingRecord], durability: str | None
) -> list[Receipt]:
    timestamps_ms: list[int] | None = None
    if any(record.timestamp_ms is not None for record in batch):
        now_ms = time.time_ns() // 1_000_000
        timestamps_ms = [
            now_ms if record.timestamp_ms is None else record.timestamp_ms for record in batch
        ]
    options: dict[str, Any] = {}
    if any(record.headers for record in batch):
        options["headers"] = [record.headers for record in batch]
    return topic.append_many(
        [record.value for record in batch],
        keys=[record.key for record in batch],
        timestamps_ms=timestamps_ms,
        partition=batch[0].partition,
        durability=durability,
        **options,
    )


def _size_bytes(record: OutgoingRecord) -> int:
    size_bytes = len(record.value or b"") + len(record.key or b"") + _RECORD_OVERHEAD_BYTES
    return size_bytes + (len(encode_headers(record.headers)) if record.headers else 0)
