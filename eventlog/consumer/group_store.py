"""Where groups are kept: an LMDB environment of their own, ``groups/`` in the store's directory.

Unlike ``meta/`` it is derived from nothing: what is damaged is an error, never quietly made anew. It is apart
from ``meta/`` because LMDB takes one writer at a time, and a long checkpoint of an index must not keep
heartbeats waiting.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.members import HEARTBEATS, MEMBERS
from eventlog.consumer.offsets import OFFSETS
from eventlog.consumer.reconciliation import GROUPS, Group
from eventlog.errors import (
    ClosedError,
    CorruptionError,
    ForkedError,
    InvalidNameError,
    StorageReadOnlyError,
)
from eventlog.meta import Environment, Transaction

if TYPE_CHECKING:
    from eventlog.log.store import Store

_logger = logging.getLogger("eventlog.consumer")

NAME_SIZE_BYTES_MAX = 249
TABLES = (GROUPS.name, MEMBERS.name, HEARTBEATS.name, OFFSETS.name)


class GroupStore:
    """Transactions on the groups of a store. Thread-safe; refused after a fork.

    Args:
        log: the store.
        monotonic_ns: nanoseconds of a clock that all processes of this boot share.

    Attributes:
        reported: committed offsets past the end of the log that were logged already.
    """

    def __init__(self, log: Store, monotonic_ns: Callable[[], int]) -> None:
        self.log = log
        self.monotonic_ns = monotonic_ns
        self.reported: set[tuple[str, TopicPartition, int]] = set()
        self._environment: Environment | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._is_closed = False
        self._has_tables = False

    @property
    def path(self) -> Path:
        """The directory."""
        return self.log.path / "groups"

    def check(self) -> None:
        """Before a lock is taken: one that another thread held at a fork stays held in the child.

        Raises ClosedError and ForkedError.
        """
        if os.getpid() != self._pid:
            raise ForkedError(
                f"the groups of {self.log.path} were opened by process {self._pid}; this is a fork of it",
                hint="Open the store after the fork, in the process that uses it",
                path=str(self.path),
            )
        if self._is_closed:
            raise ClosedError("the groups of the store are closed", hint="Open the store again")

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read transaction on all tables. Raises CorruptionError, StorageError."""
        with self._named_damage():
            environment = self._opened()
            with environment.read(*TABLES) as transaction:
                yield transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A write transaction: durable when it ends, undone when it raises.

        Raises StorageReadOnlyError, StorageFullError, CorruptionError, StorageError.
        """
        if self.log.read_only:
            raise StorageReadOnlyError(
                f"the groups of {self.log.path} are open for reading only",
                hint="Open the store without read_only=True",
                path=str(self.path),
            )
        with self._named_damage():
            environment = self._opened()
            with environment.write() as transaction:
                if not self._has_tables:
                    # Looking for a table that nobody has made takes LMDB's write lock, each time.
                    for table in TABLES:
                        transaction.count(table)
                yield transaction
            self._has_tables = True

    @contextmanager
    def change(self, name: str) -> Iterator[tuple[Transaction, Group]]:
        """A write transaction on one group, which is stored at its end; then others are told."""
        with self.write() as transaction:
            self._opened().check_readers()  # gives back what killed processes were reading
            group = Group.load(transaction, name)
            yield transaction, group
            if group.has_to_be_stored:
                group.store(transaction)
        self.tell(group)

    def tell(self, group: Group) -> None:
        """After the commit: log what happened, wake those who have to look."""
        for event in group.events:
            about = f"member {event.member_id} " if event.member_id else ""
            _logger.log(
                event.level,
                "group %s: %s%s (generation %d)",
                group.name,
                about,
                event.message,
                event.generation,
                extra={
                    "group": group.name,
                    "member_id": event.member_id,
                    "generation": event.generation,
                },
            )
        if group.has_changed:
            self.log.activity.wake()

    def names(self) -> list[str]:
        """All groups, sorted."""
        with self.read() as transaction:
            return [key.decode() for key in GROUPS.keys(transaction)]

    def copy(self, target: Path) -> bool:
        """Copy all that is committed to a new directory, durably; False: there are no groups yet, and
        nothing is made. Raises CorruptionError, StorageError."""
        self.check()
        if not self.path.exists():
            return False
        with self._named_damage():
            self._opened().copy(target)
        return True

    def close(self) -> None:
        """Close the environment. Twice is fine."""
        self._is_closed = True
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._environment is not None:
                self._environment.close()
                self._environment = None

    def _opened(self) -> Environment:
        self.check()
        environment = self._environment
        if environment is None:
            with self._lock:
                if self._environment is None:
                    self._environment = Environment.open(
                        self.path, read_only=self.log.read_only, is_derived=False
                    )
                environment = self._environment
        return environment

    @contextmanager
    def _named_damage(self) -> Iterator[None]:
        try:
            yield
        except CorruptionError as error:
            raise CorruptionError(
                f"consumer groups in {self.path} are damaged: {error.message}",
                hint="Restore the directory from a backup, or close all processes that use the store and "
                "move it away: the groups then begin without committed offsets",
                path=str(self.path),
                case="C-H",
            ) from error


def check_group_name(name: object) -> str:
    """The argument, if it can be the name of a group (or of a static member).

    Raises:
        InvalidNameError: it cannot.
    """
    if isinstance(name, str) and name and name.isprintable():
        try:
            if len(name.encode()) <= NAME_SIZE_BYTES_MAX:
                return name
        except UnicodeEncodeError:
            pass
    raise InvalidNameError(
        f"{name!r} cannot be the name of a group or of its member",
        hint=f"Use 1 to {NAME_SIZE_BYTES_MAX} bytes of printable text",
        name=name,
    )
