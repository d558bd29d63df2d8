"""eventlog: a durable, embedded event log and event store. On disk it is Kafka's own format.

>>> import eventlog
>>> with eventlog.open("/tmp/shop") as log:
...     orders = log.event_store("orders")
"""

from eventlog.engine import EventLog, open

__all__ = ["EventLog", "open"]
