"""Several processes, and several handles in one, on the same store: what each of them sees of the others,
and what one that is killed leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from log_support import SMALL, child, in_child, python, values
from process_support import DURABILITIES, Child, cases, forked, wait_until

import eventlog
from eventlog.errors import EventLogError, UnknownTopicError
from eventlog.locks import Members

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

REMOVE_TREE = shutil.rmtree


@pytest.mark.guarantee("G-17")
@pytest.mark.guarantee("G-18")
class TestHandles:
    def test_two_in_one_process_are_two_writers(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as one, eventlog.open(tmp_path) as two:
            first = one.topic("t", **SMALL)
            second = two.topic("t")
            for n in range(50):
                for topic, name in ((first, b"one"), (second, b"two")):
                    offset = topic.append(b"%s %d" % (name, n)).offset
                    assert topic.high_watermark() == offset + 1
            wanted = [b"%s %d" % (name, n) for n in range(50) for name in (b"one", b"two")]
            assert values(first) == values(second) == wanted
        with eventlog.open(tmp_path) as log:
            assert cases(log) == {"C-A"}
            assert values(log.topic("t")) == wanted

    def test_what_one_closed_the_other_goes_on_with(self, tmp_path: Path) -> None:
        one = eventlog.open(tmp_path)
        topic = one.topic("t", **SMALL)
        for number in range(10):
            topic.append_many([b"%d" % number] * 3, durability="os")
            two = eventlog.open(tmp_path)
            one.close()
            one, topic = two, two.topic("t")
            assert one.recovery == []
        assert values(topic) == [b"%d" % number for number in range(10) for _ in range(3)]
        one.close()
        with eventlog.open(tmp_path) as log:
            assert cases(log) == {"C-A"}

    def test_who_comes_as_soon_as_the_last_one_lets_go_is_the_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = eventlog.open(tmp_path)
        log.topic("t").append(b"x")
        mutex = Members.mutex
        following: list[eventlog.EventLog] = []

        @contextmanager
        def watched(self: Members) -> Iterator[None]:
            with mutex(self):
                yield
            if self._depth == 0:
                monkeypatch.undo()
                following.append(eventlog.open(tmp_path))

        monkeypatch.setattr(Members, "mutex", watched)
        log.close()
        with following[0] as again:
            assert cases(again) == {"C-A"}
            assert values(again.topic("t")) == [b"x"]

    def test_opening_and_closing_at_once(self, tmp_path: Path) -> None:
        """The last one leaves while the next one comes: it is the first, or there is another last."""
        eventlog.open(tmp_path).close()
        odd: list[EventLogError] = []

        def come_and_go() -> None:
            try:
                for _ in range(15):
                    with eventlog.open(tmp_path) as log:
                        log.topic("t").append(b"x", durability="os")
            except EventLogError as error:
                odd.append(error)

        threads = [threading.Thread(target=come_and_go) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert odd == []
        with eventlog.open(tmp_path) as log:
            assert cases(log) == {"C-A"}
            assert log.topic("t").log_end_offset() == 45


@pytest.mark.guarantee("G-04")
@pytest.mark.guarantee("G-17")
class TestWriters:
    COUNT = 4
    APPENDS = 60

    @classmethod
    def write(cls, store: Path, number: int, durability: str) -> None:
        """Single records and batches, over both partitions; each is looked at after it was told."""
        with eventlog.open(store, durability=durability) as log:
            topic = log.topic("t", partitions=2, **SMALL)
            for n in range(cls.APPENDS):
                partition = n % 2
                wanted = [b"%d %d %d" % (number, n, part) for part in range(1 + n % 3)]
                receipt = topic.append_many(wanted, partition=partition)[0]
                found = values(topic, partition, start=receipt.offset, limit=receipt.count)
                assert found == wanted, f"{found} at offset {receipt.offset}"

    def check(self, store: Path) -> None:
        with eventlog.open(store) as log:
            assert cases(log) == {"C-A"}
            topic = log.topic("t")
            for partition in range(2):
                rows = [
                    row for rows in topic.read_batches(partition, take="tuples") for row in rows
                ]
                assert [row[0] for row in rows] == list(range(len(rows)))
                for number in range(self.COUNT):
                    mine = [row[3] for row in rows if row[3].startswith(b"%d " % number)]
                    assert mine == [
                        b"%d %d %d" % (number, n, part)
                        for n in range(partition, self.APPENDS, 2)
                        for part in range(1 + n % 3)
                    ]

    @pytest.mark.parametrize("durability", DURABILITIES)
    def test_forked(self, tmp_path: Path, durability: str) -> None:
        processes = [
            Child(lambda _, number=number: self.write(tmp_path, number, durability))  # type: ignore[misc]
            for number in range(self.COUNT)
        ]
        try:
            assert [process.wait() for process in processes] == [0] * self.COUNT
        finally:
            for process in processes:
                process.end()
        self.check(tmp_path)

    def test_started_one_by_one(self, tmp_path: Path) -> None:
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]);"
            "from test_log_processes import TestWriters, Path;"
            "TestWriters.write(Path(sys.argv[2]), int(sys.argv[3]), 'sync')"
        )
        here = str(Path(__file__).parent)
        processes = [
            subprocess.Popen([sys.executable, "-c", code, here, str(tmp_path), str(number)])
            for number in range(self.COUNT)
        ]
        assert [process.wait() for process in processes] == [0] * self.COUNT
        self.check(tmp_path)

    def test_durabilities_of_two_processes_mix(self, tmp_path: Path) -> None:
        """A call that asks a `sync` topic for less is read once a sync of anybody covers it."""
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t", **SMALL)

            def lazy(process: Child) -> None:
                with eventlog.open(tmp_path) as other:
                    for n in range(40):
                        other.topic("t").append(b"lazy %d" % n, durability="os")
                        process.tell()
                        process.hear()

            with forked(lazy) as process:
                for n in range(40):
                    assert topic.append(b"sync %d" % n).offset == 2 * n + 1
                    assert topic.high_watermark() == 2 * n + 2
                    process.tell()
                    if n < 39:
                        process.hear()
                assert process.wait() == 0
            assert len(values(topic)) == 80


@pytest.mark.guarantee("G-18")
class TestTopics:
    def test_made_altered_and_grown_elsewhere(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            log.topic("mine").append(b"0")

            def make() -> None:
                with eventlog.open(tmp_path) as other:
                    assert other.topics() == ["mine"]
                    assert other.topic("mine").append(b"1").offset == 1
                    other.topic("theirs", partitions=2, durability="os").append(b"x", partition=1)

            in_child(make)
            assert log.topics() == ["mine", "theirs"]
            theirs = log.topic("theirs")
            assert theirs.partition_count == 2
            assert theirs.settings.durability == "os"
            assert values(theirs, 1) == [b"x"]
            assert values(log.topic("mine")) == [b"0", b"1"]

            def change() -> None:
                with eventlog.open(tmp_path) as other:
                    other.topic("theirs", segment_size_bytes_max=4096)
                    other.add_partitions("theirs", 4).append(b"y", partition=3)

            in_child(change)
            assert log.topic("theirs") is theirs
            assert theirs.partition_count == 4
            assert theirs.settings.segment_size_bytes_max == 4096
            assert values(theirs, 3) == [b"y"]
            assert theirs.append(b"z", partition=3).offset == 1
        with eventlog.open(tmp_path) as log:
            assert cases(log) == {"C-A"}

    def test_it_is_seen_without_asking(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            in_child(lambda: eventlog.open(tmp_path).add_partitions("t", 3))
            wait_until(lambda: topic.partition_count == 3, "the partitions were not noticed")

    def test_two_make_the_same_one_at_once(self, tmp_path: Path) -> None:
        eventlog.open(tmp_path).close()
        ids: list[Any] = []

        def make() -> None:
            with eventlog.open(tmp_path) as log:
                for n in range(10):
                    topic = log.topic(f"t{n}", partitions=2)
                    topic.append(b"x", partition=1, durability="os")
                    ids.append((n, topic.topic_id))

        threads = [threading.Thread(target=make) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ids) == 30
        assert len(set(ids)) == 10
        with eventlog.open(tmp_path) as log:
            assert [log.topic(f"t{n}").log_end_offset(1) for n in range(10)] == [3] * 10

    def test_deleted_elsewhere_means_unknown(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log, eventlog.open(tmp_path, read_only=True) as reader:
            topic = log.topic("t", partitions=2)
            topic.append(b"x", partition=0)
            seen = reader.topic("t")
            assert values(seen) == [b"x"]
            met: list[BaseException] = []

            def follow(tail: Iterator[object]) -> None:
                try:
                    next(tail)
                except BaseException as error:
                    met.append(error)

            waiting = [
                threading.Thread(target=follow, args=(topic.tail(),)),
                threading.Thread(target=follow, args=(topic.tail(1),)),
                threading.Thread(target=follow, args=(seen.tail(),)),
            ]
            for thread in waiting:
                thread.start()

            def delete() -> None:
                with eventlog.open(tmp_path) as other:
                    other.delete_topic("t")
                    assert other.topics() == []

            in_child(delete)
            for thread in waiting:
                thread.join(20)
            assert [type(error) for error in met] == [UnknownTopicError] * 3
            for _ in range(2):  # before and after it was noticed
                for use in (
                    lambda: topic.append(b"x", partition=0),
                    lambda: topic.append_many([b"x"], partition=1),
                    lambda: next(topic.tail()),
                ):
                    with pytest.raises(UnknownTopicError):
                        use()
                assert log.topics() == reader.topics() == []
            for old in (topic, seen):
                with pytest.raises(UnknownTopicError):
                    values(old)
            with pytest.raises(UnknownTopicError):
                reader.topic("t")

    def test_one_of_the_same_name_begins_anew(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            old = log.topic("t")
            old.append_many([b"old"] * 10)
            old.partition(0).checkpoint()

            def replace() -> None:
                with eventlog.open(tmp_path) as other:
                    other.topic("t").partition(0).checkpoint()
                    other.delete_topic("t")
                    assert other.topic("t").append(b"new").offset == 0
                    os.kill(os.getpid(), signal.SIGKILL)

            process = Child(lambda _: replace())
            assert process.wait() == -signal.SIGKILL
            process.end()
            with pytest.raises(UnknownTopicError):
                old.append(b"x")
            new = log.topic("t")
            assert new is not old
            assert values(new) == [b"new"]
            log._abandon()  # killed, too
        with eventlog.open(tmp_path) as log:
            assert values(log.topic("t")) == [b"new"]

    @pytest.mark.parametrize("is_begun", [False, True], ids=["before files go", "amid files"])
    def test_a_deletion_that_was_cut_off_leaves_nothing_of_the_old_one(
        self, tmp_path: Path, is_begun: bool
    ) -> None:
        """What is left of files and control pages is not what a new topic of that name goes on with."""
        with eventlog.open(tmp_path) as log:
            log.topic("t", partitions=3).append_many([b"old"] * 10, partition=0)
            log.topic("t").partition(0).checkpoint()

            def remove(directory: Path, **_: Any) -> None:
                if is_begun:
                    REMOVE_TREE(directory)
                os.kill(os.getpid(), signal.SIGKILL)

            def delete() -> None:
                with eventlog.open(tmp_path) as other:
                    shutil.rmtree = remove  # type: ignore[assignment]
                    other.delete_topic("t")

            process = Child(lambda _: delete())
            assert process.wait() == -signal.SIGKILL
            process.end()
            assert log.topics() == []
            for number in range(3):
                new = log.topic("t", partitions=3)
                assert new.append(b"new", partition=number).offset == 0
            log._abandon()
        with eventlog.open(tmp_path) as log:
            assert [values(log.topic("t"), number) for number in range(3)] == [[b"new"]] * 3


@pytest.mark.guarantee("G-07")
@pytest.mark.guarantee("G-18")
class TestTheLastOne:
    @staticmethod
    def write_and_stay(store: Path, process: Child) -> None:
        log = eventlog.open(store, durability="os")
        log.topic("t", **SMALL).append_many([b"theirs"] * 5)
        process.tell()
        process.hear()
        log.close()

    def test_marks_the_store_clean_whoever_it_is(self, tmp_path: Path) -> None:
        log = eventlog.open(tmp_path)
        with forked(lambda process: self.write_and_stay(tmp_path, process)) as process:
            log.topic("t").append(b"mine")
            log.close()
            process.tell()
            assert process.wait() == 0
        with eventlog.open(tmp_path) as log:
            assert cases(log) == {"C-A"}
            assert values(log.topic("t")) == [b"theirs"] * 5 + [b"mine"]

    def test_a_survivor_marks_clean_what_a_killed_one_wrote(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            with forked(lambda process: self.write_and_stay(tmp_path, process)) as process:
                process.kill()
            assert values(log.topic("t")) == [b"theirs"] * 5
        with eventlog.open(tmp_path) as log:
            assert cases(log) == {"C-A"}
            assert values(log.topic("t")) == [b"theirs"] * 5

    def test_a_killed_last_one_means_recovery(self, tmp_path: Path) -> None:
        with forked(lambda process: self.write_and_stay(tmp_path, process)) as process:
            with eventlog.open(tmp_path) as log:
                assert log.recovery == []
                log.topic("t").append(b"mine")
            process.kill()
        with eventlog.open(tmp_path) as log:
            assert cases(log) <= {"C-B", "C-F"}
            assert cases(log)
            assert values(log.topic("t")) == [b"theirs"] * 5 + [b"mine"]


@pytest.mark.guarantee("G-17")
def test_readers_beside_two_writers_see_a_growing_prefix(tmp_path: Path) -> None:
    def write(process: Child, number: int) -> None:
        with eventlog.open(tmp_path, durability=DURABILITIES[number]) as log:
            process.tell()
            topic = log.topic("t")
            for n in range(60):
                topic.append_many([b"%d %d" % (number, n)] * 2)

    with eventlog.open(tmp_path) as log:
        log.topic("t", **SMALL)
    with (
        forked(lambda process: write(process, 0)) as one,
        forked(lambda process: write(process, 1)) as two,
    ):
        seen: list[bytes | None] = []
        with eventlog.open(tmp_path, read_only=True) as steady:
            while len(seen) < 240:
                with eventlog.open(tmp_path, read_only=True) as reader:
                    for topic in (reader.topic("t"), steady.topic("t")):
                        found = values(topic)
                        assert found[: len(seen)] == seen
                        seen = found
        assert one.wait() == two.wait() == 0
    for number in range(2):
        mine = [value for value in seen if value and value.startswith(b"%d " % number)]
        assert mine == [b"%d %d" % (number, n) for n in range(60) for _ in range(2)]


@pytest.mark.guarantee("G-19")
def test_children_open_for_themselves(tmp_path: Path) -> None:
    with eventlog.open(tmp_path) as log:
        topic = log.topic("t", **SMALL)
        topic.append(b"parent 0")

        def write(number: int) -> None:
            with eventlog.open(tmp_path) as mine:
                assert values(mine.topic("t"))[0] == b"parent 0"
                for n in range(20):
                    mine.topic("t").append(b"child %d %d" % (number, n))

        with child(write, 1), child(write, 2):
            for n in range(1, 20):
                topic.append(b"parent %d" % n)
        found = values(topic)
        assert len(found) == 60
        assert [value for value in found if value and value.startswith(b"parent")] == [
            b"parent %d" % n for n in range(20)
        ]


@pytest.mark.guarantee("G-19")
def test_a_child_outlives_its_parent(tmp_path: Path) -> None:
    """It was forked while the parent had the store open, and goes on when that has been killed."""
    code = """
import os, signal, sys, eventlog
log = eventlog.open(sys.argv[1])
topic = log.topic("t")
topic.append(b"parent")
parent = os.getpid()
if os.fork() == 0:
    with eventlog.open(sys.argv[1]) as mine:
        os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            pass
        mine.topic("t").append(b"child")
    print("done", flush=True)
    os._exit(0)
os.wait()
"""
    run = python(code, tmp_path)
    assert run.stdout == "done\n", run.stderr
    with eventlog.open(tmp_path) as log:
        assert cases(log) == {"C-A"}
        assert values(log.topic("t")) == [b"parent", b"child"]
