"""One process has a store open; another opens it, too, and meets every fault at every file operation.

``python processes_driver.py MODULE DIRECTORY JOB...`` with jobs like ``append:kill`` or ``grow:EIO``:
a scenario, and what befalls it; prints counts, or all violations. The survivor then goes on: appends,
reads, syncs, uses the topics. Between the rounds it closes, is killed, or stays as it is.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import json
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults as fault_layer

KILLED = 9
LARGE = b"large" * 30_000
# (records, durability) of each append; its place is its step.
BATCHES = (
    (1, "sync"),
    (3, "os"),
    (1, "os"),
    (4, "sync"),
    (2, "os"),
    (4, "os"),
    (3, "sync"),
    (1, "os"),
    (4, "sync"),
    (4, "sync"),
)


def value_of(round_number: int, step: int, part: int) -> bytes:
    """Values that tell their place, of lengths that make batches end anywhere."""
    return b"%d.%d.%d:" % (round_number, step, part) + b"." * (50 + 37 * (step + part) % 90)


class Told:
    """What a child says of itself, line by line."""

    def __init__(self, text: bytes) -> None:
        self.begun: list[int] = []  # steps
        self.offsets: dict[int, int] = {}  # by step, where it was acknowledged
        self.refused: dict[int, str] = {}  # by step, the error's name
        self.words: list[str] = []
        for line in text.decode().splitlines():
            match line.split():
                case ["begin", step]:
                    self.begun.append(int(step))
                case ["done", step, offset]:
                    self.offsets[int(step)] = int(offset)
                case ["refused", step, name]:
                    self.refused[int(step)] = name
                case [word]:
                    self.words.append(word)


class Child:
    """The process that meets the fault: scenarios, as calls on a store of its own."""

    def __init__(self, runs: ProcessRuns, tell: int) -> None:
        self.runs = runs
        self._tell = tell

    def say(self, *words: object) -> None:
        os.write(self._tell, " ".join(map(str, words)).encode() + b"\n")

    def run(self, scenario: str) -> None:
        """Under the plan from where the scenario begins; errors of eventlog are told and gone past."""
        if scenario != "open":
            log = self.runs.open()
        self.runs.faults.reset()
        self.runs.plan()
        if scenario == "open":
            log = self.trying(self.runs.open)
            if log is None:
                log = self.runs.open()
        getattr(self, scenario)(log)
        if self.runs.fault != "kill":
            self.say(f"fired={self.runs.faults.fired}")
            self.runs.faults.lift()
            self.trying(log.close)

    def trying(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except self.runs.error as error:
            self.say(_name_of(error))
            return None

    def append(self, log: Any, steps: range = range(3)) -> None:
        topic = log.topic("t")
        for step in steps:
            count, durability = BATCHES[step]
            self.say("begin", step)
            values = [value_of(self.runs.number, step, part) for part in range(count)]
            try:
                offset = topic.append_many(values, durability=durability)[0].offset
            except self.runs.error as error:
                self.say("refused", step, _name_of(error))
            else:
                self.say("done", step, offset)

    def group(self, log: Any) -> None:
        self.append(log, range(len(BATCHES)))

    def open(self, log: Any) -> None:
        self.append(log, range(1))

    def close(self, log: Any) -> None:
        self.append(log, range(1, 2))
        self.trying(log.close)

    def checkpoint(self, log: Any) -> None:
        self.append(log, range(1, 2))
        self.trying(log.topic("t").partition(0).checkpoint)

    def large(self, log: Any) -> None:
        """A batch that is written in several pieces."""
        receipts = self.trying(lambda: log.topic("large").append_many([LARGE] * 4, durability="os"))
        if receipts is not None:
            self.say("appended")

    def create(self, log: Any) -> None:
        topic = self.trying(lambda: log.topic("new", partitions=2))
        if topic is None:  # the fault was there once: it works now
            topic = log.topic("new", partitions=2)
        self.say("made")
        self.append_first(topic, 1)

    def append_first(self, topic: Any, partition: int) -> None:
        receipt = self.trying(lambda: topic.append(b"first", partition=partition))
        if receipt is None and not topic.partition(partition).state().poisoned_errno:
            receipt = topic.append(b"first", partition=partition)
        if receipt is not None:
            assert receipt.offset == 0
            self.say("appended")

    def delete(self, log: Any) -> None:
        self.trying(lambda: log.delete_topic("doomed"))
        if log.has_topic("doomed"):
            log.delete_topic("doomed")
        self.say("deleted")

    def grow(self, log: Any) -> None:
        count = log.topic("growing").partition_count
        self.trying(lambda: log.add_partitions("growing", count + 2))
        topic = log.topic("growing")
        if topic.partition_count == count:
            topic = log.add_partitions("growing", count + 2)
        self.say(f"count={topic.partition_count}")
        self.append_first(topic, count + 1)

    def alter(self, log: Any) -> None:
        size = 4096 + 256 * self.runs.number
        self.trying(lambda: log.topic("altered", segment_size_bytes_max=size))
        log.topic("altered", segment_size_bytes_max=size)
        self.say(f"size={size}")


class ProcessRuns:
    """The surviving process."""

    def __init__(self, faults: fault_layer.Faults, directory: Path) -> None:
        import eventlog  # only now: it must find the faulty core
        from eventlog.errors import EventLogError, PoisonedError

        self.eventlog = eventlog
        self.error = EventLogError
        self.poisoned_error = PoisonedError
        self.faults = faults
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self.violations: list[tuple[BaseException, str]] = []
        self.fault = "kill"
        self.number = 0  # of the round
        self.operation = 0

    def open(self) -> Any:
        """A store with nothing going on by itself: the fault layer's own lock is not for forks."""
        log = self.eventlog.open(self.store)
        log._stop.set()
        log._flusher.join()
        return log

    def plan(self) -> None:
        if self.fault == "kill":
            self.faults.plan(self.operation, "kill", KILLED)
        else:
            self.faults.plan(self.operation, "once", getattr(errno, self.fault))

    def run(self, job: str) -> None:
        """A scenario with the fault at every operation, until one goes through without meeting it."""
        scenario, self.fault = job.split(":")
        self.store = self.directory / job.replace(":", "-")
        self.number = 0
        self.values: list[bytes] = []
        self.faults.reset()
        self.log = self.open()
        settings = {"segment_size_bytes_max": 1024, "index_interval_bytes": 200, "gather_us": 0}
        self.log.topic("t", **settings)
        self.log.topic("altered")
        self.log.topic("large", segment_size_bytes_max=1 << 20)
        is_hit, self.operation = True, 0
        while is_hit:
            self.prepare(scenario)
            self.number += 1
            try:
                is_hit = self.round(scenario)
            except BaseException as error:
                self.violations.append((error, f"{job} at operation {self.operation}"))
                return  # the store is not as it should be: what follows would tell nothing
            self.operation += 1
        self.counts[job] = self.operation
        self.log.close()
        self.log = self.open()
        assert self.contents() == self.values, "another answer at the next opening"
        self.log.close()

    def prepare(self, scenario: str) -> None:
        if scenario == "create" and self.log.has_topic("new"):
            self.log.delete_topic("new")
        if scenario == "grow":
            if self.log.has_topic("growing"):
                self.log.delete_topic("growing")
            self.log.topic("growing").append(b"first")
        if scenario == "delete":
            doomed = self.log.topic("doomed", partitions=2)
            for number in range(2):
                doomed.append_many([b"x"] * 3, partition=number)

    def round(self, scenario: str) -> bool:
        """One child; whether it met the fault."""
        told, status = self.child(scenario)
        self.counts["rounds"] += 1
        if self.fault == "kill":
            is_hit = status == KILLED
            assert is_hit or status == 0, f"the child ended with {status}"
        else:
            assert status == 0, f"the child ended with {status}"
            is_hit = "fired=0" not in told.words
            self.counts["refused"] += bool(told.refused)
        self.go_on(told)
        getattr(self, f"after_{scenario}", lambda told: None)(told)
        match self.number % 6:
            case 1:
                self.log._abandon()  # this one is killed, too
                self.log = self.open()
            case 2:
                self.log.close()
                self.log = self.open()
        assert self.contents() == self.values
        return is_hit

    def child(self, scenario: str) -> tuple[Told, int]:
        hear, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(hear)
                Child(self, tell).run(scenario)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        os.close(tell)
        with os.fdopen(hear, "rb") as lines:
            text = lines.read()
        return Told(text), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def go_on(self, told: Told) -> None:
        """The survivor appends, and finds what the other one was told, once, and nothing by halves."""
        topic = self.log.topic("t")
        mine = [b"survivor %d.%d" % (self.number, part) for part in range(2)]
        try:
            offset = topic.append_many(mine)[0].offset
        except self.poisoned_error:
            assert self.fault != "kill", "poisoned by a kill"
            self.counts["poisoned"] += 1
            with contextlib.suppress(self.error):
                self.log.close()
            self.log = self.open()
            topic = self.log.topic("t")
            offset = topic.append_many(mine)[0].offset
        topic.sync()
        found = self.contents()
        assert offset == len(found) - 2
        assert found[offset:] == mine
        at = len(self.values)
        assert found[:at] == self.values, "what was there has changed"
        for step in told.begun:
            wanted = self.wanted(found, at, step)
            if step in told.offsets:
                assert told.offsets[step] == at, f"step {step} was acknowledged elsewhere"
                assert wanted, f"step {step} was acknowledged and is not there"
            elif told.refused.get(step) not in (None, "PoisonedError"):
                assert not wanted, f"step {step} was refused ({told.refused[step]}) and is there"
            else:
                assert step == told.begun[-1] or step in told.refused
            at += wanted
        assert at == offset, f"{found[at:offset]} was never appended"
        self.values = found

    def wanted(self, found: list[bytes], at: int, step: int) -> int:
        """How many records of a step there are from ``at`` on: all of them, or none."""
        start = b"%d.%d." % (self.number, step)
        count = 0
        while at + count < len(found) and found[at + count].startswith(start):
            assert found[at + count] == value_of(self.number, step, count), "not in order"
            count += 1
        assert count in (0, BATCHES[step][0]), f"a part of step {step}"
        return count

    def contents(self) -> list[bytes]:
        topic = self.log.topic("t")
        records = list(topic.read())
        assert [record.offset for record in records] == list(range(len(records))), "a gap"
        assert topic.log_end_offset() == topic.high_watermark() == len(records)
        self.check_tail(topic)
        return [record.value for record in records]

    def healed(self, name: str) -> Any:
        """The topic; of a store that was opened anew where a failed sync has poisoned a partition."""
        topic = self.log.topic(name)
        if any(partition.state().poisoned_errno for partition in topic.partitions):
            assert self.fault != "kill", "poisoned by a kill"
            self.counts["poisoned"] += 1
            with contextlib.suppress(self.error):
                self.log.close()
            self.log = self.open()
        return self.log.topic(name)

    # -- what topics have to be like afterwards -------------------------------------------------

    def after_large(self, told: Told) -> None:
        topic = self.healed("large")
        end = topic.append(b"mine").offset
        found = [record.value for record in topic.read()]
        assert end == len(found) - 1
        assert found[end] == b"mine"
        assert set(found) <= {LARGE, b"mine"}
        former = self.counts["large"]
        self.counts["large"] = found.count(LARGE)
        came = self.counts["large"] - former
        assert came == 4 if "appended" in told.words else came in (0, 4), "a part of a batch"
        self.check_tail(topic)

    def check_tail(self, topic: Any) -> None:
        """Nothing is in the file behind the last batch."""
        partition = topic.partition(0)
        state = partition.state()
        path = partition.directory / f"{state.active_base_offset:020d}.log"
        assert not any(path.read_bytes()[state.active_position :]), "a part of a batch was not cut"

    def after_create(self, told: Told) -> None:
        assert "made" not in told.words or self.log.has_topic("new"), "it was made and is gone"
        self.log.topic("new", partitions=2)
        topic = self.healed("new")
        topic.sync()  # what was written and not told may be there
        values = [record.value for record in topic.read(1)]
        assert values == [b"first"] or (values == [] and "appended" not in told.words)
        for number in range(2):
            assert topic.append(b"mine", partition=number).offset == len(values) * number
        self.counts["made"] += bool(values)

    def after_delete(self, told: Told) -> None:
        if self.log.has_topic("doomed"):
            assert "deleted" not in told.words, "it was deleted and is there"
            topic = self.log.topic("doomed")
            assert topic.append(b"mine", partition=1).offset == 3
            self.log.delete_topic("doomed")
        topic = self.log.topic("doomed", partitions=2)
        for number in range(2):
            assert topic.append(b"new", partition=number).offset == 0, "an old one shows"
        self.log.delete_topic("doomed")

    def after_grow(self, told: Told) -> None:
        topic = self.healed("growing")
        for word in told.words:
            if word.startswith("count="):
                assert topic.partition_count == int(word[6:]), "partitions are gone"
        count = topic.partition_count
        assert count in (1, 3), "some of the partitions were added"
        end = topic.log_end_offset(count - 1)
        assert end == 1 or "appended" not in told.words
        for number in range(count):
            topic.append(b"mine", partition=number)
        assert topic.log_end_offset(count - 1) == end + 1

    def after_alter(self, told: Told) -> None:
        size = self.log.topic("altered").settings.segment_size_bytes_max
        for word in told.words:
            if word.startswith("size="):
                assert size == int(word[5:]), "the change is gone"
        self.log.topic("altered").append(b"x")

    def summary(self) -> str:
        """All violations: each message once, with its places and the first's traceback."""
        places: dict[str, list[str]] = {}
        first: dict[str, BaseException] = {}
        for error, place in self.violations:
            message = re.sub(r"[0-9]+", "N", f"{type(error).__name__}: {error}")
            places.setdefault(message, []).append(place)
            first.setdefault(message, error)
        return "\n\n".join(
            "".join(traceback.format_exception(first[message])) + "\n".join(found[:20])
            for message, found in places.items()
        )


def _name_of(error: Exception) -> str:
    """Of an error that a call was refused with; it has to say what the system said."""
    if not getattr(error, "errno", 0):
        raise AssertionError(f"no errno: {error!r}") from error
    return type(error).__name__


def main() -> None:
    """Run as the head comment says."""
    module, directory, *jobs = sys.argv[1:]
    faulthandler.dump_traceback_later(110, exit=True)
    faults = fault_layer.install(module)
    faults.skip_syncs()
    runs = ProcessRuns(faults, Path(directory))
    for job in jobs:
        runs.run(job)
    if runs.violations:
        sys.exit(runs.summary())
    print(json.dumps(runs.counts))


if __name__ == "__main__":
    main()
