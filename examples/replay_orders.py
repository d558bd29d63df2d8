"""Replay: the state of an order is the fold of its events, and so is any view over all orders.

python examples/replay_orders.py [DIR]
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter

import msgspec

import eventlog
from eventlog.sourcing import Event, RecordedEvent


class Order(msgspec.Struct, frozen=True):
    """What an order has come to."""

    status: str = "new"
    items: tuple[str, ...] = ()
    shipped: int = 0


def evolve(order: Order, event: RecordedEvent) -> Order:
    """The order after one more event. Says what happened, decides nothing."""
    data = event.data
    match event.type:
        case "placed":
            return Order("placed", tuple(data["items"]))
        case "item_shipped":
            shipped = order.shipped + 1
            done = shipped == len(order.items)
            return Order("shipped" if done else "placed", order.items, shipped)
        case "delivered":
            return Order("delivered", order.items, order.shipped)
        case _:  # an event of a later version of this program
            return order


def main(directory: str) -> None:
    """Some orders; then one replayed by itself, and all of them in one scan."""
    with eventlog.open(directory) as log:
        orders = log.event_store("orders")
        if orders.stream_version("order-001") == 0:
            for number in range(1, 101):
                items = ["lamp", "chair", "desk"][: 1 + number % 3]
                history = [Event({"items": items}, type="placed")]
                history += [Event({"item": item}, type="item_shipped") for item in items]
                history += [Event({}, type="delivered")] if number % 4 else []
                orders.append(f"order-{number:03d}", history[: number % 7], expected_version=0)

        print("order-003:", orders.fold("order-003", Order(), evolve))

        state: dict[str, Order] = {}
        for event in orders.read_all():
            state[event.stream] = evolve(state.get(event.stream, Order()), event)
        print(Counter(order.status for order in state.values()))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="eventlog-"))
