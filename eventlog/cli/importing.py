"""Appending lines to an event store, those that it does not have yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from eventlog.cli.jsonlines import Fields, LineError, LineEvent, LineReader, event_decoder
from eventlog.cli.output import CommandError
from eventlog.errors import EventLogError
from eventlog.sourcing import Event, StreamAppend
from eventlog.sourcing.codec import type_name

if TYPE_CHECKING:
    from eventlog.sourcing import EventStore

BATCH_LINE_COUNT = 1000
BATCH_SIZE_BYTES = 4 << 20
_VERSIONS_KEPT = 1_000_000  # of streams at once: bounds the memory of a long import


class Importer:
    """Appends what the store does not have yet, in batches, each of them whole or absent."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.line_count = 0
        self.appended_count = 0
        self.skipped_count = 0
        self._counts_in_file: dict[str, int] = {}
        self._versions: dict[str, int] = {}  # in the store, with what is pending
        self._pending: dict[int, list[StreamAppend]] = {}  # by partition, in order
        self._pending_count = 0
        self._pending_bytes = 0
        self._types: set[str] = set()
        self._has_versions: bool | None = None  # until the first line tells

    def run(self, reader: LineReader, fields: Fields) -> Iterator[None]:
        """Import all lines, yielding after each batch. What came before a bad line is imported."""
        decode = event_decoder(fields)
        bad: EventLogError | None = None
        lines = reader.lines()
        while bad is None:
            try:
                number, line = next(lines)
                self._add(decode(number, line))
            except StopIteration:
                break
            except CommandError as error:
                bad = error
            except EventLogError as error:  # of the store, which knows no lines
                bad = LineError(f"line {number}: {error.message}", hint=error.hint, line=number)
            if self._is_full():
                self.flush()
                yield
        self.flush()
        if bad is not None:
            raise bad

    def _is_full(self) -> bool:
        return self._pending_count >= BATCH_LINE_COUNT or self._pending_bytes > BATCH_SIZE_BYTES

    def _add(self, event: LineEvent) -> None:
        stream = event.stream
        version = event.version
        if self._has_versions is None:
            self._has_versions = version is not None
        elif self._has_versions is (version is None):
            raise LineError(
                f"line {event.line}: it has {'no' if version is None else 'a'} version, "
                "unlike the lines before it",
                hint="Give versions to all lines or to none",
                line=event.line,
            )
        if version is None:
            version = self._counts_in_file.get(stream, 0) + 1
            self._counts_in_file[stream] = version
        stored = self._versions.get(stream)
        if stored is None:
            stored = self._versions[stream] = self.store.stream_version(stream)
        if version <= stored:
            if version < 1:
                raise LineError(
                    f"line {event.line}: stream {stream!r} has an event of version {version}",
                    hint="Versions count from 1; --version names another field",
                    line=event.line,
                )
            self.line_count += 1
            self.skipped_count += 1
            return
        if version > stored + 1:
            raise LineError(
                f"line {event.line}: stream {stream!r} goes on with version {version}, "
                f"but the store has it up to version {stored}",
                hint=f"Versions {stored + 1} to {version - 1} are missing: import them first",
                line=event.line,
            )
        if event.type not in self._types:
            self._types.add(type_name(event.type))
        self.line_count += 1
        self._versions[stream] = version
        topic = self.store.topic
        partition = topic.partition_for_key(stream.encode()) if topic.partition_count > 1 else 0
        self._pending.setdefault(partition, []).append(
            StreamAppend(
                stream,
                Event(msgspec.Raw(event.data), type=event.type, time_ms=event.time_ms),
                stored,
            )
        )
        self._pending_count += 1
        self._pending_bytes += len(event.data)

    def flush(self) -> None:
        """Append what is pending: one atomic batch a partition."""
        for items in self._pending.values():
            self.store.append_many(items)
            self.appended_count += len(items)
        self._pending.clear()
        self._pending_count = self._pending_bytes = 0
        if len(self._versions) > _VERSIONS_KEPT:
            self._versions.clear()
