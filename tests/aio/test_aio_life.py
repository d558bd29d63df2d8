"""Opening, closing, the wrong loop, a fork, and being forgotten."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from aio_support import cancelled, child, in_loop, listed, until

import eventlog
from eventlog import aio
from eventlog.errors import ClosedError, ForkedError, LogError, NotAStoreError, WrongLoopError
from eventlog.sourcing import Event

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def own_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("eventlog")]


@in_loop
async def test_both_ways_to_open(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        assert (await log.topic("t").append(b"1")).offset == 0
        assert not log.closed
    assert log.closed
    async with await aio.open(tmp_path, read_only=True) as log:
        assert log.read_only
        assert log.path == tmp_path
        assert log.recovery is log.core.recovery
        assert [each.value async for each in log.topic("t").read()] == [b"1"]
    with pytest.raises(NotAStoreError):
        await aio.open(tmp_path / "none", create=False)
    with pytest.raises(NotAStoreError):
        async with aio.open(tmp_path / "none", create=False):
            pass
    await until(lambda: not own_threads())


@in_loop
async def test_the_names_of_the_store(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = log.topic("t", partitions=2)
        with pytest.raises(LogError):
            topic.settings  # noqa: B018
        assert not await log.has_topic("t")
        assert (await topic).partition_count == 2
        assert topic.topic_id == topic.core.topic_id
        assert topic.settings.durability == "sync"
        await log.event_store("events")
        assert await log.topics() == ["events", "t"]
        assert (await log.add_partitions("t", 3)).partition_count == 3
        await log.delete_topic("t")
        assert not await log.has_topic("t")
        assert await log.groups.list() == []
        assert log.metrics is log.core.metrics


@in_loop
async def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    log = await aio.open(tmp_path)
    topic = await log.topic("t", batch_size_bytes_max=64 * 1024 * 1024)
    appends = [asyncio.ensure_future(topic.append(b"%d" % n)) for n in range(100)]
    appends.append(asyncio.ensure_future(topic.append_many([bytes(100_000)] * 50)))
    appends.append(asyncio.ensure_future(topic.sync()))
    await asyncio.sleep(0)
    await asyncio.gather(log.close(), log.close())
    await log.close()
    await asyncio.gather(*appends)
    for call in (
        lambda: topic.append(b"x"),
        lambda: topic.append_many([b"x"]),
        lambda: anext(topic.read()),
        lambda: anext(topic.tail()),
        lambda: log.topic("u").append(b"x"),
        lambda: log.event_store("e").append("s", Event(1, type="x")),
        lambda: log.topics(),
        lambda: log.groups.list(),
        lambda: log.consumer(None, "t").poll(),
    ):
        with pytest.raises(ClosedError):
            await call()
    await until(lambda: not own_threads())
    with eventlog.open(tmp_path) as again:
        assert again.topic("t").high_watermark() == 150


@in_loop
async def test_a_cancelled_close_closes(tmp_path: Path) -> None:
    log = await aio.open(tmp_path)
    await log.topic("t").append(b"x")
    closing = asyncio.ensure_future(log.close())
    await asyncio.sleep(0)
    assert await cancelled(closing)
    await until(lambda: log.core.closed)
    await log.close()


def test_a_loop_that_ends_in_the_middle_of_a_close(tmp_path: Path) -> None:
    logs = []

    async def main() -> None:
        log = await aio.open(tmp_path)
        logs.append(log)
        await log.topic("t").append(b"x")
        closing = asyncio.ensure_future(log.close())
        await asyncio.sleep(0)
        assert not closing.done()

    asyncio.run(main())
    end_s = time.monotonic() + 60
    while not logs[0].core.closed:
        assert time.monotonic() < end_s
        time.sleep(0.001)


@pytest.mark.parametrize("rounds", range(6))
@in_loop
async def test_a_cancelled_opening_leaves_nothing_open(tmp_path: Path, rounds: int) -> None:
    opening = asyncio.ensure_future(aio.open(tmp_path / "s")._open())
    for _ in range(rounds):
        await asyncio.sleep(0 if rounds < 3 else 0.002)
    if await cancelled(opening):
        await until(lambda: not own_threads())
    else:
        await opening.result().close()
    async with aio.open(tmp_path / "s") as log:
        assert (await log.topic("t").append(b"x")).offset == 0


def test_another_loop_is_refused(tmp_path: Path) -> None:
    opened: list[Any] = []

    async def first() -> None:
        log = await aio.open(tmp_path)
        topic = await log.topic("t")
        opened.extend([log, topic])

    async def second() -> None:
        log, topic = opened
        for call in (
            lambda: topic.append(b"x"),
            lambda: anext(topic.tail()),
            lambda: log.topics(),
            lambda: log.consumer(None, "t").poll(),
        ):
            with pytest.raises(WrongLoopError):
                await call()
        log.core.close()

    asyncio.run(first())
    asyncio.run(second())


@in_loop
async def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log:
        topic = await log.topic("t")
        store = await log.event_store("e")
        await topic.append(b"x")

        async def use() -> None:
            for call in (
                lambda: topic.append(b"y"),
                lambda: store.append("s", Event(1, type="x")),
                lambda: anext(topic.read()),
                lambda: log.topics(),
            ):
                with pytest.raises(ForkedError):
                    await call()
            async with aio.open(tmp_path) as own:
                await own.topic("t").append(b"of the child")

        def run() -> None:
            asyncio.events._set_running_loop(None)
            asyncio.new_event_loop().run_until_complete(use())

        with child(run):
            await topic.append(b"y")
        assert {each.value async for each in topic.read()} == {b"x", b"y", b"of the child"}


def test_a_forgotten_log_warns_and_leaves_no_thread(tmp_path: Path) -> None:
    async def main() -> None:
        log = await aio.open(tmp_path)
        topic = await log.topic("t")
        await topic.append(b"x")
        assert len(await listed(topic.tail(start=0, timeout_s=0))) == 1

    def forget() -> None:
        asyncio.run(main())
        gc.collect()

    with pytest.warns(ResourceWarning, match="never closed"):
        forget()
    end_s = time.monotonic() + 60
    while own_threads():
        assert time.monotonic() < end_s, own_threads()
        gc.collect()
        time.sleep(0.001)


@in_loop
async def test_two_logs_in_one_loop(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as one, aio.open(tmp_path) as other:
        tail = (await one.topic("t")).tail()
        waiting = asyncio.ensure_future(anext(tail))
        await (await other.topic("t")).append(b"x")
        assert (await waiting).value == b"x"


@in_loop
async def test_a_topic_that_could_not_be_opened_is_tried_again(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as log, aio.open(tmp_path, read_only=True) as reader:
        topic = reader.topic("t")
        with pytest.raises(LogError):
            await topic
        await log.topic("t").append(b"x")
        assert (await topic).name == "t"
        assert repr(topic) == "aio.Topic('t')"
