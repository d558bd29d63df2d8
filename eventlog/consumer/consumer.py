"""A consumer: reads topics, alone or as a member of a group."""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.fetching import Fetcher
from eventlog.consumer.figures import ConsumerFigures
from eventlog.consumer.group import Groups, OffsetAndMetadata
from eventlog.consumer.heartbeat import Heartbeat
from eventlog.consumer.options import POLL_RECORDS_MAX, ConsumerOptions, GroupDoor
from eventlog.consumer.positions import ResetPolicy
from eventlog.consumer.reader import Chunk
from eventlog.consumer.session import Alone, Callback, Callbacks, Session
from eventlog.consumer.subscription import Subscription, Topics
from eventlog.errors import (
    ClosedError,
    ForkedError,
    InvalidRecordError,
    LogError,
    PartitionMismatchError,
    SettingError,
)
from eventlog.log.partition import Partition, out_of_range
from eventlog.log.record import Record
from eventlog.log.store import Store

SERVE_INTERVAL_S = 0.005
"""While there are records, the group is looked after that often."""


class Consumer:
    """Reads topics in the order of each partition. Made by ``log.consumer(...)``.

    With a group the partitions are shared among its members, in any threads and processes; the group
    remembers the committed offsets. Without one (``group=None``) the consumer reads all partitions.

    A *unit* (:class:`TopicPartition`) is what members share: a partition, or with ``sharing="key"`` one slot
    of its keys. All records of a key are in one slot, so they come to one member at a time, in order. Where
    a method takes a unit, one without slot then stands for all slots of the partition that are owned here.

    Threads: :meth:`poll` and iterating are for one thread at a time (a second one waits); the other methods
    are for any thread, :meth:`close` above all. After ``fork`` a child has to make its own (ForkedError).

    The position of a unit is the next offset to be handed out. A record is *in work* from when it was handed
    out until the next request for records by :meth:`poll` or iteration. What commits by itself (auto commit,
    and ``with`` that ends by an exception) leaves out what is in work: such records come again.

    Args:
        log: the store.
        groups: its groups; needed if there is a group.
        group: name of the group, or None.
        topics: name of a topic, several, or a compiled pattern that whole names match. Topics that are
            not there, and partitions added later, are read once they are.
        on_assigned: called as ``on_assigned(consumer, units)`` from within ``poll`` when units came; it may seek.
        on_revoked: ... before units are given up to others (or at ``close``); the place to commit.
        on_lost: ... when others may have them already: commits are refused.
        clock_s: monotonic seconds, by which ``max_poll_interval_ms`` and auto commits are measured.
        **options: see :class:`eventlog.consumer.options.ConsumerOptions`.

    Attributes:
        group: see above.
        timeout_s: iterating ends when nothing came for so many seconds; None: it never ends.

    Raises:
        SettingError: an option outside its limits, or one that needs a group.
        InvalidNameError: not a name that a topic can have.
    """

    def __init__(
        self,
        log: Store,
        groups: Groups | None,
        group: str | None,
        topics: Topics,
        *,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        self._is_closed = True  # until it is made
        self.group = group
        self._options = chosen = ConsumerOptions(**options)
        self.timeout_s = chosen.timeout_s
        reset = ResetPolicy(chosen.auto_offset_reset)
        door: Alone | GroupDoor = Alone()
        if group is None or groups is None:
            chosen.check_without_group()
        else:
            door = GroupDoor(groups, group, chosen)
        self._pid = os.getpid()
        self._log = log
        self._activity = log.activity
        self._clock_s = clock_s
        self._lock = threading.RLock()
        self._asking = threading.RLock()
        self._figures = ConsumerFigures(log, group)
        self._fetcher = Fetcher(reset, chosen.slots_in_use)
        self._session = Session(
            door,
            Subscription(log, topics),
            self._fetcher,
            reset,
            Callbacks(on_assigned, on_revoked, on_lost),
            self._figures,
            self._lock,
            is_auto_commit=chosen.auto_commit_interval_ms is not None,
        )
        self._chunk: Chunk | None = None
        self._is_asking = False
        self._asked_by = -1
        self._served_s = -1.0
        self._working_since_s: float | None = None
        self._seen_last: Record | None = None
        self._committed_s = clock_s()
        self._closing = threading.Event()
        self._has_close_begun = False
        self._heartbeat: Heartbeat | None = None
        if group is None:
            self._session.assign_unannounced()
        self._is_closed = False
        _consumers.add(self)

    def __repr__(self) -> str:
        return f"Consumer(group={self.group!r}, {'closed' if self._is_closed else 'open'})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close(is_done=kind is None)

    def __del__(self) -> None:
        """The group is left by the heartbeat's thread: a finalizer must not wait for anything."""
        if not getattr(self, "_is_closed", True) and os.getpid() == self._pid:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)
            if self._heartbeat is not None:
                self._heartbeat.abandon(self._session.leave)

    # -- records --------------------------------------------------------------------------------

    def poll(self, timeout_s: float | None = 0.0, max_records: int | None = None) -> list[Record]:
        """The next records, waiting for some if there are none. Also does what the group asks for: calls
        the callbacks, gives up and takes on units, joins again after having been thrown out.

        What an earlier poll gave counts as worked on.

        Args:
            timeout_s: seconds to wait; None: until there is something, or the consumer is closed.
            max_records: at most so many; None: ``max_poll_records``.

        Returns:
            Records of one or more partitions, each partition's in order; partitions take turns in coming
            first. Of a partition whose records are large it gives about 4 MiB at a time. Empty when
            the time is up, or when another thread closed the consumer.

        Raises:
            CorruptionError: a damaged batch is next in a partition. Others go on in later polls; seek or
                pause the damaged one.
            NoOffsetError, OffsetOutOfRangeError: nothing is committed, or it is not kept any more, and
                ``auto_offset_reset`` is ``"none"``: seek.
            ClosedError, ForkedError: it was closed, or belongs to the parent process.
            StorageError: the group's state could not be read or written; poll again.
            What a callback raised, once everything is in order; no record is lost by it.
        """
        limit = self._options.max_poll_records
        if max_records is not None:
            if type(max_records) is not int or not 1 <= max_records <= POLL_RECORDS_MAX:
                raise SettingError(
                    f"max_records is {max_records!r}",
                    hint=f"It has to be a whole number from 1 to {POLL_RECORDS_MAX:,}",
                    setting="max_records",
                    value=max_records,
                )
            limit = max_records
        return self._ask(timeout_s, limit, is_single=False)

    def __iter__(self) -> Iterator[Record]:
        """Records one by one, on and on: ends when the consumer is closed, or nothing came for
        ``timeout_s``. Raises as :meth:`poll`.

        A record is in work until the next one is asked for. ``commit()`` inside the loop commits up to and
        including the record that the loop is at. Leaving the loop and iterating again goes on behind it.
        """
        self._check()
        return self._iterate()

    def _iterate(self) -> Iterator[Record]:
        while not self._closing.is_set():
            records = self._ask(self.timeout_s, self._options.max_poll_records, is_single=True)
            chunk = self._chunk
            if chunk is None:
                return
            for record in records:
                chunk.last = record
                yield record
                if chunk.is_interrupted:
                    break
            else:
                chunk.is_exhausted = True

    def _ask(self, timeout_s: float | None, limit: int, *, is_single: bool) -> list[Record]:
        self._check()
        with self._asking:
            if self._is_asking:
                raise LogError(
                    "a callback asks for records",
                    hint="Poll after the poll that called it has returned",
                )
            self._is_asking = True
            try:
                with self._lock:
                    self._working_since_s = None
                    self._chunk = None
                    self._fetcher.settle_work()
                return self._await(timeout_s, limit, is_single=is_single)
            finally:
                self._asked_by = threading.get_ident()
                self._working_since_s = self._clock_s()
                self._is_asking = False

    def _await(self, timeout_s: float | None, limit: int, *, is_single: bool) -> list[Record]:
        if time.monotonic() - self._served_s > SERVE_INTERVAL_S:
            self._serve()
        records, is_more = self._look(limit, is_single=is_single)
        if records or self._closing.is_set():
            return records
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        longest_s = self._options.heartbeat_interval_ms / 1000
        while True:
            ticket = self._activity.ticket()
            if self._closing.is_set():
                return []
            self._serve()
            records, is_more = self._look(limit, is_single=is_single)
            left_s = longest_s if until_s is None else until_s - time.monotonic()
            if records or left_s <= 0 or self._closing.is_set():
                return records
            if not is_more:
                self._activity.wait(ticket, min(left_s, longest_s))

    def _serve(self) -> None:
        if self._heartbeat is None and self.group is not None and not self._closing.is_set():
            intervals_ms = [self._options.heartbeat_interval_ms]
            if self._options.auto_commit_interval_ms is not None:
                intervals_ms.append(self._options.auto_commit_interval_ms)
            self._heartbeat = Heartbeat(self, min(intervals_ms) / 1000)
        self._session.serve(self)
        self._served_s = time.monotonic()

    def _look(self, limit: int, *, is_single: bool) -> tuple[list[Record], bool]:
        """Records, and whether there may be more to be looked through."""
        with self._lock:
            if self._closing.is_set():
                return [], False
            self._session.place()
            began_s = time.perf_counter()
            fetches = self._fetcher.fetch(limit, is_single=is_single)
            if not fetches:
                return [], False
            if is_single:
                self._chunk = self._fetcher.hand_out_singly(fetches)
                records = [] if self._chunk is None else self._chunk.records
            else:
                records = self._fetcher.hand_out(fetches)
            if records:
                self._figures.poll.observe(time.perf_counter() - began_s)
                self._figures.records.add(len(records))
            return records, True

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(
                "the consumer was made before a fork and belongs to the parent process",
                hint="Open the store and make a consumer in the child",
            )
        if self._is_closed:
            raise ClosedError("the consumer was closed", hint="Make a new one")

    # -- positions ------------------------------------------------------------------------------

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """What this consumer reads now."""
        return self._session.owned

    @property
    def paused(self) -> frozenset[TopicPartition]:
        """What of it is paused."""
        with self._lock:
            return self._fetcher.paused

    def position(self, unit: TopicPartition) -> int:
        """Next offset to be handed out; of several slots the smallest.

        Raises:
            PartitionMismatchError: the unit is not assigned to this consumer.
            NoOffsetError: it has no position (``auto_offset_reset="none"``).
        """
        with self._assigned(unit) as units:
            return min(self._fetcher.reader(each).position(each.slot) for each in units)

    def seek(self, unit: TopicPartition, offset: int) -> None:
        """Go on at another offset with the next request. An offset below the log start goes where
        ``auto_offset_reset`` says. Without a commit the group does not know of it.

        Raises:
            PartitionMismatchError: the unit is not assigned to this consumer.
            OffsetOutOfRangeError: no offset, or past the high watermark.
        """
        with self._assigned(unit, is_placed=False) as units:
            state = self._partition(units[0]).state()
            if type(offset) is not int or not 0 <= offset <= state.high_watermark:
                raise out_of_range(offset, state)
            for each in units:
                self._session.put(each, offset)

    def seek_to_time(self, timestamp_ms: int, *units: TopicPartition) -> None:
        """Go to the first record with that time or a later one, or to the end where there is none.

        Args:
            timestamp_ms: milliseconds since 1970 UTC, from 0.
            *units: these; none: all that are assigned.

        Raises:
            InvalidRecordError: not a time.
            PartitionMismatchError: a unit is not assigned to this consumer.
        """
        if type(timestamp_ms) is not int or timestamp_ms < 0:
            raise InvalidRecordError(
                f"timestamp {timestamp_ms!r} is not one",
                hint="Pass milliseconds since 1970 UTC as an int, 0 or more",
                field="timestamp_ms",
            )
        self._seek_each(units, lambda partition: partition.offset_for_time(timestamp_ms))

    def seek_to_beginning(self, *units: TopicPartition) -> None:
        """Go to the log start; without units: with all that are assigned. Raises as :meth:`position`."""
        self._seek_each(units, lambda partition: partition.log_start_offset)

    def seek_to_end(self, *units: TopicPartition) -> None:
        """Go to the high watermark; without units: with all that are assigned. Raises as
        :meth:`position`."""
        self._seek_each(units, lambda partition: partition.high_watermark)

    def _seek_each(
        self, units: tuple[TopicPartition, ...], target: Callable[[Partition], int]
    ) -> None:
        offsets: dict[tuple[str, int], int] = {}
        with self._assigned(*units, is_placed=False) as chosen:
            for unit in chosen:
                at = (unit.topic, unit.partition)
                if at not in offsets:
                    offsets[at] = target(self._partition(unit))
                self._session.put(unit, offsets[at])

    def pause(self, *units: TopicPartition) -> None:
        """Hand out nothing of these until :meth:`resume`; without units: of all that are assigned. They
        stay assigned; a unit that comes back after a rebalance is not paused. Raises as :meth:`position`.
        """
        with self._assigned(*units) as chosen:
            for unit in chosen:
                self._fetcher.pause(unit)

    def resume(self, *units: TopicPartition) -> None:
        """Go on with these; without units: with all that are assigned. Raises as :meth:`position`."""
        with self._assigned(*units) as chosen:
            for unit in chosen:
                self._fetcher.resume(unit)
        self._activity.wake()  # a poll may be waiting, in another thread

    def lag(self) -> dict[TopicPartition, int]:
        """How many offsets lie between each assigned unit's position and what can be read. Of a slot:
        records of other slots count too. Raises NoOffsetError as :meth:`position`."""
        with self._assigned() as units:
            positions = self._fetcher.positions(is_done=False)
            return {
                unit: max(0, self._partition(unit).high_watermark - positions[unit])
                for unit in units
            }

    def _owned(self, unit: TopicPartition) -> list[TopicPartition]:
        """The unit if it is owned; for a whole partition also those of its slots that are."""
        owned = self._session.owned
        if unit in owned:
            return [unit]
        if unit.slot >= 0 or not self._options.slots_in_use:
            return []
        return sorted(each for each in owned if each[:2] == unit[:2])

    @contextmanager
    def _assigned(
        self, *units: TopicPartition, is_placed: bool = True
    ) -> Iterator[list[TopicPartition]]:
        """These (none: all) as they are owned here, with positions if need be, under the lock."""
        self._check()
        with self._lock:
            chosen: list[TopicPartition] = []
            for unit in units:
                found = self._session.readable(self._owned(TopicPartition(*unit)))
                if not found:
                    raise PartitionMismatchError(
                        f"{unit} is not assigned to this consumer",
                        hint="See its assignment; units come and go while it polls",
                        topic=unit[0],
                        partition=unit[1],
                    )
                chosen += found
            if not units:
                chosen = self._session.readable(self._session.owned)
            if is_placed:
                self._session.place(chosen)
            yield chosen

    def _partition(self, unit: TopicPartition) -> Partition:
        return self._session.topic(unit).partition(unit.partition)

    # -- committed offsets ----------------------------------------------------------------------

    def commit(
        self,
        offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None = None,
        metadata: str = "",
    ) -> None:
        """Commit the next offsets to read, all of them or none; durable when this returns.

        Args:
            offsets: by unit; None: the positions of all assigned units, so everything that was handed
                out, the record that an iteration is at included.
            metadata: the application's own words, kept with offsets that bring none; at most 4,096 bytes.

        Raises:
            FencedError: a unit is not owned (any more), or the member was thrown out. Nothing was
                committed, and others may have these records.
            GroupError: there is no group, or it was not joined yet.
            OffsetOutOfRangeError: an offset past what can be read.
            RecordTooLargeError, InvalidRecordError: metadata, or an offset that is none.
            StorageFullError, StorageError: nothing was committed. Try again.
        """
        self._check()
        with self._lock:
            if offsets is None:
                positions = self._fetcher.positions(is_done=False)
                chosen = {unit: OffsetAndMetadata(at, metadata) for unit, at in positions.items()}
            else:
                chosen = self._named_offsets(offsets, metadata)
            self._session.commit(chosen)

    def _named_offsets(
        self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata], metadata: str
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        chosen: dict[TopicPartition, OffsetAndMetadata] = {}
        for given, offset in offsets.items():
            named = TopicPartition(*given)
            wanted = (
                offset
                if isinstance(offset, OffsetAndMetadata)
                else OffsetAndMetadata(offset, metadata)
            )
            units = self._owned(named)
            if not units:
                raise self._session.refusal(f"it does not own {named}")
            for unit in units:
                if unit != named and unit in self._fetcher:
                    # A slot that is further on than the others is not put back by them.
                    first = self._fetcher.reader(unit).first_offset(unit.slot)
                    chosen[unit] = wanted._replace(offset=max(wanted.offset, first))
                else:
                    chosen[unit] = wanted
        return chosen

    def committed(self, unit: TopicPartition) -> OffsetAndMetadata | None:
        """What the group has committed for a unit, whoever did; None: nothing. Of several slots the
        smallest.

        Raises:
            GroupError: there is no group.
        """
        self._check()
        named = TopicPartition(*unit)
        found = self._session.committed(self._owned(named) or [named])
        return min(found.values(), default=None)

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Give everything up, calling ``on_revoked``; with auto commit, commit; leave the group, so that
        others go on at once (the place of a static member is kept). Twice is fine.

        From another thread than the one that polls it ends that one's poll or iteration; what that thread
        has in work then counts as not done.

        Raises:
            What ``on_revoked`` raised; it is closed all the same.
        """
        self._close(is_done=True)

    def _close(self, *, is_done: bool) -> None:
        if os.getpid() != self._pid or self._is_closed:
            return
        self._closing.set()
        chunk = self._chunk
        if chunk is not None:
            chunk.is_interrupted = True
        self._activity.wake()
        with self._asking:
            if self._has_close_begun:
                return
            self._has_close_begun = True
            try:
                with self._lock:
                    if is_done and self._asked_by in (-1, threading.get_ident()):
                        self._fetcher.settle_work()
                    else:
                        self._fetcher.take_back_work()
                self._session.close(self)
            finally:
                self._is_closed = True
                if self._heartbeat is not None:
                    self._heartbeat.stop()
                with self._lock:
                    self._fetcher.close()

    def beat(self) -> None:
        """What the heartbeat's thread does: be heard of, leave when the application takes too long,
        commit what it is done with."""
        with self._lock:
            if self._closing.is_set():
                return
            now_s = self._clock_s()
            chunk = self._chunk
            if chunk is not None and chunk.last is not self._seen_last:
                self._seen_last = chunk.last  # it has asked for another record since
                self._working_since_s = now_s
            since_s = self._working_since_s
            longest_s = self._options.max_poll_interval_ms / 1000
            is_late = since_s is not None and now_s - since_s > longest_s
            if self._session.beat(is_late=is_late) and chunk is not None:
                chunk.is_interrupted = True
            interval_ms = self._options.auto_commit_interval_ms
            if interval_ms is not None and now_s - self._committed_s >= interval_ms / 1000:
                self._committed_s = now_s
                if not self._session.is_lost:
                    self._session.commit_done()


_consumers: weakref.WeakSet[Consumer] = weakref.WeakSet()


def _stop_iterating() -> None:
    """In a forked child: the next record asked for is refused."""
    for consumer in list(_consumers):
        if consumer._chunk is not None:
            consumer._chunk.is_interrupted = True


os.register_at_fork(after_in_child=_stop_iterating)
