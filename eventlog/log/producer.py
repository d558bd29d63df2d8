"""A buffered producer: many small sends, few batches."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING, Self

from eventlog.errors import (
    ClosedError,
    EventLogError,
    ForkedError,
    InvalidRecordError,
    RecordTooLargeError,
    SettingError,
)

if TYPE_CHECKING:
    from eventlog.log.topic import Topic

_RECORD_OVERHEAD_BYTES = 16


class Producer:
    """Collects records and appends them in batches: when ``batch_size_bytes`` are together, when
    ``linger_ms`` are over, at :meth:`flush` and at :meth:`close`.

    ``send`` acknowledges nothing: what is still in the buffer is lost with the process. After
    ``flush()`` returned, everything sent before is as durable as the topic promises. If appending
    fails the records stay in the buffer, in order, and the error is raised by the next ``send``,
    ``flush`` or ``close`` of any thread; calling ``flush`` again tries again. (With several partitions
    those that had taken their part get it again.)

    Thread-safe. After a fork the child's copy is empty of meaning: sending raises ForkedError.

    Args:
        topic: where the records go.
        linger_ms: longest time that a record waits in the buffer; 0 .. 60,000 ms, 0 waits only for
            size, flush or close.
        batch_size_bytes: append once so many bytes of keys and values are together, 1 KiB .. 1 GiB.
        durability: other than the topic's.
    """

    def __init__(
        self,
        topic: Topic,
        *,
        linger_ms: int = 5,
        batch_size_bytes: int = 1024 * 1024,
        durability: str | None = None,
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
        # flushing takes from the left, and only what was appended.
        self._buffer: list[bytes | None] = []
        self._extend = self._buffer.extend
        self._size_bytes = 0
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._error: BaseException | None = None
        self._closed = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
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
            InvalidRecordError: not bytes.
            ClosedError: the producer was closed.
            StorageError and others: what an append in the background met.
        """
        if (type(value) is not bytes and value is not None) or (
            type(key) is not bytes and key is not None
        ):
            raise InvalidRecordError(
                "a key or value is not bytes", hint="Encode it; None is allowed", field="value"
            )
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
            What :meth:`eventlog.log.topic.Topic.append_many` raises; the records stay in the buffer.
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
        buffer = self._buffer
        left = len(buffer) // 2  # what comes meanwhile waits for the next time
        # By the average; sizes that differ much are found out by the topic's limit.
        batches = self._size_bytes // self._batch_size_bytes or 1
        most = -(-left // batches)
        self._size_bytes = 0
        self._error = None
        while left > 0:
            count = min(left, most)
            values, keys = tuple(buffer[: 2 * count : 2]), tuple(buffer[1 : 2 * count : 2])
            try:
                self._topic.append_many(values, keys=keys, durability=self._durability)
            except RecordTooLargeError as error:
                if count == 1:
                    self._error = error
                    raise
                most = count // 2
                continue
            except BaseException as error:
                self._error = error
                raise
            del buffer[: 2 * count]
            left -= count

    def _linger(self) -> None:
        while not self._wake.wait(self._linger_s):
            if self._buffer and self._error is None:
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
        self._closed = True
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._thread = None  # the next send goes the slow way and is refused


_producers: weakref.WeakSet[Producer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for producer in list(_producers):
        producer._thread = (
            None  # it did not come along: the next send goes the slow way, is refused
        )


os.register_at_fork(after_in_child=_after_fork_in_child)
