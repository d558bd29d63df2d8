"""The log against a list: whatever is done to it, it holds what was appended, in order, once.

Crashes here lose no page: the process goes, or the directory is copied as another boot finds it. What a
power cut may take is walked through in tests/fault.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from log_support import SMALL, abandon, after_reboot, partition_directory, read_all, scratch

import eventlog
from eventlog.clock import ManualClock

PARTITIONS = 2
Row = tuple[Any, ...]
maybe_bytes = st.none() | st.binary(max_size=200)


class LogAgainstList(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scratch = scratch()
        self.root = self.scratch.__enter__()
        self.store = self.root / "0"
        self.copies = 0
        self.clock = ManualClock(1000)
        self.model: list[list[Row]] = [[] for _ in range(PARTITIONS)]
        self.readers: list[eventlog.EventLog] = []

    @initialize(
        durability=st.sampled_from(["sync", "os"]),
        compression=st.sampled_from(["none", "zstd"]),
        preallocation=st.sampled_from([0, 4096]),
    )
    def begin(self, durability: Any, compression: str, preallocation: int) -> None:
        self.open()
        self.topic = self.log.topic(
            "t",
            partitions=PARTITIONS,
            durability=durability,
            compression=compression,
            compression_size_bytes_min=100,
            preallocation_bytes_max=preallocation,
            **SMALL,
        )

    def open(self) -> None:
        self.log = eventlog.open(self.store, clock=self.clock)
        if "t" in self.log.topics():
            self.topic = self.log.topic("t")

    def expect(self, partition: int, value: bytes | None, key: bytes | None) -> None:
        rows = self.model[partition]
        rows.append((len(rows), self.clock.now_ms(), key, value, ()))

    @rule(value=maybe_bytes, key=maybe_bytes, partition=st.integers(0, PARTITIONS - 1))
    def append(self, value: bytes | None, key: bytes | None, partition: int) -> None:
        receipt = self.topic.append(value, key=key, partition=partition)
        assert receipt == (partition, len(self.model[partition]), 1)
        self.expect(partition, value, key)

    @rule(rows=st.lists(st.tuples(maybe_bytes, st.binary(max_size=20)), min_size=1, max_size=3))
    def append_many(self, rows: list[tuple[bytes | None, bytes]]) -> None:
        self.topic.append_many([value for value, _ in rows], keys=[key for _, key in rows])
        for value, key in rows:
            self.expect(self.topic.partition_for_key(key), value, key)

    @rule(count=st.integers(1, 40))
    def append_a_lot(self, count: int) -> None:
        with self.topic.producer(linger_ms=0, batch_size_bytes=1024) as producer:
            for n in range(count):
                producer.send(bytes(100), b"%d" % n)
        for n in range(count):
            self.expect(self.topic.partition_for_key(b"%d" % n), bytes(100), b"%d" % n)

    @rule(milliseconds=st.integers(-500, 500))
    def pass_time(self, milliseconds: int) -> None:
        if self.clock.now_ms() + milliseconds >= 0:
            self.clock.advance(milliseconds)

    @rule()
    def sync(self) -> None:
        self.topic.sync()

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.open()
        assert {report.case for report in self.log.recovery} == {"C-A"}

    @rule(times=st.integers(1, 2))
    def crash(self, times: int) -> None:
        for _ in range(times):
            abandon(self.log)
            self.open()
            assert {report.case for report in self.log.recovery} <= {"C-B", "C-F"}

    @rule()
    def crash_of_the_machine(self) -> None:
        self.copies += 1
        copy = after_reboot(self.store, self.root / str(self.copies))
        self.log.close()
        self.close_readers()
        shutil.rmtree(self.store)
        self.store = copy
        self.open()

    @rule(pattern=st.sampled_from(["*.index", "*.timeindex", "*index"]))
    def delete_indexes(self, pattern: str) -> None:
        self.log.close()
        for number in range(PARTITIONS):
            for path in partition_directory(self.store, partition=number).glob(pattern):
                path.unlink()
        self.open()

    @rule()
    def delete_meta_and_run(self) -> None:
        self.log.close()
        self.close_readers()
        for name in ("meta", "run"):
            shutil.rmtree(self.store / name, ignore_errors=True)
        self.open()

    @rule()
    def open_a_reader(self) -> None:
        self.readers.append(eventlog.open(self.store, read_only=True))
        if len(self.readers) > 2:
            self.readers.pop(0).close()

    @precondition(lambda self: self.readers)
    @rule(start=st.integers(0, 30))
    def readers_agree(self, start: int) -> None:
        for reader in self.readers:
            for number in range(PARTITIONS):
                first = min(start, len(self.model[number]))
                found = [record.value for record in reader.topic("t").read(number, start=first)]
                assert found == [row[3] for row in self.model[number][first:]]

    @rule(time=st.integers(0, 2000), number=st.integers(0, PARTITIONS - 1))
    def find_by_time(self, time: int, number: int) -> None:
        rows = self.model[number]
        wanted = next((row[0] for row in rows if row[1] >= time), len(rows))
        assert self.topic.offset_for_time(time, number) == wanted

    @invariant()
    def holds_what_was_appended(self) -> None:
        for number in range(PARTITIONS):
            rows = self.model[number]
            assert self.topic.log_end_offset(number) == len(rows)
            assert read_all(self.topic, number) == rows

    def close_readers(self) -> None:
        for reader in self.readers:
            reader.close()
        self.readers.clear()

    def teardown(self) -> None:
        self.close_readers()
        self.log.close()
        self.scratch.__exit__(None, None, None)


TestLogAgainstList = pytest.mark.guarantee("G-04")(
    pytest.mark.guarantee("G-07")(pytest.mark.guarantee("G-08")(LogAgainstList.TestCase))
)
