"""eventlog, in the process itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import harness

import eventlog

from . import Batch, Client, System

TOPIC = "records"


class _Client(Client):
    def __init__(self, log: eventlog.EventLog) -> None:
        self._log = log
        self._topic = log.topic(TOPIC)

    def append(self, value: bytes) -> None:
        self._topic.append(value)

    def append_each(self, values: Sequence[bytes], keys: Sequence[bytes]) -> None:
        append = self._topic.append
        for value, key in zip(values, keys, strict=True):
            append(value, key=key)

    def append_batches(self, batches: Sequence[Batch]) -> None:
        for values, keys in batches:
            self._topic.append_many(values, keys=keys)

    def consume(self, group: str, count: int, batch_count: int) -> None:
        with self._log.consumer(group, TOPIC) as consumer:
            while count > 0:
                count -= len(consumer.poll(1.0, max_records=batch_count))
                consumer.commit()

    def follow(self) -> Iterator[bytes]:
        for record in self._topic.tail(start=0):
            yield record.value or b""


class Embedded(System):
    """Threads of the process that made the log share it; others open it for themselves."""

    def __init__(self) -> None:
        self._log: eventlog.EventLog | None = None

    @contextmanager
    def serve(self, directory: Path, *, is_durable: bool) -> Iterator[str]:
        with harness.fresh_log(directory) as log:
            log.topic(TOPIC, durability="sync" if is_durable else "interval")
            self._log = log
            try:
                yield str(log.path)
            finally:
                self._log = None

    @contextmanager
    def connect(self, address: str) -> Iterator[Client]:
        if self._log is not None:
            yield _Client(self._log)
        else:
            with eventlog.open(address) as log:
                yield _Client(log)


SYSTEM = Embedded()
