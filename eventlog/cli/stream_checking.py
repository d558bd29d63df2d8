"""The stream index of an event store, held against its log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventlog.errors import EventLogError

if TYPE_CHECKING:
    from eventlog import EventLog
    from eventlog.cli.checking import Report
    from eventlog.log.topic import Topic


def is_event_store(topic: Topic) -> bool:
    """Does the newest record of any partition look like an event?"""
    from eventlog.cli.showing import is_event

    for number in range(topic.partition_count):
        end = topic.high_watermark(number)
        if end > topic.log_start_offset(number):
            return any(is_event(record) for record in topic.read(number, start=end - 1, limit=1))
    return False


def check_metadata(log: EventLog, report: Report) -> None:
    """Are the files of the indexes those that the last writer left?"""
    from eventlog.meta import Environment

    directory = log.meta_directory
    if not directory.is_dir() or not any(directory.iterdir()):
        return  # never made, or deleted: nothing that could be wrong
    with Environment.open(directory, read_only=True) as environment:
        if environment.is_temporary:  # a reader is given an empty one in place of a damaged one
            report.add("stream index", directory, "is damaged; opening for writing folds it anew")


def check_streams(log: EventLog, name: str, report: Report) -> None:
    """Compare the stream index of a topic, if it is an event store, with a fold of its log."""
    try:
        if not is_event_store(log.topic(name)):
            return
        store = log.event_store(name)
        report.stream_count += sum(1 for _ in store.streams())
        differences = [*store.verify(), *store.discarded_indexes]
    except EventLogError as error:
        if not report.problems:  # else it follows from what was found in the log
            report.add("stream index", log.path, f"{name} cannot be folded: {error.message}")
        return
    for difference in differences:
        report.add("stream index", log.meta_directory, difference)
