"""Helpers of the tests of consumer groups: a clock that is told, members that follow the protocol."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.group import Groups, Membership
from eventlog.consumer.reconciliation import GroupView

MEMORY = Path("/dev/shm")
SECOND_NS = 1_000_000_000


@contextmanager
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: no property here is about a disk."""
    directory = tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None)
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory)


class Ticking:
    """A monotonic clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now_ns = SECOND_NS

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)


def unit(partition: int, topic: str = "t", slot: int = -1) -> TopicPartition:
    return TopicPartition(topic, partition, slot)


def numbers(units: Any) -> set[int]:
    """Partitions of units of one topic."""
    return {each.partition for each in units}


@dataclass
class Member:
    """A well-behaved member: it owns what it is told, and lets go what it is told at the next sync."""

    groups: Groups
    subscription: Mapping[str, int]
    group: str = "g"
    settings: dict[str, Any] = field(default_factory=dict)
    owned: frozenset[TopicPartition] = frozenset()

    def __post_init__(self) -> None:
        self.membership: Membership = self.groups.join(
            self.group, self.subscription, **self.settings
        )

    def sync(self) -> GroupView:
        view = self.membership.sync(self.owned, self.subscription)
        self.owned = view.assigned
        return view


def settle(*members: Member, rounds: int = 4) -> None:
    """Everybody syncs until nothing moves any more."""
    for _ in range(rounds):
        views = [member.sync() for member in members]
    assert all(view.is_stable for view in views)


def in_child(work: Callable[[], object]) -> int:
    """Run it in a forked child; returns the child's pid. It ends with 0, or 1 after an exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"child: {error!r}\n")
        sys.stderr.flush()
    finally:
        os._exit(1)


def kill(pid: int) -> None:
    """SIGKILL, and wait for it."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
