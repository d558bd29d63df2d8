"""eventlog in an event loop: the names of :mod:`eventlog`, awaitable. See docs/guide/asyncio.md.

``aio.open`` gives an :class:`EventLog`, whose topics, event stores and consumers are used by any number of
tasks. Nothing waits for a disk in the loop, and waiting costs no thread.
"""

from eventlog.aio.consumer import Consumer
from eventlog.aio.engine import EventLog, open
from eventlog.aio.event_store import EventStore
from eventlog.aio.groups import Groups
from eventlog.aio.reading import Reading, Tail
from eventlog.aio.topic import Topic

__all__ = [
    "Consumer",
    "EventLog",
    "EventStore",
    "Groups",
    "Reading",
    "Tail",
    "Topic",
    "open",
]
