"""eventlog: a durable, embedded event log and event store, on disk in Kafka's own format.

``open`` gives an :class:`EventLog`; its ``event_store(name)`` holds streams of events, its
``topic(name)`` plain records, and ``consumer(group, topics)`` reads them with others. The same with
``await`` is :mod:`eventlog.aio`. The errors are in :mod:`eventlog.errors`.
"""

from eventlog import errors
from eventlog.clock import Clock, ManualClock, SystemClock
from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.consumer import Consumer
from eventlog.consumer.group import Groups
from eventlog.consumer.offsets import OffsetAndMetadata
from eventlog.engine import EventLog, open
from eventlog.errors import EventLogError, FencedError, WrongExpectedVersion
from eventlog.log.activity import Activity
from eventlog.log.backup import (
    BackupProblem,
    BackupReport,
    RestoreReport,
    restore,
    verify_backup,
)
from eventlog.log.partition import Partition, PartitionState
from eventlog.log.producer import Producer
from eventlog.log.record import Receipt, Record
from eventlog.log.recovery import RecoveryReport
from eventlog.log.repair import repair
from eventlog.log.repair_plan import RepairStep
from eventlog.log.retention import RetentionPlan
from eventlog.log.topic import Topic
from eventlog.metrics import Metrics
from eventlog.settings import Durability, TopicSettings
from eventlog.sourcing import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Codec,
    Event,
    EventReceipt,
    EventStore,
    ExpectedVersion,
    JsonCodec,
    RecordedEvent,
    StreamAppend,
)

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "Activity",
    "BackupProblem",
    "BackupReport",
    "Clock",
    "Codec",
    "Consumer",
    "Durability",
    "Event",
    "EventLog",
    "EventLogError",
    "EventReceipt",
    "EventStore",
    "ExpectedVersion",
    "FencedError",
    "Groups",
    "JsonCodec",
    "ManualClock",
    "Metrics",
    "OffsetAndMetadata",
    "Partition",
    "PartitionState",
    "Producer",
    "Receipt",
    "Record",
    "RecordedEvent",
    "RecoveryReport",
    "RepairStep",
    "RestoreReport",
    "RetentionPlan",
    "StreamAppend",
    "SystemClock",
    "Topic",
    "TopicPartition",
    "TopicSettings",
    "WrongExpectedVersion",
    "errors",
    "open",
    "repair",
    "restore",
    "verify_backup",
]
