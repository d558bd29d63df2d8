"""Idempotent appends to one partition: a batch that is tried again is appended once.

What is known of the producers is a fold of the log. Each process has its own, catches up with what all
others appended before it checks a batch, and appends while it holds the partition's producer lock, which
all who check hold: so between look and append nobody appends the same batch. Appends without a check
take no part in this, are not held up by it, and cannot hold it up.

The fold begins, at the first batch that has to be checked, with the newest snapshot file, or where the
last 24 hours begin: older producers have expired. It is written down when it passes into a new segment
and when the partition is closed. Lost with the process it is made anew: only the log counts.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eventlog._native import check, ffi, lib, os_error
from eventlog.errors import EventLogError, ForkedError, StorageError, UnknownTopicError
from eventlog.log import producer_snapshot, segment
from eventlog.log.cursor import Cursor
from eventlog.log.producer_table import EXPIRATION_MS, ProducerBatch, ProducerTable

if TYPE_CHECKING:
    from eventlog.log.partition import Partition

_logger = logging.getLogger("eventlog.log")

_FIELDS = 13  # of a batch header as C gives it
_CHUNK_COUNT = 256

Write = Callable[[], tuple[int, int]]
"""Appends without waiting for the disk; returns (first offset, position of the batch)."""


class ProducerState:
    """The producers of a partition as this process knows them. Thread-safe; not for a forked child.

    Args:
        partition: whose.
        lock_path: a file of the partition that every process can open and nobody else locks.
        now_ms: the store's clock.
    """

    def __init__(self, partition: Partition, lock_path: Path, now_ms: Callable[[], int]) -> None:
        self._partition = partition
        self._directory = partition.directory
        self._lock_path = lock_path
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._lock_fd = -1
        self._is_loaded = False
        self._table = ProducerTable()
        self._offset = 0  # the table knows the log up to here
        self._written_offset = 0  # of the newest snapshot file that it read or wrote

    def append(self, batch: ProducerBatch, write: Write) -> tuple[int, int]:
        """Append a batch that may be there already; returns (first offset, position of the batch in
        bytes), which is -1 for a batch that was there. Not more durable than ``write`` makes it.

        Args:
            batch: what it says of its producer.
            write: appends it.

        Raises:
            OutOfOrderSequenceError: it is neither one of its producer's last five nor the next one.
            ProducerFencedError: a newer epoch of the producer has been seen.
            InvalidRecordError: producer fields that cannot be ones.
            CorruptionError: the log is damaged where it has to be looked at.
            And what ``write`` raises.
        """
        if os.getpid() != self._pid:  # before the lock: a thread may have held it at the fork
            raise ForkedError(
                "the store was opened before a fork and belongs to the parent process",
                hint="Open it again in the child",
                path=str(self._directory),
            )
        batch.check()
        with self._lock, self._alone():
            self._catch_up()
            known = self._table.find(batch)
            if known is not None:
                return known.first_offset, -1
            offset, position = write()
            if offset == self._offset:  # else others came between: the next one will read it
                if position == 0:  # it began a segment
                    self._write_snapshot()
                self._table.note(batch, offset)
                self._offset = offset + batch.count
            return offset, position

    def last_offsets(self) -> list[int]:
        """Where the newest durable batch of each producer ends that is not forgotten yet, ascending. A
        fold of its own, without a lock: what is appended meanwhile may be left out.

        Raises:
            CorruptionError: the log is damaged where it has to be looked at.
            ClosedError, StorageError: it cannot be looked at.
        """
        fold = ProducerState(self._partition, self._lock_path, self._now_ms)
        state = self._partition.state()
        end = state.durable_end_offset
        fold._load(state.log_start_offset, end)
        fold._fold(end)
        fold._table.expire(self._now_ms())
        entries = fold._table.entries.values()
        return sorted(entry.batches[-1].last_offset for entry in entries if entry.batches)

    def close(self) -> None:
        """Write down where the fold stands: before the partition is closed cleanly. Twice is fine.

        Of what others appended since, no more is read than lies in the newest segment.
        """
        with self._lock:
            try:
                if self._is_loaded:
                    self._is_loaded = False
                    with self._alone():
                        self._write_end()
            except EventLogError as error:
                _logger.warning("producer snapshot of %s at its end: %s", self._directory, error)
            finally:
                self._close_lock()

    def _write_end(self) -> None:
        state = self._partition.state()
        if state.poisoned_errno or state.is_deleted or self._offset < state.active_base_offset:
            return
        self._fold(state.log_end_offset)
        self._write_snapshot()

    def _catch_up(self) -> None:
        state = self._partition.state()
        base, end = state.active_base_offset, state.log_end_offset
        if not self._is_loaded:
            self._load(state.log_start_offset, end)
        if self._offset <= base:
            self._fold(base)
            self._write_snapshot()
        self._fold(end)

    def _load(self, start: int, end: int) -> None:
        now_ms = self._now_ms()
        with Cursor(self._partition, 1, unsynced=True) as cursor:
            start = max(start, cursor.find_time(max(0, now_ms - EXPIRATION_MS + 1)))
        found = producer_snapshot.load(self._directory, start, end)
        if found is None:
            self._offset, self._table, self._written_offset = start, ProducerTable(), 0
        else:
            self._offset, self._table = found
            self._table.expire(now_ms)
            self._written_offset = self._offset
        self._is_loaded = True

    def _fold(self, end: int) -> None:
        """Take in what the log holds up to ``end``."""
        if self._offset >= end:
            return
        fields = ffi.new("int64_t[]", _FIELDS * _CHUNK_COUNT)
        following = ffi.new("int64_t *")
        while self._offset < end:
            count = check(
                lib.el_partition_headers(
                    self._partition.handle, self._offset, end, True, fields, _CHUNK_COUNT, following
                )
            )
            numbers = ffi.unpack(fields, _FIELDS * count)
            for at in range(0, _FIELDS * count, _FIELDS):
                self._note_header(numbers[at : at + _FIELDS])
            if following[0] <= self._offset:
                raise StorageError(
                    f"{self._directory} ends at offset {self._offset}, not at {end}",
                    hint="Close the store and open it again",
                    path=str(self._directory),
                )
            self._offset = int(following[0])

    def _note_header(self, fields: list[int]) -> None:
        first_offset, _, _, _, attributes, delta, _, timestamp_ms = fields[:8]
        producer_id, epoch, sequence, record_count, _ = fields[8:]
        batch = ProducerBatch(producer_id, epoch, sequence, delta + 1, timestamp_ms, attributes)
        if (
            record_count or not batch.is_control
        ):  # compaction may leave an empty one, which says nothing
            self._table.note(batch, first_offset)

    def _write_snapshot(self) -> None:
        """Of the table as it is. Losing it costs only time, so an append goes on without it."""
        if self._offset <= self._written_offset:
            return
        self._table.expire(self._now_ms())
        self._written_offset = self._offset  # also where it fails: not tried again at each append
        is_written = producer_snapshot.write(self._directory, self._offset, self._table)
        # A topic of that name may have been made anew meanwhile: what was written is not of its log.
        if is_written and self._partition.state().is_deleted:
            producer_snapshot.remove(self._directory, self._offset)

    # -- the producer lock ----------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Alone among all who check batches of the partition. The system lets go of it when the process
        ends. Under the lock."""
        try:
            if self._lock_fd < 0:
                self._lock_fd = os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
                _states.add(self)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        except OSError as error:
            if self._partition.state().is_deleted:
                raise UnknownTopicError(
                    f"topic {self._partition.topic!r} was deleted",
                    hint="Make it anew under that name",
                    topic=self._partition.topic,
                ) from None
            raise os_error(
                error.errno or 0, str(self._lock_path), "cannot lock the producers"
            ) from error
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _close_lock(self) -> None:
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_lock_fd", -1) >= 0:
            self._close_lock()


def remove_past(directory: Path, end: int) -> None:
    """Delete snapshot files of a log that is shorter now: other records will get those offsets.

    Raises:
        StorageError: the operating system refuses.
    """
    for offset in producer_snapshot.offsets(directory):
        if offset > end:
            _logger.warning(
                "producer snapshot %s lies past the log end %d and is deleted",
                directory / segment.segment_name(offset, segment.SNAPSHOT),
                end,
            )
            producer_snapshot.remove(directory, offset)


_states: weakref.WeakSet[ProducerState] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """A lock belongs to the open file, which a child shares: it must not hold on to its parent's."""
    for state in list(_states):
        state._close_lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
