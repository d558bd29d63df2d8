"""Reading the partitions of a consumer in turn.

Nothing here is thread-safe: the consumer's lock is held.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.positions import ResetPolicy
from eventlog.consumer.reader import Chunk, Reader
from eventlog.errors import EventLogError, OffsetOutOfRangeError, UnknownTopicError
from eventlog.log.record import Record
from eventlog.log.topic import Topic

EMPTY_FETCHES_MAX = 64
"""Chunks without a record of ours after which a request pauses, so that the group's work gets its turn."""


class Fetch(NamedTuple):
    """What one look into a partition gave."""

    reader: Reader
    records: list[Record]
    end_offset: int


class Fetcher:
    """All that a consumer reads. A unit is in it once it has a position.

    Args:
        reset: what happens to positions whose records are not kept any more.
        key_slots: into how many slots partitions are divided; 0: not.
    """

    def __init__(self, reset: ResetPolicy, key_slots: int) -> None:
        self._reset = reset
        self._key_slots = key_slots
        self._readers: dict[tuple[str, int], Reader] = {}
        self._units: dict[TopicPartition, Reader] = {}
        self._in_work: list[Reader] = []
        self._order: list[Reader] = []
        self._turn = 0

    def close(self) -> None:
        """Let go of everything."""
        self.remove(list(self._units))

    # -- units ----------------------------------------------------------------------------------

    def __contains__(self, unit: TopicPartition) -> bool:
        return unit in self._units

    def place(self, unit: TopicPartition, topic: Topic, offset: int) -> None:
        """Give a unit a position, or another one."""
        at = (unit.topic, unit.partition)
        reader = self._readers.get(at)
        if reader is None:
            reader = self._readers[at] = Reader(topic, unit.partition, self._key_slots)
        reader.place(unit.slot, offset)
        self._units[unit] = reader
        self._settle_order()

    def remove(self, units: Iterable[TopicPartition]) -> None:
        """Forget units; those that are not there are fine."""
        for unit in units:
            reader = self._units.pop(unit, None)
            if reader is None:
                continue
            reader.remove(unit.slot)
            if reader.is_unused:
                reader.close()
                del self._readers[unit.topic, unit.partition]
        self._settle_order()

    def pause(self, unit: TopicPartition) -> None:
        """Keep a unit's position and hand out nothing of it."""
        self._units[unit].pause(unit.slot)
        self._settle_order()

    def resume(self, unit: TopicPartition) -> None:
        """Go on with it."""
        self._units[unit].resume(unit.slot)
        self._settle_order()

    @property
    def paused(self) -> frozenset[TopicPartition]:
        """Units that are paused."""
        return frozenset(unit for unit, reader in self._units.items() if unit.slot in reader.paused)

    def outdated(self, topics: dict[str, Topic]) -> frozenset[TopicPartition]:
        """Units of topics that were deleted, or deleted and made anew."""
        return frozenset(
            unit
            for unit, reader in self._units.items()
            if reader.topic is not topics.get(unit.topic)
        )

    def _settle_order(self) -> None:
        self._order = [reader for reader in self._readers.values() if reader.is_reading]

    # -- positions ------------------------------------------------------------------------------

    def reader(self, unit: TopicPartition) -> Reader:
        """What reads a unit."""
        return self._units[unit]

    def positions(self, *, is_done: bool) -> dict[TopicPartition, int]:
        """Next offset of each unit; ``is_done``: leaving out what is in work."""
        if is_done:
            return {unit: reader.done_position(unit.slot) for unit, reader in self._units.items()}
        return {unit: reader.position(unit.slot) for unit, reader in self._units.items()}

    def settle_work(self) -> None:
        """The application is done with what it was given."""
        for reader in self._in_work:
            reader.settle_work()
        self._in_work.clear()

    def take_back_work(self) -> None:
        """It is not, and never will be."""
        for reader in self._in_work:
            reader.take_back_work()
        self._in_work.clear()

    # -- reading --------------------------------------------------------------------------------

    def fetch(self, limit: int, *, is_single: bool) -> list[Fetch]:
        """Look into the partitions, each time beginning with another one. Moves no position.

        Args:
            limit: most records.
            is_single: stop once there are records, of one partition.

        Raises:
            OffsetOutOfRangeError: a position is not kept any more and the policy is ``"none"``.
            CorruptionError: a damaged batch is next. What came before it in this call is returned instead;
                the next call comes to it.
        """
        fetches: list[Fetch] = []
        empty_count = 0
        for _ in range(len(self._order)):
            reader = self._order[self._turn % len(self._order)]
            self._turn += 1
            start, goes_on = reader.offset, True
            while goes_on:
                try:
                    records, end, goes_on = reader.read(start, limit)
                except OffsetOutOfRangeError:
                    if fetches:
                        return fetches
                    reader.skip_lost(self._reset)
                    start = reader.offset
                    continue
                except UnknownTopicError:
                    break  # deleted: the next look at the subscription takes it out
                except EventLogError:
                    if fetches:
                        return fetches
                    raise
                if end == start:
                    break
                fetches.append(Fetch(reader, records, end))
                start = end
                limit -= len(records)
                empty_count += not records
                if limit == 0 or (is_single and records) or empty_count > EMPTY_FETCHES_MAX:
                    return fetches
        return fetches

    def hand_out(self, fetches: list[Fetch]) -> list[Record]:
        """Their records, which are in work from here on."""
        given: list[Record] = []
        for reader, records, end in fetches:
            reader.hand_out(end)
            self._in_work.append(reader)
            if given:
                given += records
            else:
                given = records
        return given

    def hand_out_singly(self, fetches: list[Fetch]) -> Chunk | None:
        """The records of the last one, which are in work one by one; None: there are none."""
        last = fetches.pop() if fetches and fetches[-1].records else None
        self.hand_out(fetches)
        if last is None:
            return None
        chunk = Chunk(last.records, last.end_offset)
        last.reader.hand_out_singly(chunk)
        self._in_work.append(last.reader)
        return chunk
