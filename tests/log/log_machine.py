"""The whole log as a state machine: several handles, several processes, a group, and crashes.

The model is a list of values for each partition, how many of them are surely durable, and what the group
has committed. test_log_state_machine.py runs it as it is, tests/fault with power cuts as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from log_support import SMALL, abandon, child, scratch, stop_flusher, values

import eventlog
from eventlog.consumer import members
from eventlog.consumer.assignment import TopicPartition
from eventlog.errors import ForkedError

PARTITIONS_MAX = 4
HANDLES_MAX = 3
CONSUMERS_MAX = 3
CRASHED = {"C-B", "C-C", "C-E", "C-F"}
DURABILITIES = ("sync", "os")
which = st.integers(0, 11)
durability = st.sampled_from(DURABILITIES)
count = st.integers(1, 4)


class Partition:
    """What was appended to one partition, and what is sure of it."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.ends: list[int] = [0]  # of its batches
        self.durable = 0  # at least
        self.committed = 0

    def append(self, batch: list[bytes]) -> None:
        self.values += batch
        self.ends.append(len(self.values))

    def is_durable(self) -> None:
        self.durable = len(self.values)


class Member:
    """A consumer, and where it has to go on in each partition that it was given."""

    def __init__(self, model: list[Partition], handle: eventlog.EventLog) -> None:
        self.model = model
        self.handle = handle
        self.next: dict[int, int] = {}
        self.consumer = handle.consumer(
            "g",
            "t",
            on_assigned=lambda _, units: self.gain(units),
            on_revoked=lambda _, units: self.lose(units),
            on_lost=lambda _, units: self.lose(units),
        )

    def gain(self, units: frozenset[TopicPartition]) -> None:
        for unit in units:
            assert unit.partition not in self.next, "given what it had"
            self.next[unit.partition] = self.model[unit.partition].committed

    def lose(self, units: frozenset[TopicPartition]) -> None:
        for unit in units:
            del self.next[unit.partition]

    def poll(self, most: int) -> int:
        """Take records: the next ones in each partition."""
        records = self.consumer.poll(0, max_records=most)
        for record in records:
            assert record.offset == self.next[record.partition], "skipped, or given again"
            assert record.value == self.model[record.partition].values[record.offset]
            self.next[record.partition] += 1
        return len(records)

    def commit(self) -> None:
        self.consumer.commit()
        for number, offset in self.next.items():
            self.model[number].committed = offset


class LogMachine(RuleBasedStateMachine):
    """See above."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.root = self.stack.enter_context(scratch())
        self.store = self.root / "store"
        self.model: list[Partition] = []
        self.handles: list[eventlog.EventLog] = []
        self.readers: list[eventlog.EventLog] = []
        self.members: list[Member] = []
        self.number = 0
        self.is_clean = True

    @initialize(durability=durability, partitions=st.integers(1, 2))
    def begin(self, durability: Any, partitions: int) -> None:
        self.open()
        self.durability = durability
        self.handles[0].topic("t", partitions=partitions, durability=durability, **SMALL)
        self.model += [Partition() for _ in range(partitions)]

    # -- helpers --------------------------------------------------------------------------------

    def open(self) -> eventlog.EventLog:
        is_first = not self.handles
        log = eventlog.open(self.store)
        stop_flusher(log)  # what is synced, and when, is for the rules to decide
        self.handles.append(log)
        if self.model:
            found = {report.case for report in log.recovery}
            if not is_first:
                assert found == set(), "it recovered beside another one"
            elif self.is_clean:
                assert found == {"C-A"}
            else:
                assert found
                assert found <= CRASHED
        self.is_clean = False
        return log

    def handle(self, number: int) -> eventlog.EventLog:
        return self.handles[number % len(self.handles)]

    def topic(self, number: int) -> Any:
        return self.handle(number).topic("t")

    def batch(self, count: int, size: int = 60) -> list[bytes]:
        self.number += 1
        return [(b"%d.%d " % (self.number, part)).ljust(size, b".") for part in range(count)]

    def written(self, topic: Any, partition: int, batch: list[bytes], how: str) -> None:
        receipt = topic.append_many(batch, partition=partition, durability=how)[0]
        model = self.model[partition]
        assert receipt == (partition, len(model.values), len(batch))
        model.append(batch)
        if how == "sync":
            model.is_durable()

    # -- writing --------------------------------------------------------------------------------

    @rule(handle=which, partition=which, count=count, durability=durability)
    def append(self, handle: int, partition: int, count: int, durability: str) -> None:
        self.written(self.topic(handle), partition % len(self.model), self.batch(count), durability)

    @rule(handle=which, partition=which, durability=durability)
    def roll(self, handle: int, partition: int, durability: str) -> None:
        """What does not fit into a segment beside anything else."""
        number = partition % len(self.model)
        for _ in range(2):
            self.written(self.topic(handle), number, self.batch(1, size=800), durability)
        state = self.topic(handle).partition(number).state()
        assert state.active_base_offset == len(self.model[number].values) - 1
        self.model[number].durable = max(self.model[number].durable, state.active_base_offset)

    @rule(handle=which)
    def sync(self, handle: int) -> None:
        self.topic(handle).sync()
        for partition in self.model:
            partition.is_durable()

    @rule(handle=which, partition=which)
    def checkpoint(self, handle: int, partition: int) -> None:
        number = partition % len(self.model)
        self.topic(handle).partition(number).checkpoint()
        self.model[number].is_durable()

    @precondition(lambda self: len(self.model) < PARTITIONS_MAX)
    @rule(handle=which)
    def add_a_partition(self, handle: int) -> None:
        self.handle(handle).add_partitions("t", len(self.model) + 1)
        self.model.append(Partition())

    # -- handles --------------------------------------------------------------------------------

    @precondition(lambda self: len(self.handles) < HANDLES_MAX)
    @rule()
    def open_another(self) -> None:
        self.open()

    @rule(handle=which)
    def close_one(self, handle: int) -> None:
        log = self.handle(handle)
        self.leave_of(log)
        log.close()
        for partition in self.model:
            partition.is_durable()
        self.gone(log, is_clean=True)

    @rule(handle=which)
    def kill_one(self, handle: int) -> None:
        """As far as a handle in this process can be killed."""
        log = self.handle(handle)
        self.leave_of(log)
        abandon(log)
        self.gone(log, is_clean=False)

    def gone(self, log: eventlog.EventLog, *, is_clean: bool) -> None:
        self.handles.remove(log)
        if not self.handles:
            self.is_clean = is_clean
            self.open()

    @rule()
    def open_a_reader(self) -> None:
        self.readers.append(eventlog.open(self.store, read_only=True))
        if len(self.readers) > 2:
            self.readers.pop(0).close()

    # -- other processes ------------------------------------------------------------------------

    @rule(
        handle=which,
        partition=which,
        counts=st.lists(st.tuples(count, durability), max_size=3),
        end=st.sampled_from(["close", "exit", "kill", "kill amid a commit"]),
    )
    def fork(self, handle: int, partition: int, counts: list[tuple[int, str]], end: str) -> None:
        """A child may not use what it inherited; it opens the store, appends, joins the group."""
        number = partition % len(self.model)
        inherited = self.topic(handle)
        batches = [(self.batch(count), how) for count, how in counts]

        def run() -> None:
            for use in (lambda: inherited.append(b"x", partition=number), self.handles[0].topics):
                try:
                    use()
                except ForkedError:
                    continue
                raise AssertionError("a child used what it inherited")
            log = eventlog.open(self.store)
            stop_flusher(log)
            for batch, how in batches:
                self.written(log.topic("t"), number, batch, how)
            if end == "close":
                log.close()
            self.last_words()
            if end.startswith("kill"):
                log.consumer("g", "t").poll(0)
                if end != "kill":
                    transaction = log.groups._store.write()
                    transaction.__enter__().put("offsets", b"half", b"done")
                os.kill(os.getpid(), signal.SIGKILL)

        self.in_child(run, is_killed=end.startswith("kill"))
        for batch, how in batches:
            self.model[number].append(batch)
            if how == "sync":
                self.model[number].is_durable()

    def last_words(self) -> None:
        """Called in a child when it has appended."""

    def in_child(self, run: Callable[[], None], *, is_killed: bool) -> None:
        """Run it in a forked child to its end."""
        if not is_killed:
            with child(run):
                pass
            return
        pid = os.fork()
        if pid == 0:
            try:
                run()
            finally:
                os._exit(1)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), "the child failed before it was killed"

    # -- the group ------------------------------------------------------------------------------

    @precondition(lambda self: len(self.members) < CONSUMERS_MAX)
    @rule(handle=which)
    def join(self, handle: int) -> None:
        self.members.append(Member(self.model, self.handle(handle)))

    @precondition(lambda self: self.members)
    @rule(member=which, most=st.integers(1, 5))
    def poll(self, member: int, most: int) -> None:
        self.members[member % len(self.members)].poll(most)

    @precondition(lambda self: self.members)
    @rule(member=which)
    def commit(self, member: int) -> None:
        chosen = self.members[member % len(self.members)]
        chosen.poll(1)  # it has to have joined
        chosen.commit()

    @precondition(lambda self: self.members)
    @rule(member=which)
    def leave(self, member: int) -> None:
        self.members.pop(member % len(self.members)).consumer.close()

    def leave_of(self, log: eventlog.EventLog) -> None:
        """A handle that goes takes its consumers along."""
        for member in [member for member in self.members if member.handle is log]:
            self.members.remove(member)
            member.consumer.close()

    @precondition(lambda self: self.members)
    @rule()
    def consume_all(self) -> None:
        """After some turns everybody owns his share, and together they come to the end."""
        for log in self.handles:
            log.topic("t").sync()
        for partition in self.model:
            partition.is_durable()
        quiet = 0
        for _ in range(200):
            quiet = 0 if sum(member.poll(50) for member in self.members) else quiet + 1
            if quiet > 4 and self.owned() == list(range(len(self.model))):
                break
        assert self.owned() == list(range(len(self.model))), "a partition is nobody's"
        for member in self.members:
            member.commit()
        for partition in self.model:
            assert partition.committed == len(partition.values)

    def owned(self) -> list[int]:
        return sorted(
            unit.partition for member in self.members for unit in member.consumer.assignment
        )

    # -- what holds always ----------------------------------------------------------------------

    @invariant()
    def holds_what_was_appended(self) -> None:
        for log in (*self.handles, *self.readers):
            if "t" not in log.topics():
                continue
            topic = log.topic("t")
            for number in range(topic.partition_count):
                model = self.model[number]
                found = values(topic, number)
                assert found == model.values[: len(found)]
                assert len(found) in model.ends
                if log.read_only:
                    continue
                assert topic.log_end_offset(number) == len(model.values)
                least = len(model.values) if self.durability == "os" else model.durable
                assert len(found) >= least

    @invariant()
    def no_partition_has_two_owners(self) -> None:
        assert len(self.owned()) == len(set(self.owned()))

    @invariant()
    def the_group_remembers(self) -> None:
        if not self.handles:
            return
        committed = self.handles[0].groups.committed("g")
        for number, partition in enumerate(self.model):
            found = committed.get(TopicPartition("t", number))
            assert (found.offset if found else 0) == partition.committed

    def forget_all(self) -> None:
        """Every process is gone, without a word."""
        for member in self.members:
            consumer = member.consumer
            consumer._is_closed = True
            if consumer._heartbeat is not None:
                consumer._heartbeat.stop()
        self.members.clear()
        for reader in self.readers:
            reader.close()
        self.readers.clear()
        for log in self.handles:
            log.groups.close()
            abandon(log)
        self.handles.clear()
        self.is_clean = False

    def teardown(self) -> None:
        for member in self.members:
            member.consumer.close()
        for log in (*self.readers, *self.handles):
            log.close()
        self.stack.close()


@contextlib.contextmanager
def another_boot(name: str) -> Iterator[None]:
    """Members of a group that joined outside of this are of another boot of the machine."""
    former = members.boot_id
    members.boot_id = lambda: name  # type: ignore[assignment]
    try:
        yield
    finally:
        members.boot_id = former
