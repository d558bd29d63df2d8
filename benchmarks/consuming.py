"""A process of test_consumers.py: takes records from a log that lies ready."""

from __future__ import annotations

import select
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from crew import Figures, take_part

import eventlog
from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.consumer import Consumer

TOPIC = "consumed"
POLL_COUNT = 500
COMMIT_COUNT = 10_000
JOIN_POLL_S = 0.01


def memory_mb(name: str) -> float:
    """A line of /proc/self/status: VmHWM (the most that was resident ever, with the mapped files that were
    read and that the kernel takes back when it needs the memory), RssAnon (our own) ..."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1000
    return 0.0


def as_member(path: str, group: str, members: str, share: str) -> None:
    """In a group with others, each with its part of the partitions, take so many records."""
    has_begun = threading.Event()

    def wait_for_the_others(consumer: Consumer, units: Collection[TopicPartition]) -> None:
        if not has_begun.is_set():
            consumer.pause(*units)

    with (
        eventlog.open(path) as log,
        log.consumer(group, TOPIC, on_assigned=wait_for_the_others) as consumer,
    ):

        def is_settled() -> bool:
            found = log.groups.describe(group)
            return found.state == "Stable" and len(found.members) == int(members)

        def meanwhile() -> None:
            """Do the group's work until all are ready."""
            while not select.select([sys.stdin], [], [], 0)[0]:
                consumer.poll(JOIN_POLL_S)
            sys.stdin.readline()

        def run() -> None:
            has_begun.set()
            consumer.resume(*consumer.assignment)
            left, uncommitted = int(share), 0
            while left > 0:
                count = len(consumer.poll(1.0, POLL_COUNT))
                left -= count
                uncommitted += count
                if uncommitted >= COMMIT_COUNT or not left:
                    consumer.commit()
                    uncommitted = 0

        consumer.poll()
        while not is_settled():
            consumer.poll(JOIN_POLL_S)
        take_part(run, meanwhile)


def with_memory(path: str, group: str, count: str) -> None:
    """As the only consumer take so many records, and say how much memory that took."""
    with eventlog.open(path) as log, log.consumer(group, TOPIC) as consumer:

        def run() -> Figures:
            left, own_mb, next_look = int(count), 0.0, 0
            while left > 0:
                left -= len(consumer.poll(1.0, POLL_COUNT))
                if left <= next_look or not next_look:
                    own_mb = max(own_mb, memory_mb("RssAnon"))
                    next_look = left - COMMIT_COUNT
            return {"own_mb": own_mb, "peak_mb": memory_mb("VmHWM"), "before_mb": before_mb}

        before_mb = memory_mb("VmRSS")
        take_part(run)


TASKS: dict[str, Callable[..., None]] = {"member": as_member, "memory": with_memory}


if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])
