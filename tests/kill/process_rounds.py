"""Writers and consumers in processes of their own, killed and started again, and what has to be true.

Four writers append to two topics, one synced and one not; two consumers share them in a group and commit
after each poll. All of them tell a pipe what they were told: it orders what happened. In each round some are
killed by SIGKILL at a random moment, now and then all; new ones take their places, and the group has to
consume and commit what was acknowledged until then. Every value and its partition can be computed from
who appended it as his how-manieth.

Run as a program it kills for as many rounds as it is told: ``process_rounds.py ROUNDS [SEED]``.
"""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import eventlog
from eventlog.consumer.assignment import TopicPartition

WRITERS = 4
CONSUMERS = 2
TOPICS = (("synced", "sync"), ("cached", "os"))
PARTITIONS = 2
UNITS = [TopicPartition(name, number) for name, _ in TOPICS for number in range(PARTITIONS)]
SETTINGS: dict[str, Any] = {
    "segment_size_bytes_max": 32 << 10,
    "index_interval_bytes": 512,
    "preallocation_bytes_max": 16 << 10,
}
GROUP = "crew"
HEARTBEAT_MS = 20  # who looks this often notices soon that another one is gone
_PAUSE_S = 0.0005
_DELAY_S_MAX = 0.05
_PATIENCE_S = 60.0
_READY, _ACKNOWLEDGED, _DELIVERED, _COMMITTED = range(4)
# what, who, his incarnation, number of the append, unit, offset, end offset, checksum
_WORD = struct.Struct("<iiiiiqqI")


class Word(NamedTuple):
    """What a child tells: one atomic write into the pipe."""

    what: int
    who: int
    incarnation: int
    number: int = 0
    unit: int = 0
    offset: int = 0
    end: int = 0
    checksum: int = 0


def count_of(who: int, number: int) -> int:
    """Records of an append."""
    return (number + who) % 4 + 1


def unit_of(number: int) -> int:
    """Where an append goes."""
    return number % len(UNITS)


def value_of(who: int, incarnation: int, number: int, part: int) -> bytes:
    """A record of an append."""
    name = b"%d %d %d %d " % (who, incarnation, number, part)
    return name + name[-2:-1] * ((number * 37 + who * 11) % 300)


def write(store: Path, who: int, incarnation: int, tell: Callable[[Word], object]) -> None:
    """A writer: appends until it is killed."""
    log = eventlog.open(store)
    topics = {
        name: log.topic(name, partitions=PARTITIONS, durability=durability, **SETTINGS)
        for name, durability in TOPICS
    }
    tell(Word(_READY, who, incarnation))
    number = 0
    while True:
        unit = unit_of(number)
        count = count_of(who, number)
        values = [value_of(who, incarnation, number, part) for part in range(count)]
        topic, partition = topics[UNITS[unit].topic], UNITS[unit].partition
        if count == 1:
            offset = topic.append(values[0], partition=partition).offset
        else:
            offset = topic.append_many(values, partition=partition)[0].offset
        tell(Word(_ACKNOWLEDGED, who, incarnation, number, unit, offset, offset + count))
        number += 1
        time.sleep(_PAUSE_S)


def consume(store: Path, who: int, incarnation: int, tell: Callable[[Word], object]) -> None:
    """A consumer: polls, tells, commits, tells, until it is killed."""
    log = eventlog.open(store)
    consumer = log.consumer(
        GROUP,
        [name for name, _ in TOPICS],
        heartbeat_interval_ms=HEARTBEAT_MS,
        assignors=["cooperative-sticky"] if incarnation % 2 else ["range", "cooperative-sticky"],
    )
    tell(Word(_READY, who, incarnation))
    while True:
        records = consumer.poll(1.0, max_records=100)
        ends: dict[int, Word] = {}
        for record in records:
            unit = UNITS.index(TopicPartition(record.topic, record.partition))
            word = ends.get(unit)
            if word is None:
                word = Word(_DELIVERED, who, incarnation, 0, unit, record.offset, record.offset)
            assert record.offset == word.end, "records of one poll are not in a row"
            checksum = zlib.crc32(record.value or b"", word.checksum)
            ends[unit] = word._replace(end=record.offset + 1, checksum=checksum)
        for word in ends.values():
            tell(word)
        if ends:
            consumer.commit()
        for word in ends.values():
            tell(word._replace(what=_COMMITTED))


@dataclass
class Child:
    """A place in the crew, and who has it now."""

    who: int
    incarnation: int = -1
    pid: int = 0

    @property
    def is_writer(self) -> bool:
        return self.who < WRITERS


@dataclass
class ProcessRounds:
    """Kills, and checks; raises AssertionError at the first broken promise.

    Attributes:
        store: the directory.
        rng: decides who is killed, and when.
        contents: values of each unit by offset, as the log has them.
        acknowledged: values by offset, and the end of what was, of each unit.
        delivered: the end of what any consumer was given, of each unit.
        committed: the end of what was committed and told, of each unit.
        counts: what happened how often.
        cases: what opening reported, and how often.
    """

    store: Path
    rng: random.Random
    contents: list[list[bytes]] = field(default_factory=lambda: [[] for _ in UNITS])
    acknowledged: list[dict[int, bytes]] = field(default_factory=lambda: [{} for _ in UNITS])
    ends: list[int] = field(default_factory=lambda: [0] * len(UNITS))
    delivered: list[int] = field(default_factory=lambda: [0] * len(UNITS))
    committed: list[int] = field(default_factory=lambda: [0] * len(UNITS))
    checksums: list[tuple[Word, str]] = field(default_factory=list)
    last_numbers: dict[tuple[int, int, int], int] = field(default_factory=dict)
    ready: dict[int, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    cases: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        with eventlog.open(self.store) as log:
            for name, durability in TOPICS:
                log.topic(name, partitions=PARTITIONS, durability=durability, **SETTINGS)
        self.hear, self.tell = os.pipe()
        os.set_blocking(self.hear, False)
        self.rest = b""
        self.crew = [Child(who) for who in range(WRITERS + CONSUMERS)]

    # -- the crew -------------------------------------------------------------------------------

    def start(self, child: Child) -> None:
        """Somebody new takes the place."""
        child.incarnation += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
            child.pid = os.fork()
        if child.pid == 0:
            try:
                (write if child.is_writer else consume)(
                    self.store,
                    child.who,
                    child.incarnation,
                    lambda word: os.write(self.tell, _WORD.pack(*word)),
                )
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(1)

    def kill(self, child: Child) -> None:
        """SIGKILL; what it told before still counts."""
        os.kill(child.pid, signal.SIGKILL)
        _, status = os.waitpid(child.pid, 0)
        child.pid = 0
        assert os.WIFSIGNALED(status), f"{child} ended by itself"
        self.counts["writers killed" if child.is_writer else "consumers killed"] += 1

    def run(self, rounds: int) -> None:
        """Start all, kill some again and again, and look at everything at the end."""
        try:
            for child in self.crew:
                self.start(child)
            for number in range(rounds):
                self.round()
                if number % 100 == 99:
                    print(f"{number + 1} rounds: {self}", flush=True)
            for child in self.crew:
                if child.is_writer:
                    self.kill(child)
            self.get_going()  # the consumers end what there is
            for child in self.crew:
                if child.pid:
                    self.kill(child)
            self.look()
            assert all(map(int.__ge__, self.committed, self.ends))
            self.check_everything()
        finally:
            for child in self.crew:
                if child.pid:
                    os.kill(child.pid, signal.SIGKILL)
                    os.waitpid(child.pid, 0)
            os.close(self.hear)
            os.close(self.tell)

    def round(self) -> None:
        """Some are killed at the same time, and replaced."""
        self.listen(self.rng.random() * _DELAY_S_MAX)
        is_all = self.rng.random() < 0.15
        chosen = self.crew if is_all else self.rng.sample(self.crew, self.rng.choice((1, 1, 2, 3)))
        for child in self.rng.sample(chosen, len(chosen)):
            self.kill(child)
        self.listen(0)
        if is_all:
            self.counts["all killed"] += 1
            self.look()
        for child in chosen:
            self.start(child)
        if self.rng.random() < 0.7:  # else they are killed while they are coming, perhaps
            self.get_going()
        self.counts["rounds"] += 1

    # -- what they tell -------------------------------------------------------------------------

    def listen(self, seconds: float) -> None:
        """Take what is told for so long, and what is there."""
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            if not select.select([self.hear], [], [], max(0.0, left))[0]:
                return
            data = self.rest + os.read(self.hear, 1 << 16)
            whole = len(data) - len(data) % _WORD.size
            self.rest = data[whole:]
            for row in _WORD.iter_unpack(data[:whole]):
                self.take(Word(*row))

    def take(self, word: Word) -> None:
        """The order in the pipe is that of what happened, as far as one came of the other."""
        unit = word.unit
        if word.what == _READY:
            self.ready[word.who] = word.incarnation
        elif word.what == _ACKNOWLEDGED:
            known = self.acknowledged[unit]
            for part in range(word.end - word.offset):
                assert word.offset + part not in known, f"offset {word.offset + part} given twice"
                known[word.offset + part] = value_of(word.who, word.incarnation, word.number, part)
            self.ends[unit] = max(self.ends[unit], word.end)
        elif word.what == _DELIVERED:
            assert word.offset <= self.delivered[unit], f"skipped at {UNITS[unit]}: {word}"
            assert word.offset >= self.committed[unit], f"committed before, and again: {word}"
            again = self.delivered[unit] - word.offset
            if again:
                self.counts["given again"] += again
            self.delivered[unit] = max(self.delivered[unit], word.end)
            self.checksums.append((word, "delivered"))
        else:
            assert word.end <= self.delivered[unit]
            self.committed[unit] = max(self.committed[unit], word.end)

    def get_going(self) -> None:
        """All that was acknowledged by now has to be consumed and committed."""
        self.listen(0)
        wanted = list(self.ends)
        until = time.monotonic() + _PATIENCE_S
        while not all(map(int.__ge__, self.committed, wanted)):
            self.listen(0.005)
            for child in self.crew:
                if child.pid and os.waitpid(child.pid, os.WNOHANG)[0]:
                    child.pid = 0
                    raise AssertionError(f"{child} ended by itself")
            assert time.monotonic() < until, (
                f"the group does not get going: committed {self.committed}, acknowledged {wanted}"
            )

    # -- what there is --------------------------------------------------------------------------

    def look(self) -> None:
        """Open while nobody has it open: it recovers, and holds what it was told to hold."""
        with eventlog.open(self.store) as log:
            self.cases.update(report.case for report in log.recovery)
            assert log.recovery, "somebody is still there"
            self.read(log)
            group = log.groups.committed(GROUP)
            for number, unit in enumerate(UNITS):
                found = group[unit].offset if unit in group else 0
                assert self.committed[number] <= found <= len(self.contents[number])
        with eventlog.open(self.store) as log:
            assert {report.case for report in log.recovery} == {"C-A"}

    def read(self, log: eventlog.EventLog) -> None:
        """Take in what is new, and judge it."""
        for number, unit in enumerate(UNITS):
            content = self.contents[number]
            topic = log.topic(unit.topic)
            rows = [
                row
                for chunk in topic.read_batches(unit.partition, start=len(content), take="tuples")
                for row in chunk
            ]
            end = len(content) + len(rows)
            assert [row[0] for row in rows] == list(range(len(content), end)), "a gap"
            assert topic.log_end_offset(unit.partition) == end
            self.check_batches(number, [row[3] for row in rows])
            content += [row[3] for row in rows]
            for offset, value in self.acknowledged[number].items():
                assert offset < end, f"{unit}: offset {offset} was acknowledged and is lost"
                assert content[offset] == value, f"{unit}: offset {offset} holds other bytes"
            self.acknowledged[number] = {
                offset: value
                for offset, value in self.acknowledged[number].items()
                if offset == self.ends[number] - 1
            }
            assert self.delivered[number] <= end, "consumed what is not there"
        for word, what in self.checksums:
            checksum = 0
            for value in self.contents[word.unit][word.offset : word.end]:
                checksum = zlib.crc32(value, checksum)
            assert checksum == word.checksum, f"other bytes were {what}: {word}"
        self.checksums.clear()

    def check_batches(self, unit: int, values: list[bytes]) -> None:
        """A batch is there whole or not at all; of each writer none is missing, none twice."""
        position = 0
        while position < len(values):
            who, incarnation, number, part = (int(each) for each in values[position].split()[:4])
            assert part == 0, "the first part of a batch is missing"
            assert unit_of(number) == unit
            count = count_of(who, number)
            wanted = [value_of(who, incarnation, number, part) for part in range(count)]
            assert values[position : position + count] == wanted, "half a batch"
            writer = (unit, who, incarnation)
            former = self.last_numbers.get(writer, unit - len(UNITS))
            assert number == former + len(UNITS), f"after append {former} comes {number}"
            self.last_numbers[writer] = number
            position += count

    def check_everything(self) -> None:
        """The whole log once more, from its start: earlier rounds are as they were."""
        with eventlog.open(self.store, read_only=True) as log:
            for number, unit in enumerate(UNITS):
                values = [
                    value
                    for chunk in log.topic(unit.topic).read_batches(unit.partition, take="values")
                    for value in chunk
                ]
                assert values == self.contents[number]

    def __str__(self) -> str:
        there = sum(map(len, self.contents))
        return f"{dict(self.counts)}, {there:,} records, {dict(sorted(self.cases.items()))}"


def main(rounds: int, seed: int) -> None:
    """Kill for so many rounds, and say how it went."""
    logging.getLogger("eventlog").setLevel(logging.ERROR)  # that members are gone is no news
    with tempfile.TemporaryDirectory() as directory:
        state = ProcessRounds(Path(directory) / "store", random.Random(f"{seed} processes"))
        state.run(rounds)
        print(f"processes: {state}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32))
