"""Taking the partition directories of a stopped Kafka broker into a store."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from eventlog._native import check, lib, os_error, path_bytes
from eventlog.consumer import offsets_csv
from eventlog.consumer.assignment import TopicPartition
from eventlog.engine import EventLog
from eventlog.errors import UnknownTopicError
from eventlog.locks import Members
from eventlog.log import checkpoints, producer_snapshot, segment
from eventlog.log.adoption import NewTopic, adopt, check_writable
from eventlog.log.partition_files import (
    TRANSACTION_INDEX,
    copy_bytes,
    copy_file,
    link_or_copy,
    sync_tree,
)
from eventlog.log.segment import SNAPSHOT
from eventlog.log.topics_file import TopicEntry, partition_directories
from eventlog.settings import TopicSettings
from eventlog.transfer.broker_directory import INTERNAL_TOPICS, BrokerDirectory
from eventlog.transfer.derived import write_indexes
from eventlog.transfer.findings import Finding, check_accepted, settled
from eventlog.transfer.survey import PartitionSurvey, survey

STAGING_DIRECTORY = "incoming"
Path_ = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was imported, or would be.

    Attributes:
        partitions: what was found in each.
        findings: warnings, and errors that were accepted (with ``dry_run`` all errors).
        skipped: topics of the broker's own that were left out.
        offsets: the committed offsets that were set, by group.
    """

    partitions: tuple[PartitionSurvey, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[str, ...]
    offsets: dict[str, dict[TopicPartition, int]]


def import_kafka(
    log: EventLog,
    sources: Path_ | Sequence[Path_],
    *,
    topics: Iterable[str] | None = None,
    committed_offsets: str | None = None,
    group: str | None = None,
    hard_link: bool = False,
    accept: Collection[str] = (),
    dry_run: bool = False,
) -> ImportReport:
    """Take partition directories of a stopped broker into the store as topics, with the offsets, ids and
    batches that they have.

    Args:
        log: open for writing.
        sources: the broker's data directory (log.dirs; several where it has several), or single partition
            directories; or what :func:`eventlog.transfer.export_kafka` laid out.
        topics: names; None: all but the broker's own (``__consumer_offsets`` and the like).
        committed_offsets: CSV that ``kafka-consumer-groups.sh --reset-offsets --export`` wrote.
        group: of lines that name none.
        hard_link: sealed ``.log`` files get a second name instead of being copied, where the file system can.
        accept: names of findings with which it goes on all the same:
            :data:`eventlog.transfer.findings.ACCEPTABLE`.
        dry_run: only look: write nothing, and return what was found instead of raising.

    Returns:
        What was imported, with warnings. Leader epochs stay as they are in the batches. Records of
        transactions are read as they lie, those of aborted ones too.

    Raises:
        TransferError: damage, or topics that are there already: ``findings`` lists all of it.
        UnknownTopicError: one of ``topics`` is not in ``sources``, or the CSV names a topic that is nowhere.
        LockedError: a broker runs on a source, or another import into this store.
        SettingError: ``accept`` names something else, or a line of the CSV is none.
        GroupNotEmptyError: a group of the CSV has live members. The topics were imported.
        StorageReadOnlyError, StorageFullError, StorageError: of the operating system.

    Crashes: all the topics are there, or none; then the committed offsets. What it returned from is
    durable. Threads and processes may use the store meanwhile.
    """
    accepted = check_accepted(accept)
    check_writable(log)
    given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    work = _Import(log, [Path(source).absolute() for source in given], hard_link=hard_link)
    try:
        with ExitStack() as stack:
            for directory in work.directories:
                stack.enter_context(directory.locked(to_change=False))
            work.choose(topics)
            work.check_offsets(committed_offsets, group)
            if dry_run:
                return work.report(work.look(), {})
            findings = settled(work.look(), accepted)
            work.take_in()
    except OSError as error:
        raise os_error(
            error.errno or 0, str(error.filename or given[0]), "cannot import"
        ) from error
    offsets = {}
    if committed_offsets is not None:
        offsets = log.groups.import_csv(committed_offsets, group=group)
    return work.report(findings, offsets)


class _Import:
    def __init__(self, log: EventLog, sources: Sequence[Path], *, hard_link: bool) -> None:
        self.log = log
        self.sources = sources
        self.hard_link = hard_link
        self.directories: list[BrokerDirectory] = []
        self._places: dict[tuple[str, int], tuple[BrokerDirectory, Path]] = {}
        self._surveys: dict[tuple[str, int], PartitionSurvey] = {}
        self._findings: list[Finding] = []
        self._skipped: set[str] = set()
        for source in sources:
            self._find_directories(source)

    def _find_directories(self, source: Path) -> None:
        if not source.is_dir():
            raise os_error(2, str(source), "there is nothing to import")
        beside = {
            path: (name, number) for name, number, path in partition_directories(source.parent)
        }
        is_partition = source in beside and any(source.glob(f"*{segment.LOG}"))
        owner = BrokerDirectory(source.parent if is_partition else source)
        self.directories.append(owner)
        found = {beside[source]: source} if is_partition else owner.partitions()
        for place, path in found.items():
            if place in self._places and self._places[place][1] != path:
                self._find(
                    "partition-twice", *place, f"it is in {self._places[place][1]} and in {path}"
                )
            self._places[place] = owner, path

    def choose(self, names: Iterable[str] | None) -> None:
        """Keep the places of the topics that are meant."""
        there = {name for name, _ in self._places}
        wanted = there - INTERNAL_TOPICS
        self._skipped = there & INTERNAL_TOPICS
        if names is not None:
            wanted = {names} if isinstance(names, str) else set(names)
            self._skipped = set()
            if missing := sorted(wanted - there):
                raise UnknownTopicError(
                    f"there is no topic {missing[0]!r} in {', '.join(map(str, self.sources))}",
                    hint=f"Known are: {', '.join(sorted(there)) or 'none'}",
                    topic=missing[0],
                )
        self._places = {
            place: found for place, found in sorted(self._places.items()) if place[0] in wanted
        }

    def check_offsets(self, text: str | None, group: str | None) -> None:
        """Refuse lines that are none, and topics that are nowhere, before anything is done."""
        known = {name for name, _ in self._places} | set(self.log.topics())
        for plan in offsets_csv.read(text or "", group).values():
            for unit in plan:
                if unit.topic not in known:
                    raise UnknownTopicError(
                        f"there are committed offsets of topic {unit.topic!r}, which is not imported",
                        hint="Leave those lines out, or import the topic",
                        topic=unit.topic,
                    )

    # -- looking --------------------------------------------------------------------------------

    def look(self) -> list[Finding]:
        """Look at every batch; what was found."""
        for name in sorted({name for name, _ in self._places}):
            self._look_at_topic(name)
        for (name, number), (owner, path) in self._places.items():
            self._surveys[name, number] = self._look_at(name, number, owner, path)
        return [
            *self._findings,
            *(each for found in self._surveys.values() for each in found.findings),
        ]

    def _look_at_topic(self, name: str) -> None:
        numbers = self._numbers(name)
        if name in INTERNAL_TOPICS:
            self._find("topic-name", name, -1, "it holds Kafka's own records")
        if self.log.has_topic(name):
            self._find("topic-exists", name, -1, "the store has one", "Delete it, or choose topics")
        if missing := sorted(set(range(1 + max(numbers))) - set(numbers)):
            detail = f"{name}-{missing[0]} is missing"
            self._find(
                "partition-missing", name, -1, detail, "Name all data directories of the broker"
            )
        if len(self._topic_ids(name)) > 1:
            detail = "its partitions have different topic ids: they are of different topics"
            self._find("topic-id", name, -1, detail)

    def _numbers(self, name: str) -> list[int]:
        return [number for topic, number in self._places if topic == name]

    def _topic_ids(self, name: str) -> set[uuid.UUID]:
        found = {
            checkpoints.read_topic_id(path)
            for (topic, _), (_, path) in self._places.items()
            if topic == name
        }
        return {each for each in found if each is not None and each.int}

    def _look_at(
        self, name: str, number: int, owner: BrokerDirectory, path: Path
    ) -> PartitionSurvey:
        bases = segment.base_offsets(path)
        noted = owner.offsets(checkpoints.LOG_START).get((name, number), 0)
        start = max(noted, bases[0] if bases else 0)
        while len(bases) > 1 and bases[1] <= start:
            del bases[0]  # deleted, save for the file
        found = survey(name, number, path, bases, start)
        if not bases:
            found.find("damaged", f"{path} has no segments")
        if start > found.log_end_offset:
            found.find(
                "damaged", f"the log starts at offset {start}, and ends at {found.log_end_offset}"
            )
        if any(path.glob("*.swap")):
            found.find(
                "unfinished-cleaning",
                f"{path} holds .swap files",
                "Start the broker and stop it again",
            )
        self._warn_of_transactions(found)
        return found

    def _warn_of_transactions(self, found: PartitionSurvey) -> None:
        if aborted := sum(len(each.aborted) for each in found.segments):
            detail = f"{aborted} transactions were aborted; their records are read like all others"
            found.find("aborted-transactions", detail, is_error=False)
        if found.open_transactions:
            first = min(found.open_transactions.values())
            detail = f"a transaction that began at offset {first} has not ended; its records are read like all others"
            found.find("open-transaction", detail, is_error=False)

    # -- taking in ------------------------------------------------------------------------------

    def take_in(self) -> None:
        """Bring everything aside, then let the store adopt it."""
        staging = self.log.path / STAGING_DIRECTORY
        with Members(self.log.run_directory, "import", f"an import into {self.log.path}").mutex():
            shutil.rmtree(staging, ignore_errors=True)  # of an import that was interrupted
            check(lib.el_file_mkdir(path_bytes(staging)))
            try:
                adopt(
                    self.log,
                    {
                        name: self._stage_topic(name, staging)
                        for name in sorted({name for name, _ in self._places})
                    },
                )
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def _stage_topic(self, name: str, staging: Path) -> NewTopic:
        topic_id = next(iter(self._topic_ids(name)), None) or uuid.uuid4()
        surveys = {number: self._surveys[name, number] for number in self._numbers(name)}
        directories = {}
        for number, found in surveys.items():
            directories[number] = staging / found.name
            self._stage(found, self._places[name, number][1], directories[number])
            checkpoints.write_partition_files(directories[number], topic_id)
            sync_tree(directories[number])
        has_gaps = any(found.has_gaps for found in surveys.values())
        return NewTopic(
            TopicEntry(topic_id, len(surveys), has_gaps=has_gaps),
            directories,
            {number: found.log_start_offset for number, found in surveys.items()},
        )

    def _stage(self, found: PartitionSurvey, source: Path, staged: Path) -> None:
        check(lib.el_file_mkdir(path_bytes(staged)))
        *sealed, newest = found.segments
        for each in sealed:
            (link_or_copy if self.hard_link else copy_file)(each.path, staged / each.path.name)
        copy_bytes(newest.path, staged / newest.path.name, newest.size_bytes)
        for each in found.segments:
            aborted = each.path.with_suffix(TRANSACTION_INDEX)
            if aborted.exists():
                copy_file(aborted, staged / aborted.name)
        for offset in producer_snapshot.offsets(source):
            if found.log_start_offset <= offset <= found.log_end_offset:
                name = segment.segment_name(offset, SNAPSHOT)
                copy_file(source / name, staged / name)
        epochs = source / checkpoints.LEADER_EPOCHS
        if epochs.exists():
            copy_file(epochs, staged / epochs.name)
        write_indexes(staged, found, TopicSettings())

    def report(
        self, findings: Iterable[Finding], offsets: dict[str, dict[TopicPartition, int]]
    ) -> ImportReport:
        """What the caller is told."""
        return ImportReport(
            tuple(self._surveys.values()), tuple(findings), tuple(sorted(self._skipped)), offsets
        )

    def _find(self, name: str, topic: str, partition: int, detail: str, hint: str = "") -> None:
        self._findings.append(Finding(name, True, topic, partition, detail, hint))
