"""What lies beside the ``.log`` files of a partition and can be made from them: indexes, aborted
transactions, the state of producers."""

from __future__ import annotations

import struct
from pathlib import Path

from eventlog._native import check, ffi, lib, path_bytes
from eventlog.log import checkpoints, producer_snapshot
from eventlog.log.partition import native_options
from eventlog.log.partition_files import TRANSACTION_INDEX
from eventlog.log.segment import SNAPSHOT, segment_name
from eventlog.settings import TopicSettings
from eventlog.transfer.survey import PartitionSurvey

_ABORTED = struct.Struct(">hqqqq")  # version 0, producer, first and last offset, last stable offset


def write_indexes(directory: Path, survey: PartitionSurvey, settings: TopicSettings) -> None:
    """Make the ``.index`` and ``.timeindex`` of all segments as a broker that stopped cleanly has them.

    Raises:
        StorageError: the operating system refuses.
        CorruptionError: a ``.log`` file is not what was surveyed.
    """
    options = native_options(settings, has_gaps=True)
    end = ffi.new("el_log_end *")
    for each in survey.segments:
        path = path_bytes(directory / each.path.name)
        check(lib.el_segment_index(path, each.base_offset, each.size_bytes, True, options, end))


def write_broker_files(directory: Path, survey: PartitionSurvey) -> None:
    """What else a broker has there and would not make anew after a clean stop: the state of producers at
    the end, aborted transactions, leader epochs.

    Raises:
        StorageError: the operating system refuses.
    """
    for each in survey.segments:
        if each.aborted:
            entries = b"".join(_ABORTED.pack(0, *transaction) for transaction in each.aborted)
            name = each.path.with_suffix(TRANSACTION_INDEX).name
            checkpoints.replace_file(directory / name, entries)
    snapshot = directory / segment_name(survey.log_end_offset, SNAPSHOT)
    checkpoints.replace_file(snapshot, producer_snapshot.encode(survey.producers))
    is_empty = survey.log_start_offset >= survey.log_end_offset
    epochs = "0\n0\n" if is_empty else f"0\n1\n0 {survey.log_start_offset}\n"
    checkpoints.replace_file(directory / checkpoints.LEADER_EPOCHS, epochs.encode())
