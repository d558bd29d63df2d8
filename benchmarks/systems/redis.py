"""Redis Streams, with an append-only file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tools import servers

from . import Batch, Client, System

STREAM = "records"


class _Client(Client):
    def __init__(self, connection: Any) -> None:
        self._redis = connection

    def append(self, value: bytes) -> None:
        self._redis.xadd(STREAM, {"v": value})

    def append_each(self, values: Sequence[bytes], keys: Sequence[bytes]) -> None:
        append = self._redis.xadd
        for value, key in zip(values, keys, strict=True):
            append(STREAM, {"k": key, "v": value})

    def append_batches(self, batches: Sequence[Batch]) -> None:
        for values, keys in batches:
            with self._redis.pipeline(transaction=False) as pipeline:
                for value, key in zip(values, keys, strict=True):
                    pipeline.xadd(STREAM, {"k": key, "v": value})
                pipeline.execute()

    def consume(self, group: str, count: int, batch_count: int) -> None:
        self._redis.xgroup_create(STREAM, group, id="0")
        while count > 0:
            ((_, entries),) = self._redis.xreadgroup(group, "one", {STREAM: ">"}, count=batch_count)
            self._redis.xack(STREAM, group, *[identity for identity, _ in entries])
            count -= len(entries)

    def follow(self) -> Iterator[bytes]:
        last: bytes | str = "0"
        while True:
            for _, entries in self._redis.xread({STREAM: last}, block=0):
                for last, fields in entries:  # noqa: B007  where to go on
                    yield fields[b"v"]


class RedisStreams(System):
    server = "Redis"

    @contextmanager
    def serve(self, directory: Path, *, is_durable: bool) -> Iterator[str]:
        with servers.Redis(
            fsync="always" if is_durable else "everysec", parent=directory
        ) as server:
            yield str(server.port)

    @contextmanager
    def connect(self, address: str) -> Iterator[Client]:
        # answers as plain lists, not as the older protocol's: one parser for all commands
        with redis.Redis(host=servers.HOST, port=int(address), protocol=2) as connection:
            yield _Client(connection)


SYSTEM = RedisStreams()
