"""A writer that is killed and killed again, and what has to be true each time.

One store lives through all rounds. In each a forked child opens it, appends from several threads and tells
each acknowledged offset through a pipe, right after `append` returned; SIGKILL comes at a random moment,
now and then while it is still opening. Every value can be computed from what the pipe says, so the parent
knows what must be at each offset.

Run as a program it kills for as many rounds as it is told: ``kill_rounds.py ROUNDS [SEED]``.
"""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import eventlog

THREADS = 4
SETTINGS: dict[str, Any] = {
    "segment_size_bytes_max": 32 << 10,
    "index_interval_bytes": 512,
    "preallocation_bytes_max": 16 << 10,
}
_ACKNOWLEDGEMENT = struct.Struct("<iiiqi")  # round, thread, number, offset, count
_DELAY_S_MAX = 0.012


def value_of(round_number: int, thread: int, number: int, part: int) -> bytes:
    """What a thread appends as its ``number``-th batch, record by record."""
    name = b"%d %d %d %d " % (round_number, thread, number, part)
    return name + name[-2:-1] * ((number * 37 + thread * 11) % 300)


def append_for_ever(
    store: Path, round_number: int, durability: str, acknowledge: Callable[[bytes], object]
) -> None:
    """The child: several threads, batches of one to four records."""
    log = eventlog.open(store, durability="sync")
    topic = log.topic("t", **SETTINGS)

    def run(thread: int) -> None:
        number = 0
        while True:
            count = (number + thread) % 4 + 1
            values = [value_of(round_number, thread, number, part) for part in range(count)]
            if count == 1:
                offset = topic.append(values[0], durability=durability).offset
            else:
                offset = topic.append_many(values, durability=durability)[0].offset
            acknowledge(_ACKNOWLEDGEMENT.pack(round_number, thread, number, offset, count))
            number += 1

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@dataclass
class Rounds:
    """Kills, and checks; raises AssertionError at the first broken promise.

    Attributes:
        store: the directory, made by the first round.
        durability: of each append. Acknowledged under any of them is there after SIGKILL.
        rng: decides about the moments.
        acknowledged: values by offset, of all rounds.
        kills: how often a child was killed while it was appending.
        cases: what opening reported, and how often.
    """

    store: Path
    durability: str
    rng: random.Random
    acknowledged: dict[int, bytes] = field(default_factory=dict)
    content: list[bytes] = field(default_factory=list)
    kills: int = 0
    cases: dict[str, int] = field(default_factory=dict)

    def run(self, round_number: int) -> None:
        """One round: write, kill, look."""
        self.kill(round_number)
        self.check()

    def kill(self, round_number: int) -> None:
        """Start a child and kill it."""
        receiving, sending = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
            pid = os.fork()
        if pid == 0:
            try:
                os.close(receiving)
                append_for_ever(
                    self.store, round_number, self.durability, lambda data: os.write(sending, data)
                )
            except BaseException as error:
                sys.stderr.write(f"child: {error!r}\n")
                sys.stderr.flush()
            finally:
                os._exit(1)
        os.close(sending)
        is_early = self.rng.random() < 0.15  # while it is opening, perhaps
        told = bytearray() if is_early else bytearray(os.read(receiving, 1 << 16))
        deadline = time.monotonic() + self.rng.random() * _DELAY_S_MAX
        while (left := deadline - time.monotonic()) > 0:
            # The pipe is emptied meanwhile: a full one would keep the child from appending.
            if select.select([receiving], [], [], left)[0] and not self._take(receiving, told):
                break
        os.kill(pid, signal.SIGKILL)
        while self._take(receiving, told):
            pass
        os.close(receiving)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "the child ended by itself"
        self.kills += bool(told)
        for position in range(0, len(told) - _ACKNOWLEDGEMENT.size + 1, _ACKNOWLEDGEMENT.size):
            told_round, thread, number, offset, count = _ACKNOWLEDGEMENT.unpack_from(told, position)
            for part in range(count):
                assert offset + part not in self.acknowledged, f"offset {offset + part} given twice"
                self.acknowledged[offset + part] = value_of(told_round, thread, number, part)

    @staticmethod
    def _take(receiving: int, told: bytearray) -> bool:
        data = os.read(receiving, 1 << 16)
        told += data
        return bool(data)

    def check(self) -> None:
        """Open and look: read-only first, then for writing, then once more for writing."""
        known = len(self.content)
        if not (self.store / "eventlog.json").exists():
            assert not self.acknowledged
            return
        seen_by_reader = self.look(known, read_only=True)
        first = self.look(known)
        assert first[: len(seen_by_reader)] == seen_by_reader, "a reader saw what was lost"
        again = self.look(known)
        assert again == first, "opening twice gave two answers"
        self.content += first
        for offset, value in self.acknowledged.items():
            if offset >= known:
                assert offset < len(self.content), f"offset {offset} was acknowledged and is lost"
                assert self.content[offset] == value, f"offset {offset} holds other bytes"
        assert len(set(first)) == len(first), "a record is there twice"
        self.check_batches(first)

    def look(self, start: int, *, read_only: bool = False) -> list[bytes]:
        """Values from an offset on; their offsets have no gap."""
        with eventlog.open(self.store, read_only=read_only) as log:
            if not read_only:
                for report in log.recovery:
                    self.cases[report.case] = self.cases.get(report.case, 0) + 1
            if "t" not in log.topics():
                assert not self.acknowledged
                return []
            topic = log.topic("t")
            rows = [
                row for chunk in topic.read_batches(start=start, take="tuples") for row in chunk
            ]
            assert [row[0] for row in rows] == list(range(start, start + len(rows))), (
                "offsets with gaps"
            )
            assert read_only or topic.log_end_offset() == start + len(rows)
            return [row[3] for row in rows]

    @staticmethod
    def check_batches(values: list[bytes]) -> None:
        """A batch is there whole or not at all, its records in a row; each thread's batches in order."""
        last_numbers: dict[tuple[int, int], int] = {}
        position = 0
        while position < len(values):
            round_number, thread, number, part = (
                int(each) for each in values[position].split()[:4]
            )
            assert part == 0, "the first part of a batch is missing"
            count = (number + thread) % 4 + 1
            wanted = [value_of(round_number, thread, number, part) for part in range(count)]
            assert values[position : position + count] == wanted, "half a batch"
            assert number == last_numbers.get((round_number, thread), -1) + 1, "a batch is missing"
            last_numbers[round_number, thread] = number
            position += count

    def check_everything(self) -> None:
        """The whole log once more, from its start: earlier rounds are as they were."""
        assert self.look(0) == self.content
        assert all(self.content[offset] == value for offset, value in self.acknowledged.items())


def main(rounds: int, seed: int) -> None:
    """Kill for so many rounds under each durability, and say how it went."""
    for durability in ("sync", "os"):
        with tempfile.TemporaryDirectory() as directory:
            state = Rounds(
                Path(directory) / "store", durability, random.Random(f"{seed} {durability}")
            )
            for number in range(rounds):
                state.run(number)
                if number % 100 == 99 or number == rounds - 1:
                    print(
                        f"{durability}: {number + 1} rounds, {state.kills} killed while appending, "
                        f"{len(state.acknowledged):,} records acknowledged, {len(state.content):,} there; "
                        f"{dict(sorted(state.cases.items()))}",
                        flush=True,
                    )
            state.check_everything()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32))
