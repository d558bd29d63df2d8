"""What a partition's segment files hold: each checksum, and the header of each batch.

Works on any partition directory, ours or a broker's; changes nothing.
"""

from __future__ import annotations

import itertools
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from eventlog._native import ffi, lib
from eventlog.log import segment
from eventlog.log.producer_table import ProducerBatch, ProducerTable
from eventlog.transfer.findings import Finding

_HEADER = struct.Struct(">qii5xhi8xqqhii")  # without magic, CRC and base timestamp
_TRANSACTIONAL, _CONTROL = 16, 32  # bits of a batch's attributes
_ABORT = 0  # type of a control batch
_RELATIVE_OFFSET_MAX = 2**31 - 1


class AbortedTransaction(NamedTuple):
    """An entry of Kafka's ``.txnindex``."""

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


@dataclass(slots=True)
class SegmentSurvey:
    """One segment file.

    Attributes:
        path: of its ``.log`` file.
        base_offset: that it is named by.
        end_offset: behind its last record.
        size_bytes: up to the end of its last whole batch.
        max_timestamp_ms: the largest of its record times, -1 none.
        has_leader_epochs: some batch has a higher one than 0.
        aborted: transactions whose abort it holds, by offset.
    """

    path: Path
    base_offset: int
    end_offset: int
    size_bytes: int
    max_timestamp_ms: int = -1
    has_leader_epochs: bool = False
    aborted: list[AbortedTransaction] = field(default_factory=list)


@dataclass(slots=True)
class PartitionSurvey:
    """The segments of a partition, and what was found in them.

    Attributes:
        topic: name of the topic.
        partition: number of the partition.
        log_start_offset: first offset that counts.
        log_end_offset: behind the last record.
        segments: in order.
        has_gaps: offsets are missing.
        largest_batch_bytes: size of the largest batch.
        producers: the idempotent producers as they stand at the end.
        open_transactions: where transactions begin that nobody ended, by producer id.
        findings: what is wrong with the files.
    """

    topic: str
    partition: int
    log_start_offset: int
    log_end_offset: int = 0
    segments: list[SegmentSurvey] = field(default_factory=list)
    has_gaps: bool = False
    largest_batch_bytes: int = 0
    producers: ProducerTable = field(default_factory=ProducerTable)
    open_transactions: dict[int, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of its directory: ``orders-0``."""
        return f"{self.topic}-{self.partition}"

    @property
    def size_bytes(self) -> int:
        """Of all batches."""
        return sum(each.size_bytes for each in self.segments)

    def find(self, name: str, detail: str, hint: str = "", *, is_error: bool = True) -> None:
        """Note a finding."""
        self.findings.append(Finding(name, is_error, self.topic, self.partition, detail, hint))


def survey(
    topic: str,
    partition: int,
    directory: Path,
    bases: Sequence[int],
    log_start_offset: int,
    *,
    end_offset: int | None = None,
    producers: tuple[int, ProducerTable] | None = None,
) -> PartitionSurvey:
    """Look at every batch of a partition.

    Args:
        topic: name of the topic.
        partition: number of the partition.
        directory: where the segments are.
        bases: base offsets of the segments, ascending.
        log_start_offset: first offset that counts.
        end_offset: look no further; None: to the end. It has to be the end of a batch.
        producers: the state of producers at an offset; what lies behind it is added.

    Raises:
        OSError: of the operating system.
        CorruptionError: a marker of a transaction cannot be decoded.
    """
    known, table = producers or (0, ProducerTable())
    found = PartitionSurvey(topic, partition, log_start_offset, producers=table)
    offset = bases[0] if bases else log_start_offset
    for base, following in itertools.zip_longest(bases, bases[1:]):
        if base < offset:
            found.find(
                "damaged",
                f"the segment at {base} begins below offset {offset}, where the one before ends",
            )
            break
        found.has_gaps |= base > offset
        offset = _look_at_segment(found, directory, base, following, end_offset, known)
    found.log_end_offset = offset
    return found


def _look_at_segment(
    found: PartitionSurvey,
    directory: Path,
    base: int,
    following: int | None,
    end_offset: int | None,
    known_offset: int,
) -> int:
    """Where it ends."""
    path = directory / segment.segment_name(base)
    scan = segment.scan(path, base, has_gaps=True)
    this = SegmentSurvey(path, base, base, int(scan.end_position))
    found.segments.append(this)
    offset, position = base, 0
    for position, header in _headers(path, this.size_bytes):
        first, length, epoch, attributes, delta, latest_ms, producer_id, *producer = header
        if end_offset is not None and first >= end_offset:
            break
        last = first + delta
        found.has_gaps |= first > offset
        found.largest_batch_bytes = max(found.largest_batch_bytes, 12 + length)
        this.max_timestamp_ms = max(this.max_timestamp_ms, latest_ms)
        this.has_leader_epochs |= epoch > 0  # -1: none
        if producer_id >= 0:
            producer_epoch, sequence, count = producer
            batch = ProducerBatch(
                producer_id, producer_epoch, sequence, delta + 1, latest_ms, attributes
            )
            if (
                count or not batch.is_control
            ):  # compaction may leave an empty one, which says nothing
                if first >= known_offset:
                    found.producers.note(batch, first)
                if attributes & _TRANSACTIONAL:
                    _look_at_transaction(found, this, batch, first, position, 12 + length)
        offset = last + 1
        position += 12 + length
        if offset - 1 - base > _RELATIVE_OFFSET_MAX:
            found.find("damaged", f"{path.name} holds offset {last}, too far from its first")
    this.end_offset = offset
    if end_offset is not None and offset >= end_offset:
        this.size_bytes = position
    elif scan.stop != lib.EL_SCAN_END:
        _look_at_end(found, this, scan, is_last=following is None)
    if this.size_bytes > _RELATIVE_OFFSET_MAX:
        found.find(
            "segment-size", f"{path.name} has {this.size_bytes:,} bytes, Kafka allows 2^31-1"
        )
    return offset


def _look_at_end(found: PartitionSurvey, this: SegmentSurvey, scan: Any, *, is_last: bool) -> None:
    """Something else than a batch stands behind the last one."""
    stop, size, sound = int(scan.stop), int(scan.file_size), int(scan.sound_position)
    what = segment.text(scan.what) or "zeros"
    place = f"{this.path.name}, byte {this.size_bytes}, offset {this.end_offset}: {what}"
    if is_last and stop == lib.EL_SCAN_ZEROS:
        return  # room that was reserved
    if is_last and sound < 0:
        found.find(
            "torn-tail",
            f"{place}; the last {size - this.size_bytes} bytes are no whole batch and would be left out",
            "It was not stopped cleanly: start it and stop it again",
        )
    else:
        found.find(
            "damaged",
            place,
            "Restore the file from a replica or a backup; `eventlog verify` looks at stores",
        )


def _look_at_transaction(
    found: PartitionSurvey,
    this: SegmentSurvey,
    batch: ProducerBatch,
    first: int,
    position: int,
    size: int,
) -> None:
    if not batch.is_control:
        found.open_transactions.setdefault(batch.producer_id, first)
        return
    began = found.open_transactions.pop(batch.producer_id, None)
    if began is not None and _marker_type(this.path, position, size) == _ABORT:
        stable = next(iter(found.open_transactions.values()), first + 1)  # as Kafka writes it
        this.aborted.append(AbortedTransaction(batch.producer_id, began, first, stable))


def _marker_type(path: Path, position: int, size: int) -> int:
    """Of the control batch at a position: the second int16 of its record's key."""
    with path.open("rb") as file:
        file.seek(position)
        data = file.read(size)
    views = ffi.new("el_view[1]")
    if (
        lib.el_batch_decode(ffi.from_buffer(data), len(data), views, 1) != 1
        or views[0].key_size < 4
    ):
        return -1
    return int.from_bytes(ffi.buffer(views[0].key, 4)[2:4], "big", signed=True)


def _headers(path: Path, end_position: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(position, header fields) of the batches of a verified stretch."""
    if end_position == 0:
        return
    unpack, position = _HEADER.unpack_from, 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        while position < end_position:
            fields = unpack(data, position)
            yield position, fields
            position += 12 + fields[1]


def clear_leader_epochs(path: Path) -> None:
    """Give every batch of a verified file that has a leader epoch epoch 0; it lies outside the checksum.
    The file must not be shared with anybody. Raises OSError."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        position = 0
        while position < len(data):
            if data[position + 12] < 0x80:  # else -1: none
                data[position + 12 : position + 16] = bytes(4)
            position += 12 + int.from_bytes(data[position + 8 : position + 12], "big")
        data.flush()
