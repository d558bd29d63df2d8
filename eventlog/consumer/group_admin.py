"""Groups seen from outside: what they are doing, and moving their offsets while nobody is at work."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from eventlog.consumer import members as _members
from eventlog.consumer import offsets as _offsets
from eventlog.consumer import offsets_csv
from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.group_store import GroupStore, check_group_name
from eventlog.consumer.members import MILLISECOND_NS
from eventlog.consumer.offsets import Committed, OffsetAndMetadata, OffsetRow
from eventlog.consumer.reconciliation import GROUPS, Group, units_of
from eventlog.errors import (
    GroupNotEmptyError,
    PartitionMismatchError,
    SettingError,
    UnknownGroupError,
    UnknownTopicError,
)
from eventlog.meta import Transaction

if TYPE_CHECKING:
    from eventlog.log.store import Store

_logger = logging.getLogger("eventlog.consumer")


@dataclass(frozen=True, slots=True)
class MemberDescription:
    """A live member of a group.

    Attributes:
        member_id: unique for ever.
        instance_id: of a static member, else None.
        client_id: as it called itself.
        host: name of the machine or container.
        pid: of its process, as that sees itself.
        topics: that it is subscribed to.
        owned: units that it owns, or may own from its next ``sync`` on.
        target: units that it shall own.
        heartbeat_age_ms: since when nothing was heard of it.
    """

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    pid: int
    topics: tuple[str, ...]
    owned: frozenset[TopicPartition]
    target: frozenset[TopicPartition]
    heartbeat_age_ms: int


@dataclass(frozen=True, slots=True)
class PartitionDescription:
    """How far a group is in a unit.

    Attributes:
        unit: partition, or one of its key slots.
        member_id: of the owner; None: nobody.
        committed: the next offset to read, clamped to the log; None: nothing was committed.
        metadata: that was committed with it.
        log_start_offset: first offset kept.
        log_end_offset: records below it can be read.
        lag: records from ``committed`` to the end; None: nothing was committed.
        problem: what is wrong with the committed offset; empty: nothing.
    """

    unit: TopicPartition
    member_id: str | None
    committed: int | None
    metadata: str
    log_start_offset: int
    log_end_offset: int
    lag: int | None
    problem: str


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A group at one moment, without members that are dead but not thrown out yet.

    Attributes:
        group: its name.
        state: Kafka's word. ``"Empty"``: no members. ``"PreparingRebalance"``: units wait for their owner to
            give them up. ``"CompletingRebalance"``: free units wait for their new owner. ``"Stable"``.
        generation: goes up when targets change.
        assignor: that made them; empty: no members.
        key_slots: of each partition; 0: partitions are not shared by key.
        members: by member id.
        partitions: owned ones, targets and those with a committed offset, in order.
    """

    group: str
    state: str
    generation: int
    assignor: str
    key_slots: int
    members: tuple[MemberDescription, ...]
    partitions: tuple[PartitionDescription, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with committed offsets."""
        return tuple(each.problem for each in self.partitions if each.problem)


def describe(store: GroupStore, name: str) -> GroupDescription:
    """See :meth:`eventlog.consumer.group.Groups.describe`."""
    now_ns = store.monotonic_ns()
    with store.read() as transaction:
        group = _known(transaction, name)
        rows = _offsets.rows_of(transaction, name)
    group.expire(now_ns, _members.is_gone)  # as the next member to look will; nothing is written
    group.settle(now_ns)
    members = tuple(
        MemberDescription(
            member.member_id,
            member.instance_id,
            member.client_id,
            member.host,
            member.process.pid,
            tuple(sorted(member.subscription)),
            member.held,
            member.target,
            (now_ns - group.heartbeats.get(place, now_ns)) // MILLISECOND_NS,
        )
        for place, member in group.members.items()
    )
    return GroupDescription(
        name,
        group.state,
        group.row.generation,
        group.row.assignor,
        group.row.key_slots,
        tuple(sorted(members, key=lambda member: member.member_id)),
        tuple(
            _partitions(
                store.log, members, _offsets.beside_log(store.log, name, rows, store.reported)
            )
        ),
    )


def _partitions(
    log: Store,
    members: Iterable[MemberDescription],
    committed: Mapping[TopicPartition, Committed],
) -> Iterable[PartitionDescription]:
    owners = {unit: member.member_id for member in members for unit in member.owned}
    targets = {unit for member in members for unit in member.target}
    for unit in sorted(owners.keys() | targets | committed.keys()):
        found = committed.get(unit)
        try:
            there = found.standing if found else _offsets.standing(log, unit.topic, unit.partition)
        except (UnknownTopicError, PartitionMismatchError):
            continue  # a topic that was just deleted, or one that we do not see yet
        yield PartitionDescription(
            unit,
            owners.get(unit),
            found.value.offset if found else None,
            found.value.metadata if found else "",
            there.log_start_offset,
            there.high_watermark,
            there.high_watermark - found.value.offset if found else None,
            found.problem if found else "",
        )


def committed(
    store: GroupStore, name: str, units: Iterable[TopicPartition] | None = None
) -> dict[TopicPartition, OffsetAndMetadata]:
    """See :meth:`eventlog.consumer.group.Groups.committed`."""
    return {unit: each.value for unit, each in _committed(store, name, units).items()}


def lag(store: GroupStore, name: str) -> dict[TopicPartition, int]:
    """See :meth:`eventlog.consumer.group.Groups.lag`."""
    return {
        unit: each.standing.high_watermark - each.value.offset
        for unit, each in _committed(store, name).items()
    }


def _committed(
    store: GroupStore, name: str, units: Iterable[TopicPartition] | None = None
) -> dict[TopicPartition, Committed]:
    # The log is looked at after the rows: it can only have gone on, so nothing is clamped by mistake.
    with store.read() as transaction:
        rows = _offsets.rows_of(transaction, name, units)
    return _offsets.beside_log(store.log, name, rows, store.reported)


def commit(
    store: GroupStore, name: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]
) -> None:
    """See :meth:`eventlog.consumer.group.Groups.commit`."""
    _write(store, {name: _offsets.checked(store.log, offsets)})


def reset(
    store: GroupStore,
    name: str,
    to: object,
    topics: Iterable[str | TopicPartition] | None,
    *,
    dry_run: bool,
) -> dict[TopicPartition, int]:
    """See :meth:`eventlog.consumer.group.Groups.reset`."""
    _check_target(to)
    with store.read() as transaction:
        if topics is None:
            _known(transaction, name)
        _check_idle(store, Group.load(transaction, name))
        rows = _offsets.rows_of(transaction, name)
    if topics is None:
        places = {unit[:2] for unit in _offsets.beside_log(store.log, name, rows, store.reported)}
    else:
        places = _partitions_of(store.log, [topics] if isinstance(topics, str) else topics)
    plan = {
        TopicPartition(topic, partition): _offset_for(store.log, topic, partition, to)
        for topic, partition in sorted(places)
    }
    if not dry_run:
        _write(store, {name: _rows(store.log, plan)})
        _logger.info("group %s: offsets reset to %s", name, to, extra={"group": name})
    return plan


def delete(store: GroupStore, name: str) -> None:
    """See :meth:`eventlog.consumer.group.Groups.delete`."""
    with store.write() as transaction:
        group = _known(transaction, name)
        _check_idle(store, group)
        for place in list(group.members):
            group.remove(place)
        group.store(transaction)
        _offsets.clear(transaction, name)
        GROUPS.delete(transaction, name.encode())
    _logger.info("group %s: deleted", name, extra={"group": name})
    store.log.activity.wake()


def export_csv(store: GroupStore, names: Iterable[str]) -> str:
    """See :meth:`eventlog.consumer.group.Groups.export_csv`."""
    plans: dict[str, dict[TopicPartition, int]] = {}
    for name in names:
        with store.read() as transaction:
            key_slots = _known(transaction, name).row.key_slots
            rows = _offsets.rows_of(transaction, name)
        found = _offsets.beside_log(store.log, name, rows, store.reported)
        plan = plans[name] = {}
        for unit, each in found.items():
            whole = TopicPartition(unit.topic, unit.partition)
            is_complete = all(
                part in found for part in units_of(key_slots, unit.topic, unit.partition)
            )
            offset = each.value.offset if is_complete else each.standing.log_start_offset
            plan[whole] = min(offset, plan.get(whole, offset))
    return offsets_csv.write(plans)


def import_csv(
    store: GroupStore, text: str, group: str | None, *, dry_run: bool
) -> dict[str, dict[TopicPartition, int]]:
    """See :meth:`eventlog.consumer.group.Groups.import_csv`."""
    plans: dict[str, dict[TopicPartition, int]] = {}
    for name, partitions in offsets_csv.read(text, group).items():
        check_group_name(name)
        with store.read() as transaction:
            _check_idle(store, Group.load(transaction, name))
        plans[name] = {
            whole: _offset_for(store.log, whole.topic, whole.partition, offset)
            for whole, offset in partitions.items()
        }
    if not dry_run:
        _write(store, {name: _rows(store.log, plan) for name, plan in plans.items()})
        for name in plans:
            _logger.info("group %s: offsets imported", name, extra={"group": name})
    return plans


def _known(transaction: Transaction, name: str) -> Group:
    """The group, if there is one."""
    group = Group.load(transaction, check_group_name(name))
    if not group.exists:
        known = ", ".join(key.decode() for key in GROUPS.keys(transaction)) or "none"
        raise UnknownGroupError(
            f"there is no consumer group {name!r}", hint=f"Known are: {known}", group=name
        )
    return group


def _check_idle(store: GroupStore, group: Group) -> None:
    """Refuse where there are live members; dead ones are taken out."""
    now_ns = store.monotonic_ns()
    group.expire(now_ns, _members.is_gone)
    if group.members:
        names = tuple(sorted(member.member_id for member in group.members.values()))
        raise GroupNotEmptyError(
            f"consumer group {group.name!r} has live members: {', '.join(names)}",
            hint="Stop them first, or wait for their session timeout",
            group=group.name,
            members=names,
        )
    group.settle(now_ns)


def _write(store: GroupStore, plan: Mapping[str, Mapping[TopicPartition, OffsetRow]]) -> None:
    """Set offsets of idle groups, all in one transaction; groups are made where there are none."""
    groups = []
    with store.write() as transaction:
        for name, rows in plan.items():
            group = Group.load(transaction, name)
            _check_idle(store, group)
            spread = {
                part: row
                for unit, row in rows.items()
                for part in _spread(group.row.key_slots, unit)
            }
            _offsets.put(transaction, name, spread)
            group.store(transaction)
            groups.append(group)
    for group in groups:
        store.tell(group)


def _spread(key_slots: int, unit: TopicPartition) -> Iterable[TopicPartition]:
    """The units of a group that one which was named means."""
    if unit.slot < 0:
        return units_of(key_slots, unit.topic, unit.partition)
    if unit.slot >= key_slots:
        raise PartitionMismatchError(
            f"{_offsets.shown(unit)} is no unit of the group: it has {key_slots} key slots",
            hint="Name whole partitions, or slots that it has",
            topic=unit.topic,
            partition=unit.partition,
        )
    return (unit,)


def _rows(log: Store, plan: Mapping[TopicPartition, int]) -> dict[TopicPartition, OffsetRow]:
    return _offsets.checked(log, {unit: OffsetAndMetadata(to) for unit, to in plan.items()})


def _partitions_of(log: Store, topics: Iterable[str | TopicPartition]) -> set[tuple[str, int]]:
    places: set[tuple[str, int]] = set()
    for each in topics:
        if isinstance(each, str):
            count = _offsets.topic_of(log, each).partition_count
            places.update((each, number) for number in range(count))
        else:
            places.add((each.topic, each.partition))
    return places


def _check_target(to: object) -> None:
    is_time = isinstance(to, datetime) and to.tzinfo is not None
    if to in ("earliest", "latest") or is_time or (type(to) is int and to >= 0):
        return
    raise SettingError(
        f"offsets cannot be reset to {to!r}",
        hint='Pass "earliest", "latest", an offset (0 or more), or a datetime with a time zone',
        setting="to",
        value=to,
    )


def _offset_for(log: Store, topic: str, partition: int, to: object) -> int:
    """The offset that ``to`` means in a partition, inside the log."""
    there = _offsets.standing(log, topic, partition)
    if to == "earliest":
        return there.log_start_offset
    if isinstance(to, datetime):
        found = _offsets.topic_of(log, topic).offset_for_time(
            max(0, int(to.timestamp() * 1000)), partition
        )
        return min(found, there.high_watermark)
    if not isinstance(to, int):
        return there.high_watermark
    offset = min(max(to, there.log_start_offset), there.high_watermark)
    if offset != to:
        _logger.warning(
            "offset %d of %s-%d is outside the log, taken as %d",
            to,
            topic,
            partition,
            offset,
            extra={"topic": topic, "partition": partition},
        )
    return offset
