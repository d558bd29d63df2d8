"""Putting a compacted segment in the place of those that it was made from, and ending what a crash or an
error interrupted there (case C-G).

1. ``<base>.log.cleaned`` and its indexes are written and fsynced: nobody looks at them.
2. ``.log.cleaned`` becomes ``.log.swap``, durably. What was begun is undone before, and ended from here on.
3. The indexes become ``.swap``, too.
4. ``.log.swap`` becomes ``.log``, in the place of the former segment of that base offset.
5. Every process is told to look at the directory again.
6. The other segments that it was made from get names ending in ``.deleted``.
7. ``.index.swap`` and, last, ``.timeindex.swap`` get their own names: as long as that one is there, 6 may
   not be done.
8. What is called ``.deleted`` is removed.

Whoever looks at the directory in between sees each record that stays at least once: the new segment comes
before the old ones go, and readers pass over offsets that they have read. (Kafka removes the old ones first;
there nobody else reads the directory.) An index that does not fit its log yet is found out by the batch that
it points to.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventlog._native import check, ffi, lib, path_bytes
from eventlog.log import segment
from eventlog.log.segment import INDEX, LOG, TIME_INDEX, segment_name

CLEANED, SWAP = ".cleaned", ".swap"


def cleaned_path(directory: Path, base_offset: int) -> Path:
    """Where the log file of a compacted segment is written."""
    return directory / segment_name(base_offset, LOG + CLEANED)


def remove_cleaned(directory: Path) -> list[Path]:
    """Undo what did not come to step 2; the log files that were removed.

    Raises:
        StorageError: the operating system refuses.
    """
    endings = (CLEANED, CLEANED + segment.TEMPORARY, SWAP + segment.TEMPORARY)
    removed = [directory / name for name in os.listdir(directory) if name.endswith(endings)]
    for path in sorted(removed):
        check(lib.el_file_unlink_unsynced(path_bytes(path)))
    if removed:
        check(lib.el_file_sync(path_bytes(directory)))
    return [path for path in removed if path.name.endswith(LOG + CLEANED)]


def pending(directory: Path) -> list[int]:
    """Base offsets of segments that are between 2 and 7, ascending."""
    endings = tuple(suffix + SWAP for suffix in (LOG, INDEX, TIME_INDEX))
    bases = {
        name[: segment.OFFSET_DIGITS] for name in os.listdir(directory) if name.endswith(endings)
    }
    return sorted(int(base) for base in bases if base.isdecimal())


def commit(directory: Path, base_offset: int) -> None:
    """Steps 2 and 3: the log file and its indexes are written and fsynced.

    Raises:
        StorageError: the operating system refuses. Whether it is committed shows by :func:`pending`.
    """
    for suffix in (LOG, INDEX, TIME_INDEX):
        path = directory / segment_name(base_offset, suffix + CLEANED)
        target = directory / segment_name(base_offset, suffix + SWAP)
        check(lib.el_file_rename(path_bytes(path), path_bytes(target)))


def placed_path(directory: Path, base_offset: int) -> Path | None:
    """The log file of a pending segment, whatever it is called now; None: it was deleted since."""
    for suffix in (LOG + SWAP, LOG):
        path = directory / segment_name(base_offset, suffix)
        if path.exists():
            return path
    return None


def covered(directory: Path, base_offset: int, end_offset: int) -> list[int]:
    """Base offsets of the other segments that a compacted one was made from, as far as they are there."""
    return [base for base in segment.base_offsets(directory) if base_offset < base < end_offset]


def finish(
    directory: Path,
    base_offset: int,
    end_offset: int,
    options: Any,
    *,
    tell: Callable[[], None],
    remove: Callable[[list[int]], None],
) -> None:
    """Steps 3 to 7, from wherever it stands.

    Args:
        directory: of the partition.
        base_offset: of a pending segment whose log file is there and sound.
        end_offset: where the segment behind it begins: others between the two are covered.
        options: of the partition (``el_partition_options *``).
        tell: tells every process to look at the directory again.
        remove: does away with segments.

    Raises:
        StorageError: the operating system refuses; call it again.
    """

    def path(suffix: str) -> Path:
        return directory / segment_name(base_offset, suffix)

    new_log, indexes = path(LOG + SWAP), (path(INDEX + SWAP), path(TIME_INDEX + SWAP))
    if new_log.exists():
        if not all(index.exists() for index in indexes):
            end = ffi.new("el_log_end *")
            size = new_log.stat().st_size
            check(lib.el_segment_index(path_bytes(new_log), base_offset, size, True, options, end))
        check(lib.el_file_rename(path_bytes(new_log), path_bytes(path(LOG))))
    tell()
    remove(covered(directory, base_offset, end_offset))
    for index in indexes:
        if index.exists():
            check(lib.el_file_rename(path_bytes(index), path_bytes(index.with_suffix(""))))


def forget(directory: Path, base_offset: int) -> None:
    """Remove what is left of a pending segment that was deleted since."""
    for suffix in (INDEX, TIME_INDEX):
        path = directory / segment_name(base_offset, suffix + SWAP)
        if path.exists():
            check(lib.el_file_unlink(path_bytes(path)))
