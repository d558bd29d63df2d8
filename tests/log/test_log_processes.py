"""Several processes, and several handles in one, on the same store: what each of them sees of the others,
and what one that is killed leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from log_support import SMALL, child, in_child, python, values

import eventlog
from eventlog.errors import EventLogError, LockedError, UnknownTopicError
from eventlog.locks import Members
from eventlog.meta import Environment

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

DURABILITIES = ("sync", "os")
READY = b"r"
REMOVE_TREE = shutil.rmtree


class Child:
    """A forked process that was told what to do; killed at the end of the test if it still runs."""

    def __init__(self, function: Callable[[Child], object]) -> None:
        self._told, tell = os.pipe()
        wait, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self._told)
                os.close(self._go)
                self._told, self._go = wait, tell
                function(self)
                status = 0
            except BaseException as error:
                sys.stderr.write(f"child: {error!r}\n")
                sys.stderr.flush()
            finally:
                os._exit(status)
        os.close(tell)
        os.close(wait)
        self.status: int | None = None

    def tell(self, what: bytes = READY) -> None:
        """To the other side."""
        os.write(self._go, what)

    def hear(self) -> bytes:
        """What the other side told; empty once it has ended."""
        return os.read(self._told, 1 << 16)

    def kill(self) -> None:
        """SIGKILL, and see it gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Its exit status, or minus the signal that ended it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def end(self) -> None:
        """Killed if it has not ended by itself."""
        if self.status is None:
            self.kill()
        os.close(self._told)
        os.close(self._go)


@contextmanager
def forked(function: Callable[[Child], object], *, until_ready: bool = True) -> Iterator[Child]:
    """A child that has said (by ``tell``) that it is where the test wants it."""
    process = Child(function)
    try:
        if until_ready:
            assert process.hear(), "the child ended before it was ready"
        yield process
    finally:
        process.end()


def cases(log: eventlog.EventLog) -> set[str]:
    return {report.case for report in log.recovery}


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.002)


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
@pytest.mark.guarantee("G-18")
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


@pytest.mark.guarantee("G-18")
class TestKilled:
    @pytest.mark.parametrize("durability", DURABILITIES)
    def test_amid_appends_it_holds_nobody_up(self, tmp_path: Path, durability: str) -> None:
        def write(process: Child) -> None:
            topic = eventlog.open(tmp_path).topic("t")
            process.tell()
            while True:
                topic.append_many([b"theirs"] * 3)

        with eventlog.open(tmp_path) as log:
            topic = log.topic("t", durability=durability, **SMALL)
            mine = 0
            for round_number in range(12):
                with forked(write) as process:
                    for _ in range(round_number):
                        topic.append(b"mine")
                        mine += 1
                    process.kill()
                    topic.append(b"mine")
                    mine += 1
            found = values(topic)
            assert found.count(b"mine") == mine
            assert found.count(b"theirs") % 3 == 0
            assert len(found) == topic.log_end_offset() == topic.high_watermark()

    def test_in_a_tail_it_is_not_waited_for(self, tmp_path: Path) -> None:
        def follow(process: Child) -> None:
            topic = eventlog.open(tmp_path).topic("t")
            process.tell()
            next(topic.tail())

        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            for _ in range(3):
                with forked(follow) as process:
                    process.kill()
                tail = topic.tail(timeout_s=20)
                topic.append(b"x")
                assert next(tail).value == b"x"

    def test_its_membership_ends(self, tmp_path: Path) -> None:
        def stay(process: Child) -> None:
            log = eventlog.open(tmp_path)
            log.event_store("e")
            process.tell()
            process.hear()

        with forked(stay) as process:
            process.kill()
        with eventlog.open(tmp_path) as log:
            assert cases(log)  # the first one, then: it has recovered
            assert log.event_store("e")._partitions[0].index.discarded == ""

    def test_its_reader_slot_of_lmdb_is_given_back(self, tmp_path: Path) -> None:
        def read(process: Child) -> None:
            with Environment.open(tmp_path / "meta") as environment, environment.read("a"):
                process.tell()
                process.hear()

        with Environment.open(tmp_path / "meta") as environment:
            with environment.write() as transaction:
                transaction.put("a", b"k", b"v")
            with forked(read) as process:
                assert environment.check_readers() == 0
                process.kill()
            assert environment.check_readers() == 1

    def test_its_write_transaction_of_lmdb_never_was(self, tmp_path: Path) -> None:
        def write(process: Child) -> None:
            with Environment.open(tmp_path / "meta") as environment, environment.write() as change:
                change.put("a", b"k", b"theirs")
                process.tell()
                process.hear()

        with Environment.open(tmp_path / "meta") as environment:
            with environment.write() as transaction:
                transaction.put("a", b"k", b"mine")
            with forked(write) as process:
                process.kill()
            with environment.write() as transaction:
                assert transaction.get("a", b"k") == b"mine"
                transaction.put("a", b"k", b"mine again")
            with environment.read("a") as transaction:
                assert transaction.get("a", b"k") == b"mine again"

    def test_amid_waking_others_it_leaves_them_not_asleep(self, tmp_path: Path) -> None:
        """Whoever wakes takes the waiters' mark first. If it is killed then, nobody else wakes them; so
        they look by themselves. The mark is found by what a waiter changes in the page."""
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            partition = topic.partition(0)
            page = tmp_path / "run" / "t-0"

            def words() -> list[bytes]:
                data = page.read_bytes()
                return [data[at : at + 4] for at in range(0, len(data), 4)]

            before = words()
            came = threading.Event()
            waiting = threading.Thread(target=lambda: partition.wait(0) and came.set())
            waiting.start()
            wait_until(lambda: words() != before, "nobody marked that it waits")
            places = [at for at, word in enumerate(words()) if word != before[at]]
            assert len(places) == 1
            with page.open("r+b") as file:
                file.seek(4 * places[0])
                file.write(bytes(4))
            topic.append(b"x")
            waiting.join(20)
            assert came.is_set()

    def test_amid_telling_of_activity_it_leaves_nobody_asleep(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            seen: list[bytes | None] = []

            def follow() -> None:
                while not seen:
                    ticket = log.activity.ticket()
                    seen.extend(values(topic))
                    if not seen:
                        log.activity.wait(ticket)

            page = tmp_path / "run" / "activity"
            waiting = threading.Thread(target=follow)
            waiting.start()
            wait_until(lambda: any(page.read_bytes()), "nobody marked that it waits")
            with page.open("r+b") as file:
                file.write(bytes(8))
            topic.append(b"x")
            waiting.join(20)
            assert seen == [b"x"]


@pytest.mark.guarantee("G-18")
class TestWaiting:
    def test_a_tail_in_another_process_receives(self, tmp_path: Path) -> None:
        def follow(process: Child) -> None:
            tail = eventlog.open(tmp_path).topic("t").tail(start=0)
            process.tell()
            for record in tail:
                process.tell(record.value or b"")

        with eventlog.open(tmp_path) as log:
            topic = log.topic("t", **SMALL)
            with forked(follow) as process:
                for n in range(100):
                    topic.append(b"%d" % n)
                    assert process.hear() == b"%d" % n

    def test_one_thread_waits_for_several_topics_and_partitions(self, tmp_path: Path) -> None:
        def follow(process: Child) -> None:
            log = eventlog.open(tmp_path)
            places: dict[tuple[str, int], int] = {}
            process.tell()
            while True:
                ticket = log.activity.ticket()
                told = False
                for name in log.topics():
                    topic = log.topic(name)
                    for number in range(topic.partition_count):
                        place = (name, number)
                        new = values(topic, number, start=places.setdefault(place, 0))
                        for value in new:
                            places[place] += 1
                            told = True
                            process.tell(b"%s-%d %s" % (name.encode(), number, value))
                if not told:
                    log.activity.wait(ticket)

        with eventlog.open(tmp_path) as log:
            log.topic("a", partitions=3)
            log.topic("b", durability="os")
            with forked(follow) as process:
                for n in range(20):
                    log.topic("a").append(b"%d" % n, partition=n % 3)
                    assert process.hear() == b"a-%d %d" % (n % 3, n)
                    log.topic("b").append(b"%d" % n)
                    assert process.hear() == b"b-0 %d" % n
                log.topic("made.later").append(b"x")
                assert process.hear() == b"made.later-0 x"
                log.add_partitions("b", 2).append(b"y", partition=1)
                assert process.hear() == b"b-1 y"

    def test_wake_wakes_other_processes(self, tmp_path: Path) -> None:
        def wait(process: Child) -> None:
            activity = eventlog.open(tmp_path).activity
            ticket = activity.ticket()
            process.tell()
            while activity.ticket() == ticket:
                activity.wait(ticket)

        with eventlog.open(tmp_path) as log, forked(wait) as process:
            log.activity.wake()
            assert process.wait() == 0

    def test_a_wait_ends_when_the_time_is_up(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            partition = log.topic("t").partition(0)
            assert not partition.wait(0, 0)
            assert not partition.wait(0, 1.2)  # longer than a waiter sleeps at a time
            assert list(log.topic("t").tail(timeout_s=0)) == []
            ticket = log.activity.ticket()
            until = time.monotonic() + 20
            while log.activity.wait(ticket, 0.01):
                assert time.monotonic() < until, "the time is never up"


@pytest.mark.guarantee("G-18")
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


@pytest.mark.guarantee("G-18")
class TestHanging:
    """A process that is stopped while it opens or closes the store."""

    @pytest.fixture
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        patient = Members.mutex
        monkeypatch.setattr(Members, "mutex", lambda self, timeout_s=0.2: patient(self, timeout_s))

    @staticmethod
    def hang(store: Path, process: Child) -> None:
        log = eventlog.open(store)
        with log._members.mutex():
            process.tell()
            os.kill(os.getpid(), signal.SIGSTOP)
        log.close()

    @pytest.mark.usefixtures("_impatient")
    def test_others_are_told_who_it_is_and_go_on_afterwards(self, tmp_path: Path) -> None:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            with forked(lambda process: self.hang(tmp_path, process)) as process:
                with pytest.raises(LockedError, match=f"by process {process.pid}") as caught:
                    eventlog.open(tmp_path)
                assert caught.value.holder_pid == process.pid
                with pytest.raises(LockedError):
                    log.topic("new")
                topic.append(b"it stops no append")
                with eventlog.open(tmp_path, read_only=True) as reader:
                    assert values(reader.topic("t")) == [b"it stops no append"]
                os.kill(process.pid, signal.SIGCONT)
                assert process.wait() == 0
            log.topic("new")
            eventlog.open(tmp_path).close()

    @pytest.mark.usefixtures("_impatient")
    def test_closing_beside_it_is_durable(self, tmp_path: Path) -> None:
        log = eventlog.open(tmp_path)
        log.topic("t").append(b"x", durability="os")
        with forked(lambda process: self.hang(tmp_path, process)) as process:
            log.close()
            process.kill()
        with eventlog.open(tmp_path) as again:
            assert "C-A" not in cases(again)
            assert values(again.topic("t")) == [b"x"]


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
