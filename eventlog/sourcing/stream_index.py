"""The index of the streams of one partition: a fold of the log.

For each stream it knows the version (events so far) and where the events lie (postings.py). What came
since the last checkpoint is the *tail*, in memory; what is older lies in LMDB (index_table.py).
Memory stays bounded: when the tail has grown to its limit, a checkpoint writes it down.

- The log is the truth. A checkpoint covers durable offsets only, so it is never ahead of the log; one
  that is (case C-H), or is damaged, or of another format, is thrown away and folded anew.
- An append tells the version at once; where its events lie is told with it (a batch of one stream) or
  found later by reading the log (``_fold``): before somebody asks for it, or at the checkpoint.
- Every process has its own; they share the rows. Who finds that another one moved the checkpoint begins
  anew from there.
- A process that only reads cannot write checkpoints. It takes over the writer's; where there is none
  to take over, its tail goes to a private temporary environment.

The caller holds ``lock`` in every call.
"""

from __future__ import annotations

import heapq
import logging
import threading
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import TypeVar
from uuid import UUID

from eventlog._native import check, ffi, lib
from eventlog.errors import CorruptionError, EventLogError, StorageError
from eventlog.log.cursor import Cursor
from eventlog.log.partition import Partition
from eventlog.meta import Environment
from eventlog.sourcing import postings
from eventlog.sourcing.event import HEADER_VERSION
from eventlog.sourcing.index_table import Checkpoint, IndexTable, StaleIndexError
from eventlog.sourcing.postings import FIRST_RECORD_POSITION

_logger = logging.getLogger("eventlog.sourcing")
_Result = TypeVar("_Result")

STREAM_SIZE_BYTES_MAX = 400
RUN_COUNT_MAX = 131_072
"""Of the tail. A run takes some 40 bytes of memory. A stream counts as some runs more, and so do many
events: after a crash they have to be read again."""
STREAM_COST = 4
EVENTS_PER_RUN = 64
_CHUNK_COUNT = 4096
_VERSION_MAX = 1 << 61
_VERSION_NAME = HEADER_VERSION.encode()


class TailEntry:
    """A stream since the checkpoint: ``version`` at the index's end, ``runs`` up to ``folded``."""

    __slots__ = ("folded", "runs", "version")

    def __init__(self, version: int) -> None:
        self.version = version
        self.folded = version
        self.runs = bytearray()


class StreamIndex:
    """Versions and postings of the streams of a partition.

    ``tail``: the streams since the checkpoint, by key. ``room``: how much it may still grow.
    ``end_offset``: versions are those at this offset. ``state``: memory for C to tell of the log. ``is_regular``: every event says its version
    itself. ``discarded``: why rows in LMDB were thrown away, empty if they were not.
    """

    def __init__(
        self,
        partition: Partition,
        topic_id: UUID,
        environment: Environment,
        *,
        run_count_max: int = RUN_COUNT_MAX,
    ) -> None:
        self.lock = threading.RLock()
        self.partition = partition
        self.discarded = ""
        self.end_offset = 0
        self.is_regular = True
        self._environment = self._given_environment = environment
        self._name = f"{topic_id.hex}/{partition.number}"
        self._run_count_max = run_count_max
        self.state = ffi.new("el_partition_state *")
        self._cursor: Cursor | None = None
        self._layers: list[IndexTable] = []  # older to newer: the store's, then a private one
        self.tail: dict[bytes, TailEntry] = {}
        self._base_offset = 0  # where the tail begins
        self._folded_offset = 0  # postings are known up to here
        self.room = run_count_max
        self._load()

    # -- beginning, and beginning anew --------------------------------------------------------------

    def _load(self) -> None:
        """Begin at the checkpoint, or at the log start where there is no good one."""
        while True:
            try:
                table = IndexTable(self._environment, self._name)
                checkpoint = table.load()
                reason = self._why_useless(checkpoint)
                if reason:
                    self._throw_away(reason)
                else:
                    self._begin(table, checkpoint)
                    return
            except StaleIndexError:
                continue
            except CorruptionError as error:
                self._discard(error)

    def _why_useless(self, checkpoint: Checkpoint | None) -> str:
        if checkpoint is None:
            return ""
        if not checkpoint.is_readable:
            return "it is of another format"
        end_offset = self._foldable_offset()
        if checkpoint.end_offset > end_offset:
            return f"it goes to offset {checkpoint.end_offset}, the log to {end_offset}"
        return ""

    def _begin(self, table: IndexTable, checkpoint: Checkpoint | None) -> None:
        self._close_private(self._layers[1:])
        self._layers = [table]
        self.is_regular = checkpoint is None or checkpoint.is_regular
        self._start_tail(0 if checkpoint is None else checkpoint.end_offset)

    def _start_tail(self, offset: int) -> None:
        self.tail = {}
        self._base_offset = self._folded_offset = self.end_offset = offset
        self.room = self._run_count_max

    def _throw_away(self, reason: str) -> None:
        """Give up the rows: a writer clears them, a reader works beside them from now on."""
        self.discarded = reason
        _logger.warning("stream index %s is folded anew (C-H): %s", self._name, reason)
        self._forget_rows()

    def _forget_rows(self) -> None:
        if self._environment.read_only and not self._environment.is_temporary:
            self._environment = Environment.temporary(read_only=True)
        else:
            IndexTable(self._environment, self._name).clear()

    def _discard(self, error: CorruptionError) -> None:
        """Rows proved damaged: away with them, and with the files where LMDB itself is damaged."""
        if error.case != "C-H":
            raise error
        generation = (self._layers or [IndexTable(self._environment, self._name)])[0].generation
        if hasattr(error, "table"):
            try:
                self._throw_away(error.message)
                return
            except CorruptionError:
                generation = self._environment.generation
        self.discarded = error.message
        _logger.warning("stream index %s is folded anew (C-H): %s", self._name, error.message)
        self._environment.replace(generation)

    def forget_tail(self) -> None:
        """After an interruption what is known of the tail may be half of it: fold it again."""
        self._start_tail(self._base_offset)

    def _guarded(self, action: Callable[[], _Result]) -> _Result:
        """Do it; where rows prove damaged or out of date, begin anew and do it again."""
        while True:
            try:
                return action()
            except StaleIndexError:
                self._load()
            except CorruptionError as error:
                self._discard(error)
                self._load()

    # -- where the log stands -------------------------------------------------------------------------

    def _foldable_offset(self) -> int:
        """The end of what counts: for a writer all that is written, for a reader what it can read."""
        check(lib.el_partition_state_read(self.partition.handle, self.state))
        if self.partition.writable:
            return int(self.state.log_end_offset)
        return int(self.state.high_watermark)

    def visible_range(self) -> tuple[int, int]:
        """(log start offset, high watermark): what can be read now."""
        check(lib.el_partition_state_read(self.partition.handle, self.state))
        return int(self.state.log_start_offset), int(self.state.high_watermark)

    # -- folding --------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Take in what was appended without this index: versions are then those of the log's end."""
        if self._foldable_offset() != self.end_offset:
            self._guarded(self._catch_up)

    def _catch_up(self) -> None:
        while (end_offset := self._foldable_offset()) > self.end_offset:
            self._fold(end_offset)
        if end_offset < self.end_offset:
            # Only a reader meets this: the writer's machine went down and took its tail back.
            _logger.warning("stream index %s is read again: the log is shorter now", self._name)
            self._load()

    def _fold(self, end_offset: int) -> None:
        """Find postings by reading the log up to ``end_offset``, or as far as it can be read."""
        end_offset = min(end_offset, self._foldable_offset())
        log_start_offset = int(self.state.log_start_offset)
        if self._folded_offset >= end_offset:
            return
        cursor = self._cursor
        if cursor is None:
            # Also what other processes have not synced yet: what makes an append durable that builds on
            # it makes it durable too.
            cursor = self._cursor = self.partition.cursor(
                _CHUNK_COUNT, unsynced=self.partition.writable
            )
        try:
            cursor.seek(max(self._folded_offset, log_start_offset))
            while self._folded_offset < end_offset and cursor.next(end_offset, _CHUNK_COUNT):
                self._fold_chunk(
                    cursor.take("keys"), cursor.numbers(_VERSION_NAME), *cursor.locations()
                )
                if self.room <= 0 and self._folded_offset >= self.end_offset:
                    self._make_room_if_possible()
                    cursor.seek(max(self._folded_offset, log_start_offset))
        except BaseException:
            self.forget_tail()
            raise
        finally:
            cursor.seek(0)  # lets go of the segments
        self._folded_offset = max(self._folded_offset, end_offset)
        self.end_offset = max(self.end_offset, end_offset)

    def _fold_chunk(
        self,
        keys: list[bytes | None],
        numbers: array[int],
        offsets: array[int],
        batch_positions: array[int],
        record_positions: array[int],
    ) -> None:
        end = 0
        for key, group in groupby(keys):
            count = len(list(group))
            start, end = end, end + count
            entry = None if key is None else self.tail.get(key) or self._new_tail(key)
            if entry is None:
                continue
            version = numbers[start]
            if (
                version == entry.folded + 1
                and offsets[end - 1] - offsets[start] == count - 1
                and (
                    count == 1 or numbers[start:end] == array("q", range(version, version + count))
                )
            ):
                self.room -= postings.extend(
                    entry.runs,
                    version,
                    offsets[start],
                    batch_positions[start],
                    count,
                    record_positions[start],
                )
                entry.folded += count
                self.room -= count // EVENTS_PER_RUN
            else:
                for i in range(start, end):
                    self._fold_odd(
                        entry, numbers[i], offsets[i], batch_positions[i], record_positions[i]
                    )
            if entry.version < entry.folded:
                entry.version = entry.folded
        self._folded_offset = offsets[-1] + 1
        self.end_offset = max(self.end_offset, self._folded_offset)

    def _fold_odd(
        self, entry: TailEntry, version: int, offset: int, batch_position: int, record_position: int
    ) -> None:
        """An event that does not follow the one before: compaction left holes, or another client
        wrote it and gave no version or a wrong one."""
        if not entry.folded < version < _VERSION_MAX:
            version = entry.folded + 1
            self.is_regular = False
        self.room -= postings.extend(
            entry.runs, version, offset, batch_position, 1, record_position
        )
        entry.folded = version

    def _new_tail(self, key: bytes) -> TailEntry | None:
        """A stream that the tail does not have yet; None: the key cannot be a stream id."""
        if not 0 < len(key) <= STREAM_SIZE_BYTES_MAX or b"\0" in key:
            return None
        try:
            key.decode()
        except UnicodeDecodeError:
            return None
        entry = self.tail[key] = TailEntry(self._stored_version(key))
        self.room -= STREAM_COST
        return entry

    # -- appending ------------------------------------------------------------------------------------

    def version(self, key: bytes) -> int:
        """The stream's version at ``end_offset``; call ``catch_up`` before."""
        entry = self.tail.get(key)
        if entry is not None:
            return entry.version
        return self._guarded(lambda: self._version(key))

    def _version(self, key: bytes) -> int:
        self._catch_up()  # after beginning anew there is something to catch up with
        entry = self.tail.get(key)
        return entry.version if entry is not None else self._stored_version(key)

    def _stored_version(self, key: bytes) -> int:
        for layer in reversed(self._layers):
            if version := layer.version(key):
                return version
        return 0

    def appended(
        self, key: bytes, version: int, count: int, offset: int, batch_position: int
    ) -> None:
        """Take note of ``count`` events that were appended to a stream which was at ``version``.

        ``batch_position``: of the batch, where they are all that it holds; else UNKNOWN.
        """
        entry = self.tail.get(key)
        if entry is None:
            entry = self.tail[key] = TailEntry(version)
            self.room -= STREAM_COST
        entry.version = version + count
        if batch_position >= 0 and self._folded_offset == offset:
            postings.extend(
                entry.runs, version + 1, offset, batch_position, count, FIRST_RECORD_POSITION
            )
            entry.folded = entry.version
            self._folded_offset = offset + count
        self.end_offset = offset + count
        self.room -= 1 + count // EVENTS_PER_RUN

    # -- reading --------------------------------------------------------------------------------------

    def visible_version(self, key: bytes, high_watermark: int) -> int:
        """The version of the stream among the events below the high watermark."""
        self.catch_up()
        version = self.version(key)
        if self.end_offset <= high_watermark or not version:
            return version
        return self._guarded(lambda: self._version_below(key, high_watermark))

    def _version_below(self, key: bytes, offset: int) -> int:
        self._catch_up()
        self._fold(offset)
        entry = self.tail.get(key)
        if entry is None:
            return self._stored_version(key)  # rows are durable, so they can be read
        runs = postings.below(bytes(entry.runs), offset)
        return postings.last_version(runs) if runs else self._stored_version(key)

    def postings(
        self, key: bytes, start: int, end: int, *, backwards: bool = False
    ) -> tuple[bytes, bool]:
        """Where events of a stream lie whose version is in ``[start, end)``.

        Returns postings of the first of them (backwards: of the last), and whether those are all. If
        not, ask again for what is behind (before) them.
        """
        return self._guarded(lambda: self._postings(key, start, end, backwards))

    def _postings(self, key: bytes, start: int, end: int, backwards: bool) -> tuple[bytes, bool]:
        self._catch_up()
        if self._folded_offset < self.end_offset:
            self._fold(self.end_offset)
        entry = self.tail.get(key)
        tail = bytes(entry.runs) if entry is not None else b""
        if backwards:
            part = self._postings_from_the_end(key, start, end, tail)
            return part, not part or postings.first_version(part) <= start
        if not tail or postings.first_version(tail) > start:
            for layer in self._layers:
                chunk, head = layer.find(key, start)
                if not head or postings.last_version(head) < start:
                    continue
                if chunk and postings.last_version(chunk) + 1 < postings.first_version(head):
                    return postings.between(chunk, start, end), False
                if layer is not self._layers[-1]:
                    return postings.between(chunk + head, start, end), False
                tail = chunk + head + tail
        return postings.between(tail, start, end), True

    def _postings_from_the_end(self, key: bytes, start: int, end: int, tail: bytes) -> bytes:
        for layer in reversed(self._layers):
            head = layer.head(key)
            if part := postings.between(head + tail, start, end):
                return part
            if head and (chunk := layer.chunk_before(key, end)):
                return postings.between(chunk, start, end)
            tail = b""
        return b""

    def streams(self, prefix: bytes) -> Iterator[bytes]:
        """Stream ids with the prefix in order. Takes the lock itself, page by page."""
        with self.lock:
            self.catch_up()
            high_watermark = self.visible_range()[1]
            tail = sorted(key for key in self.tail if key.startswith(prefix))
            if self.end_offset > high_watermark:
                tail = [key for key in tail if self.visible_version(key, high_watermark)]
        last = b""
        for key in heapq.merge(tail, self._stored_streams(prefix)):
            if key != last:
                yield key
            last = key

    def _stored_streams(self, prefix: bytes) -> Iterator[bytes]:
        start, is_last = prefix, False
        while not is_last:
            with self.lock:
                keys, is_last = self._guarded(partial(self._page, prefix, start))
            yield from keys
            start = keys[-1] + b"\x01" if keys else b""

    def _page(self, prefix: bytes, start: bytes) -> tuple[list[bytes], bool]:
        """Ids of all layers from ``start`` on, as far as each of them told; and whether that is all."""
        self._catch_up()
        pages = [layer.page(prefix, start) for layer in self._layers]
        ends = [page[-1] for page, next_start in pages if next_start]
        keys = heapq.merge(*(page for page, _ in pages))
        if not ends:
            return list(keys), True
        return [key for key in keys if key <= min(ends)], False

    # -- checkpoints ----------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Write the tail down, after making durable what it covers.

        Raises StorageFullError, StorageError (the index stays as it is, in memory), PoisonedError.
        A reader's index has no checkpoints: nothing happens.
        """
        if self.partition.writable:
            self._guarded(self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        self._catch_up()
        self._fold(self.end_offset)
        self.partition.checkpoint()  # recovery then knows that the log reached so far
        if self.end_offset > self._base_offset:
            self._write_tail()

    def checkpoint_if_full(self) -> None:
        """A checkpoint where it is time for one. If it fails the tail stays: it is tried again later."""
        if self.room > 0:
            return
        try:
            self.checkpoint()
        except EventLogError as error:
            self._put_off(error)

    def _put_off(self, error: EventLogError) -> None:
        _logger.warning("stream index %s: no checkpoint now: %s", self._name, error)
        self.room = max(self.room, self._run_count_max // 4)

    def _make_room(self) -> None:
        """In the middle of folding, all of it folded so far: let go of the tail."""
        if self.partition.writable:
            self.partition.checkpoint()
        elif len(self._layers) == 1:
            checkpoint = IndexTable(self._environment, self._name).load()
            if checkpoint is not None and checkpoint.end_offset > self._base_offset:
                self._load()  # the writer has been here
                return
            if not self._environment.is_temporary:
                self._layers.append(IndexTable(Environment.temporary(), self._name))
        self._write_tail()

    def _make_room_if_possible(self) -> None:
        try:
            self._make_room()
        except CorruptionError:
            raise
        except StorageError as error:
            self._put_off(error)

    def _write_tail(self) -> None:
        tail = {key: entry.runs for key, entry in self.tail.items() if entry.runs}
        self._layers[-1].write(tail, Checkpoint(self._folded_offset, self.is_regular))
        self._start_tail(self._folded_offset)

    def clear(self) -> None:
        """Throw the index away and fold the whole log again."""

        def fold_anew() -> None:
            self._forget_rows()
            self._load()
            self._catch_up()

        self._guarded(fold_anew)

    def drop(self) -> None:
        """Close it and delete its rows: the partition was deleted."""
        with self.lock:
            if self._cursor is not None:
                self._cursor.close()
                self._cursor = None
            self._forget_rows()
            self._close_private(self._layers)

    def close(self) -> None:
        """Write a last checkpoint (a writer), let go of what is private. Raises as checkpoint does."""
        try:
            if self.partition.writable and self._foldable_offset() > self._base_offset:
                self.checkpoint()
        finally:
            if self._cursor is not None:
                self._cursor.close()
                self._cursor = None
            self._close_private(self._layers)

    def _close_private(self, layers: list[IndexTable]) -> None:
        for layer in layers:
            if layer.environment is not self._given_environment:
                layer.environment.close()
