"""Kafka's plain files beside the segments: checkpoints, leader epochs, topic ids.

Formats: docs/FORMAT.md. Each is replaced as a whole (aside, fsync, rename, fsync of the directory). One
that cannot be understood counts as empty, as in Kafka: recovery then looks at more, never at less.
"""

from __future__ import annotations

import base64
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path

from eventlog._native import check, lib, path_bytes

_logger = logging.getLogger("eventlog.log")

RECOVERY_POINT = "recovery-point-offset-checkpoint"
LOG_START = "log-start-offset-checkpoint"
CLEANER = "cleaner-offset-checkpoint"
CLEAN_SHUTDOWN = ".kafka_cleanshutdown"
META_PROPERTIES = "meta.properties"
LEADER_EPOCHS = "leader-epoch-checkpoint"
PARTITION_METADATA = "partition.metadata"

Offsets = dict[tuple[str, int], int]


def replace_file(path: Path, data: bytes) -> None:
    """Write a whole file durably, or leave the former one."""
    check(lib.el_file_replace(path_bytes(path), data, len(data)))


def write_offsets(path: Path, offsets: Mapping[tuple[str, int], int]) -> None:
    """Write an offset checkpoint: ``topic partition offset`` a line."""
    replace_file(path, offsets_text(offsets).encode())


def offsets_text(offsets: Mapping[tuple[str, int], int]) -> str:
    """What an offset checkpoint holds."""
    lines = [
        f"{topic} {partition} {offset}\n" for (topic, partition), offset in sorted(offsets.items())
    ]
    return f"0\n{len(lines)}\n{''.join(lines)}"


def read_offsets(path: Path) -> Offsets:
    """Read an offset checkpoint; empty where there is none or it cannot be understood."""
    try:
        return parse_offsets(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        _logger.warning("checkpoint %s cannot be read, counts as empty: %s", path, error)
        return {}
    except ValueError as error:
        _logger.warning("checkpoint %s cannot be understood, counts as empty: %s", path, error)
        return {}


def parse_offsets(text: str) -> Offsets:
    """What an offset checkpoint says.

    Raises:
        ValueError: it is none.
    """
    version, count, *lines = text.splitlines()
    offsets: Offsets = {}
    for line in lines:
        topic, partition, offset = line.split(" ")
        offsets[topic, int(partition)] = int(offset)
    if int(version) != 0 or int(count) != len(lines) or min(offsets.values(), default=0) < 0:
        raise ValueError("wrong version, count or offset")
    return offsets


def encode_uuid(value: uuid.UUID) -> str:
    """22 characters of base64url, as Kafka writes ids."""
    return base64.urlsafe_b64encode(value.bytes).rstrip(b"=").decode()


def write_partition_files(directory: Path, topic_id: uuid.UUID) -> None:
    """The two plain files of a partition directory, where they are missing."""
    metadata = directory / PARTITION_METADATA
    if not metadata.exists():
        replace_file(metadata, f"version: 0\ntopic_id: {encode_uuid(topic_id)}".encode())
    epochs = directory / LEADER_EPOCHS
    if not epochs.exists():
        replace_file(epochs, b"0\n1\n0 0\n")


def read_topic_id(directory: Path) -> uuid.UUID | None:
    """The topic id in partition.metadata, if there is a good one."""
    try:
        for line in (directory / PARTITION_METADATA).read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "topic_id":
                return uuid.UUID(bytes=base64.urlsafe_b64decode(value.strip() + "=="))
    except (OSError, ValueError):
        return None
    return None


def are_leader_epochs(path: Path) -> bool:
    """Can a leader-epoch-checkpoint be read?"""
    try:
        version, count, *lines = path.read_text("utf-8").splitlines()
        pairs = [tuple(map(int, line.split(" "))) for line in lines]
        return int(version) == 0 and int(count) == len(pairs) and all(len(p) == 2 for p in pairs)
    except (OSError, ValueError):
        return False


def write_meta_properties(directory: Path) -> None:
    """The file by which Kafka knows a log directory; written once."""
    path = directory / META_PROPERTIES
    if not path.exists():
        cluster, own = encode_uuid(uuid.uuid4()), encode_uuid(uuid.uuid4())
        replace_file(
            path, f"version=1\ncluster.id={cluster}\nnode.id=1\ndirectory.id={own}\n".encode()
        )
