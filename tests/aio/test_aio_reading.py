"""Reading and tailing in a loop: the same as the synchronous API gives, and no thread per waiting task."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from aio_support import cancelled, child, in_loop, listed, take, until

import eventlog
from eventlog import aio
from eventlog.errors import (
    ClosedError,
    CorruptionError,
    InvalidNameError,
    LogError,
    OffsetOutOfRangeError,
    PartitionMismatchError,
    UnknownTopicError,
)
from eventlog.sourcing import Event

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@in_loop
async def test_reading_gives_what_the_synchronous_api_gives(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        topic = await log.topic("t")
        for count in (1, 1023, 1024, 1):
            await topic.append_many(
                [b"%d" % n for n in range(count)], timestamps_ms=[count] * count
            )
        core = topic.core
        for options in (
            {},
            {"limit": 1024},
            {"limit": 2048},
            {"start": 1000, "end": 1100},
            {"start": 2049},
            {"start_time_ms": 1024},
            {"limit": 0},
        ):
            assert await listed(topic.read(**options)) == list(core.read(**options))
            batches = topic.read_batches(take="values", batch_count=100, **options)
            assert await listed(batches) == list(
                core.read_batches(take="values", batch_count=100, **options)
            )
        assert await topic.offset_for_time(1024) == core.offset_for_time(1024)
        assert (await topic.log_start_offset(), await topic.log_end_offset()) == (0, 2049)


@in_loop
async def test_the_errors_of_reading_come_from_the_iterator(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = log.topic("t")
        with pytest.raises(OffsetOutOfRangeError):
            await anext(topic.read(start=5))
        with pytest.raises(PartitionMismatchError):
            await anext(topic.read(7))
        with pytest.raises(OffsetOutOfRangeError):
            await anext(topic.tail(start=5))
        assert await listed(topic.read()) == []


@in_loop
async def test_what_comes_before_damage_is_read(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = await log.topic("t")
        for n in range(3):
            await topic.append(b"%d" % n * 100)
        [path] = (tmp_path / "log" / "t-0").glob("*.log")
        data = path.read_bytes()
        at = data.rindex(b"2" * 100)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"x")
        records = topic.read()
        assert [(await anext(records)).offset for _ in range(2)] == [0, 1]
        with pytest.raises(CorruptionError):
            await anext(records)
        with pytest.raises(StopAsyncIteration):
            await anext(records)


@in_loop
async def test_an_iterator_is_for_one_task_at_a_time(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = await log.topic("t")
        tail = topic.tail()
        waiting = asyncio.ensure_future(anext(tail))
        await asyncio.sleep(0)
        with pytest.raises(LogError):
            await anext(tail)
        await topic.append(b"x")
        assert (await waiting).value == b"x"
        await tail.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(tail)
        records = topic.read()
        assert (await anext(records)).value == b"x"
        await records.aclose()
        assert await listed(records) == []


@in_loop
async def test_streams_and_folds(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        store = log.event_store("orders")
        for n in range(3):
            await store.append_raw(f"s-{n}", "x", [b"%d" % i for i in range(1500 * n)])
        await store.append("s-1", Event({"n": 1}, type="last"))
        core = store.core
        assert await listed(store.read_stream("s-2")) == list(core.read_stream("s-2"))
        some = {"start": 3, "end": 2900, "backwards": True, "limit": 2000}
        assert await listed(store.read_stream("s-2", **some)) == list(
            core.read_stream("s-2", **some)
        )
        assert await listed(store.read_all()) == list(core.read_all())
        assert await listed(store.read_all(start=1499, limit=2)) == list(
            core.read_all(start=1499, limit=2)
        )
        assert await listed(store.streams("s-")) == ["s-1", "s-2"]
        assert await store.stream_version("s-2") == 3000
        in_threads = set()

        def count(state: int, event: object) -> int:
            in_threads.add(threading.current_thread())
            return state + 1

        assert await store.fold("s-2", 0, count) == 3000
        assert await store.fold("s-2", int, count, start=11) == 2990
        assert {each async for each in store.fold_all(int, count, prefix="s-")} == {
            ("s-1", 1501),
            ("s-2", 3000),
        }
        assert in_threads == {threading.current_thread()}
        with pytest.raises(InvalidNameError):
            await anext(store.read_stream(""))
        await store.checkpoint()
        await store.rebuild_index()
        assert await store.verify() == []
        assert store.codec is core.codec


@in_loop
async def test_a_tail_begins_where_it_is_told(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = await log.topic("t")
        await topic.append(b"before")
        newest, all_of_them = topic.tail(), topic.tail(start=0)
        lazy = log.topic("t").tail(start=1)
        await topic.append(b"after")
        assert (await anext(newest)).value == b"after"
        assert [each.value for each in await take(all_of_them, 2)] == [b"before", b"after"]
        assert (await anext(lazy)).value == b"after"


@in_loop
async def test_a_tail_ends_when_nothing_came_for_its_timeout(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = log.topic("t")
        assert await listed(topic.tail(timeout_s=0.01)) == []
        await topic.append(b"x")
        assert [each.value for each in await listed(topic.tail(start=0, timeout_s=0.01))] == [b"x"]


@pytest.mark.parametrize("compression", ["none", "zstd"])
@in_loop
async def test_a_tail_gives_everything_in_order(tmp_path: Path, compression: str) -> None:
    """Single records, batches larger than a chunk, ends of segments: it is behind now and then."""
    async with aio.open(tmp_path, durability="os") as log:
        topic = await log.topic(
            "t",
            compression=compression,
            compression_size_bytes_min=0,
            segment_size_bytes_max=100_000,
        )

        async def follow() -> None:
            expected = 0
            async for record in topic.tail(start=0):
                assert record.offset == expected
                expected += 1
                if record.value == b"end":
                    return

        following = [asyncio.ensure_future(follow()) for _ in range(5)]
        for n in range(100):
            await topic.append_many([b"%d" % n] * (3000 if n % 25 == 0 else n % 3 + 1))
            await asyncio.sleep(0)
        await topic.append(b"end")
        await asyncio.gather(*following)


@in_loop
async def test_many_waiting_tails_need_no_threads(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        topics = [await log.topic(f"t-{n}") for n in range(4)]
        waiting = [asyncio.ensure_future(anext(topics[n % 4].tail())) for n in range(1000)]
        await until(lambda: sum(map(len, log._host.waiter._partitions.values())) == 1000)
        threads = threading.active_count()
        assert threads < 20
        for topic in topics:
            await topic.append(topic.name.encode())
        records = await asyncio.gather(*waiting)
        assert [each.topic for each in records] == [f"t-{n % 4}" for n in range(1000)]
        assert threading.active_count() <= threads
        assert not log._host.waiter._partitions


@in_loop
async def test_a_tail_wakes_for_its_own_partition_only(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        quiet, busy = await log.topic("quiet"), await log.topic("busy")
        waiting = asyncio.ensure_future(anext(quiet.tail()))
        for n in range(200):
            await busy.append(b"%d" % n)
            await asyncio.sleep(0)
        assert not waiting.done()
        await quiet.append(b"now")
        assert (await waiting).value == b"now"


@pytest.mark.parametrize("read_only", [False, True])
@in_loop
async def test_another_process_wakes_a_tail(tmp_path: Path, read_only: bool) -> None:
    with eventlog.open(tmp_path) as made:
        made.topic("t")
    ready, go = os.pipe()

    def append() -> None:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            os.read(ready, 1)
            for n in range(50):
                topic.append(b"%d" % n, durability="os" if n % 2 else "sync")
            topic.append(b"end")

    with child(append):
        async with aio.open(tmp_path, read_only=read_only) as log:
            tail = log.topic("t").tail()
            first = asyncio.ensure_future(anext(tail))
            await until(lambda: log._host.waiter._partitions)
            os.write(go, b"x")
            values = [(await first).value]
            async for record in tail:
                values.append(record.value)
                if record.value == b"end":
                    break
            assert values == [*(b"%d" % n for n in range(50)), b"end"]
    os.close(ready)
    os.close(go)


@in_loop
async def test_who_waits_is_told_of_the_end(tmp_path: Path) -> None:
    log = await aio.open(tmp_path)
    topic, other = await log.topic("t"), await log.topic("other")
    deleted = asyncio.ensure_future(anext(topic.tail()))
    closed = [asyncio.ensure_future(anext(other.tail())) for _ in range(3)]
    await until(lambda: len(log._host.waiter._partitions) == 2)
    await log.delete_topic("t")
    with pytest.raises((UnknownTopicError, ClosedError)):
        await deleted
    await log.close()
    for task in closed:
        with pytest.raises(ClosedError):
            await task


@in_loop
async def test_a_cancelled_wait_leaves_nothing(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = await log.topic("t")
        waiting = [asyncio.ensure_future(anext(topic.tail())) for _ in range(100)]
        await until(lambda: sum(map(len, log._host.waiter._partitions.values())) == 100)
        for task in waiting:
            assert await cancelled(task)
        assert not log._host.waiter._partitions
