"""Cancelling at any moment: what was cancelled is whole or absent, nothing is lost, all goes on.

Tasks are cancelled after a random number of rounds of the loop, and after random times, so that it hits them
before they begin, while a thread is at it, and after it is done but before they know.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aio_support import cancelled, in_loop, until

from eventlog import aio
from eventlog.consumer.assignment import TopicPartition
from eventlog.errors import WrongExpectedVersion
from eventlog.log.record import Record
from eventlog.sourcing import Event

Result = TypeVar("Result")
FAST = {"heartbeat_interval_ms": 10}
T0 = TopicPartition("t", 0)

pytestmark = pytest.mark.guarantee("G-32")


async def interrupted(rng: random.Random, work: Awaitable[Result]) -> Result | None:
    """Cancel it at some moment. Its result, if it was faster."""
    task = asyncio.ensure_future(work)
    if rng.random() < 0.6:
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(rng.random() * 0.003)
    return None if await cancelled(task) else task.result()


@pytest.mark.parametrize("durability", ["os", "sync"])
@in_loop
async def test_a_cancelled_append_is_whole_or_absent(
    tmp_path: Path, rng: random.Random, durability: Any
) -> None:
    """Small ones and large ones, in small segments; those that returned are there, once."""
    async with aio.open(tmp_path) as log:
        topic = await log.topic("t", durability=durability, segment_size_bytes_max=600_000)
        returned: dict[int, bytes] = {}

        async def append(number: int) -> None:
            name = b"%d" % number
            if rng.random() < 0.7:
                receipt = await topic.append(name)
                returned[receipt.offset] = name
            else:
                count = rng.choice((2, 30, 1500))
                [receipt] = await topic.append_many([name] * count)
                returned.update((receipt.offset + i, name) for i in range(count))

        async def work(first: int) -> None:
            for number in range(first, first + 40):
                await interrupted(rng, append(number))

        await asyncio.gather(*(work(n * 1000) for n in range(4)))
        await append(9999)
        values = [record.value async for record in topic.read()]
        assert all(values[offset] == value for offset, value in returned.items())
        for value in {*values}:
            count = values.count(value)
            first = values.index(value)
            assert values[first : first + count] == [value] * count
            assert count in (1, 2, 30, 1500)
        assert not log._host._append_count
        assert not log._host.writes("t")._pending_count


@in_loop
async def test_a_cancelled_append_of_events_is_whole_or_absent(
    tmp_path: Path, rng: random.Random
) -> None:
    async with aio.open(tmp_path) as log:
        store = await log.event_store("e")
        acknowledged = 0

        async def work() -> None:
            nonlocal acknowledged
            for _ in range(30):
                version = await store.stream_version("s")
                size = rng.choice((10, 100_000))
                events = [Event(bytes(size), type="x")] * rng.choice((1, 3))
                try:
                    receipt = await interrupted(
                        rng, store.append("s", events, expected_version=version)
                    )
                except WrongExpectedVersion:
                    continue
                acknowledged = max(acknowledged, receipt.version if receipt else 0)

        await asyncio.gather(*(work() for _ in range(3)))
        await log.topic("e").sync()  # what was cancelled may not have been readable yet
        versions = [event.version async for event in store.read_stream("s")]
        assert versions == list(range(1, len(versions) + 1))
        assert len(versions) >= acknowledged
        receipt = await store.append("s", Event(1, type="x"), expected_version=len(versions))
        assert receipt.version == len(versions) + 1
        assert await store.verify() == []


@pytest.mark.parametrize("kind", ["read", "tail", "events"])
@in_loop
async def test_a_cancelled_step_of_an_iterator_loses_nothing(
    tmp_path: Path, rng: random.Random, kind: str
) -> None:
    count = 5000
    async with aio.open(tmp_path, durability="os") as log:
        store = await log.event_store("t")
        topic = await log.topic("t")
        sources: dict[str, Callable[[], Any]] = {
            "read": topic.read,
            "tail": lambda: topic.tail(start=0),
            "events": lambda: store.read_stream("s"),
        }
        if kind != "tail":
            await store.append_raw("s", "x", [b"1"] * count)
        seen: list[int] = []

        async def write() -> None:
            written = 0
            while written < count:
                some = rng.choice((1, 1, 1, 50, 1500))
                await store.append_raw("s", "x", [b"1"] * min(some, count - written))
                written += min(some, count - written)
                await asyncio.sleep(rng.choice((0, 0, 0.001)))

        writing = asyncio.ensure_future(write()) if kind == "tail" else None
        items = sources[kind]()
        while len(seen) < count:
            item = await interrupted(rng, anext(items))
            while item is not None and len(seen) < count - 1 and rng.random() < 0.995:
                seen.append(item.offset)
                item = await anext(items)
            if item is not None:
                seen.append(item.offset)
        assert seen == list(range(count))
        if writing is not None:
            await writing


@pytest.mark.parametrize("sharing", [None, "key"])
@in_loop
async def test_a_cancelled_poll_loses_no_records(
    tmp_path: Path, rng: random.Random, sharing: Any
) -> None:
    """Polls and steps of the iteration are cancelled; commits in between never count what nobody got."""
    count = 3000
    async with aio.open(tmp_path, durability="os") as log:
        topic = await log.topic("t", partitions=3)
        seen: dict[tuple[int, int], int] = {}
        last: dict[int, int] = {}

        def take(records: list[Record]) -> None:
            for record in records:
                place = (record.partition, record.offset)
                seen[place] = seen.get(place, 0) + 1
                assert record.offset > last.get(record.partition, -1)
                last[record.partition] = record.offset

        async def write() -> None:
            for n in range(0, count, 50):
                values = [b"%d" % i for i in range(n, n + 50)]
                await topic.append_many(values, keys=values)
                await asyncio.sleep(rng.choice((0, 0.001)))

        writing = asyncio.ensure_future(write())
        consumer = log.consumer("g", "t", sharing=sharing, max_poll_records=100, **FAST)
        while len(seen) < count:
            if rng.random() < 0.5:
                take(await interrupted(rng, consumer.poll(1)) or [])
            else:
                record = await interrupted(rng, anext(consumer))
                take([record] if record is not None else [])
            if rng.random() < 0.2 and consumer.assignment:
                await consumer.commit()
                for unit, committed in (await log.groups.committed("g")).items():
                    handed_out = last.get(unit.partition, -1) + 1
                    assert committed.offset <= handed_out
                    if sharing is None:
                        assert committed.offset == handed_out
            elif rng.random() < 0.1:
                await interrupted(rng, consumer.commit())
        await writing
        assert set(seen.values()) == {1}
        assert sum((await consumer.lag()).values()) == 0
        await consumer.close()


@in_loop
async def test_seeking_after_a_cancelled_poll_counts(tmp_path: Path, rng: random.Random) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await log.topic("t").append_many([b"%d" % n for n in range(1000)])
        async with log.consumer("g", "t", **FAST) as consumer:
            for _ in range(40):
                at = rng.randrange(1000)
                await interrupted(rng, consumer.poll(1, max_records=10))
                if not consumer.assignment:
                    await consumer.poll()
                await consumer.seek(T0, at)
                await interrupted(rng, consumer.poll(0, max_records=10))
                assert await consumer.position(T0) in (at, min(at + 10, 1000))


@in_loop
async def test_a_cancelled_close_of_a_consumer_closes_it(
    tmp_path: Path, rng: random.Random
) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await log.topic("t").append(b"x")
        for _ in range(10):
            consumer = log.consumer("g", "t", **FAST)
            await consumer.poll(None)
            await interrupted(rng, consumer.close())
            await consumer.close()
        async with log.consumer("g", "t", **FAST) as consumer:
            assert len(await consumer.poll(None)) == 1


@in_loop
async def test_a_poll_that_is_cancelled_in_a_callback_lets_it_end(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await log.topic("t").append(b"x")
        begun, go = asyncio.Event(), asyncio.Event()
        ended = []

        async def on_assigned(consumer: aio.Consumer, units: Any) -> None:
            begun.set()
            await go.wait()
            ended.append(units)

        async with log.consumer("g", "t", on_assigned=on_assigned, **FAST) as consumer:
            polling = asyncio.ensure_future(consumer.poll(None))
            await begun.wait()
            assert await cancelled(polling)
            go.set()
            await until(lambda: ended)
            assert [record.value for record in await consumer.poll(None)] == [b"x"]
