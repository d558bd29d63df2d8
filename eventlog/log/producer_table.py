"""What is known of the idempotent producers of a partition, and Kafka's rules for their next batch.

A producer numbers its records from 0 in each partition; a batch carries the producer's id and epoch and
the sequence number of its first record. That is enough to know a batch again. The rules are those of
Kafka's ProducerStateManager and ProducerAppendInfo. Pure: knows nothing of files, not thread-safe.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from eventlog.errors import InvalidRecordError, OutOfOrderSequenceError, ProducerFencedError

BATCHES_KEPT = 5
"""A producer may have so many batches under way; each of them is known again."""
SEQUENCE_COUNT = 2**31
"""Sequence numbers count up to 2^31 - 1 and then begin at 0 again."""
EXPIRATION_MS = 24 * 60 * 60 * 1000
"""Kafka's producer.id.expiration.ms: who has written nothing for so long, by record time, is forgotten."""
NO_SEQUENCE = -1
NO_TRANSACTION = -1
_TRANSACTIONAL, _CONTROL = 16, 32  # bits of a batch's attributes


class ProducerBatch(NamedTuple):
    """What a batch says of its producer.

    Attributes:
        producer_id: of the producer, 0 or more.
        epoch: 0 .. 32,767; who takes an id over counts it up.
        first_sequence: number of its first record, 0 .. 2^31 - 1.
        count: how many offsets it takes up, and so sequence numbers.
        timestamp_ms: the latest of its record times.
        attributes: of the batch, as in the format.
    """

    producer_id: int
    epoch: int
    first_sequence: int
    count: int  # type: ignore[assignment]  # nobody counts equal items of a batch
    timestamp_ms: int
    attributes: int = 0

    @property
    def last_sequence(self) -> int:
        """Number of its last record."""
        return (self.first_sequence + self.count - 1) % SEQUENCE_COUNT

    @property
    def is_control(self) -> bool:
        """Does it end a transaction, instead of holding data?"""
        return bool(self.attributes & _CONTROL)

    @property
    def is_transactional(self) -> bool:
        """Does it belong to a transaction?"""
        return bool(self.attributes & _TRANSACTIONAL)

    def check(self) -> None:
        """Raises InvalidRecordError if it cannot be one."""
        for name, value, end in (
            ("id", self.producer_id, 2**63),
            ("epoch", self.epoch, 2**15),
            ("first sequence", self.first_sequence, SEQUENCE_COUNT),
        ):
            if type(value) is not int or not 0 <= value < end:
                raise InvalidRecordError(
                    f"producer {name} {value!r} is not one",
                    hint=f"Pass a whole number, 0 .. {end - 1:,}",
                    field="producer",
                )


class AppendedBatch(NamedTuple):
    """A batch that lies in the log. Both ends belong to it."""

    first_sequence: int
    last_sequence: int
    first_offset: int
    last_offset: int
    timestamp_ms: int


class ProducerEntry:
    """What is known of one producer.

    Attributes:
        epoch: its newest one.
        timestamp_ms: of its last batch.
        batches: the last ones of this epoch, oldest first.
        transaction_offset: where its open transaction begins, -1 none. Kept for Kafka's sake.
        coordinator_epoch: as a snapshot of Kafka's said it, else -1. Kept for Kafka's sake.
    """

    __slots__ = ("batches", "coordinator_epoch", "epoch", "timestamp_ms", "transaction_offset")

    def __init__(
        self,
        epoch: int,
        timestamp_ms: int,
        transaction_offset: int = NO_TRANSACTION,
        coordinator_epoch: int = -1,
    ) -> None:
        self.epoch = epoch
        self.timestamp_ms = timestamp_ms
        self.transaction_offset = transaction_offset
        self.coordinator_epoch = coordinator_epoch
        self.batches: deque[AppendedBatch] = deque(maxlen=BATCHES_KEPT)

    @property
    def last_sequence(self) -> int:
        """Of its last batch; -1 if it has none in this epoch."""
        return self.batches[-1].last_sequence if self.batches else NO_SEQUENCE

    def is_expired(self, now_ms: int) -> bool:
        """Has it been quiet for too long to be kept?"""
        return (
            self.transaction_offset == NO_TRANSACTION
            and now_ms - self.timestamp_ms >= EXPIRATION_MS
        )


class ProducerTable:
    """The producers of a partition up to some offset.

    Attributes:
        entries: by producer id.
    """

    def __init__(self, entries: dict[int, ProducerEntry] | None = None) -> None:
        self.entries = entries if entries is not None else {}

    def find(self, batch: ProducerBatch) -> AppendedBatch | None:
        """The place of the batch if it is one of its producer's last five; None if it is the next one.

        Raises:
            OutOfOrderSequenceError: it is neither.
            ProducerFencedError: a newer epoch of the producer has been seen.
        """
        entry = self.entries.get(batch.producer_id)
        if entry is None:
            return None  # wherever it begins: what came before may have been deleted, or expired
        first, last = batch.first_sequence, batch.last_sequence
        if batch.epoch == entry.epoch:
            for known in entry.batches:
                if known.first_sequence == first and known.last_sequence == last:
                    return known
            expected = (entry.last_sequence + 1) % SEQUENCE_COUNT
        elif batch.epoch < entry.epoch:
            raise ProducerFencedError(
                f"producer {batch.producer_id} has epoch {entry.epoch}, the batch {batch.epoch}",
                hint="Somebody took its id over; make a new producer",
                producer_id=batch.producer_id,
                epoch=batch.epoch,
                current=entry.epoch,
            )
        else:
            expected = 0
        if first != expected:
            raise OutOfOrderSequenceError(
                f"a batch of producer {batch.producer_id} (epoch {batch.epoch}) begins with sequence "
                f"{first}, due is {expected}",
                hint="A batch before it was lost, or is older than the last five; make a new producer",
                producer_id=batch.producer_id,
                sequence=first,
                expected=expected,
            )
        return None

    def note(self, batch: ProducerBatch, first_offset: int) -> None:
        """Take in a batch that lies in the log; what it says is not questioned. Twice is fine."""
        entry = self.entries.get(batch.producer_id)
        if entry is None:
            entry = ProducerEntry(batch.epoch, batch.timestamp_ms)
            self.entries[batch.producer_id] = entry
        elif entry.epoch != batch.epoch:
            entry.batches.clear()
            entry.epoch = batch.epoch
        if batch.is_control:
            entry.transaction_offset = NO_TRANSACTION
        elif not entry.batches or entry.batches[-1].first_offset < first_offset:
            entry.batches.append(
                AppendedBatch(
                    batch.first_sequence,
                    batch.last_sequence,
                    first_offset,
                    first_offset + batch.count - 1,
                    batch.timestamp_ms,
                )
            )
            if batch.is_transactional and entry.transaction_offset == NO_TRANSACTION:
                entry.transaction_offset = first_offset
        entry.timestamp_ms = batch.timestamp_ms

    def expire(self, now_ms: int) -> None:
        """Forget who has been quiet for :data:`EXPIRATION_MS`."""
        for producer_id in [i for i, entry in self.entries.items() if entry.is_expired(now_ms)]:
            del self.entries[producer_id]
