"""Members of a group as rows, and whether the process that a row belongs to still runs.

A killed process says no goodbye. Whoever looks at the group next finds out by itself: a process of another
boot is gone, and so is one of our pid namespace whose pid is free, or taken by a process with another start
time. Where neither can be told (another container) the session timeout decides.
"""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

import msgspec

from eventlog.consumer.assignment import TopicPartition
from eventlog.meta import StructTable, Transaction

MILLISECOND_NS = 1_000_000
_START_TIME_FIELD = 19
"""Of /proc/<pid>/stat, counted behind the name of the program (which may hold anything)."""


class ProcessIdentity(msgspec.Struct, frozen=True):
    """Which process, of all that this machine will ever run.

    Attributes:
        pid: its number in its namespace.
        started: its start time in clock ticks since the boot; empty: unknown.
        namespace: of its pid; empty: unknown.
        boot_id: the boot of the machine.
    """

    pid: int
    started: str
    namespace: str
    boot_id: str


class MemberRow(msgspec.Struct):
    """A member as the group knows it.

    Attributes:
        member_id: of the present holder of the place.
        instance_id: of a static member.
        client_id, host, process: who it is, to be shown; ``process`` also tells whether it lives.
        session_timeout_ms, rebalance_timeout_ms: it is thrown out after so long without a heartbeat,
            or when it has kept for so long what it was asked to give up.
        assignors: that it takes, the preferred first.
        subscription: topics and how many partitions of each it saw.
        held: what it may own: given to it, and not given up since. No two members hold one unit.
        target: what it shall own.
        revoking_since_ns: since when it holds more than that; None: it does not.
    """

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    process: ProcessIdentity
    session_timeout_ms: int
    rebalance_timeout_ms: int
    assignors: tuple[str, ...]
    subscription: dict[str, int]
    held: frozenset[TopicPartition] = frozenset()
    target: frozenset[TopicPartition] = frozenset()
    revoking_since_ns: int | None = None

    @property
    def reachable_target(self) -> frozenset[TopicPartition]:
        """The target without partitions that it has not seen yet: those it could not open."""
        counts = self.subscription
        return frozenset(unit for unit in self.target if unit.partition < counts.get(unit.topic, 0))


MEMBERS = StructTable("members", MemberRow)
HEARTBEATS = StructTable("heartbeats", int)
"""Apart from the members: a heartbeat changes a few bytes, and nothing that others have to look at."""


def member_key(group: str, place: str) -> bytes:
    """Key of a member's rows."""
    return b"\0".join((group.encode(), place.encode()))


def place_of(member_id: str, instance_id: str | None) -> str:
    """The place in the group: a static member's outlives the process that holds it."""
    return f"m{member_id}" if instance_id is None else f"i{instance_id}"


def members_of(transaction: Transaction, group: str) -> dict[str, MemberRow]:
    """Members by place."""
    prefix = group.encode() + b"\0"
    rows = MEMBERS.items(transaction, prefix=prefix)
    return {key[len(prefix) :].decode(): row for key, row in rows}


def heartbeats_of(transaction: Transaction, group: str) -> dict[str, int]:
    """When each was last heard of, by place; nanoseconds of the monotonic clock."""
    prefix = group.encode() + b"\0"
    rows = HEARTBEATS.items(transaction, prefix=prefix)
    return {key[len(prefix) :].decode(): row for key, row in rows}


def this_process() -> ProcessIdentity:
    """The calling process. Not kept: a forked child is another one."""
    pid = os.getpid()
    _, started = _stat(pid)
    return ProcessIdentity(pid, started, _pid_namespace(), boot_id())


def host_name() -> str:
    """Of this machine, to be shown."""
    return socket.gethostname()


def is_gone(process: ProcessIdentity) -> bool:
    """Whether a process is known to run no more; False where it cannot be known."""
    if process.boot_id != boot_id():
        return True
    if not process.namespace or process.namespace != _pid_namespace():
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is another user's
    state, started = _stat(process.pid)
    if not started:
        return False  # hidden from us, or gone a moment ago: then the next look tells
    return state in "ZX" or started != process.started


@functools.cache
def boot_id() -> str:
    """Of this boot of the machine; empty where the system has none."""
    return _read(Path("/proc/sys/kernel/random/boot_id"))


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """State and start time of a process; empty: unknown."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (fields[0], fields[_START_TIME_FIELD]) if len(fields) > _START_TIME_FIELD else ("", "")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
