"""In an event loop: requests append events, durably, and a group of consumers works on them meanwhile.

python examples/async_orders.py [DIR]
"""

import asyncio
import sys
import tempfile

from eventlog import aio
from eventlog.sourcing import Event

ORDERS = 200


async def handle_request(orders: aio.EventStore, number: int) -> None:
    """What a web server would do: it answers once the event is on disk."""
    await orders.append(f"order-{number % 20}", Event({"number": number}, type="placed"))


async def work(log: aio.EventLog, queue: "asyncio.Queue[int]") -> None:
    """One of the group. What it has not committed when it ends, another one gets."""
    async with log.consumer("shipping", "orders", sharing="key") as consumer:
        while True:
            records = await consumer.poll(timeout_s=None)
            for record in records:  # ... ship ...
                queue.put_nowait(record.offset)
            await consumer.commit()


async def main(directory: str) -> None:
    async with aio.open(directory) as log:
        orders = await log.event_store("orders")
        before = await log.topic("orders").high_watermark()

        shipped: asyncio.Queue[int] = asyncio.Queue()
        workers = [asyncio.create_task(work(log, shipped)) for _ in range(3)]
        await asyncio.gather(*(handle_request(orders, number) for number in range(ORDERS)))

        done: set[int] = set()
        while len(done) < ORDERS:  # some may come twice, when workers come and go
            offset = await shipped.get()
            if offset >= before:
                done.add(offset)
        print("shipped:", len(done))

        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        syncs = orders.core.topic.partition(0).state().sync_count
        print("one fdatasync served several requests:", syncs < ORDERS)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="eventlog-")))
