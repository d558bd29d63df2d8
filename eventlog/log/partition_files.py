"""The segments of one partition, brought to another directory while writers go on.

What makes it simple: a sealed segment is never written to again. Retention renames and unlinks it,
compaction and recovery put another file in its place, all by name: so a second name for it (a hard link)
stays good whatever becomes of the first. Only the newest segment has to be copied, up to an offset.

Segments may vanish or be replaced meanwhile. What was brought counts only if the directory named the same
files before the end offset was read and after the last file was brought; else all is done once more. (The
order matters: a compaction between the two could have dropped a record for a newer one that lies behind
that end.)
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from eventlog._native import check, ffi, lib, path_bytes
from eventlog.errors import (
    CorruptionError,
    LockedError,
    PoisonedError,
    StorageError,
    UnknownTopicError,
)
from eventlog.locks import Members
from eventlog.log import checkpoints, producer_snapshot, segment
from eventlog.log.partition import Partition
from eventlog.log.segment import INDEX, LOG, SNAPSHOT, TIME_INDEX, segment_name
from eventlog.log.segment import TRANSACTION_INDEX as TRANSACTION_INDEX

SEGMENT_SUFFIXES = (TIME_INDEX, INDEX, TRANSACTION_INDEX, LOG)
_SWAP = ".swap"  # a compaction is putting this file in the place of others
_PATIENCE_S = 30.0
_PAUSE_S = 0.01
_QUIET_FROM = 3  # attempts
_STAGE = "held+"  # with a sign that no topic has: control pages bear their names
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP}
_NO_RANGES = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
_PIECE_SIZE_BYTES = 1 << 20
_HEADER = struct.Struct(">qi 11x i")  # base offset, length, ..., last offset delta
_INDEX_ENTRY = struct.Struct(">ii")
_BATCH_LENGTH_MIN = 49

Place = Callable[[Path, Path], object]
"""``place(source, target)``: put a file that will not change any more into its new directory."""

Quiet = Callable[[], AbstractContextManager[object]]


class PartitionFiles(NamedTuple):
    """What was brought.

    Attributes:
        log_start_offset: first offset that can be read.
        log_end_offset: behind the last record.
        base_offsets: of the segments, ascending; all but the last are sealed.
        sealed: names of the files of sealed segments; each is the very content that the store has.
    """

    log_start_offset: int
    log_end_offset: int
    base_offsets: list[int]
    sealed: list[str]


def link_or_copy(source: Path, target: Path) -> bool:
    """A second name for a file that will not change any more; a copy where there cannot be one (another
    file system). Whether it is a name. Raises OSError."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        copy_file(source, target)
        return False
    return True


def copy_file(source: Path, target: Path) -> None:
    """A copy of a file that will not change any more; not fsynced. Raises OSError."""
    copy_bytes(source, target, source.stat().st_size)


def copy_bytes(source: Path, target: Path, size_bytes: int) -> None:
    """The first bytes of a file as a new file; not fsynced.

    Raises:
        OSError: of the operating system; EIO also where the source has fewer bytes.
    """
    with source.open("rb") as reader, target.open("xb") as writer:
        left = size_bytes
        while left > 0:
            moved = _copy_piece(reader.fileno(), writer.fileno(), left)
            if moved == 0:
                raise OSError(
                    errno.EIO, f"the file has only {size_bytes - left} bytes", str(source)
                )
            left -= moved


def _copy_piece(reader: int, writer: int, size_bytes: int) -> int:
    """Some bytes from where one file stands to where the other does; how many."""
    if hasattr(os, "copy_file_range"):  # shares blocks where the file system can
        try:
            moved: int = os.copy_file_range(reader, writer, size_bytes)
        except OSError as error:
            if error.errno not in _NO_RANGES:
                raise
        else:
            if moved:
                return moved
    data = os.read(reader, min(size_bytes, _PIECE_SIZE_BYTES))
    left = memoryview(data)
    while left:
        left = left[os.write(writer, left) :]
    return len(data)


def sync_tree(directory: Path) -> None:
    """fsync every file and directory below, and the directory itself. Raises OSError."""
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            _sync(os.path.join(folder, name))
        _sync(folder)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def bring_segments(
    partition: Partition,
    target: Path,
    *,
    place: Place = link_or_copy,
    stage: Path | None = None,
    quiet: Quiet = nullcontext,
) -> PartitionFiles:
    """Bring the segments of an open partition into an empty directory: all that was durable when the
    call was made, and all that could be read then; nothing that is not both (a reader cannot know what
    is durable, and takes what can be read).

    Sealed segments are brought by ``place``. The newest is copied, with exact indexes, as if it had been
    closed. Nothing is fsynced (see :func:`sync_tree`). The batches of the newest are verified, of the others
    not (see :func:`check_sealed`).

    Args:
        partition: open, for reading or writing, by any number of processes meanwhile.
        target: an empty directory; what the call could not complete is removed from it.
        place: brings one file of a sealed segment.
        stage: a directory in the file system of the partition, to hold files by a second name while they
            are brought; so a long copy need not be begun again because a segment was deleted.
        quiet: nobody replaces segments inside of it; it is entered, for a moment if there is a
            stage, if they are replaced again and again.

    Raises:
        CorruptionError: the newest segment is damaged, or the first one is missing (C-D, C-J).
        StorageError: segments are being replaced all the time, for half a minute already.
        UnknownTopicError, ClosedError: the topic was deleted, the store closed.
        OSError: of the operating system.
    """
    if stage is not None and (held := _hold(partition, stage / target.name, quiet)) is not None:
        try:
            return _bring(partition, stage / target.name, held, target, place)
        except BaseException:
            _remove_files(target)
            raise
        finally:
            shutil.rmtree(stage / target.name)
    made: list[PartitionFiles] = []

    def bring(found: _Found) -> None:
        made.append(_bring(partition, partition.directory, found, target, place))

    _when_settled(partition, target, bring, quiet)
    return made[-1]


class _Found(NamedTuple):
    """The segments of a partition at one moment."""

    end: int
    bases: list[int]
    start: int


@contextmanager
def stage_in(run_directory: Path) -> Iterator[Path | None]:
    """A new directory for ``stage`` of :func:`bring_segments`; None where there can be none. Those of
    processes that were killed are removed."""
    try:
        for left in run_directory.glob(f"{_STAGE}*"):
            with suppress(LockedError), Members(left, "stage", str(left)).mutex(timeout_s=0):
                shutil.rmtree(left, ignore_errors=True)
        stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=run_directory))
    except (OSError, StorageError):
        yield None
        return
    try:
        with Members(stage, "stage", str(stage)).mutex():
            yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _hold(partition: Partition, stage: Path, quiet: Quiet) -> _Found | None:
    """Give all files a second name; None: they cannot have one."""
    try:
        stage.mkdir()

        def link(found: _Found) -> None:
            for base in found.bases:
                for suffix in SEGMENT_SUFFIXES:
                    name = segment_name(base, suffix)
                    with suppress(FileNotFoundError) if suffix != LOG else nullcontext():
                        os.link(partition.directory / name, stage / name)

        return _when_settled(partition, stage, link, quiet)
    except BaseException as error:
        shutil.rmtree(stage, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _NO_LINKS:
            return None
        raise


def _when_settled(
    partition: Partition, target: Path, act: Callable[[_Found], None], quiet: Quiet
) -> _Found:
    """Do it until the segments are the same before and after. What it puts into ``target`` is removed
    before it is done again, and where it fails."""
    until = time.monotonic() + _PATIENCE_S
    attempt = 0
    while True:
        try:
            with quiet() if attempt >= _QUIET_FROM else nullcontext():
                found = _try(partition, act)
        except FileNotFoundError:
            found = None
        except BaseException:
            _remove_files(target)
            raise
        if found is not None:
            return found
        _remove_files(target)
        if partition.state().is_deleted or not partition.directory.exists():
            raise UnknownTopicError(
                f"topic {partition.topic!r} was deleted",
                hint="Make it anew under that name",
                topic=partition.topic,
            )
        if time.monotonic() > until:
            raise StorageError(
                f"segments of {partition.directory} are being replaced, for {_PATIENCE_S:g} s already",
                hint="If none is at work, a compaction was interrupted: opening the store for writing ends it",
                path=str(partition.directory),
            )
        time.sleep(_PAUSE_S)
        attempt += 1


def _try(partition: Partition, act: Callable[[_Found], None]) -> _Found | None:
    """None: segments came and went meanwhile."""
    before = _segments(partition.directory)
    end = _end_to_bring(partition)
    segments = _segments(partition.directory)
    if before is None or segments is None or not before.items() <= segments.items():
        return None
    bases = sorted(base for base in segments if base <= end)
    state = partition.state()
    found = _Found(end, bases, min(state.log_start_offset, end))
    act(found)
    after = _segments(partition.directory)
    if after is None or any(after.get(base) != segments[base] for base in bases):
        return None
    if (
        partition.state().is_deleted
    ):  # one of that name may have been made anew: it was not this one
        return None
    if bases and bases[0] > found.start:
        path = partition.directory / segment_name(found.start)
        raise _damage(partition, "C-J", path, 0, found.start, "the first segment is missing")
    return found


def _bring(
    partition: Partition, source: Path, found: _Found, target: Path, place: Place
) -> PartitionFiles:
    """From the partition's directory, or from where its files are held."""
    sealed: list[str] = []
    for base in found.bases[:-1]:
        for suffix in SEGMENT_SUFFIXES:
            name = segment_name(base, suffix)
            try:
                place(source / name, target / name)
            except FileNotFoundError:
                if suffix == LOG:
                    raise
                continue  # an index can be made anew, and not every segment has a .txnindex
            sealed.append(name)
    if found.bases:
        _copy_newest(partition, source / segment_name(found.bases[-1]), found, target)
    return PartitionFiles(found.start, found.end, found.bases, sealed)


def _segments(directory: Path) -> dict[int, int] | None:
    """Base offsets of the segments, and the inodes that bear their names; None: some of them are just
    being replaced."""
    found: dict[int, int] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            stem, _, suffix = entry.name.partition(".")
            if suffix == "log" and len(stem) == segment.OFFSET_DIGITS and stem.isdecimal():
                found[int(stem)] = entry.inode()
            elif entry.name.endswith(_SWAP):
                return None
    return found


def _end_to_bring(partition: Partition) -> int:
    if not partition.writable:
        return partition.high_watermark
    try:
        partition.sync()
    except PoisonedError:
        return min(partition.durable_end_offset, partition.high_watermark)
    state = partition.state()
    return min(state.durable_end_offset, state.high_watermark)


def _copy_newest(partition: Partition, source: Path, held: _Found, target: Path) -> None:
    base, end = held.bases[-1], held.end
    position, offset = _position_of_end(source, base, end)
    copy = target / source.name
    copy_bytes(source, copy, position)
    options = partition._options(partition.settings)
    found = segment.scan(copy, base, has_gaps=bool(options.has_gaps))
    if found.end_offset != end or found.stop != lib.EL_SCAN_END:
        what = segment.text(found.what) or f"the log is known to reach offset {end}"
        place = int(found.end_position)
        path = partition.directory / source.name
        raise _damage(partition, "C-D", path, place, int(found.end_offset), what)
    end_found = ffi.new("el_log_end *")
    check(lib.el_segment_index(path_bytes(copy), base, position, True, options, end_found))
    transactions = source.with_suffix(TRANSACTION_INDEX)
    if offset == end and transactions.exists():
        copy_file(transactions, target / transactions.name)


def _position_of_end(path: Path, base: int, end: int) -> tuple[int, int]:
    """Behind the last batch that ends at or below ``end``: the position, and where that batch ends."""
    start = _indexed_position(path.with_suffix(INDEX), base, end)
    found = walk_batches(path, start, base, end)
    return found if start == 0 or found[1] == end else walk_batches(path, 0, base, end)


def _indexed_position(index: Path, base: int, end: int) -> int:
    """Of a batch below ``end``, as near as the index knows one; it is a hint."""
    try:
        data = index.read_bytes()
    except OSError:
        return 0
    low, high = 0, len(data) // _INDEX_ENTRY.size
    while low < high:
        middle = (low + high) // 2
        if base + _INDEX_ENTRY.unpack_from(data, middle * _INDEX_ENTRY.size)[0] < end:
            low = middle + 1
        else:
            high = middle
    return max(0, _INDEX_ENTRY.unpack_from(data, (low - 1) * _INDEX_ENTRY.size)[1]) if low else 0


def walk_batches(path: Path, position: int, offset: int, end: int) -> tuple[int, int]:
    """Go by the headers from the batch at a position (``offset``: not above its first one) over those that
    end at or below ``end``. Where that is: position and offset. Raises OSError."""
    with path.open("rb") as file:
        while offset < end:
            header = os.pread(file.fileno(), _HEADER.size, position)
            if len(header) < _HEADER.size:
                break
            first, length, last_delta = _HEADER.unpack(header)
            if length < _BATCH_LENGTH_MIN or first < offset or first + last_delta >= end:
                break
            position += 12 + length
            offset = first + last_delta + 1
    return position, offset


def check_sealed(
    partition: Partition, directory: Path, base: int, following: int, *, segments_meet: bool
) -> None:
    """Verify every batch of a sealed segment that was brought.

    Args:
        partition: that it is of.
        directory: that it was brought to.
        base: its base offset.
        following: that of the next segment.
        segments_meet: it has to end there; else it may end before.

    Raises:
        CorruptionError: it is damaged; names the file in the store.
    """
    has_gaps = bool(partition._options(partition.settings).has_gaps)
    name = segment_name(base)
    found = segment.scan(directory / name, base, has_gaps=has_gaps)
    end, position = int(found.end_offset), int(found.end_position)
    if found.stop != lib.EL_SCAN_END:
        what = segment.text(found.what) or "the sealed segment ends in zeros"
    elif end > following or (end < following and segments_meet):
        what = f"it ends at offset {end}, the next one begins at {following}"
    else:
        return
    raise _damage(partition, "C-D", partition.directory / name, position, end, what)


def copy_plain_files(source: Path, target: Path, end_offset: int) -> None:
    """What lies beside the segments: the topic's id, leader epochs, and the states of producers that are
    not past ``end_offset``. Raises OSError."""
    names = [checkpoints.PARTITION_METADATA, checkpoints.LEADER_EPOCHS]
    names += [
        segment_name(offset, SNAPSHOT)
        for offset in producer_snapshot.offsets(source)
        if offset <= end_offset
    ]
    for name in names:
        try:
            copy_file(source / name, target / name)
        except FileNotFoundError:
            continue  # an older snapshot, deleted meanwhile


def _remove_files(directory: Path) -> None:
    for path in list(directory.iterdir()):
        path.unlink()


def _damage(
    partition: Partition, case: str, path: Path, position: int, offset: int, what: str
) -> CorruptionError:
    return CorruptionError(
        f"{case}: {path} is damaged at byte {position}: {what}; offsets from {offset} on are concerned",
        hint="`eventlog verify` lists all that is wrong; restore the file from a backup, or see "
        "`eventlog repair`",
        case=case,
        path=str(path),
        position=position,
        offset=offset,
        topic=partition.topic,
        partition=partition.number,
    )
