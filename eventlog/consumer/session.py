"""A consumer's part in its group: what it owns, what it gives up and takes on, where it begins to read.

Units change hands only in :meth:`Session.serve`, which the application's thread runs when it asks for
records: until then it may be working on some. The heartbeat's thread says that the member lives, and notices
that something is to be done. The consumer's lock is held for everything but the application's callbacks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.fetching import Fetcher
from eventlog.consumer.figures import ConsumerFigures
from eventlog.consumer.group import GroupView, Membership, OffsetAndMetadata
from eventlog.consumer.positions import ResetPolicy
from eventlog.consumer.subscription import Subscription
from eventlog.errors import EventLogError, FencedError, GroupError, NoOffsetError
from eventlog.log.topic import Topic

if TYPE_CHECKING:
    from eventlog.consumer.consumer import Consumer

_logger = logging.getLogger("eventlog.consumer")

Units = frozenset[TopicPartition]
Callback = Callable[["Consumer", Units], object]
_NO_UNITS: Units = frozenset()


class Door(Protocol):
    """How a consumer gets into its group."""

    @property
    def group(self) -> str | None:
        """Its name; None: there is none."""
        ...

    def join(self, counts: Mapping[str, int]) -> Membership | Alone:
        """Become a member; ``counts``: partitions of each topic."""
        ...

    def committed(
        self, units: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """What the group has committed."""
        ...


class Alone:
    """In place of a membership for a consumer without a group: it owns every partition, and no other
    consumer has to do with that. Also its :class:`Door`."""

    group: str | None = None
    member_id = ""

    def join(self, counts: Mapping[str, int]) -> Alone:
        """There is nothing to join."""
        return self

    def committed(self, units: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Nothing is."""
        return {}

    def sync(self, owned: Units, counts: Mapping[str, int]) -> GroupView:
        """All partitions that there are."""
        every = frozenset(
            TopicPartition(topic, number)
            for topic, count in counts.items()
            for number in range(count)
        )
        return GroupView(0, every, owned - every, is_stable=True)

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Refused: GroupError."""
        raise _no_group()

    def leave(self, *, permanently: bool) -> None:
        """There is nothing to leave."""


class Callbacks:
    """What the application wants to be told. What a callback raises is kept until :meth:`end`; that a
    commit in it came too late (FencedError) is only logged.

    Args:
        on_assigned, on_revoked, on_lost: called with the consumer and the units.
    """

    def __init__(
        self, on_assigned: Callback | None, on_revoked: Callback | None, on_lost: Callback | None
    ) -> None:
        self._by_name = {
            "on_assigned": on_assigned,
            "on_revoked": on_revoked,
            "on_lost": on_lost,
        }
        self._raised: list[BaseException] = []

    def call(self, name: str, consumer: Consumer, units: Units) -> bool:
        """Whether it went well."""
        callback = self._by_name[name]
        try:
            if callback is not None:
                callback(consumer, units)
        except (
            FencedError
        ) as error:  # it was overtaken; the next look at the group tells what is lost
            _logger.warning("%s came too late: %s", name, error, extra={"group": error.group})
            return False
        except BaseException as error:  # noqa: BLE001  raised by end(), once the state is in order
            self._raised.append(error)
            return False
        return True

    def end(self) -> None:
        """Raise what was kept: the most urgent, or else the first."""
        raised, self._raised = self._raised, []
        for error in raised:
            if not isinstance(error, Exception):
                raise error
        for error in raised:
            raise error


class Session:
    """See the module.

    Args:
        door: to the group.
        subscription: what the consumer wants to read.
        fetcher: reads for the units that are owned.
        reset: where to begin when nothing is committed.
        callbacks: of the application.
        figures: what is counted.
        lock: the consumer's.
        is_auto_commit: commit what is given up.

    Attributes:
        owned: by this consumer; what it was thrown out of included, until the application's thread knows.
        is_lost: it was thrown out, and the application's thread does not know yet.
        generation: of the group, as far as known.
    """

    def __init__(
        self,
        door: Door,
        subscription: Subscription,
        fetcher: Fetcher,
        reset: ResetPolicy,
        callbacks: Callbacks,
        figures: ConsumerFigures,
        lock: threading.RLock,
        *,
        is_auto_commit: bool,
    ) -> None:
        self.owned: Units = _NO_UNITS
        self.is_lost = False
        self.generation = -1
        self.member_id = ""
        self._door = door
        self._subscription = subscription
        self._fetcher = fetcher
        self._reset = reset
        self._callbacks = callbacks
        self._figures = figures
        self._lock = lock
        self._is_auto_commit = is_auto_commit
        self._membership: Membership | Alone | None = None
        self._topics: dict[str, Topic] = {}
        self._counts: dict[str, int] = {}
        self._committed: dict[TopicPartition, OffsetAndMetadata] = {}
        self._unannounced: Units = _NO_UNITS
        self._unplaced: set[TopicPartition] = set()
        self._is_closed = False

    # -- the application's thread ---------------------------------------------------------------

    def serve(self, consumer: Consumer) -> None:
        """Do what the group asks for: give up, take on, join again.

        Raises:
            What a callback raised, once everything is in order.
            GroupError, StorageError and others of :meth:`Groups.join`.
        """
        self.look_at_topics()
        self._tell_lost(consumer)
        while not self._is_closed:
            with self._lock:
                view = self._sync()
                if view is None or self._is_closed:
                    break
                gained = view.assigned - self.owned
                if not view.revoked:
                    gained, self._unannounced = gained | self._unannounced, _NO_UNITS
                    self.gain(gained)
            if view.revoked:
                self._give_up(consumer, view.revoked)
            elif gained:
                self._note("assigned", gained)
                self._callbacks.call("on_assigned", consumer, gained)
            else:
                break
        self._tell_lost(consumer)
        self._callbacks.end()

    def look_at_topics(self) -> None:
        """See which topics there are, and forget positions in those that are not the same any more."""
        topics = self._subscription.look()
        with self._lock:
            outdated = self._fetcher.outdated(topics)
            if outdated:
                self._fetcher.remove(outdated)
                self._unplaced |= outdated
                for unit in outdated:
                    self._committed.pop(unit, None)
            self._topics = topics
            self._counts = {name: topic.partition_count for name, topic in topics.items()}

    def assign_unannounced(self) -> None:
        """Own what a consumer without a group owns before it asks for records; tell of it then."""
        self.look_at_topics()
        with self._lock:
            view = self._sync()
            if view is not None:
                self._unannounced = view.assigned
                self.gain(view.assigned)

    def _sync(self) -> GroupView | None:
        """None: the member was thrown out."""
        if self._membership is None:
            if self.is_lost:
                return None
            self._membership = self._door.join(self._counts)
            self.member_id = self._membership.member_id
        try:
            view = self._membership.sync(self.owned, self._counts)
        except FencedError as error:
            self._lose(str(error))
            return None
        self.generation = view.generation
        return view

    def gain(self, units: Units) -> None:
        """Own them; a position is found when it is needed."""
        self.owned |= units
        self._unplaced |= {unit for unit in units if unit not in self._fetcher}

    def _give_up(self, consumer: Consumer, units: Units) -> None:
        self._note("revoked", units)
        is_well = self._callbacks.call("on_revoked", consumer, units)
        with self._lock:
            if is_well and self._is_auto_commit and not self.is_lost:
                self.commit_done(units)
            self._drop(units)

    def _drop(self, units: Units) -> None:
        self.owned -= units
        self._unplaced -= units
        self._fetcher.remove(units)
        for unit in units:
            self._committed.pop(unit, None)

    def _tell_lost(self, consumer: Consumer) -> None:
        with self._lock:
            if not self.is_lost:
                return
            units = self.owned
            self._drop(units)
            self.is_lost = False
        if units:
            self._note("lost", units)
            self._callbacks.call("on_lost", consumer, units)

    def place(self, units: Iterable[TopicPartition] | None = None) -> None:
        """Find the positions of units (None: all) that have none: what is committed, or what the policy
        says.

        Raises:
            NoOffsetError: nothing is committed, and the policy is ``"none"``.
        """
        if not self._unplaced:
            return
        unplaced = self.readable(
            self._unplaced if units is None else self._unplaced.intersection(units)
        )
        committed = self._door.committed(unplaced)
        missing: list[TopicPartition] = []
        for unit in unplaced:
            topic = self._topics[unit.topic]
            if unit in committed:
                self._committed[unit] = committed[unit]
                self.put(unit, committed[unit].offset)
                continue
            offset = self._reset.offset(topic.partition(unit.partition))
            if offset is None:
                missing.append(unit)
            else:
                self.put(unit, offset)
        for unit in missing:
            raise NoOffsetError(
                f"group {self._door.group!r} has nothing committed for {unit.topic}-{unit.partition}, and "
                "auto_offset_reset is 'none'",
                hint="Seek to where to begin, commit an offset, or set auto_offset_reset",
                group=self._door.group or "",
                topic=unit.topic,
                partition=unit.partition,
            )

    def put(self, unit: TopicPartition, offset: int) -> None:
        """Give an owned unit a position."""
        self._fetcher.place(unit, self._topics[unit.topic], offset)
        self._unplaced.discard(unit)

    def readable(self, units: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Those whose topic was not deleted meanwhile, in order."""
        return sorted(unit for unit in units if unit.topic in self._topics)

    def topic(self, unit: TopicPartition) -> Topic:
        """The topic of a readable unit."""
        return self._topics[unit.topic]

    def committed(
        self, units: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """What the group has committed, whoever did. Raises GroupError without a group."""
        if self._door.group is None:
            raise _no_group()
        return self._door.committed(units)

    # -- committing, any thread, with the lock --------------------------------------------------

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit what is not committed yet.

        Raises:
            FencedError: the member was thrown out.
            GroupError: it has not joined yet.
            And what :meth:`Membership.commit` raises.
        """
        if self._door.group is None:
            raise _no_group()
        if self.is_lost:
            raise self.refusal("it was thrown out of the group")
        changed = {
            unit: offset for unit, offset in offsets.items() if self._committed.get(unit) != offset
        }
        if changed:
            if self._membership is None:
                raise self.refusal("")
            began_s = time.perf_counter()
            self._membership.commit(changed)
            self._figures.commit.observe(time.perf_counter() - began_s)
            self._committed.update(changed)

    def commit_done(self, units: Units | None = None) -> None:
        """Commit what the application is done with. It may fail: then it is handed out again later."""
        done = self._fetcher.positions(is_done=True)
        offsets = {
            unit: OffsetAndMetadata(offset)
            for unit, offset in done.items()
            if units is None or unit in units
        }
        try:
            self.commit(offsets)
        except EventLogError as error:
            _logger.warning("automatic commit failed: %s", error, extra=self.about())

    def refusal(self, why: str) -> GroupError:
        """The error for a commit that comes too late, or too early."""
        if self._membership is None and not self.is_lost:
            return GroupError(
                f"this consumer has not joined group {self._door.group!r} yet",
                hint="It joins when it is polled",
                group=self._door.group or "",
            )
        return FencedError(
            f"member {self.member_id} of group {self._door.group!r} cannot commit: {why}",
            hint="Somebody else may work on these records now: drop them. Polling joins again",
            group=self._door.group or "",
            member_id=self.member_id,
            generation=self.generation,
        )

    # -- the heartbeat's thread, with the lock --------------------------------------------------

    def beat(self, *, is_late: bool) -> bool:
        """Be heard of; whether the application's thread has something to do.

        Args:
            is_late: it has not asked for records for too long: leave, so that others go on.
        """
        if self._membership is None or self._is_closed:
            return self.is_lost
        if is_late:
            self._membership.leave(permanently=False)
            self._lose("it did not poll for longer than max_poll_interval_ms")
            return True
        view = self._sync()
        return view is None or bool(view.revoked or view.assigned - self.owned)

    def _lose(self, why: str) -> None:
        _logger.warning("left the group: %s", why, extra=self.about())
        self._membership = None
        self.is_lost = True

    # -- the end --------------------------------------------------------------------------------

    def close(self, consumer: Consumer) -> None:
        """Give up everything and leave.

        Raises:
            What a callback raised, once everything is done.
        """
        self._tell_lost(consumer)
        if self.owned and self._door.group is not None:
            self._give_up(consumer, self.owned)
        with self._lock:
            self._is_closed = True
            self._drop(self.owned)
            try:
                self.leave()
            except EventLogError as error:
                _logger.warning("could not leave the group: %s", error, extra=self.about())
        self._callbacks.end()

    def leave(self) -> None:
        """Be no member any more."""
        membership, self._membership = self._membership, None
        if membership is not None:
            membership.leave(permanently=False)

    def about(self) -> dict[str, object]:
        """Fields of log records."""
        return {
            "group": self._door.group,
            "member_id": self.member_id,
            "generation": self.generation,
        }

    def _note(self, what: str, units: Units) -> None:
        self._figures.rebalances.add()
        _logger.info("%s: %s", what, sorted(units), extra=self.about())


def _no_group() -> GroupError:
    return GroupError(
        "a consumer without a group has no committed offsets",
        hint="Name a group: log.consumer(group, topics)",
    )
