"""The stream index against a full scan of the log, under everything that can happen to it.

The model is a list of records: what was appended, through the event store or beside it, by other
clients that know nothing of versions. Whatever the index was through (checkpoints at odd moments, a
kill, its files deleted), it must say what the scan says.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sourcing_support import MEMORY, Opened, kept_in_memory, raw

from eventlog.errors import WrongExpectedVersion
from eventlog.sourcing import NO_STREAM, STREAM_EXISTS, Event, StreamAppend

STREAMS = ["a", "b", "ba", "ü", "z" * 400]
stream = st.sampled_from(STREAMS)
few = st.integers(1, 5)


class StreamsAgainstScan(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.versions: dict[str, int] = {}
        self.number = 0

    @initialize(
        runs=st.sampled_from([1, 6, 40, 1000]),
        partitions=st.sampled_from([1, 1, 3]),
        compression=st.sampled_from(["none", "zstd"]),
    )
    def begin(self, runs: int, partitions: int, compression: str) -> None:
        self.run_count_max = runs
        self.settings: dict[str, Any] = {
            "partitions": partitions,
            "segment_size_bytes_max": 4096,
            "index_interval_bytes": 100,
            "compression": compression,
            "compression_size_bytes_min": 300,
        }
        self.partitions = partitions
        self.open()

    def open(self) -> None:
        self.opened = Opened(
            self.directory / "store", run_count_max=self.run_count_max, **self.settings
        )
        self.store = self.opened.store

    def events(self, count: int) -> list[Event]:
        self.number += count
        return raw(count, self.number - count)

    def note(self, name: str, count: int) -> None:
        self.versions[name] = self.versions.get(name, 0) + count

    @rule(name=stream, count=few)
    def append(self, name: str, count: int) -> None:
        receipt = self.store.append(name, self.events(count))
        self.note(name, count)
        assert receipt.version == self.versions[name]

    @rule(name=stream)
    def append_one(self, name: str) -> None:
        known = self.versions.get(name, 0)
        receipt = self.store.append(name, self.events(1)[0], expected_version=known)
        self.note(name, 1)
        assert (receipt.version, receipt.count) == (known + 1, 1)

    @rule(name=stream, ahead=st.integers(1, 3))
    def append_wrongly(self, name: str, ahead: int) -> None:
        known = self.versions.get(name, 0)
        rules = [known + ahead, STREAM_EXISTS if not known else NO_STREAM]
        for expected in rules:
            with pytest.raises(WrongExpectedVersion) as caught:
                self.store.append(name, self.events(1), expected_version=expected)
            assert (caught.value.stream, caught.value.actual) == (name, known)

    @rule(names=st.lists(stream, min_size=1, max_size=4))
    def append_many(self, names: list[str]) -> None:
        if self.partitions > 1:
            names = names[:1] * 2
        appends = []
        for name in names:
            appends.append(StreamAppend(name, self.events(2), self.versions.get(name, 0)))
            self.note(name, 2)
        receipts = self.store.append_many(appends)
        assert [receipt.stream for receipt in receipts] == names
        assert all(receipt.count == 2 for receipt in receipts)

    @rule(name=stream, version=st.none() | st.integers(0, 7) | st.just(2**63))
    def append_beside_it(self, name: str, version: int | None) -> None:
        """Another client: no version, or one of its own."""
        headers = [] if version is None else [("v", version.to_bytes(8, "big"))]
        self.opened.topic.append(b"foreign", key=name.encode(), headers=headers)
        known = self.versions.get(name, 0)
        # A version that leaves a hole is one that compaction may have left: it is believed.
        leaps = version is not None and known < version < 2**61
        self.versions[name] = version if leaps and version is not None else known + 1

    @rule(key=st.sampled_from([None, b"", b"\xff\xfe", b"a\0b", b"k" * 401]))
    def append_what_is_no_event(self, key: bytes | None) -> None:
        self.opened.topic.append(b"not of a stream", key=key)

    @rule()
    def checkpoint(self) -> None:
        self.store.checkpoint()
        assert kept_in_memory(self.store) == 0

    @rule()
    def reopen(self) -> None:
        self.opened.close()
        self.open()

    @rule()
    def kill(self) -> None:
        self.opened.abandon()
        self.open()

    @rule(is_clean=st.booleans())
    def lose_the_index(self, is_clean: bool) -> None:
        self.opened.close() if is_clean else self.opened.abandon()
        shutil.rmtree(self.directory / "store" / "meta")
        self.open()

    @rule()
    def rebuild(self) -> None:
        self.store.rebuild_index()

    @rule(name=stream, start=st.integers(1, 12), span=st.integers(0, 9), limit=st.none() | few)
    def read_part(self, name: str, start: int, span: int, limit: int | None) -> None:
        whole = [(event.version, event.offset) for event in self.store.read_stream(name)]
        wanted = [pair for pair in whole if start <= pair[0] < start + span]
        for backwards in (False, True):
            part = self.store.read_stream(
                name, start=start, end=start + span, backwards=backwards, limit=limit
            )
            ordered = wanted[::-1] if backwards else wanted
            assert [(event.version, event.offset) for event in part] == ordered[:limit]

    @invariant()
    def index_is_the_scan(self) -> None:
        scanned: dict[str, list[tuple[int, bytes | None]]] = {name: [] for name in STREAMS}
        for number in range(self.partitions):
            for record in self.opened.topic.read(number):
                if record.key is not None and record.key.decode("utf-8", "replace") in scanned:
                    scanned[record.key.decode()].append((record.offset, record.value))
        for name, records in scanned.items():
            events = list(self.store.read_stream(name))
            assert [(event.offset, event.raw_data) for event in events] == records
            assert self.store.stream_version(name) == self.versions.get(name, 0)
            versions = [event.version for event in events]
            assert versions == sorted(set(versions))
            assert (versions or [0])[-1] == self.versions.get(name, 0)
        assert list(self.store.streams()) == sorted(self.versions, key=str.encode)
        assert list(self.store.streams("b")) == [n for n in ("b", "ba") if n in self.versions]
        assert self.store.verify() == []

    @invariant()
    def memory_is_bounded(self) -> None:
        for partition in self.store._partitions:
            assert partition.index.room > -(12 + 4), "an append adds at most so much to the tail"

    def teardown(self) -> None:
        if hasattr(self, "opened"):
            self.opened.close()
        shutil.rmtree(self.directory)


TestStreamsAgainstScan: Any = pytest.mark.guarantee("G-16")(StreamsAgainstScan.TestCase)
