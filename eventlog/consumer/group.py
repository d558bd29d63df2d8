"""Consumer groups: members share the partitions of topics, and the group remembers how far it got.

All state is in LMDB under ``groups/``; each step of a member is one write transaction, so a process that is
killed anywhere leaves a group from which the others go on. How units change hands is in
:mod:`eventlog.consumer.reconciliation`.
"""

from __future__ import annotations

import builtins
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from eventlog.consumer import group_admin as _admin
from eventlog.consumer import members as _members
from eventlog.consumer import offsets as _offsets
from eventlog.consumer.assignment import TopicPartition, choose_assignor
from eventlog.consumer.group_admin import GroupDescription
from eventlog.consumer.group_check import problems_of
from eventlog.consumer.group_store import GroupStore, check_group_name
from eventlog.consumer.key_slots import KEY_SLOTS_MAX
from eventlog.consumer.members import HEARTBEATS, MEMBERS, MILLISECOND_NS, MemberRow
from eventlog.consumer.offsets import OffsetAndMetadata
from eventlog.consumer.reconciliation import GROUPS, Group, GroupView
from eventlog.errors import FencedError, SettingError
from eventlog.meta import Transaction

if TYPE_CHECKING:
    from eventlog.log.store import Store

__all__ = ["GroupView", "Groups", "Membership", "OffsetAndMetadata", "TopicPartition"]

TIMEOUT_MS_MAX = 24 * 3_600_000
PARTITION_COUNT_MAX = 1_000_000


class Groups:
    """The consumer groups of a store. Made by the store as ``log.groups``; thread-safe.

    The environment is opened when it is first needed. A handle is refused in a forked child.

    Args:
        log: the store; its ``groups/`` holds the state. Open for reading only it can be asked, not changed.
        monotonic_ns: the clock of heartbeats: nanoseconds, the same for all processes of one boot.

    Every method raises CorruptionError where ``groups/`` is damaged (it says what to do; nothing is made
    anew), ClosedError after ``close``, ForkedError after a fork.
    """

    def __init__(self, log: Store, *, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._store = GroupStore(log, monotonic_ns)

    def join(
        self,
        group: str,
        topics: Mapping[str, int],
        *,
        instance_id: str | None = None,
        client_id: str = "",
        session_timeout_ms: int = 45_000,
        heartbeat_interval_ms: int = 3_000,
        rebalance_timeout_ms: int = 300_000,
        assignors: Sequence[str] = ("range", "cooperative-sticky"),
        key_slots: int = 0,
    ) -> Membership:
        """Become a member. The first :meth:`Membership.sync` says what it owns.

        Args:
            group: its name, 1 to 249 bytes of printable text; made if there is none.
            topics: subscribed topics, and how many partitions of each are seen now (0: none yet).
            instance_id: of a static member. Joining again under it takes over its place with what is
                assigned to it, without a new generation; whoever held it before is fenced. Its place
                outlives its process until the session timeout.
            client_id: shown by ``describe``.
            session_timeout_ms: a member that is not heard of for so long is thrown out; 1 ms to a day.
                One whose process is gone is thrown out at once.
            heartbeat_interval_ms: how often ``sync`` writes a heartbeat; shorter than the session timeout.
            rebalance_timeout_ms: a member that keeps for so long what it was asked to give up is
                thrown out; 1 ms to a day.
            assignors: names from :data:`eventlog.consumer.assignment.ASSIGNORS`, the preferred first.
                Members of a group need one in common.
            key_slots: share partitions by key in so many slots, 0 to 4,096; 0: whole partitions. The
                same for all members, and for as long as the group has committed offsets.

        Raises:
            SettingError: a setting outside its limits, no common assignor, other ``key_slots``.
            InvalidNameError: not a name for a group or a static member.
            StorageReadOnlyError, StorageFullError, StorageError: it cannot be written down; then
                nothing has changed.

        Crashes: durable when this returns.
        """
        check_group_name(group)
        if instance_id is not None:
            check_group_name(instance_id)
        _check_limit("session_timeout_ms", session_timeout_ms, 1, TIMEOUT_MS_MAX)
        _check_limit("heartbeat_interval_ms", heartbeat_interval_ms, 0, session_timeout_ms - 1)
        _check_limit("rebalance_timeout_ms", rebalance_timeout_ms, 1, TIMEOUT_MS_MAX)
        _check_limit("key_slots", key_slots, 0, KEY_SLOTS_MAX)
        choose_assignor([assignors])
        _check_subscription(topics)
        member_id = f"{client_id or 'consumer'}-{uuid.uuid4()}"
        place = _members.place_of(member_id, instance_id)
        now_ns = self._store.monotonic_ns()
        with self._store.change(group) as (transaction, state):
            state.expire(now_ns, _members.is_gone, caller=place)
            if key_slots != state.row.key_slots:
                self._change_key_slots(transaction, state, key_slots)
            former = state.members.get(place)
            member = MemberRow(
                member_id,
                instance_id,
                client_id,
                _members.host_name(),
                _members.this_process(),
                session_timeout_ms,
                rebalance_timeout_ms,
                tuple(assignors),
                dict(topics),
            )
            if former is not None:
                member.held, member.target = former.held, former.target
                member.revoking_since_ns = former.revoking_since_ns
            state.put(place, member)
            state.hear(place, now_ns)
            state.note(
                logging.INFO,
                f"takes over from {former.member_id}" if former else "joins",
                member_id,
            )
            state.settle(now_ns)
        return Membership(self._store, group, member_id, instance_id, heartbeat_interval_ms, now_ns)

    @staticmethod
    def _change_key_slots(transaction: Transaction, state: Group, key_slots: int) -> None:
        if state.members or _offsets.has_any(transaction, state.name):
            had = state.row.key_slots
            raise SettingError(
                f"group {state.name!r} has key_slots={had}, not {key_slots}",
                hint="It can change only in a group without members and committed offsets: use another "
                "group, or delete this one",
                setting="key_slots",
                value=key_slots,
            )
        state.row.key_slots = key_slots

    # -- administration -------------------------------------------------------------------------

    def list(self) -> builtins.list[str]:
        """Names of all groups, sorted: those that had a member or an offset and were not deleted."""
        return self._store.names()

    def describe(self, group: str) -> GroupDescription:
        """State, members, and how far each unit is; see :class:`GroupDescription`.

        Raises UnknownGroupError.
        """
        return _admin.describe(self._store, group)

    def committed(
        self, group: str, units: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Committed offsets: the next to read, by unit. Nothing is in it for units without one.

        Args:
            group: its name; one that there is not has nothing committed.
            units: only these; None: all.

        Offsets past the end of the log (C-H) are clamped to it, logged, and reported by ``describe``;
        those of deleted topics do not count.
        """
        return _admin.committed(self._store, group, units)

    def lag(self, group: str) -> dict[TopicPartition, int]:
        """Records that can be read and lie at or past the committed offset, by unit with one.

        With key slots that is the lag of the partition as the slot sees it: records of other slots
        count too.
        """
        return _admin.lag(self._store, group)

    def commit(self, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit without being a member; makes the group if there is none. Durable on return.

        Args:
            group: its name. Live members have to commit themselves.
            offsets: by unit. In a group with key slots a whole partition means all of its slots.

        Raises:
            GroupNotEmptyError: the group has live members.
            And what :meth:`Membership.commit` raises, but FencedError.
        """
        _admin.commit(self._store, check_group_name(group), offsets)

    def reset(
        self,
        group: str,
        *,
        to: Literal["earliest", "latest"] | int | datetime,
        topics: Iterable[str | TopicPartition] | None = None,
        dry_run: bool = False,
    ) -> dict[TopicPartition, int]:
        """Move the committed offsets of an idle group. All of them or none, durable on return.

        Args:
            group: its name. One that there is not is made, if ``topics`` are named.
            to: ``"earliest"``, ``"latest"`` (the high watermark), an offset (clamped to the log, as
                Kafka's tool does), or an aware datetime: the first record of that time or later.
            topics: topics (all partitions of each) or partitions; None: all with a committed offset.
            dry_run: change nothing.

        Returns:
            The new offset of each partition. With key slots all slots of it get that offset.

        Raises:
            GroupNotEmptyError: the group has live members: stop them first.
            UnknownGroupError, UnknownTopicError, PartitionMismatchError: there is no such thing.
            SettingError: ``to`` is none of these.
        """
        return _admin.reset(self._store, check_group_name(group), to, topics, dry_run=dry_run)

    def delete(self, group: str) -> None:
        """Forget a group and its offsets.

        Raises:
            GroupNotEmptyError: it has live members.
            UnknownGroupError: there is no such group.
        """
        _admin.delete(self._store, group)

    def export_csv(self, groups: str | Iterable[str]) -> str:
        """Committed offsets as ``kafka-consumer-groups.sh --reset-offsets --export`` writes them.

        Args:
            groups: one gives lines ``topic,partition,offset``, several ``group,topic,partition,offset``.

        Returns:
            Lines without a header, by group, topic and partition. With key slots each partition has the
            least offset of its slots (a slot without one counts as the log start), so that nothing is
            skipped by whoever goes on from it.

        Raises UnknownGroupError.
        """
        return _admin.export_csv(self._store, [groups] if isinstance(groups, str) else groups)

    def import_csv(
        self, text: str, *, group: str | None = None, dry_run: bool = False
    ) -> dict[str, dict[TopicPartition, int]]:
        """Set committed offsets from what ``kafka-consumer-groups.sh --export`` wrote.

        All of them or none. Offsets outside the log are clamped to it and logged, as Kafka's tool does.

        Args:
            text: lines ``topic,partition,offset`` or ``group,topic,partition,offset``.
            group: of lines that name none; they need it.
            dry_run: change nothing.

        Returns:
            The new offsets by group and partition. With key slots all slots of a partition get it.

        Raises:
            SettingError: a line that is not of this form; ``value`` is the line.
            GroupNotEmptyError, UnknownTopicError, PartitionMismatchError: as ``reset``.
        """
        return _admin.import_csv(self._store, text, group, dry_run=dry_run)

    def verify(self) -> builtins.list[str]:
        """What is wrong with the rows kept of groups, in words: unreadable ones, committed offsets past
        the end of the log. Empty: nothing. Changes nothing."""
        return problems_of(self._store)

    def copy(self, target: Path) -> bool:
        """For a backup: all groups as they are, into a new directory. False: there are none."""
        return self._store.copy(target)

    def close(self) -> None:
        """Close the environment. Who has not left by then is thrown out at its session timeout, or once
        this process has ended. Twice is fine."""
        self._store.close()


class _Seen(NamedTuple):
    """What a member was told, and for what."""

    version: int
    owned: frozenset[TopicPartition]
    subscription: dict[str, int]
    view: GroupView


class Membership:
    """One member of a group; made by :meth:`Groups.join`. Thread-safe; refused in a forked child.

    Attributes:
        group: name of the group.
        member_id: unique for ever.
        instance_id: of a static member, else None.
    """

    def __init__(
        self,
        store: GroupStore,
        group: str,
        member_id: str,
        instance_id: str | None,
        heartbeat_interval_ms: int,
        heard_ns: int,
    ) -> None:
        self.group = group
        self.member_id = member_id
        self.instance_id = instance_id
        self._store = store
        self._place = _members.place_of(member_id, instance_id)
        self._heartbeat_interval_ns = heartbeat_interval_ms * MILLISECOND_NS
        self._heard_ns = heard_ns
        self._seen: _Seen | None = None
        self._has_left = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Membership({self.group!r}, {self.member_id!r})"

    def sync(self, owned: Collection[TopicPartition], subscription: Mapping[str, int]) -> GroupView:
        """Say what is owned and seen, hear what to own: heartbeat and reconciliation in one.

        Cheap (one read transaction of a few microseconds) when nothing changed, the group is stable and
        the last heartbeat is young enough.

        Args:
            owned: what this member owns now. What it was given and leaves out here it has let go, if it
                was to; so a caller with several threads holds a lock of its own from this call until it
                has done what the view says.
            subscription: topics, and how many partitions of each it sees now. Partitions past these
                numbers are not given to it.

        Returns:
            See :class:`GroupView`. When something changes that concerns this member ``log.activity`` wakes.

        Raises:
            FencedError: the member was thrown out, its place taken over, or the group deleted; nothing is
                owned any more. Join again.
            StorageFullError, StorageError: nothing changed; what was owned still is. Try again.
        """
        units = frozenset(owned)
        self._store.check()
        with self._lock:
            if self._has_left:
                raise self._fenced(-1, "it has left")
            seen = self._seen
            is_same = seen is not None and seen.owned == units and seen.subscription == subscription
            if not is_same:
                _check_subscription(subscription)
            now_ns = self._store.monotonic_ns()
            if now_ns - self._heard_ns < self._heartbeat_interval_ns:
                with self._store.read() as transaction:
                    if seen is not None and is_same and seen.view.is_stable:
                        row = GROUPS.get(transaction, self.group.encode())
                        if row is not None and row.version == seen.version:
                            return seen.view
                    state = Group.load(transaction, self.group)
                view = self._step(state, units, subscription, now_ns)
                if view is not None and not state.has_to_be_stored:
                    return self._remember(state, units, subscription, view)
            with self._store.change(self.group) as (_, state):
                view = self._step(state, units, subscription, now_ns)
                if view is not None:
                    state.hear(self._place, now_ns)
            if view is None:
                raise self._fenced(
                    state.row.generation, "it did not give up in time what it was to"
                )
            self._heard_ns = now_ns
            return self._remember(state, units, subscription, view)

    def _step(
        self,
        state: Group,
        owned: frozenset[TopicPartition],
        subscription: Mapping[str, int],
        now_ns: int,
    ) -> GroupView | None:
        """What this member does for the group; None: it is thrown out by it."""
        self._check_place(state.members.get(self._place), state.row.generation)
        state.acknowledge(self._place, owned, subscription)
        thrown_out = state.expire(now_ns, _members.is_gone, caller=self._place)
        state.settle(now_ns)
        if self._place in thrown_out:
            return None
        state.acquire(self._place)
        return state.view(self._place, owned)

    def _remember(
        self,
        state: Group,
        owned: frozenset[TopicPartition],
        subscription: Mapping[str, int],
        view: GroupView,
    ) -> GroupView:
        self._seen = _Seen(state.row.version, owned, dict(subscription), view)
        return view

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit offsets, all of them or none; durable when this returns.

        Args:
            offsets: by unit; the offset is the next one to read.

        Raises:
            FencedError: this member is not of the group any more, or does not own one of the units: what
                it worked on belongs to somebody else now. Nothing was committed.
            OffsetOutOfRangeError: below 0, or past what can be read.
            RecordTooLargeError: metadata of more than 4,096 bytes.
            InvalidRecordError: an offset or metadata of a wrong type.
            UnknownTopicError, PartitionMismatchError: there is no such partition.
            StorageFullError, StorageError: nothing was committed. Try again.
        """
        rows = _offsets.checked(self._store.log, offsets)
        if not rows:
            return
        key = _members.member_key(self.group, self._place)
        now_ns = self._store.monotonic_ns()
        is_heartbeat = now_ns - self._heard_ns >= self._heartbeat_interval_ns
        with self._store.write() as transaction:
            group = GROUPS.get(transaction, self.group.encode())
            generation = -1 if group is None else group.generation
            member = self._check_place(MEMBERS.get(transaction, key), generation)
            not_owned = rows.keys() - member.held
            if not_owned:
                names = ", ".join(map(_offsets.shown, sorted(not_owned)))
                raise self._fenced(generation, f"it does not own {names}")
            _offsets.put(transaction, self.group, rows)
            if is_heartbeat:
                HEARTBEATS.put(transaction, key, now_ns)
        if is_heartbeat:
            self._heard_ns = now_ns

    def leave(self, *, permanently: bool = True) -> None:
        """Leave the group: what was owned is free for others. Twice is fine, and so is after being fenced.

        Args:
            permanently: False: a static member keeps its place, and nobody gets what it owns, until it
                joins again or its session timeout passes. For others it means nothing.
        """
        self._store.check()
        with self._lock:
            if self._has_left:
                return
            if permanently or self.instance_id is None:
                now_ns = self._store.monotonic_ns()
                with self._store.change(self.group) as (_, state):
                    member = state.members.get(self._place)
                    if member is not None and member.member_id == self.member_id:
                        state.remove(self._place)
                        state.note(logging.INFO, "leaves", self.member_id)
                        state.expire(now_ns, _members.is_gone)
                        state.settle(now_ns)
            self._has_left = True

    def _check_place(self, member: MemberRow | None, generation: int) -> MemberRow:
        """The row of this member. Raises FencedError where it has none any more."""
        if self._has_left or member is None:
            raise self._fenced(generation, "it left or was thrown out")
        if member.member_id != self.member_id:
            raise self._fenced(
                generation, f"{member.member_id} joined as {self.instance_id!r} after it"
            )
        return member

    def _fenced(self, generation: int, why: str) -> FencedError:
        return FencedError(
            f"member {self.member_id} is fenced off from group {self.group!r}: {why}",
            hint="Drop what is being worked on and join again",
            group=self.group,
            member_id=self.member_id,
            generation=generation,
        )


def _check_limit(setting: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise SettingError(
            f"{setting} is {value!r}",
            hint=f"It has to be a whole number from {least:,} to {most:,}",
            setting=setting,
            value=value,
        )


def _check_subscription(subscription: Mapping[str, int]) -> None:
    for topic, count in subscription.items():
        _check_limit(f"partitions of {topic!r}", count, 0, PARTITION_COUNT_MAX)
