"""Real processes of a group that are killed at random moments, and one that hangs.

Goal: a kill anywhere in join, sync, commit or leave leaves nothing stuck; the others go on at once; what was
acknowledged as committed is kept; and no two processes own a unit at once.

Method: an owner reads the committed offset of a unit and commits the next one, again and again, and tells
each acknowledgement through a pipe. Two owners at once would acknowledge the same offset twice.
"""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from groups_support import Member, in_child, kill, memory, unit

import eventlog
from eventlog.consumer.group import Groups, OffsetAndMetadata
from eventlog.errors import FencedError

PARTITIONS = 4
RECORDS = 20_000
_TOLD = struct.Struct("<ii")  # partition, offset


@pytest.fixture
def store() -> Iterator[Path]:
    with memory() as directory:
        path = directory / "store"
        with eventlog.open(path, durability="os") as log:
            topic = log.topic("t", partitions=PARTITIONS)
            for partition in range(PARTITIONS):
                topic.append_many([b""] * RECORDS, partition=partition)
        yield path


def work_for_ever(store: Path, told: int, seed: int) -> None:
    """A member that syncs, commits, and now and then leaves and comes again."""
    rng = random.Random(seed)
    with eventlog.open(store) as log:
        groups = Groups(log)
        while True:
            instance = rng.choice([None, None, f"static-{seed}"])
            settings = {
                "instance_id": instance,
                "heartbeat_interval_ms": 20,
                "assignors": ["sticky"],
            }
            member = Member(groups, {"t": PARTITIONS}, settings=settings)
            for _ in range(rng.randrange(5, 60)):
                member.sync()
                positions = groups.committed("g", member.owned)
                for each in member.owned:
                    offset = positions.get(each, OffsetAndMetadata(0)).offset + 1
                    member.membership.commit({each: OffsetAndMetadata(offset)})
                    os.write(told, _TOLD.pack(each.partition, offset))
            member.membership.leave()


def read_all(pipe: int, until: float = 0) -> bytes:
    data = b""
    while select.select([pipe], [], [], max(0, until - time.monotonic()))[0]:
        found = os.read(pipe, 1 << 16)
        if not found:
            break
        data += found
    return data


@pytest.mark.parametrize("rounds", [8, pytest.param(300, marks=pytest.mark.deep)])
@pytest.mark.timeout(600)
def test_killed_members_leave_nothing_stuck(store: Path, rng: random.Random, rounds: int) -> None:
    receiving, sending = os.pipe()
    acknowledged: dict[int, int] = dict.fromkeys(range(PARTITIONS), 0)
    total = 0
    for number in range(rounds):
        seeds = [rng.randrange(2**32) for _ in range(3)]
        pids = [in_child(partial(work_for_ever, store, sending, seed)) for seed in seeds]
        told = b""
        while not told:  # at least one is at work
            told += read_all(receiving, time.monotonic() + 0.05)
            assert os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        for pid in pids:
            told += read_all(receiving, time.monotonic() + rng.random() * 0.05)
            kill(pid)
        told += read_all(receiving)
        seen = [_TOLD.unpack_from(told, at) for at in range(0, len(told), _TOLD.size)]
        assert len(seen) == len(set(seen)), "two owned a unit at once"
        total += len(seen)
        for partition in range(PARTITIONS):
            mine = [offset for where, offset in seen if where == partition]
            assert mine == sorted(mine)
            assert not mine or mine[0] > acknowledged[partition], "an owner saw an old offset"
            acknowledged[partition] = max(mine, default=acknowledged[partition])
        with eventlog.open(store) as log:
            groups = Groups(log)
            committed = groups.committed("g")
            for partition, offset in acknowledged.items():
                found = committed.get(unit(partition), OffsetAndMetadata(0)).offset
                assert offset <= found <= offset + len(pids), "acknowledged and lost, or never told"
                acknowledged[partition] = found
            # Dynamic members are known to be dead; places of static ones are waited for in vain.
            for member in groups.describe("g").members:
                assert member.instance_id is not None
            late = Groups(log, monotonic_ns=lambda: time.monotonic_ns() + 60 * 10**9)
            last = Member(late, {"t": PARTITIONS}, settings={"assignors": ["sticky"]})
            assert last.sync().assigned == {unit(n) for n in range(PARTITIONS)}, number
            last.membership.leave()
            if max(acknowledged.values()) > RECORDS // 2:  # before they run out of records
                late.reset("g", to="earliest")
                acknowledged = dict.fromkeys(acknowledged, 0)
            late.close()
            groups.close()
    assert total > rounds
    os.close(receiving)
    os.close(sending)


def test_a_process_that_hung_is_fenced_when_it_wakes(store: Path) -> None:
    def hang() -> None:
        with eventlog.open(store) as log:
            groups = Groups(log)
            member = Member(groups, {"t": PARTITIONS})
            member.sync()
            os.kill(os.getpid(), signal.SIGSTOP)
            for refused in (
                lambda: member.membership.commit({unit(0): OffsetAndMetadata(1)}),
                member.sync,
            ):
                with pytest.raises(FencedError):
                    refused()
            member.__post_init__()
            member.owned = frozenset()
            member.sync()
            groups.close()

    pid = in_child(hang)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    with eventlog.open(store) as log:
        groups = Groups(log)
        two = Member(groups, {"t": PARTITIONS})
        assert two.sync().assigned == frozenset(), "its process is there"
        late = Groups(log, monotonic_ns=lambda: time.monotonic_ns() + 60 * 10**9)
        three = Member(late, {"t": PARTITIONS})
        while len(three.owned) < PARTITIONS:
            three.sync()
        three.membership.commit({unit(0): OffsetAndMetadata(7)})
        os.kill(pid, signal.SIGCONT)
        assert os.waitpid(pid, 0)[1] == 0
        assert groups.committed("g") == {unit(0): OffsetAndMetadata(7)}
        late.close()
        groups.close()
