"""Every operation of a join, a rebalance, a commit and a leave fails once: the group is as before or as after.

Method: the n-th call on a write transaction raises, or its commit does, or the caller fails right after the
commit. All rows are compared with those before; then nothing fails any more, and the group goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from groups_support import Member, Ticking, memory, settle, unit

import eventlog
from eventlog.consumer.group import Groups, OffsetAndMetadata
from eventlog.consumer.group_store import TABLES
from eventlog.errors import EventLogError, StorageFullError
from eventlog.meta import Environment, Transaction

PARTITIONS = 4


class Scene:
    """A group with a member that owns all, one that is to get half, and a dead one."""

    def __init__(self, log: eventlog.EventLog, name: str) -> None:
        self.name = name
        self.clock = Ticking()
        self.groups = Groups(log, monotonic_ns=self.clock)
        self.one = self.join(instance_id="1")
        self.one.sync()
        self.two = self.join(instance_id="2")
        self.dead = self.join(session_timeout_ms=10)
        self.clock.advance(1)

    def join(self, **settings: Any) -> Member:
        settings.setdefault("heartbeat_interval_ms", 5)
        return Member(self.groups, {"t": PARTITIONS}, self.name, settings)

    def give_up(self) -> None:
        self.one.sync()
        self.one.sync()

    def acquire(self) -> None:
        self.two.sync()

    def commit(self) -> None:
        self.one.membership.commit(
            {each: OffsetAndMetadata(each.partition, "m") for each in self.one.owned}
        )

    def join_again(self) -> None:
        self.two = self.join(instance_id="2")

    def come_new(self) -> None:
        self.join(session_timeout_ms=10)

    def leave(self) -> None:
        self.two.membership.leave()

    def reset(self) -> None:
        self.groups.reset("idle", to="latest", topics=["t"])

    def delete(self) -> None:
        self.groups.delete("idle")

    def rows(self, log: eventlog.EventLog) -> dict[tuple[str, bytes], bytes]:
        with (
            Environment.open(log.path / "groups", is_derived=False) as environment,
            environment.read(*TABLES) as transaction,
        ):
            return {
                (table, key): value for table in TABLES for key, value in transaction.items(table)
            }

    def goes_on(self) -> None:
        """Whatever failed: everybody syncs, and all is well."""
        for _ in range(6):
            for member in (self.one, self.two):
                try:
                    member.sync()
                except EventLogError:
                    member.__post_init__()  # it left, or was replaced
                    member.owned = frozenset()
        self.clock.advance(1)
        settle(self.one, self.two)
        assert self.one.owned | self.two.owned == {unit(n) for n in range(PARTITIONS)}
        assert not self.one.owned & self.two.owned
        self.commit()
        committed = self.groups.committed(self.name)
        for each in self.one.owned:
            assert committed[each] == OffsetAndMetadata(each.partition, "m")


class Faults:
    """Fails at one of the calls on write transactions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.fail_at = -1
        self.was_committed = False
        for name in ("get", "put", "delete", "items"):
            self._wrap(monkeypatch, name)
        leave = Transaction.__exit__

        def exit_(transaction: Transaction, kind: Any, error: Any, trace: Any) -> None:
            if not transaction._is_writing or kind is not None:
                leave(transaction, kind, error, trace)
                return
            try:
                self.hit()
            except StorageFullError as failure:
                leave(transaction, type(failure), failure, None)
                raise
            leave(transaction, None, None, None)
            self.was_committed = True
            self.hit()

        monkeypatch.setattr(Transaction, "__exit__", exit_)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        method = getattr(Transaction, name)

        def call(transaction: Transaction, *arguments: Any, **named: Any) -> Any:
            if transaction._is_writing:
                self.hit()
            return method(transaction, *arguments, **named)

        monkeypatch.setattr(Transaction, name, call)

    def hit(self) -> None:
        if self.count == self.fail_at:
            self.count += 1
            raise StorageFullError("no room")
        self.count += 1

    @contextmanager
    def at(self, number: int) -> Iterator[None]:
        self.count, self.fail_at, self.was_committed = 0, number, False
        try:
            yield
        finally:
            self.fail_at = -1


STEPS: dict[str, list[str]] = {
    "come_new": [],
    "give_up": [],
    "acquire": ["give_up"],
    "commit": ["give_up"],
    "join_again": ["give_up", "acquire"],
    "leave": ["give_up", "acquire"],
    "reset": [],
    "delete": ["reset"],
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_happens_or_does_not(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(monkeypatch)
    with memory() as directory, eventlog.open(directory / "store") as log:
        topic = log.topic("t", partitions=PARTITIONS)
        for partition in range(PARTITIONS):
            topic.append_many([b"x"] * 10, partition=partition)
        number, is_over = 0, False
        while not is_over:
            scene = Scene(log, f"g{number}")
            for before_it in STEPS[step]:
                getattr(scene, before_it)()
            before = scene.rows(log)
            try:
                with faults.at(number):
                    getattr(scene, step)()
                is_over = True
            except StorageFullError:
                is_same = scene.rows(log) == before
                assert is_same != faults.was_committed
            scene.goes_on()
            number += 1
            scene.groups.close()
        assert number > 4
        assert scene.rows(log) != before


def test_what_fails_while_it_is_looked_at_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with memory() as directory, eventlog.open(directory / "store") as log:
        log.topic("t", partitions=PARTITIONS)
        scene = Scene(log, "g")
        before = scene.rows(log)
        broken: Callable[..., Any] = Transaction.get

        def get(*_: Any) -> bytes:
            raise StorageFullError("no room")

        monkeypatch.setattr(Transaction, "get", get)
        for look in (scene.one.sync, lambda: scene.groups.describe("g")):
            with pytest.raises(StorageFullError):
                look()
        monkeypatch.setattr(Transaction, "get", broken)
        assert scene.rows(log) == before
        scene.groups.close()
