"""Processes that are killed, waited for, or hang, seen from those that go on with the same store."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from log_support import SMALL, values
from process_support import DURABILITIES, Child, cases, forked, wait_until

import eventlog
from eventlog.errors import LockedError
from eventlog.locks import Members
from eventlog.meta import Environment

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.mark.guarantee("G-17")
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


@pytest.mark.guarantee("G-17")
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
