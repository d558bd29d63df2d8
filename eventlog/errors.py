"""Every error that eventlog raises, in one tree.

    EventLogError
    ├── StorageError              the files or the machine
    │   ├── CorruptionError       damaged bytes: names the file, the position and the offsets
    │   ├── FormatVersionError    the store was written by a newer eventlog
    │   ├── NotAStoreError        the directory holds something else
    │   ├── StorageFullError      no space, quota or file size limit reached (also OSError's ENOSPC)
    │   ├── StorageReadOnlyError  missing permission, read-only file system or read-only handle
    │   ├── PoisonedError         an fdatasync failed: nothing is acknowledged until reopening
    │   ├── LockedError           another process is opening, closing or changing the store, for too long
    │   ├── ForkedError           the handle was opened before a fork
    │   └── ClosedError           the handle is closed
    ├── LogError                  a request that the log refuses
    │   ├── UnknownTopicError
    │   ├── InvalidNameError
    │   ├── InvalidRecordError    a key, value, header or timestamp of the wrong type or range
    │   ├── RecordTooLargeError
    │   ├── OffsetOutOfRangeError
    │   ├── PartitionMismatchError  a call that would need more than one partition
    │   ├── CompressionUnavailableError
    │   ├── OutOfOrderSequenceError  a batch of an idempotent producer that does not follow its last one
    │   ├── TransferError         a move from or to a Kafka cluster would lose or bend something
    │   ├── ProducerFencedError   a newer epoch of the same producer has been seen
    │   └── GroupError            a consumer group refuses
    │       ├── FencedError       the member is not of the group any more, or lost the partition
    │       ├── GroupNotEmptyError
    │       ├── UnknownGroupError
    │       └── NoOffsetError     nothing committed, and the reset policy is "none"
    ├── ConcurrencyError
    │   ├── WrongExpectedVersion
    │   └── EndOffsetMovedError
    ├── EventError
    │   ├── UnknownEventTypeError
    │   └── EventDecodeError
    ├── WrongLoopError            used in another event loop than the one it was opened in
    └── SettingError              a setting outside its limits

Each carries what it is about as attributes and says in its message what to do.
"""

from __future__ import annotations

from typing import Any


class EventLogError(Exception):
    """Base of all errors of this package.

    Keyword arguments become attributes; ``hint`` says what to do and ends the message.
    """

    hint: str = ""

    def __init__(self, message: str, *, hint: str = "", **fields: Any) -> None:
        self.message = message
        if hint:
            self.hint = hint
        for name, value in fields.items():
            setattr(self, name, value)
        self.fields = fields
        super().__init__(f"{message}. {self.hint}" if self.hint else message)

    def __reduce__(self) -> Any:  # errors cross process boundaries (multiprocessing, pickle)
        return _rebuild, (type(self), self.message, self.hint, self.fields)


def _rebuild(
    cls: type[EventLogError], message: str, hint: str, fields: dict[str, Any]
) -> EventLogError:
    error = cls.__new__(cls)
    EventLogError.__init__(error, message, hint=hint, **fields)
    return error


class StorageError(EventLogError):
    """The files or the machine failed. ``path`` and ``errno`` tell where they are known."""

    path: str = ""
    errno: int = 0


class CorruptionError(StorageError):
    """Bytes on disk are not what was written.

    ``path``, ``position`` (bytes in the file), ``offset`` (first offset that cannot be read) and
    ``case`` (the label of the recovery table in docs/FORMAT.md). Reading below ``offset`` works.
    """

    position: int = -1
    offset: int = -1
    case: str = "C-D"


class FormatVersionError(StorageError):
    """The store is of a newer format (``found`` > ``known``)."""

    found: int = 0
    known: int = 0


class NotAStoreError(StorageError):
    """The directory exists and is not a store, or there is nothing to open."""


class StorageFullError(StorageError):
    """ENOSPC, EDQUOT or EFBIG. Nothing of the call was kept; make room and call again."""


class StorageReadOnlyError(StorageError):
    """Writing is not possible here: permission, read-only file system, or a read-only handle."""


class PoisonedError(StorageError):
    """An fdatasync failed, so what is on disk is unknown. Close and reopen the store."""


class LockedError(StorageError):
    """Another process is opening, closing or changing the store and does not come to an end.

    ``holder_pid`` says which (0: unknown).
    """

    holder_pid: int = 0


class ForkedError(StorageError):
    """The handle belongs to the parent process."""


class ClosedError(StorageError):
    """The handle was closed."""


class LogError(EventLogError):
    """The log refuses the request."""


class UnknownTopicError(LogError):
    """No such topic, or it was deleted; ``topic`` names it."""

    topic: str = ""


class InvalidNameError(LogError):
    """A topic, stream or type name that cannot be one; ``name`` holds it."""

    name: str = ""


class InvalidRecordError(LogError, TypeError):
    """A key, value, header or timestamp of a wrong type or range; ``field`` says which."""

    field: str = ""


class RecordTooLargeError(LogError, ValueError):
    """Larger than ``limit`` bytes; ``size`` tells how large."""

    size: int = 0
    limit: int = 0


class OffsetOutOfRangeError(LogError, ValueError):
    """``offset`` is outside ``log_start_offset`` .. ``log_end_offset``."""

    offset: int = 0
    log_start_offset: int = 0
    log_end_offset: int = 0


class PartitionMismatchError(LogError, ValueError):
    """The call would span two partitions, or names one that is not there."""


class CompressionUnavailableError(LogError):
    """A batch is compressed with a codec whose library is not installed; ``codec`` names it."""

    codec: str = ""


class OutOfOrderSequenceError(LogError):
    """A batch of producer ``producer_id`` begins with ``sequence``; ``expected`` was due.

    A batch before it was lost, or never appended: make a new producer.
    """

    producer_id: int = -1
    sequence: int = -1
    expected: int = -1


class ProducerFencedError(LogError):
    """``epoch`` of producer ``producer_id`` is older than the ``current`` one: somebody took over."""

    producer_id: int = -1
    epoch: int = -1
    current: int = -1


class TransferError(LogError):
    """A move from or to a Kafka cluster was refused: nothing was put in place.

    ``findings`` holds all that was found, errors and warnings
    (:class:`eventlog.transfer.findings.Finding`).
    """

    findings: tuple[Any, ...] = ()


class GroupError(LogError):
    """A consumer group refuses the request; ``group`` names it."""

    group: str = ""


class FencedError(GroupError):
    """The member is not of the group any more, or no longer owns what it commits.

    ``member_id`` and the group's ``generation`` tell. What it was working on belongs to another member
    now: drop it; polling again joins again.
    """

    member_id: str = ""
    generation: int = -1


class GroupNotEmptyError(GroupError):
    """The group has live members (``members``); stop them first."""

    members: tuple[str, ...] = ()


class UnknownGroupError(GroupError):
    """No such group."""


class NoOffsetError(GroupError):
    """Nothing is committed for ``topic`` and ``partition``, and the reset policy is ``"none"``."""

    topic: str = ""
    partition: int = -1


class ConcurrencyError(EventLogError):
    """Somebody else was first."""


class EndOffsetMovedError(ConcurrencyError):
    """The partition does not end where the append expects it to, but at ``log_end_offset``.

    Nothing was appended. Read what came and decide again.
    """

    log_end_offset: int = -1


class WrongExpectedVersion(ConcurrencyError):  # noqa: N818  the name the field uses
    """The stream is not at the expected version: nothing was appended. Load again and retry.

    ``stream``, ``expected`` (int or the name of the rule) and ``actual`` (0: no such stream).
    """

    stream: str
    expected: Any
    actual: int

    def __init__(self, stream: str, expected: Any, actual: int) -> None:
        super().__init__(
            f"stream {stream!r} is at version {actual}, expected {expected}",
            hint="Read the stream again and retry",
            stream=stream,
            expected=expected,
            actual=actual,
        )


class EventError(EventLogError):
    """An event cannot be turned into bytes or back."""


class UnknownEventTypeError(EventError):
    """No class is registered for the type; ``event_type`` names it."""

    event_type: str = ""


class EventDecodeError(EventError, ValueError):
    """The bytes of an event do not fit its registered class."""


class WrongLoopError(EventLogError, RuntimeError):
    """Something of ``eventlog.aio`` is used in another event loop than the one that opened it."""


class SettingError(EventLogError, ValueError):
    """``setting`` has ``value``, which is outside its limits."""

    setting: str = ""
    value: Any = None
