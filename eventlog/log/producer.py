"""A buffered producer: many small sends, few batches."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Self

from eventlog.errors import (
    ClosedError,
    EventLogError,
    ForkedError,
    InvalidRecordError,
    RecordTooLargeError,
    SettingError,
)
from eventlog.log.producer_table import SEQUENCE_COUNT

if TYPE_CHECKING:
    from eventlog.log.topic import Topic

_RECORD_OVERHEAD_BYTES = 16
_EPOCH = 0  # an id belongs to one producer, so nobody ever takes it over

Values = tuple[bytes | None, ...]
Identity = tuple[int, int, int]
"""Producer id, epoch, sequence number of the first record."""


class _Batch:
    """Records cut for one partition: from then on they stay together, under the same numbers, until
    the log has them. ``is_new``: nobody has tried to append it yet."""

    __slots__ = ("identity", "is_new", "keys", "partition", "values")

    def __init__(
        self, partition: int, values: Values, keys: Values, identity: Identity | None
    ) -> None:
        self.partition = partition
        self.values = values
        self.keys = keys
        self.identity = identity
        self.is_new = True

    def halves(self) -> tuple[_Batch, _Batch]:
        """Of one that is too large, and so not in the log."""
        middle = len(self.values) // 2
        second = None
        if self.identity is not None:
            producer_id, epoch, sequence = self.identity
            second = producer_id, epoch, (sequence + middle) % SEQUENCE_COUNT
        return (
            _Batch(self.partition, self.values[:middle], self.keys[:middle], self.identity),
            _Batch(self.partition, self.values[middle:], self.keys[middle:], second),
        )


class Producer:
    """Collects records and appends them in batches: when ``batch_size_bytes`` are together, when
    ``linger_ms`` are over, at :meth:`flush` and at :meth:`close`.

    ``send`` acknowledges nothing: what is still in the buffer is lost with the process. After
    ``flush()`` returned, everything sent before is as durable as the topic promises. If appending
    fails the records are kept, in order, and the error is raised by the next ``send``, ``flush`` or
    ``close`` of any thread; calling ``flush`` again tries again.

    Trying again appends nothing twice: batches carry the producer's id and count their records, and one
    that was tried before stays as it is and is looked for in the log first (as Kafka does it; see
    :mod:`eventlog.log.producer_table`). That holds also where it is not known whether the first try came
    to the disk: after PoisonedError close the store, open it again, and carry on with
    ``topic.producer(resume=former)``.

    Thread-safe. After a fork the child's copy is empty of meaning: sending raises ForkedError.

    Args:
        topic: where the records go.
        linger_ms: longest time that a record waits in the buffer; 0 .. 60,000 ms, 0 waits only for
            size, flush or close.
        batch_size_bytes: append once so many bytes of keys and values are together, 1 KiB .. 1 GiB.
        durability: other than the topic's.
        idempotent: False: without id and numbers, and what was tried again may be there twice. It costs
            next to nothing, and nothing for each record.
        resume: a producer for the topic of this name, mostly of a store that was closed after an error:
            all that it still holds is taken over, and it is closed. Nobody may be sending through it.

    Raises:
        SettingError: a setting outside its limits, or ``resume`` sends to another topic.
        ForkedError: ``resume`` belongs to the parent process.
    """

    def __init__(
        self,
        topic: Topic,
        *,
        linger_ms: int = 5,
        batch_size_bytes: int = 1024 * 1024,
        durability: str | None = None,
        idempotent: bool = True,
        resume: Producer | None = None,
    ) -> None:
        for name, value, least, most in (
            ("linger_ms", linger_ms, 0, 60_000),
            ("batch_size_bytes", batch_size_bytes, 1024, 1024**3),
        ):
            if type(value) is not int or not least <= value <= most:
                raise SettingError(
                    f"{name} is {value!r}",
                    hint=f"It has to be {least:,} .. {most:,}",
                    setting=name,
                    value=value,
                )
        self._topic = topic
        self._linger_s = linger_ms / 1000
        self._batch_size_bytes = batch_size_bytes
        self._durability = durability
        # Value, key, value, key ... Extending a list by two is atomic, so sending takes no lock;
        # flushing takes from the left.
        self._buffer: list[bytes | None] = []
        self._extend = self._buffer.extend
        self._size_bytes = 0
        self._is_idempotent = idempotent
        self._producer_id = -1  # none before the first flush
        self._sequences: dict[int, int] = {}  # of the next record, by partition
        self._cut: deque[_Batch] = deque()  # out of the buffer and not yet in the log
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._error: BaseException | None = None
        self._closed = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        if resume is not None:
            self._take_over(resume)
        _producers.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close()

    def send(self, value: bytes | None, key: bytes | None = None) -> None:
        """Put one record into the buffer.

        Args:
            value: bytes, or None for a tombstone.
            key: bytes or None; decides about the partition.

        Raises:
            InvalidRecordError: not bytes; no key, in a topic that is compacted.
            ClosedError: the producer was closed.
            StorageError and others: what an append in the background met.
        """
        if (type(value) is not bytes and value is not None) or (
            type(key) is not bytes and key is not None
        ):
            raise InvalidRecordError(
                "a key or value is not bytes", hint="Encode it; None is allowed", field="value"
            )
        if key is None:
            self._topic.check_key_may_be_missing()
        if self._thread is None or self._error is not None:
            self._look()
        self._extend((value, key))
        self._size_bytes += _RECORD_OVERHEAD_BYTES + (len(value) if value else 0)
        if self._size_bytes >= self._batch_size_bytes:
            self.flush()

    def _look(self) -> None:
        """The slow part of send: the first one, or something went wrong."""
        self._check_process()
        if self._closed:
            raise ClosedError("the producer was closed", hint="Make a new one")
        if self._thread is None and self._linger_s > 0:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._linger, name="eventlog-producer", daemon=True
                    )
                    self._thread.start()
        if self._error is not None:
            self.flush()

    def flush(self) -> None:
        """Append all that was sent before; returns when it is as durable as promised.

        Raises:
            What :meth:`eventlog.log.topic.Topic.append_many` raises; the records are kept, and tried
                again by the next call.
            OutOfOrderSequenceError: records that the log had acknowledged are gone from it (a power
                cut under ``"os"`` or ``"interval"``): see :meth:`pending`.
        """
        self._check_process()
        with self._lock:
            self._flush()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(
                "the producer was made before a fork and belongs to the parent process",
                hint="Open the store again in the child",
                path=self._topic.name,
            )

    def _flush(self) -> None:
        self._error = None
        try:
            self._append_cut()
            left = len(self._buffer) // 2  # what comes meanwhile waits for the next time
            # By the average; sizes that differ much are found out by the topic's limit.
            most = -(-left // (self._size_bytes // self._batch_size_bytes or 1))
            self._size_bytes = 0
            while left > 0:
                count = min(left, most)
                self._cut_off(count)
                left -= count
                if self._append_cut():
                    most = -(-most // 2)
        except BaseException as error:
            self._error = error
            raise

    def _cut_off(self, count: int) -> None:
        """Make batches of the oldest so many records of the buffer; none are left from before."""
        buffer, topic, end = self._buffer, self._topic, 2 * count
        values, keys = tuple(buffer[:end:2]), tuple(buffer[1:end:2])
        if topic.partition_count == 1:
            parts = [(0, values, keys)]
        else:
            parts = [
                (number, tuple(values[i] for i in places), tuple(keys[i] for i in places))
                for number, places in topic.spread(keys, count).items()
            ]
        if self._is_idempotent and self._producer_id < 0:
            self._producer_id = topic.new_producer_id()
        sequences = dict(self._sequences)
        batches: deque[_Batch] = deque()
        for number, some_values, some_keys in parts:
            identity = None
            if self._is_idempotent:
                sequence = sequences.get(number, 0)
                identity = self._producer_id, _EPOCH, sequence
                sequences[number] = (sequence + len(some_values)) % SEQUENCE_COUNT
            batches.append(_Batch(number, some_values, some_keys, identity))
        # No call between these, so no signal either: the records are in one place at any time.
        self._sequences = sequences
        self._cut = batches
        del buffer[:end]

    def _append_cut(self) -> bool:
        """Append the batches that were cut. Was one too large, so that it had to be halved?"""
        was_halved = False
        while self._cut:
            batch = self._cut[0]
            is_first_try, batch.is_new = batch.is_new, False
            try:
                self._topic.partition(batch.partition).append_columns(
                    batch.values,
                    keys=batch.keys,
                    producer=batch.identity,
                    is_first_try=is_first_try,
                    durability=self._durability,
                )
            except RecordTooLargeError:
                if len(batch.values) == 1:
                    raise
                self._cut = deque((*batch.halves(), *tuple(self._cut)[1:]))
                was_halved = True
            else:
                self._cut.popleft()
        return was_halved

    def pending(self) -> list[tuple[bytes | None, bytes | None]]:
        """(value, key) of all records that were sent and not acknowledged, as they would be appended.

        Those of a batch that was tried may be in the log: a new producer with ``resume`` finds that out,
        sending them again would not. Use this where the log refuses them (OutOfOrderSequenceError).

        Raises:
            ForkedError: they are the parent process's.
        """
        self._check_process()
        with self._lock:
            records = [
                record
                for batch in self._cut
                for record in zip(batch.values, batch.keys, strict=True)
            ]
            waiting = list(self._buffer)
        return records + list(zip(waiting[::2], waiting[1::2], strict=True))

    def _take_over(self, former: Producer) -> None:
        former._check_process()
        if former._topic.name != self._topic.name:
            raise SettingError(
                f"the former producer sends to topic {former._topic.name!r}",
                hint=f"Resume one for {self._topic.name!r}",
                setting="resume",
                value=former,
            )
        with former._lock:
            former._end()
            self._producer_id = former._producer_id
            self._sequences = former._sequences
            self._size_bytes = former._size_bytes
            self._extend(former._buffer)
            self._cut = former._cut
            former._buffer.clear()
            former._cut = deque()

    def _linger(self) -> None:
        while not self._wake.wait(self._linger_s):
            if (self._buffer or self._cut) and self._error is None:
                # What goes wrong is kept: the next send, flush or close raises it.
                with contextlib.suppress(EventLogError, MemoryError):
                    self.flush()

    def close(self) -> None:
        """Flush and end. Twice is fine.

        Raises:
            What :meth:`flush` raises; the producer then stays open, so that it can be tried again.
        """
        if self._closed:
            return
        self.flush()
        thread = self._end()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _end(self) -> threading.Thread | None:
        """Send no more; the thread that is about to end."""
        self._closed = True
        self._wake.set()
        thread, self._thread = self._thread, None  # the next send goes the slow way and is refused
        return thread


_producers: weakref.WeakSet[Producer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for producer in list(_producers):
        producer._thread = (
            None  # it did not come along: the next send goes the slow way, is refused
        )


os.register_at_fork(after_in_child=_after_fork_in_child)
