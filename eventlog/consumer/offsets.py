"""Committed offsets: the next offset to read, for each group and unit.

A row remembers the topic by its id: when a topic was deleted and one of the same name made, the rows of the
old one do not count. An offset past the end of the log (a power cut took what was committed but not
durable, or the log came from a backup: case C-H) is clamped when it is read, and reported.
"""

from __future__ import annotations

import functools
import logging
import struct
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from eventlog.consumer.assignment import TopicPartition
from eventlog.errors import (
    InvalidRecordError,
    OffsetOutOfRangeError,
    PartitionMismatchError,
    RecordTooLargeError,
    UnknownTopicError,
)
from eventlog.meta import StructTable, Transaction

if TYPE_CHECKING:
    from eventlog.log.store import Store
    from eventlog.log.topic import Topic

_logger = logging.getLogger("eventlog.consumer")

METADATA_SIZE_BYTES_MAX = 4096
_NUMBERS = struct.Struct(">II")  # partition, slot + 1


class OffsetAndMetadata(NamedTuple):
    """What is committed for a unit.

    Attributes:
        offset: the next one to read, from 0 to the high watermark.
        metadata: the application's own words, at most 4,096 bytes of UTF-8.
        leader_epoch: of the record before; this log has 0.
    """

    offset: int
    metadata: str = ""
    leader_epoch: int = 0


class OffsetRow(msgspec.Struct, frozen=True):
    """What is committed, and for which topic of that name."""

    offset: int
    topic_id: uuid.UUID
    metadata: str
    leader_epoch: int


OFFSETS = StructTable("offsets", OffsetRow)


class Standing(NamedTuple):
    """Where a partition stands."""

    topic_id: uuid.UUID
    log_start_offset: int
    high_watermark: int


class Committed(NamedTuple):
    """A committed offset beside the log: ``value`` is clamped, ``problem`` says so (empty: none)."""

    value: OffsetAndMetadata
    standing: Standing
    problem: str


def standing(log: Store, topic: str, partition: int) -> Standing:
    """Where a partition stands.

    Raises:
        UnknownTopicError: there is no such topic; it is not made.
        PartitionMismatchError: it has no such partition.
    """
    found = topic_of(log, topic)
    state = found.partition(partition).state()
    return Standing(found.topic_id, state.log_start_offset, state.high_watermark)


def topic_of(log: Store, name: str) -> Topic:
    """The topic. Raises UnknownTopicError where there is none; it is not made."""
    found = log.find_topic(name)
    if found is None:
        raise UnknownTopicError(
            f"there is no topic {name!r} in {log.path}",
            hint=f"Known are: {', '.join(log.topics()) or 'none'}",
            topic=name,
        )
    return found


def checked(
    log: Store, offsets: Mapping[TopicPartition, OffsetAndMetadata]
) -> dict[TopicPartition, OffsetRow]:
    """The rows of offsets that may be committed.

    The high watermark only goes up, so what is right here still is when the rows are written.

    Raises:
        OffsetOutOfRangeError: below 0 or past the high watermark.
        RecordTooLargeError: the metadata is longer than 4,096 bytes.
        InvalidRecordError: an offset or metadata of a wrong type.
        UnknownTopicError, PartitionMismatchError: of a partition that there is not.
    """
    look = functools.cache(functools.partial(standing, log))
    rows: dict[TopicPartition, OffsetRow] = {}
    for unit, committed in offsets.items():
        _check_types(unit, committed)
        metadata_size = len(committed.metadata.encode())
        if metadata_size > METADATA_SIZE_BYTES_MAX:
            raise RecordTooLargeError(
                f"the metadata committed for {shown(unit)} has {metadata_size:,} bytes",
                hint=f"At most {METADATA_SIZE_BYTES_MAX:,} are kept; commit a name of what is longer",
                size=metadata_size,
                limit=METADATA_SIZE_BYTES_MAX,
            )
        there = look(unit.topic, unit.partition)
        if not 0 <= committed.offset <= there.high_watermark:
            raise OffsetOutOfRangeError(
                f"offset {committed.offset} cannot be committed for {shown(unit)}: records can be read "
                f"up to {there.high_watermark}",
                hint="Commit the offset of the last record that was processed, plus one",
                offset=committed.offset,
                log_start_offset=there.log_start_offset,
                log_end_offset=there.high_watermark,
            )
        rows[unit] = OffsetRow(
            committed.offset, there.topic_id, committed.metadata, committed.leader_epoch
        )
    return rows


def _check_types(unit: TopicPartition, committed: OffsetAndMetadata) -> None:
    for field, value, kind in (
        ("offset", committed.offset, int),
        ("metadata", committed.metadata, str),
        ("leader_epoch", committed.leader_epoch, int),
    ):
        is_text = kind is not str or _is_utf8(value)
        if type(value) is not kind or not is_text:
            raise InvalidRecordError(
                f"{field} committed for {shown(unit)} is {value!r}",
                hint=f"Pass {'text' if kind is str else 'a whole number'}",
                field=field,
            )


def _is_utf8(value: object) -> bool:
    """Whether it is text that can be written: half a surrogate pair cannot."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def put(transaction: Transaction, group: str, rows: Mapping[TopicPartition, OffsetRow]) -> None:
    """Store rows of a group."""
    for unit, row in rows.items():
        OFFSETS.put(transaction, _key(group, unit), row)


def rows_of(
    transaction: Transaction, group: str, units: Iterable[TopicPartition] | None = None
) -> dict[TopicPartition, OffsetRow]:
    """The rows of a group, in the order of topic, partition, slot; or of some units of it."""
    if units is None:
        return dict(_all_of(transaction, group))
    found = ((unit, OFFSETS.get(transaction, _key(group, unit))) for unit in units)
    return {unit: row for unit, row in found if row is not None}


def has_any(transaction: Transaction, group: str) -> bool:
    """Whether anything is committed."""
    return next(OFFSETS.keys(transaction, prefix=_prefix(group)), None) is not None


def clear(transaction: Transaction, group: str) -> None:
    """Delete the rows of a group."""
    for key in list(OFFSETS.keys(transaction, prefix=_prefix(group))):
        OFFSETS.delete(transaction, key)


def beside_log(
    log: Store,
    group: str,
    rows: Mapping[TopicPartition, OffsetRow],
    reported: set[tuple[str, TopicPartition, int]],
) -> dict[TopicPartition, Committed]:
    """Rows that count, beside where the log stands. What is clamped is logged, once for ``reported``."""
    look = functools.cache(functools.partial(standing, log))
    found: dict[TopicPartition, Committed] = {}
    for unit, row in rows.items():
        try:
            there = look(unit.topic, unit.partition)
        except (UnknownTopicError, PartitionMismatchError):
            continue
        if there.topic_id != row.topic_id:
            continue
        problem = ""
        if row.offset > there.high_watermark:
            problem = (
                f"committed offset {row.offset} of {shown(unit)} lies past the end of the log and is "
                f"read as {there.high_watermark} (C-H)"
            )
            if (group, unit, row.offset) not in reported:
                reported.add((group, unit, row.offset))
                _logger.warning(
                    "group %s: %s",
                    group,
                    problem,
                    extra={"group": group, "topic": unit.topic, "partition": unit.partition},
                )
        elif row.offset < there.log_start_offset:
            problem = (
                f"committed offset {row.offset} of {shown(unit)} lies before the start of the log, "
                f"{there.log_start_offset}: those records are gone"
            )
        value = OffsetAndMetadata(
            min(row.offset, there.high_watermark), row.metadata, row.leader_epoch
        )
        found[unit] = Committed(value, there, problem)
    return found


def shown(unit: TopicPartition) -> str:
    """A unit in words."""
    slot = "" if unit.slot < 0 else f" slot {unit.slot}"
    return f"{unit.topic}-{unit.partition}{slot}"


def _prefix(group: str) -> bytes:
    return group.encode() + b"\0"


def _key(group: str, unit: TopicPartition) -> bytes:
    numbers = _NUMBERS.pack(unit.partition, unit.slot + 1)
    return b"".join((_prefix(group), unit.topic.encode(), b"\0", numbers))


def _all_of(transaction: Transaction, group: str) -> Iterator[tuple[TopicPartition, OffsetRow]]:
    prefix = _prefix(group)
    for key, row in OFFSETS.items(transaction, prefix=prefix):
        partition, slot = _NUMBERS.unpack(key[-_NUMBERS.size :])
        topic = key[len(prefix) : -_NUMBERS.size - 1].decode()
        yield TopicPartition(topic, partition, slot - 1), row
