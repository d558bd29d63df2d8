"""NATS JetStream, with files."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import nats
from nats.js.api import AckPolicy, ConsumerConfig

from tools import servers

from . import Batch, Client, System

STREAM = "records"
KEY = "Key"
TIMEOUT_S = 30


class _Client(Client):
    """The library is asynchronous: an event loop a client, and a coroutine does the whole of a task."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Any) -> None:
        self._loop = loop
        self._jetstream = connection.jetstream(timeout=TIMEOUT_S)

    def _run(self, task: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(task)

    def append(self, value: bytes) -> None:
        self._run(self._jetstream.publish(STREAM, value))

    def append_each(self, values: Sequence[bytes], keys: Sequence[bytes]) -> None:
        async def task() -> None:
            for value, key in zip(values, keys, strict=True):
                await self._jetstream.publish(STREAM, value, headers={KEY: key.hex()})

        self._run(task())

    def append_batches(self, batches: Sequence[Batch]) -> None:
        async def task() -> None:
            publish = self._jetstream.publish_async
            for values, keys in batches:
                await asyncio.gather(
                    *[
                        await publish(STREAM, value, headers={KEY: key.hex()})
                        for value, key in zip(values, keys, strict=True)
                    ]
                )

        self._run(task())

    def consume(self, group: str, count: int, batch_count: int) -> None:
        async def task(left: int) -> None:
            config = ConsumerConfig(ack_policy=AckPolicy.ALL, max_ack_pending=2 * batch_count)
            subscription = await self._jetstream.pull_subscribe(STREAM, group, config=config)
            while left > 0:
                messages = await subscription.fetch(batch_count, timeout=TIMEOUT_S)
                await messages[-1].ack_sync(timeout=TIMEOUT_S)  # and with it those before
                left -= len(messages)

        self._run(task(count))

    def follow(self) -> Iterator[bytes]:
        subscription = self._run(self._jetstream.subscribe(STREAM, ordered_consumer=True))
        while True:
            yield self._run(subscription.next_msg(timeout=None)).data


class JetStream(System):
    server = "NATS"

    def lacks(self, *, is_durable: bool) -> str | None:
        if text := super().lacks(is_durable=is_durable):
            return text
        if is_durable and not servers.Nats.can_sync():
            return (
                f"{servers.version('NATS')} cannot sync each message; a newer nats-server (2.10 or "
                "later) on the PATH can"
            )
        return None

    @contextmanager
    def serve(self, directory: Path, *, is_durable: bool) -> Iterator[str]:
        with servers.Nats(is_synced=is_durable, parent=directory) as server:

            async def make_stream() -> None:
                connection = await nats.connect(f"nats://{servers.HOST}:{server.port}")
                await connection.jetstream().add_stream(name=STREAM, subjects=[STREAM])
                await connection.close()

            asyncio.run(make_stream())
            yield str(server.port)

    @contextmanager
    def connect(self, address: str) -> Iterator[Client]:
        with closing(asyncio.new_event_loop()) as loop:
            connection = loop.run_until_complete(nats.connect(f"nats://{servers.HOST}:{address}"))
            try:
                yield _Client(loop, connection)
            finally:
                loop.run_until_complete(connection.close())


SYSTEM = JetStream()
