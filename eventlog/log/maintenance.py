"""Looking after the segments: retention and compaction, by one process at a time.

Each process that has a store open for writing has a thread for it, which begins when some topic has a
cleanup policy. Every round it tries to take a lock on a file; who gets it does the round, the others go
back to sleep. The operating system lets go of the lock however its holder ends.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from eventlog.errors import EventLogError, LockedError, SettingError
from eventlog.locks import WAIT_S, Members
from eventlog.log import compaction, retention
from eventlog.log.compaction import CompactionPlan, CompactionResult
from eventlog.log.retention import RetentionPlan
from eventlog.settings import MIB, TopicSettings

if TYPE_CHECKING:
    from eventlog.log.partition import Partition
    from eventlog.log.store import Store
    from eventlog.log.topic import Topic

_logger = logging.getLogger("eventlog.log")

INTERVAL_S = 15.0
RATE_BYTES_S = 64 * MIB
_NAP_S = 0.02
"""Not worth a sleep: who is less ahead goes on."""


class Pace:
    """Holds up who copies, so that a rate is kept. Not thread-safe.

    Args:
        rate_bytes_s: bytes a second; 0: as fast as it goes.
        stop: set when nobody shall be held up any more.
    """

    def __init__(self, rate_bytes_s: int, stop: threading.Event) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._stop = stop
        self._due_s = 0.0

    def __call__(self, size_bytes: int) -> None:
        """So many bytes were copied: sleep, if they were too many for the time."""
        if not self._rate_bytes_s:
            return
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s) + size_bytes / self._rate_bytes_s
        if self._due_s - now_s > _NAP_S:
            self._stop.wait(self._due_s - now_s)


class Maintenance:
    """What is done to the segments of a store. Thread-safe; refused by the store in a forked child.

    Args:
        store: whose; open for reading only it can be asked what there is to do.
        is_on: do it in the background.
        interval_s: from one round to the next.
        rate_bytes_s: most bytes that compaction copies in a second; 0: any number.
    """

    def __init__(self, store: Store, *, is_on: bool, interval_s: float, rate_bytes_s: int) -> None:
        self._store = store
        self._is_on = is_on and not store.read_only
        self._interval_s = interval_s
        self._rate_bytes_s = rate_bytes_s
        self._members = Members(store.run_directory, "maintenance", str(store.path))
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # -- the thread -----------------------------------------------------------------------------

    def start_if_wanted(self) -> None:
        """Begin, if there is something that has to be looked after now. Called again and again."""
        if self._thread is not None or not self._is_on or self._stop.is_set():
            return
        if not any(_has_policy(topic) for topic in self._store._open_topics()):
            return
        self._thread = threading.Thread(
            target=_maintain,
            args=(weakref.ref(self._store), self._stop, self._interval_s),
            name="eventlog-maintenance",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it is at is left as it is, and done at another time. Twice is fine."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def run(self) -> None:
        """One round. What fails is logged, and tried again in the next round."""
        with suppress(LockedError), self._alone(0):  # another process is at it
            topics = [topic for topic in self._store._open_topics() if _has_policy(topic)]
            for topic in topics:
                self._try("retention", topic, partial(self._retain, topic))
            for topic, plan in self._due(topics):
                partition = topic.partition(plan.partition)
                self._try("compaction", topic, partial(self._compact, topic, partition))

    def _due(self, topics: list[Topic]) -> list[tuple[Topic, CompactionPlan]]:
        """What has to be compacted, the dirtiest first."""
        found: list[tuple[Topic, CompactionPlan]] = []

        def look(topic: Topic) -> None:
            found.extend((topic, plan) for plan in self.plan_compaction(topic) if plan.reason)

        for topic in topics:
            if topic.settings.compacts:
                self._try("compaction", topic, partial(look, topic))
        return sorted(found, key=lambda each: each[1].dirty_ratio, reverse=True)

    def _try(self, work: str, topic: Topic, do: Callable[[], object]) -> None:
        if self._stop.is_set():
            return
        try:
            do()
        except Exception as error:
            if self._stop.is_set() or not self._is_there(topic):
                return  # closed or deleted meanwhile
            self._store.metrics.counter(
                "eventlog_maintenance_failures_total",
                "Times that retention or compaction of a topic failed",
                work=work,
            ).add()
            _logger.warning(
                "%s of %s: %s",
                work,
                topic.name,
                error,
                extra={"work": work, "topic": topic.name},
                exc_info=not isinstance(error, EventLogError),
            )

    def _is_there(self, topic: Topic) -> bool:
        try:
            return self._store.find_topic(topic.name) is topic
        except EventLogError:
            return True  # then there is more to be told

    # -- one at a time --------------------------------------------------------------------------

    @contextmanager
    def _alone(self, timeout_s: float) -> Iterator[None]:
        """Nobody else, in any thread or process, removes or replaces segments meanwhile.

        Raises:
            LockedError: somebody does, for longer than that.
        """
        if not self._lock.acquire(timeout=timeout_s):
            raise self._busy("this process", timeout_s)
        with ExitStack() as held:
            held.callback(self._lock.release)
            try:
                held.enter_context(self._members.mutex(timeout_s))
            except LockedError as error:
                raise self._busy(f"process {error.holder_pid or 'unknown'}", timeout_s) from None
            yield

    def _busy(self, holder: str, timeout_s: float) -> LockedError:
        return LockedError(
            f"{holder} is deleting or compacting segments of {self._store.path}, for {timeout_s:g} s "
            "already",
            hint="Try again later",
            path=str(self._store.path),
        )

    # -- retention ------------------------------------------------------------------------------

    def plan_retention(self, topic: Topic) -> list[RetentionPlan]:
        """What retention would do to each partition now."""
        settings = topic.settings
        positions: Mapping[int, Mapping[str, int]] = {}
        if settings.deletes and settings.retention_waits_for_groups:
            positions = self._store._group_positions(topic.name)
        now_ms = self._store._clock.now_ms()
        return [
            retention.plan_retention(each, settings, now_ms, positions.get(each.number))
            for each in topic.partitions
        ]

    def retain(self, topic: Topic) -> list[RetentionPlan]:
        """Do it; returns what was done to each partition."""
        with self._alone(WAIT_S):
            return self._retain(topic)

    def _retain(self, topic: Topic) -> list[RetentionPlan]:
        begun_s = time.monotonic()
        plans = self.plan_retention(topic)
        to_roll = [plan.partition for plan in plans if _takes_active(plan)]
        for number in to_roll:
            topic.partition(number).roll()
        if to_roll:  # what was appended meanwhile counts, too
            plans = [_without_active(plan) for plan in self.plan_retention(topic)]
        self._delete(topic, plans)
        self._store.metrics.histogram(
            "eventlog_retention_seconds", "How long a round of retention took", topic=topic.name
        ).observe(time.monotonic() - begun_s)
        return plans

    def delete_records(self, topic: Topic, partition: Partition, before: int) -> None:
        """Move the log start of a partition, and remove the segments below it. If these are just being
        compacted they go at the next round, or when the store is opened."""
        start = partition.log_start_offset
        move = RetentionPlan(topic.name, partition.number, start, max(start, before), (), ())
        self._store._begin_deletion(topic, [move])
        with suppress(LockedError), self._alone(1.0):
            self._delete(topic, [retention.plan_retention(partition, TopicSettings(), 0)])

    def _delete(self, topic: Topic, plans: list[RetentionPlan]) -> None:
        if any(plan.segments for plan in plans):
            self._store._begin_deletion(topic, plans)
        for plan in plans:
            size_bytes = retention.remove_aside(topic.partition(plan.partition))
            if not plan.segments:
                continue
            self._count("segments", "Segments deleted by retention", topic, len(plan.segments))
            self._count("bytes", "Bytes of segments deleted by retention", topic, size_bytes)
            _logger.info(
                "retention of %s-%d: %d segments, %d bytes; it begins at %d now",
                plan.topic,
                plan.partition,
                len(plan.segments),
                size_bytes,
                plan.new_log_start_offset,
                extra={
                    "topic": plan.topic,
                    "partition": plan.partition,
                    "log_start_offset": plan.new_log_start_offset,
                    "segment_count": len(plan.segments),
                    "size_bytes": size_bytes,
                },
            )

    def _count(self, what: str, help_: str, topic: Topic, amount: int) -> None:
        name = f"eventlog_retention_{what}_total"
        self._store.metrics.counter(name, help_, topic=topic.name).add(amount)

    # -- compaction -----------------------------------------------------------------------------

    def plan_compaction(self, topic: Topic) -> list[CompactionPlan]:
        """What there is to compact in each partition now."""
        now_ms = self._store._clock.now_ms()
        return [
            compaction.plan_compaction(each, topic.settings, now_ms) for each in topic.partitions
        ]

    def compact(self, topic: Topic) -> list[CompactionResult]:
        """Do it, due or not; returns what was done to each partition.

        Raises:
            SettingError: the topic is not one that is compacted.
        """
        if not topic.settings.compacts:
            raise SettingError(
                f"topic {topic.name!r} is not compacted",
                hint="Set its cleanup_policy to compact, if only the last record of each key shall stay",
                setting="cleanup_policy",
                value=topic.settings.cleanup_policy,
            )
        with self._alone(WAIT_S):
            return [self._compact(topic, each) for each in topic.partitions]

    def _compact(self, topic: Topic, partition: Partition) -> CompactionResult:
        begun_s = time.monotonic()
        done = compaction.compact(
            partition,
            topic.settings,
            self._store._clock.now_ms(),
            topic_lock=partial(self._store._kept, topic),
            rate_limit=Pace(self._rate_bytes_s, self._stop),
            is_cancelled=self._stop.is_set,
        )
        freed_bytes = done.size_bytes_before - done.size_bytes_after
        metrics = self._store.metrics
        metrics.counter(
            "eventlog_compactions_total", "Rounds of compaction", topic=topic.name
        ).add()
        metrics.counter(
            "eventlog_compaction_bytes_total", "Bytes freed by compaction", topic=topic.name
        ).add(max(0, freed_bytes))
        metrics.histogram(
            "eventlog_compaction_seconds", "How long a round of compaction took", topic=topic.name
        ).observe(time.monotonic() - begun_s)
        _logger.info(
            "compaction of %s-%d up to offset %d: %d of %d records kept, %d bytes freed",
            done.topic,
            done.partition,
            done.end_offset,
            done.records_kept,
            done.records_read,
            freed_bytes,
            extra={
                "topic": done.topic,
                "partition": done.partition,
                "end_offset": done.end_offset,
                "size_bytes": freed_bytes,
            },
        )
        return done


def _has_policy(topic: Topic) -> bool:
    return topic.settings.deletes or topic.settings.compacts


def _takes_active(plan: RetentionPlan) -> bool:
    return any(each.is_active for each in plan.segments)


def _without_active(plan: RetentionPlan) -> RetentionPlan:
    """What was appended to the newest segment since it was begun stays until the next time."""
    kept = tuple(each for each in plan.segments if not each.is_active)
    start = max(plan.log_start_offset, kept[-1].end_offset if kept else 0)
    return replace(plan, segments=kept, new_log_start_offset=start)


def _maintain(reference: weakref.ref[Store], stop: threading.Event, interval_s: float) -> None:
    """The thread: it must not keep a forgotten store alive, and nothing must end it early."""
    wait_s = 0.0
    while not stop.wait(wait_s):
        store = reference()
        if store is None:
            return
        try:
            store._maintenance.run()
        except Exception:
            if not stop.is_set():
                _logger.exception("maintenance of %s", store.path, extra={"work": "maintenance"})
        del store
        wait_s = interval_s
