"""Appending from many tasks: few fdatasyncs, in order, and what is large does not go through the loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from aio_support import in_loop, listed

import eventlog
from eventlog import aio
from eventlog.errors import (
    InvalidRecordError,
    PoisonedError,
    RecordTooLargeError,
    SettingError,
    WrongExpectedVersion,
)
from eventlog.sourcing import ANY, NO_STREAM, Event, StreamAppend

TASKS = 1000


@in_loop
async def test_what_was_appended_is_read(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = await log.topic("t", partitions=2)
        receipt = await topic.append(b"a", key=b"k", headers=[("h", b"1")], partition=1)
        assert (receipt.partition, receipt.offset, receipt.count) == (1, 0, 1)
        [receipt] = await topic.append_many([b"b", None], keys=b"k", partition=1)
        assert (receipt.offset, receipt.end_offset) == (1, 3)
        records = await listed(topic.read(1))
        assert [(each.key, each.value) for each in records] == [
            (b"k", b"a"),
            (b"k", b"b"),
            (b"k", None),
        ]
        assert records[0].headers == (("h", b"1"),)
        spread = await topic.append_many(
            [b"%d" % n for n in range(40)], keys=[b"%d" % n for n in range(40)]
        )
        assert sum(each.count for each in spread) == 40
        assert await topic.high_watermark(0) + await topic.high_watermark(1) == 43
        assert await topic.partition_for_key(b"1") == topic.core.partition_for_key(b"1")


@pytest.mark.parametrize("kind", ["topic", "event store"])
@in_loop
async def test_tasks_share_fdatasyncs(tmp_path: Path, kind: str) -> None:
    """How many there are is counted, not how long they take."""
    async with aio.open(tmp_path) as log:
        if kind == "topic":
            topic = await log.topic("t")
            appends = [topic.append(b"%d" % n) for n in range(TASKS)]
            partition = topic.core.partition(0)
        else:
            store = await log.event_store("t")
            appends = [
                store.append(f"s-{n}", Event(n, type="x"), expected_version=NO_STREAM)
                for n in range(TASKS)
            ]
            partition = store.core.topic.partition(0)
        before = partition.state().sync_count
        receipts = await asyncio.gather(*appends)
        state = partition.state()
        assert [each.offset for each in receipts] == list(range(TASKS))
        assert state.durable_end_offset == state.high_watermark == TASKS
        assert state.sync_count - before <= 3


@in_loop
async def test_what_returned_is_durable_each_time(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = await log.topic("t")
        partition = topic.core.partition(0)

        async def append(number: int) -> None:
            for _ in range(20):
                receipt = await topic.append(b"%d" % number)
                assert partition.durable_end_offset >= receipt.end_offset

        await asyncio.gather(*(append(number) for number in range(20)))


@in_loop
async def test_less_durability_waits_for_nothing(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        topic = await log.topic("t")
        partition = topic.core.partition(0)
        for n in range(100):
            assert (await topic.append(b"%d" % n)).offset == n
        assert (await topic.append(b"100", durability="sync")).offset == 100
        assert partition.durable_end_offset == 101
        await topic.append(b"101")
        await topic.sync()
        assert partition.durable_end_offset == 102


@in_loop
async def test_appends_stay_in_order_whatever_way_they_go(tmp_path: Path) -> None:
    """Small ones are made in the loop, large ones in a thread; segments end now and then."""
    sizes = [10, 100_000, 10, 10, 70_000, 10] * 10
    async with aio.open(tmp_path) as log:
        topic = await log.topic("t", segment_size_bytes_max=1_000_000, durability="os")
        receipts = await asyncio.gather(
            *(topic.append(b"%04d" % n + bytes(size)) for n, size in enumerate(sizes))
        )
        assert [each.offset for each in receipts] == list(range(len(sizes)))
        async for record in topic.read():
            assert record.value == b"%04d" % record.offset + bytes(sizes[record.offset])


@in_loop
async def test_the_loop_goes_on_during_a_large_append(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = await log.topic("t", batch_size_bytes_max=64 * 1024 * 1024)
        in_threads = []
        core = topic.core
        plain = core.append_many

        def noted(*arguments: object, **options: object) -> object:
            in_threads.append(threading.current_thread() is not threading.main_thread())
            return plain(*arguments, **options)  # type: ignore[arg-type]

        core.append_many = noted  # type: ignore[method-assign, assignment]
        await topic.append_many([bytes(100_000)] * 100)
        await topic.append_many([b"x"] * 5000)
        await topic.append_many([b"small"])
        assert in_threads == [True, True, False]
        assert await topic.high_watermark() == 5101


@in_loop
async def test_more_unsynced_than_the_log_allows_does_not_block_the_loop(tmp_path: Path) -> None:
    """A "sync" topic that is written to without waiting: the partition makes somebody sync in between."""
    async with aio.open(tmp_path) as log:
        topic = await log.topic("t")
        partition = topic.core.partition(0)
        for _ in range(400):
            await topic.append(bytes(50_000), durability="os")
        assert partition.durable_end_offset > 0
        await topic.append(b"end")
        assert partition.durable_end_offset == 401


@in_loop
async def test_what_cannot_be_appended_is_told(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = log.topic("t", batch_size_bytes_max=100_000)
        with pytest.raises(InvalidRecordError):
            await topic.append("text")  # type: ignore[arg-type]
        with pytest.raises(InvalidRecordError):
            await topic.append_many([])
        with pytest.raises(RecordTooLargeError):
            await topic.append(bytes(200_000))
        with pytest.raises(SettingError):
            await topic.append(b"x", durability="never")
        with pytest.raises(SettingError):
            await log.topic("u", partitions=0)
        assert (await topic.append(b"x")).offset == 0


@in_loop
async def test_a_failed_fdatasync_is_told_to_all_who_wait(tmp_path: Path) -> None:
    log = await aio.open(tmp_path)
    topic = await log.topic("t")
    partition = topic.core.partition(0)

    def fail() -> None:
        raise PoisonedError("the disk failed")

    partition.sync = fail  # type: ignore[method-assign]
    outcomes = await asyncio.gather(
        *(topic.append(b"x") for _ in range(10)), return_exceptions=True
    )
    assert all(isinstance(each, PoisonedError) for each in outcomes)
    assert len({id(each) for each in outcomes}) == 10
    del partition.sync
    await topic.append(b"y")
    await log.close()


@in_loop
async def test_events_with_expected_versions(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        store = log.event_store("orders")
        receipt = await store.append("order-1", Event({"n": 1}, type="placed"), expected_version=0)
        assert receipt.version == 1
        with pytest.raises(WrongExpectedVersion):
            await store.append("order-1", Event({}, type="placed"), expected_version=NO_STREAM)
        await store.append_raw("order-1", "raw", [b"1", b"2"], expected_version=1)
        receipts = await store.append_many(
            {"order-1": [Event({}, type="shipped")], "order-2": [Event({}, type="placed")]}
        )
        assert [each.version for each in receipts] == [4, 1]
        with pytest.raises(WrongExpectedVersion):
            await store.append_many([StreamAppend("order-2", Event(1, type="x"), 7)])
        assert (await store.append("order-3", [])).count == 0
        assert await store.append_many([]) == []
        big = [Event(bytes(1000), type="x") for _ in range(500)]
        assert (await store.append("order-4", big, expected_version=ANY)).version == 500
        assert await store.verify() == []


@in_loop
async def test_one_of_many_tasks_wins_each_version(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os") as log:
        store = await log.event_store("orders")

        async def try_to_append(who: int) -> int:
            won = 0
            for _ in range(20):
                version = await store.stream_version("s")
                try:
                    await store.append("s", Event(who, type="x"), expected_version=version)
                    won += 1
                except WrongExpectedVersion:
                    pass
            return won

        won = await asyncio.gather(*(try_to_append(who) for who in range(8)))
        versions = [event.version async for event in store.read_stream("s")]
        assert versions == list(range(1, sum(won) + 1))


@in_loop
async def test_events_of_another_handle_are_taken_in(tmp_path: Path) -> None:
    """The other one's events are more than are folded in the loop."""
    async with aio.open(tmp_path, durability="os") as log:
        store = await log.event_store("orders")
        await store.append("s", Event(0, type="x"))
        with eventlog.open(tmp_path) as other:
            other.event_store("orders").append_raw("s", "x", [b"1"] * 2000, durability="os")
        receipt = await store.append("s", Event(1, type="x"), expected_version=2001)
        assert receipt.version == 2002


@in_loop
async def test_appends_do_not_wait_in_the_loop_for_the_index(tmp_path: Path) -> None:
    """Somebody else holds the index's lock, as a checkpoint does; other tasks go on meanwhile."""
    async with aio.open(tmp_path, durability="os") as log:
        store = await log.event_store("orders")
        index = store.core._partitions[0].index
        held, free = threading.Event(), threading.Event()

        def hold() -> None:
            with index.lock:
                held.set()
                free.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        appending = asyncio.ensure_future(
            asyncio.gather(*(store.append("s", Event(n, type="x")) for n in range(10)))
        )
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not appending.done()
        free.set()
        assert [each.version for each in await appending] == list(range(1, 11))
        thread.join()
        assert [event.data async for event in store.read_stream("s")] == list(range(10))
