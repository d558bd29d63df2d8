"""Laying a store's topics out so that a stopped Kafka broker takes them over."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eventlog._native import os_error
from eventlog.consumer import offsets_csv
from eventlog.consumer.assignment import TopicPartition
from eventlog.engine import EventLog
from eventlog.errors import SettingError, UnknownTopicError
from eventlog.log import checkpoints, producer_snapshot, segment
from eventlog.log.partition import Partition
from eventlog.log.partition_files import bring_segments, copy_file, link_or_copy, sync_tree
from eventlog.log.producer_ids import ID_MIN
from eventlog.log.producer_table import EXPIRATION_MS, ProducerTable
from eventlog.log.segment import LOG
from eventlog.log.store_directory import FORMAT_FILE
from eventlog.log.topic import Topic
from eventlog.log.topics_file import TopicsFile
from eventlog.transfer import topic_config
from eventlog.transfer.broker_directory import INTERNAL_TOPICS, BrokerDirectory, is_too_long
from eventlog.transfer.derived import write_broker_files, write_indexes
from eventlog.transfer.findings import Finding, check_accepted, settled
from eventlog.transfer.steps import OFFSETS_FILE, STEPS_FILE, TopicPlan, steps
from eventlog.transfer.survey import PartitionSurvey, clear_leader_epochs, survey

Offsets = dict[str, dict[TopicPartition, int]]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was exported, or would be.

    Attributes:
        target: the directory.
        partitions: what was found in each.
        findings: warnings, and errors that were accepted (with ``dry_run`` all errors).
        offsets_csv: committed offsets, as in ``eventlog-offsets.csv``.
        steps: what there is left to do, as in ``eventlog-steps.md``.
    """

    target: Path
    partitions: tuple[PartitionSurvey, ...]
    findings: tuple[Finding, ...]
    offsets_csv: str
    steps: str


def export_kafka(
    log: EventLog,
    target: str | os.PathLike[str],
    *,
    topics: Iterable[str] | None = None,
    hard_link: bool = False,
    accept: Collection[str] = (),
    dry_run: bool = False,
) -> ExportReport:
    """Lay topics out for a Kafka broker: partition directories, checkpoints, committed offsets, and a text
    that says what to do with them (``eventlog-steps.md``).

    The store goes on meanwhile; each partition is exported up to what was durable when its turn came. For
    a move stop all writers first. Exporting again replaces a former export, if that holds nothing else
    than the beginning of what is exported now.

    Args:
        log: open, for reading or writing.
        target: a new or former directory of this kind, or the data directory (log.dirs) of a stopped broker
            in which the topics were created: each partition keeps the broker's ``partition.metadata``.
        topics: names; None: all.
        hard_link: sealed ``.log`` files get a second name instead of being copied, where the file system can.
            What the broker did to such a file (cut it, after damage or as a follower) the store would see.
        accept: names of findings with which it goes on all the same:
            :data:`eventlog.transfer.findings.ACCEPTABLE`.
        dry_run: only look: write nothing, and return what was found instead of raising.

    Returns:
        What was exported, with warnings.

    Raises:
        TransferError: something would be lost, or does not fit the target: ``findings`` lists all of it.
        UnknownTopicError: one of ``topics`` is not there.
        LockedError: a broker runs on the target.
        SettingError: ``accept`` names something else; the target is a store.
        CorruptionError: the store is damaged.
        StorageFullError, StorageError: of the operating system.

    Crashes: each partition of the target is as it was or complete, whenever it ends; calling it again
    finishes. What it returned from is durable. Threads and processes may use the store meanwhile.
    """
    export = _Export(log, BrokerDirectory(Path(target)), hard_link=hard_link)
    export.check_target()
    accepted = check_accepted(accept)
    chosen = export.choose(topics)
    try:
        with export.target.locked(to_change=not dry_run):
            return export.look(chosen) if dry_run else export.run(chosen, accepted)
    except OSError as error:
        raise os_error(error.errno or 0, str(error.filename or target), "cannot export") from error


class _Export:
    def __init__(self, log: EventLog, target: BrokerDirectory, *, hard_link: bool) -> None:
        self.log = log
        self.target = target
        self.hard_link = hard_link
        self.now_ms = time.time_ns() // 1_000_000
        self.findings: list[Finding] = []
        self.surveys: list[PartitionSurvey] = []
        self._staged: list[str] = []

    def check_target(self) -> None:
        """Refuse what must never be replaced: a store looks much like a broker's directory."""
        for directory in (self.target.path, self.target.path.parent):
            if (directory / FORMAT_FILE).exists():
                raise SettingError(
                    f"{self.target.path} is, or belongs to, the store in {directory}",
                    hint="Export to a directory outside of it",
                    setting="target",
                    value=str(self.target.path),
                )

    def choose(self, names: Iterable[str] | None) -> list[Topic]:
        """The topics that are meant."""
        wanted = [names] if isinstance(names, str) else names
        chosen = []
        for name in self.log.topics() if wanted is None else sorted(set(wanted)):
            topic = self.log.find_topic(name)
            if topic is not None:
                chosen.append(topic)
            elif wanted is not None:
                raise UnknownTopicError(
                    f"there is no topic {name!r} in {self.log.path}",
                    hint=f"Known are: {', '.join(self.log.topics()) or 'none'}",
                    topic=name,
                )
        return chosen

    def look(self, topics: list[Topic]) -> ExportReport:
        """Find out what an export would do."""
        committed = self._committed(topics)
        self._look_at_topics(topics)
        for partition in _partitions(topics):
            found = self._look_at(partition, partition.directory)
            self._look_at_former(found, partition.directory)
        return self._report(topics, committed, is_done=False, findings=self._all_findings(topics))

    def run(self, topics: list[Topic], accepted: frozenset[str]) -> ExportReport:
        """Do it: everything aside, then checked, then put in place."""
        # Before the segments: no offset may lie behind what they hold.
        committed = self._committed(topics)
        self.target.mend()
        self._look_at_topics(topics)
        settled(self.findings, accepted)
        is_new = not self.target.path.exists()
        self.target.make()
        try:
            for partition in _partitions(topics):
                self._stage(partition)
            findings = settled(self._all_findings(topics), accepted)
            report = self._report(topics, committed, is_done=True, findings=findings)
            self._put(report)
        except BaseException:
            self.target.unstage(self._staged, is_new=is_new)
            raise
        return report

    # -- committed offsets ----------------------------------------------------------------------

    def _committed(self, topics: list[Topic]) -> Offsets:
        names = {topic.name for topic in topics}
        plans: Offsets = {}
        for group in self.log.groups.list():
            text = self.log.groups.export_csv(group)
            found = offsets_csv.read(text, group).get(group, {})
            plan = {unit: offset for unit, offset in found.items() if unit.topic in names}
            if plan:
                plans[group] = plan
                self._look_at_group(group)
        return plans

    def _look_at_group(self, name: str) -> None:
        group = self.log.groups.describe(name)
        if group.members:
            detail = f"group {name!r} is at work: what it commits from now on is not exported"
            self._warn("active-group", "", detail, "Stop its members and export again")
        if group.key_slots:
            detail = (
                f"group {name!r} shares partitions by key: the least offset of each partition counts, so "
                "some records may be given out once more"
            )
            self._warn("key-slots", "", detail)

    # -- topics ---------------------------------------------------------------------------------

    def _look_at_topics(self, topics: list[Topic]) -> None:
        by_metric_name: dict[str, list[str]] = {}
        for topic in topics:
            by_metric_name.setdefault(topic.name.replace(".", "_"), []).append(topic.name)
            self.findings += topic_config.find_lost_settings(topic.name, topic.settings)
            if topic.name in INTERNAL_TOPICS:
                self._find("topic-name", topic.name, "Kafka has a topic of its own of that name")
            if is_too_long(f"{topic.name}-{topic.partition_count - 1}"):
                self._find(
                    "topic-name", topic.name, "the name is too long to be put in place safely"
                )
            self._look_at_place(topic)
        for names in by_metric_name.values():
            if len(names) > 1:
                detail = f"Kafka takes the names {', '.join(names)} for one"
                self._find("topic-name", names[0], detail, "Export only one of them")

    def _look_at_place(self, topic: Topic) -> None:
        """Will the partitions find their places?"""
        there = {number for name, number in self.target.partitions() if name == topic.name}
        wanted = set(range(topic.partition_count))
        if extra := there - wanted:
            detail = f"it has {len(wanted)} partitions, the target more: {topic.name}-{min(extra)}"
            self._find(
                "partition-count", topic.name, detail, "Create it anew with as many partitions"
            )
        if not self.target.is_of_broker:
            return
        create = (
            "Create the topic in the cluster, all partitions on this broker, and stop the broker"
        )
        if missing := wanted - there:
            detail = f"the broker has no directory {topic.name}-{min(missing)}"
            self._find("partition-missing", topic.name, detail, create)
        for number in sorted(there & wanted):
            if checkpoints.read_topic_id(self.target.partition(f"{topic.name}-{number}")) is None:
                detail = (
                    f"{topic.name}-{number} has no {checkpoints.PARTITION_METADATA} of the broker"
                )
                self._find("partition-missing", topic.name, detail, create)

    # -- partitions -----------------------------------------------------------------------------

    def _stage(self, partition: Partition) -> None:
        name = f"{partition.topic}-{partition.number}"
        self._staged.append(name)
        staged = self.target.stage(name)
        brought = bring_segments(partition, staged, place=self._place)
        if not brought.base_offsets:
            (staged / segment.segment_name(brought.log_end_offset)).touch()
        found = self._look_at(partition, staged, brought.log_start_offset, brought.log_end_offset)
        if any(each.is_error and each.name == "damaged" for each in found.findings):
            return  # nothing could be derived from it, and it goes no further
        for each in found.segments:
            if each.has_leader_epochs:
                _own(each.path)
                clear_leader_epochs(each.path)
        write_indexes(staged, found, partition.settings)
        write_broker_files(staged, found)
        metadata = self.target.partition(name) / checkpoints.PARTITION_METADATA
        if metadata.exists():
            copy_file(metadata, staged / metadata.name)
        sync_tree(staged)
        self._look_at_former(found, staged)

    def _place(self, source: Path, target: Path) -> None:
        """Only ``.log`` files may be shared with the store: a broker writes its indexes in place."""
        if source.suffix != LOG:
            return  # the others are made anew
        if self.hard_link:
            link_or_copy(source, target)
        else:
            copy_file(source, target)

    def _look_at(
        self, partition: Partition, directory: Path, start: int = -1, end: int = -1
    ) -> PartitionSurvey:
        if end < 0:
            state = partition.state()
            start, end = state.log_start_offset, state.high_watermark
        bases = [base for base in segment.base_offsets(directory) if base <= end]
        known = producer_snapshot.load(partition.directory, start, end) or (0, ProducerTable())
        found = survey(
            partition.topic,
            partition.number,
            directory,
            bases,
            start,
            end_offset=end,
            producers=known,
        )
        if found.log_end_offset != end and not found.findings:
            detail = f"the segments end at offset {found.log_end_offset}, the log at {end}"
            found.find("damaged", detail, "`eventlog verify` says more")
        found.log_end_offset = end
        found.producers.expire(self.now_ms)
        self.surveys.append(found)
        self._judge(partition, found)
        return found

    def _judge(self, partition: Partition, found: PartitionSurvey) -> None:
        if found.has_gaps and not self._may_have_gaps(partition.topic):
            found.find("damaged", "offsets are missing", "`eventlog verify` says which")
        if found.open_transactions:
            first = min(found.open_transactions.values())
            found.find(
                "open-transaction",
                f"a transaction that began at offset {first} was never ended: readers of committed records would "
                "stop there for ever",
                "Copy the records into a new topic and move that",
            )
        self._judge_producers(found)
        if any(each.has_leader_epochs for each in found.segments):
            detail = "batches have leader epochs of another cluster; in the export they have 0"
            found.find("leader-epochs", detail, is_error=False)
        if found.largest_batch_bytes > topic_config.MESSAGE_BYTES_DEFAULT:
            found.find(
                "large-batches",
                f"the largest batch has {found.largest_batch_bytes:,} bytes: the topic needs "
                f"max.message.bytes={found.largest_batch_bytes}, as {STEPS_FILE} has it",
                is_error=False,
            )
        found.findings += topic_config.find_lost_records(found, partition.settings, self.now_ms)
        if partition.settings.compacts:
            chunks = partition.read_batches(end=found.log_end_offset, take="keys")
            found.findings += topic_config.find_keyless(found, chunks)

    def _judge_producers(self, found: PartitionSurvey) -> None:
        """A new cluster counts producer ids from 0: who gets one that is remembered here is taken for the
        producer that had it."""
        low = {
            producer_id: entry.timestamp_ms
            for producer_id, entry in found.producers.entries.items()
            if producer_id < ID_MIN
        }
        if not low:
            return
        until_ms = max(low.values()) + EXPIRATION_MS
        try:
            until = datetime.fromtimestamp(until_ms / 1000, UTC).isoformat(" ", "seconds")
        except (OverflowError, ValueError, OSError):
            until = f"{until_ms} ms since 1970"
        found.find(
            "producer-ids",
            f"{len(low)} producers with ids of a Kafka cluster (the least: {min(low)}) are remembered until "
            f"{until}: a new producer with such an id would be taken for them, and its batches for repetitions",
            "Move after that time",
        )

    def _may_have_gaps(self, topic: str) -> bool:
        file = TopicsFile(self.log.path, self.log.log_directory)
        file.load()
        entry = file.entries.get(topic)
        return entry is None or entry.has_gaps or self._compacts(topic)

    def _compacts(self, topic: str) -> bool:
        found = self.log.find_topic(topic)
        return found is not None and found.settings.compacts

    def _look_at_former(self, found: PartitionSurvey, staged: Path) -> None:
        """What is there already is replaced only if nothing of it is lost."""
        place = self.target.partition(found.name)
        for path in sorted(place.glob(f"*{LOG}")):
            if path.stat().st_size and not _is_beginning(path, staged / path.name):
                found.find(
                    "target-not-empty",
                    f"{path} has records that this export does not have",
                    "Export to another place, or create the topic anew",
                )
                return

    # -- putting in place -----------------------------------------------------------------------

    def _all_findings(self, topics: list[Topic]) -> list[Finding]:
        order = [topic.name for topic in topics]
        found = itertools.chain(self.findings, *(each.findings for each in self.surveys))
        return sorted(found, key=lambda each: order.index(each.topic) if each.topic else -1)

    def _report(
        self, topics: list[Topic], committed: Offsets, *, is_done: bool, findings: Iterable[Finding]
    ) -> ExportReport:
        plans = [
            TopicPlan(
                topic.name,
                topic.partition_count,
                topic_config.config_of(
                    topic.settings,
                    max(
                        each.largest_batch_bytes
                        for each in self.surveys
                        if each.topic == topic.name
                    ),
                ),
            )
            for topic in topics
        ]
        text = steps(
            self.target.path,
            plans,
            committed,
            is_of_broker=self.target.is_of_broker,
            is_done=is_done,
        )
        csv = offsets_csv.write(committed)
        return ExportReport(self.target.path, tuple(self.surveys), tuple(findings), csv, text)

    def _put(self, report: ExportReport) -> None:
        places = [(each.topic, each.partition) for each in self.surveys]
        # 0: a broker that was not stopped cleanly, or is told so, looks at everything.
        self.target.change_offsets(checkpoints.RECOVERY_POINT, places, dict.fromkeys(places, 0))
        self.target.change_offsets(
            checkpoints.LOG_START,
            places,
            {
                (each.topic, each.partition): each.log_start_offset
                for each in self.surveys
                if each.log_start_offset > each.segments[0].base_offset
            },
        )
        for each in self.surveys:
            self.target.put(each.name)
            self._staged.remove(each.name)
        checkpoints.replace_file(self.target.path / OFFSETS_FILE, report.offsets_csv.encode())
        checkpoints.replace_file(self.target.path / STEPS_FILE, report.steps.encode())

    def _find(self, name: str, topic: str, detail: str, hint: str = "") -> None:
        self.findings.append(Finding(name, True, topic, -1, detail, hint))

    def _warn(self, name: str, topic: str, detail: str, hint: str = "") -> None:
        self.findings.append(Finding(name, False, topic, -1, detail, hint))


def _partitions(topics: Iterable[Topic]) -> Iterator[Partition]:
    return (partition for topic in topics for partition in topic.partitions)


def _own(path: Path) -> None:
    """Make the file nobody else's."""
    if path.stat().st_nlink > 1:
        alone = path.with_suffix(".tmp")
        with contextlib.suppress(FileNotFoundError):
            alone.unlink()
        copy_file(path, alone)
        alone.replace(path)


def _is_beginning(path: Path, whole: Path) -> bool:
    """Is all that is in the one file how the other one begins?"""
    if not whole.exists() or path.stat().st_size > whole.stat().st_size:
        return False
    with path.open("rb") as left, whole.open("rb") as right:
        while data := left.read(1 << 20):
            if data != right.read(len(data)):
                return False
    return True
