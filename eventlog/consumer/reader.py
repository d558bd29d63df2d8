"""One partition as a consumer reads it: one cursor, and how far each of its units was handed out.

A *unit* is the whole partition (slot -1), or one slot of its keys. ``offset`` says up to where the partition
was handed out. A unit that begins further on has a first offset of its own, below which its records are left
out; one that begins further back takes ``offset`` back to there, and the others get their first offsets. So
the position of a unit is the larger of the two, and it also moves over the records of other slots.

What the latest request handed out is *in work*: the application is done with it when it asks for more.

Nothing here is thread-safe: the consumer's lock is held, but for what says otherwise.
"""

from __future__ import annotations

import logging

from eventlog.consumer.key_slots import slots_of
from eventlog.consumer.positions import ResetPolicy
from eventlog.log.cursor import CHUNK_COUNT
from eventlog.log.partition import out_of_range
from eventlog.log.record import Record
from eventlog.log.topic import Topic

_logger = logging.getLogger("eventlog.consumer")

_NEVER = 1 << 63


class Chunk:
    """Records that are handed out one by one, by the application's thread and without a lock.

    Attributes:
        records: to be handed out.
        end_offset: up to where the partition was looked through for them.
        last: the record handed out last; any thread may look at it.
        is_exhausted: the application is done with all of them.
        is_interrupted: before another one is handed out, something else has to be looked after.
    """

    __slots__ = ("end_offset", "is_exhausted", "is_interrupted", "last", "records")

    def __init__(self, records: list[Record], end_offset: int) -> None:
        self.records = records
        self.end_offset = end_offset
        self.last: Record | None = None
        self.is_exhausted = False
        self.is_interrupted = False


class Reader:
    """Reads a partition for one or more units.

    Args:
        topic: the topic; one made later under the same name is another one.
        number: of the partition.
        key_slots: into how many slots it is divided; 0: not.
    """

    def __init__(self, topic: Topic, number: int, key_slots: int) -> None:
        self.topic = topic
        self.partition = topic.partition(number)
        self.offset = 0
        self._key_slots = key_slots
        self._cursor = self.partition.cursor()
        self._place = -1  # of the cursor
        self._first_offsets: dict[int, int] = {}  # by slot
        self._paused: dict[int, int] = {}  # positions by slot
        self._firsts_end = 0  # from here on no first offset counts
        self._wanted: list[int] = []  # first offset of each slot, _NEVER where it is not read
        self._in_work_from: int | None = None
        self._chunk: Chunk | None = None

    def close(self) -> None:
        """Let go of the segments."""
        self._interrupt()
        self._cursor.close()

    # -- units ----------------------------------------------------------------------------------

    @property
    def is_reading(self) -> bool:
        """Is there a unit that is not paused?"""
        return bool(self._first_offsets)

    @property
    def is_unused(self) -> bool:
        """Is there no unit at all?"""
        return not self._first_offsets and not self._paused

    @property
    def paused(self) -> frozenset[int]:
        """Slots that are paused."""
        return frozenset(self._paused)

    def place(self, slot: int, offset: int) -> None:
        """Read for a unit from there on; a paused one stays paused."""
        self._drop_chunk()
        if slot in self._paused:
            self._paused[slot] = offset
            return
        self._first_offsets.pop(slot, None)
        if not self._first_offsets:
            self.offset = offset
        elif offset < self.offset:
            for other, first in self._first_offsets.items():
                self._first_offsets[other] = max(first, self.offset)
            self.offset = offset
        self._first_offsets[slot] = offset
        self._settle_units()

    def remove(self, slot: int) -> None:
        """Do not read for a unit any more."""
        self._drop_chunk()
        self._paused.pop(slot, None)
        self._first_offsets.pop(slot, None)
        self._settle_units()

    def pause(self, slot: int) -> None:
        """Keep the position of a unit and hand out nothing of it."""
        if slot not in self._paused:
            self._drop_chunk()
            position = self.position(slot)
            self.remove(slot)
            self._paused[slot] = position

    def resume(self, slot: int) -> None:
        """Go on with a paused unit."""
        if slot in self._paused:
            self.place(slot, self._paused.pop(slot))

    def _settle_units(self) -> None:
        firsts = self._first_offsets.values()
        if firsts and min(firsts) > self.offset:
            self.offset = min(firsts)  # nobody wants what lies before
        self._firsts_end = max(firsts, default=0)
        if self._key_slots:
            self._wanted = [
                self._first_offsets.get(slot, _NEVER) for slot in range(self._key_slots)
            ]

    # -- positions ------------------------------------------------------------------------------

    def position(self, slot: int) -> int:
        """Next offset to be handed out for a unit."""
        if slot in self._paused:
            return self._paused[slot]
        return max(self._first_offsets[slot], self._handed_out())

    def first_offset(self, slot: int) -> int:
        """Below it nothing of a unit is handed out."""
        return self._paused[slot] if slot in self._paused else self._first_offsets[slot]

    def done_position(self, slot: int) -> int:
        """As :meth:`position`, without what is in work."""
        position = self.position(slot)
        chunk, bound = self._chunk, self._in_work_from
        if chunk is not None and chunk.last is not None:
            bound = chunk.last.offset
        return position if bound is None else min(position, bound)

    def _handed_out(self) -> int:
        chunk = self._chunk
        if chunk is None:
            return self.offset
        if chunk.is_exhausted:
            return chunk.end_offset
        return self.offset if chunk.last is None else chunk.last.offset + 1

    def hand_out(self, end: int) -> None:
        """What was read up to there is in work."""
        if self._in_work_from is None:
            self._in_work_from = self.offset
        self.offset = end

    def hand_out_singly(self, chunk: Chunk) -> None:
        """The records are handed out by and by; those that were are in work."""
        self._in_work_from = self.offset
        self._chunk = chunk

    def settle_work(self) -> None:
        """The application is done with what is in work."""
        self._drop_chunk()
        self._in_work_from = None

    def take_back_work(self) -> None:
        """It is not done, and never will be: as if that had not been handed out."""
        done = {slot: self.done_position(slot) for slot in (*self._first_offsets, *self._paused)}
        self._interrupt()
        for slot, position in done.items():
            (self._paused if slot in self._paused else self._first_offsets)[slot] = position
        self._in_work_from = None
        self.offset = 0
        self._settle_units()

    def _drop_chunk(self) -> None:
        chunk = self._chunk
        if chunk is not None:
            if chunk.last is not None:
                self._in_work_from = chunk.last.offset
            self.offset = self._handed_out()
            self._interrupt()

    def _interrupt(self) -> None:
        if self._chunk is not None:
            self._chunk.is_interrupted = True
            self._chunk = None

    # -- reading --------------------------------------------------------------------------------

    def read(self, start: int, limit: int) -> tuple[list[Record], int, bool]:
        """The next records of the units, up to ``limit``. Moves no position.

        Returns:
            The records, the offset up to which the partition was looked through for them (``start``: there
            is nothing more), and whether to go on: False at the end of the log or of a segment, and
            where the records are large.

        Raises:
            OffsetOutOfRangeError: ``start`` is below the log start.
            CorruptionError, ClosedError and others of the cursor.
        """
        cursor, count_max = self._cursor, self._count_to_scan(limit)
        place, self._place = self._place, -1  # unknown, should this fail
        if place != start:
            cursor.seek(start)
        if not cursor.next(-1, count_max):
            self._place = start
            return [], start, False
        goes_on = cursor.count >= min(count_max, CHUNK_COUNT)
        records: list[Record] = cursor.take(
            "records", Record, self.topic.name, self.partition.number
        )
        end = self._place = records[-1].offset + 1
        if self._key_slots:
            records = self._ours(records)
            if len(records) > limit:
                end = records[limit - 1].offset + 1
                del records[limit:]
        return records, end, goes_on

    def _count_to_scan(self, limit: int) -> int:
        if not self._key_slots:
            return limit
        return limit * self._key_slots // len(self._first_offsets)

    def _ours(self, records: list[Record]) -> list[Record]:
        slots, wanted = slots_of(records, self._key_slots), self._wanted
        if self._firsts_end > records[0].offset:
            pairs = zip(records, slots, strict=True)
            return [record for record, slot in pairs if wanted[slot] <= record.offset]
        return [
            record for record, slot in zip(records, slots, strict=True) if wanted[slot] != _NEVER
        ]

    def skip_lost(self, reset: ResetPolicy) -> None:
        """What units come to next is not kept any more: they go on where the policy says.

        Raises:
            OffsetOutOfRangeError: it says nowhere.
        """
        state = self.partition.state()
        for slot in list(self._first_offsets):
            position = self.position(slot)
            if position >= state.log_start_offset:
                continue
            target = reset.offset(self.partition)
            if target is None:
                raise out_of_range(position, state)
            _logger.warning(
                "offset %d of %s-%d is not kept any more: reading goes on at %d",
                position,
                self.topic.name,
                self.partition.number,
                target,
                extra={"topic": self.topic.name, "partition": self.partition.number},
            )
            self.place(slot, target)
