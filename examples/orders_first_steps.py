"""The first use, in ten lines: append events to a stream, read them back, see a conflict.

python examples/orders_first_steps.py [DIR]
"""

import sys
import tempfile

import eventlog
from eventlog.errors import WrongExpectedVersion
from eventlog.sourcing import Event

directory = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="eventlog-")

with eventlog.open(directory) as log:
    orders = log.event_store("orders")
    before = orders.stream_version("order-1")
    orders.append("order-1", [Event({"items": ["lamp"]}, type="placed")], expected_version=before)
    orders.append("order-1", [Event({"by": "courier"}, type="shipped")])  # on disk when it returns
    for event in orders.read_stream("order-1"):
        print(event.version, event.type, event.data)
    try:  # somebody else was faster: nothing is appended
        orders.append("order-1", [Event({}, type="cancelled")], expected_version=before)
    except WrongExpectedVersion as error:
        print("conflict:", error.message)
