"""Consumers in a loop: sharing, committing, callbacks, waiting without threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aio_support import in_loop, take, until

import eventlog
from eventlog import aio
from eventlog.consumer.assignment import TopicPartition
from eventlog.errors import (
    ClosedError,
    FencedError,
    GroupError,
    GroupNotEmptyError,
    LogError,
    NoOffsetError,
    PartitionMismatchError,
    SettingError,
)
from eventlog.log.record import Record

FAST = {"heartbeat_interval_ms": 10}
T0 = TopicPartition("t", 0)


def offsets(records: Sequence[Record]) -> list[int]:
    return [record.offset for record in records]


async def fill(log: aio.EventLog, count: int, topic: str = "t", **more: Any) -> None:
    await log.topic(topic).append_many([b"%d" % n for n in range(count)], **more)


async def poll_some(consumer: aio.Consumer, count: int) -> list[Record]:
    records: list[Record] = []
    while len(records) < count:
        records += await consumer.poll(None)
    assert len(records) == count
    return records


@in_loop
async def test_polling_and_committing(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await fill(log, 1000)
        async with log.consumer("g", "t", **FAST) as consumer:
            assert offsets(await consumer.poll(None, max_records=10)) == list(range(10))
            assert consumer.assignment == {T0}
            await consumer.commit(metadata="ten")
            assert offsets(await consumer.poll(None)) == list(range(10, 510))
            assert await consumer.position(T0) == 510
            assert await consumer.lag() == {T0: 490}
        async with log.consumer("g", "t", **FAST) as consumer:
            assert await consumer.committed(T0) == (
                10,
                "ten",
                *(await consumer.committed(T0) or ())[2:],
            )
            assert offsets(await poll_some(consumer, 990)) == list(range(10, 1000))
            await consumer.commit({T0: 700})
        assert (await log.groups.committed("g"))[T0].offset == 700
        assert await log.groups.lag("g") == {T0: 300}


@in_loop
async def test_iterating_commits_up_to_the_record_it_is_at(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await fill(log, 1200)
        async with log.consumer("g", "t", timeout_s=0.05, **FAST) as consumer:
            async for record in consumer:
                if record.offset == 700:
                    break
            await consumer.commit()
            assert await consumer.position(T0) == 701
            assert (await anext(consumer)).offset == 701
            assert offsets(await consumer.poll()) == list(range(702, 1200))
            assert [record async for record in consumer] == []
            await fill(log, 3)
            assert offsets([record async for record in consumer]) == [1200, 1201, 1202]
        assert (await log.groups.committed("g"))[T0].offset == 701


@in_loop
async def test_without_a_group(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await log.topic("t", partitions=3)
        await fill(log, 30, keys=[b"%d" % n for n in range(30)])
        consumer = await log.consumer(None, "t")
        assert len(await poll_some(consumer, 30)) == 30
        assert len(consumer.assignment) == 3
        await consumer.seek_to_beginning(T0)
        assert await consumer.position(T0) == 0
        await consumer.seek_to_end()
        assert await consumer.poll() == []
        await consumer.seek_to_time(0, T0)
        await consumer.pause(T0)
        assert await consumer.paused() == {T0}
        assert await consumer.poll() == []
        await consumer.resume()
        again = await consumer.poll()
        assert again
        assert {record.partition for record in again} == {0}
        await consumer.seek(T0, 0)
        assert await consumer.poll() == again
        with pytest.raises(PartitionMismatchError):
            await consumer.seek(TopicPartition("t", 9), 0)
        with pytest.raises(GroupError):
            await consumer.commit()
        await consumer.close()
        await consumer.close()
        for call in (consumer.poll, consumer.lag, consumer.commit, lambda: anext(consumer)):
            with pytest.raises(ClosedError):
                await call()


@in_loop
async def test_options_are_checked_when_it_is_opened(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        with pytest.raises(SettingError):
            await log.consumer("g", "t", max_poll_records=0)
        with pytest.raises(TypeError):
            await log.consumer("g", "t", unknown=1)
        await log.topic("t")
        async with log.consumer("g", "t", auto_offset_reset="none", **FAST) as consumer:
            with pytest.raises(NoOffsetError):
                await consumer.poll(1)
            with pytest.raises(SettingError):
                await consumer.poll(0, max_records=0)


@in_loop
async def test_a_waiting_consumer_is_woken(tmp_path: Path) -> None:
    """By records, and by a topic that is made only now."""
    async with aio.open(tmp_path, durability="os") as log, log.consumer(None, "t") as consumer:
        waiting = asyncio.ensure_future(consumer.poll(None))
        await until(lambda: log._host.waiter._watches)
        await fill(log, 2)
        assert offsets(await waiting) == [0, 1]
        assert await consumer.poll(0.01) == []


@in_loop
async def test_many_waiting_consumers_need_no_threads(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await log.topic("t")
        consumers = [await log.consumer(None, "t") for _ in range(100)]
        waiting = [asyncio.ensure_future(consumer.poll(None)) for consumer in consumers]
        await until(lambda: len(log._host.waiter._watches) == 100)
        threads = threading.active_count()
        assert threads < 20
        await fill(log, 3)
        assert [offsets(each) for each in await asyncio.gather(*waiting)] == [[0, 1, 2]] * 100
        assert threading.active_count() <= threads
        for consumer in consumers:
            await consumer.close()


@pytest.mark.parametrize("sharing", [None, "key"])
@in_loop
async def test_two_logs_share_a_group(tmp_path: Path, sharing: str | None) -> None:
    """As two processes would: each record comes to one of them, in the order of its key."""
    async with aio.open(tmp_path, durability="os") as one, aio.open(tmp_path) as other:
        await one.topic("t", partitions=2)
        seen: list[Record] = []
        options = {"sharing": sharing, "key_slots": 8} if sharing else {}

        async def work(consumer: aio.Consumer) -> None:
            async for record in consumer:
                seen.append(record)

        a, b = (log.consumer("g", "t", **FAST, **options) for log in (one, other))
        working = [asyncio.ensure_future(work(each)) for each in (a, b)]
        half = 2 if not sharing else 16
        await until(lambda: len(a.assignment) == len(b.assignment) == half // 2)
        for n in range(100):
            await one.topic("t").append(b"%d" % n, key=b"%d" % (n % 10), partition=n % 2)
        await until(lambda: len(seen) == 100)
        assert len({(each.partition, each.offset) for each in seen}) == 100
        for key in {each.key for each in seen}:
            numbers = [int(each.value or b"") for each in seen if each.key == key]
            assert numbers == sorted(numbers)
        with pytest.raises(GroupNotEmptyError):
            await one.groups.delete("g")
        assert len((await one.groups.describe("g")).members) == 2
        await a.commit()
        await a.close()
        await until(lambda: len(b.assignment) == half)
        await b.close()
        await asyncio.gather(*working)


@in_loop
async def test_callbacks_may_be_coroutines_that_commit(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await log.topic("t", partitions=2)
        await fill(log, 20, keys=[b"%d" % n for n in range(20)])
        told: list[tuple[str, int]] = []

        async def on_revoked(consumer: aio.Consumer, units: Any) -> None:
            assert threading.current_thread() is threading.main_thread()
            await asyncio.sleep(0)
            await consumer.commit()
            told.append(("revoked", len(units)))

        def on_assigned(consumer: aio.Consumer, units: Any) -> None:
            assert threading.current_thread() is threading.main_thread()
            told.append(("assigned", len(units)))

        first = log.consumer("g", "t", on_assigned=on_assigned, on_revoked=on_revoked, **FAST)
        await poll_some(first, 20)
        assert told == [("assigned", 2)]
        second = log.consumer("g", "t", **FAST)
        while len(second.assignment) != 1:
            assert await second.poll(0.01) == []
            assert await first.poll(0.01) == []
        assert ("revoked", 1) in told
        await first.close()
        assert sum(each.offset for each in (await log.groups.committed("g")).values()) == 20
        await second.close()


@in_loop
async def test_many_callbacks_at_once_may_commit(tmp_path: Path) -> None:
    """More consumers than there are threads are closed at once, and each commits meanwhile."""
    async with aio.open(tmp_path, durability="os") as log:
        await fill(log, 5)

        async def on_revoked(consumer: aio.Consumer, units: Any) -> None:
            await asyncio.sleep(0.01)
            await consumer.commit()

        have_polled: set[int] = set()

        async def work(number: int) -> None:
            consumer = log.consumer(f"g-{number}", "t", on_revoked=on_revoked, **FAST)
            await poll_some(consumer, 5)
            have_polled.add(number)
            await until(lambda: len(have_polled) == 12)
            await consumer.close()

        await asyncio.gather(*map(work, range(12)))
        for n in range(12):
            assert (await log.groups.committed(f"g-{n}"))[T0].offset == 5


@in_loop
async def test_what_a_callback_raises_comes_from_poll(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await fill(log, 5)
        raised: list[BaseException] = []

        async def poll_inside(consumer: aio.Consumer, units: Any) -> None:
            for call in (consumer.poll, consumer.close):
                with pytest.raises(LogError) as caught:
                    await call()
                raised.append(caught.value)
            raise TimeoutError("of the callback")

        async with log.consumer("g", "t", on_assigned=poll_inside, **FAST) as consumer:
            with pytest.raises(TimeoutError, match="of the callback"):
                await consumer.poll(None)
            assert len(raised) == 2
            assert offsets(await consumer.poll(None)) == list(range(5))


@in_loop
async def test_closing_ends_a_poll_of_another_task(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await log.topic("t")
        for group, read in ((None, "poll"), ("g", "poll"), ("g", "iterate")):
            consumer = await log.consumer(group, "t", **(FAST if group else {}))
            asking: Any = consumer.poll(None) if read == "poll" else take(consumer, 1)
            waiting = asyncio.ensure_future(asking)
            await until(lambda: log._host.waiter._watches)
            await consumer.close()
            assert await waiting == []


@pytest.mark.parametrize(("how", "done"), [("close", 3), ("exception", 0), ("other task", 0)])
@in_loop
async def test_what_auto_commit_counts_as_done(tmp_path: Path, how: str, done: int) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await fill(log, 3)
        consumer = log.consumer("g", "t", auto_commit_interval_ms=60_000, **FAST)
        if how == "exception":
            with contextlib.suppress(ZeroDivisionError):
                async with consumer:
                    await poll_some(consumer, 3)
                    raise ZeroDivisionError
        elif how == "close":
            await poll_some(consumer, 3)
            await consumer.close()
        else:
            await asyncio.create_task(poll_some(consumer, 3))
            await consumer.close()
        committed = await log.groups.committed("g")
        assert (committed[T0].offset if T0 in committed else 0) == done


@in_loop
async def test_a_fenced_member_is_told(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await fill(log, 3)
        lost: list[Any] = []

        async def on_lost(consumer: aio.Consumer, units: Any) -> None:
            lost.append(units)

        first = log.consumer("g", "t", instance_id="i", on_lost=on_lost, **FAST)
        await poll_some(first, 3)
        second = log.consumer("g", "t", instance_id="i", **FAST)
        await poll_some(second, 3)
        with pytest.raises(FencedError):
            await first.commit()
        await second.commit()
        await second.close()
        await first.poll()
        assert lost == [{T0}]
        await first.close()


@in_loop
async def test_the_groups_of_a_log(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        await fill(log, 10)
        assert await log.groups.reset("g", to=4, topics="t") == {T0: 4}
        assert await log.groups.list() == ["g"]
        text = await log.groups.export_csv("g")
        assert await log.groups.import_csv(text, group="h") == {"h": {T0: 4}}
        await log.groups.commit("h", dict.fromkeys([T0], eventlog.OffsetAndMetadata(7)))
        assert await log.groups.lag("h") == {T0: 3}
        await log.groups.delete("h")
        assert (await log.groups.describe("g")).state == "Empty"


@in_loop
async def test_closing_the_log_closes_its_consumers(tmp_path: Path) -> None:
    log = await aio.open(tmp_path, durability="os")
    await fill(log, 3)
    revoked: list[Any] = []

    async def on_revoked(consumer: aio.Consumer, units: Any) -> None:
        await asyncio.sleep(0)
        revoked.append(units)

    consumer = log.consumer("g", "t", on_revoked=on_revoked, **FAST)
    await poll_some(consumer, 3)
    waiting = asyncio.ensure_future(consumer.poll(None))
    await until(lambda: log._host.waiter._watches)
    await log.close()
    assert await waiting == []
    assert revoked == [{T0}]
    await consumer.close()
