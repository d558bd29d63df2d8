"""The files of an environment: made safely, opened with care, moved aside when damaged.

- Made under another name, fsynced, renamed, the parent fsynced: a power cut leaves no half one.
- Blocks are reserved for the lock file, which LMDB maps: a full disk is an error, never a SIGBUS.
  Data goes through pwrite (no writemap), and every commit is synced.
- Damaged ones are renamed ``.broken-<n>``, never deleted.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from eventlog.errors import (
    CorruptionError,
    EventLogError,
    LockedError,
    StorageError,
    StorageFullError,
    StorageReadOnlyError,
)
from eventlog.meta import seal
from eventlog.meta.seal import State

MAP_SIZES_BYTES = (256 << 30, 16 << 30, 1 << 30)
"""Address space, not disk. Smaller ones for machines that refuse it."""
TABLE_COUNT_MAX = 4096
LOCK_SIZE_BYTES = 8192
DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"
BROKEN_SUFFIX = ".broken-"
ASIDE_SUFFIX = ".tmp-"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_ADDRESSES = {errno.ENOMEM, errno.EINVAL, errno.EFBIG}
DAMAGE = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.CursorFullError,
    lmdb.PageFullError,
)


def translated(error: lmdb.Error | OSError, path: Path) -> EventLogError:
    """The error of ours that says what one of LMDB or of the system means."""
    code = _code_of(error)
    fields: dict[str, Any] = {"path": str(path), "errno": code if code < 1000 else 0}
    if isinstance(error, lmdb.MapFullError | lmdb.TxnFullError | lmdb.DiskError) or code in _FULL:
        return StorageFullError(
            f"no room for metadata in {path}: {error}",
            hint="See that there is room on the disk and try again; the log is not concerned",
            **fields,
        )
    if isinstance(error, lmdb.ReadonlyError) or code in _READ_ONLY:
        return StorageReadOnlyError(
            f"metadata in {path} cannot be written: {error}",
            hint="Check the permissions, or open the store with read_only=True",
            **fields,
        )
    if isinstance(error, lmdb.LockError | lmdb.ReadersFullError) or code == errno.EAGAIN:
        return LockedError(
            f"metadata in {path} is in use by too many or by an incompatible process: {error}",
            hint="Close other processes that read the store and try again",
            **fields,
        )
    if isinstance(error, DAMAGE):
        return damaged(path, str(error))
    return StorageError(
        f"metadata in {path} failed: {error}",
        hint="LMDB says so too when a write was cut short: see whether there is room on the disk"
        if code == errno.EIO
        else "See to the cause, close the store and open it again",
        **fields,
    )


def _code_of(error: Exception) -> int:
    """LMDB's code or the system's errno, 0 where there is none."""
    return abs(int(getattr(error, "code", 0) or getattr(error, "errno", 0) or 0))


def damaged(path: Path, what: str, *, is_derived: bool = True) -> CorruptionError:
    """The error for metadata that is not what was written."""
    return CorruptionError(
        f"metadata in {path} is damaged: {what}",
        hint="It is derived from the log: open the store for writing to make it anew"
        if is_derived
        else "Restore that directory from a backup, or move it away: what it held is then forgotten",
        path=str(path),
        case="C-H",
    )


def open_lmdb(path: Path, *, readonly: bool = False, lock: bool = True, sync: bool = True) -> Any:
    """LMDB's environment in an existing directory. Raises lmdb.Error and OSError."""
    failed: Exception | None = None
    for map_size in MAP_SIZES_BYTES:
        try:
            return lmdb.open(
                str(path),
                map_size=map_size,
                readonly=readonly,
                lock=lock,
                sync=sync,
                metasync=sync,
                writemap=False,
                create=not readonly,
                max_dbs=TABLE_COUNT_MAX,
                max_spare_txns=0,  # a forked child that closes would end spare ones of its parent
            )
        except (lmdb.Error, OSError, OverflowError) as error:
            if _code_of(error) not in _NO_ADDRESSES and not isinstance(
                error, OverflowError | lmdb.MemoryError
            ):
                raise
            failed = error
    assert failed is not None
    raise failed


def make(path: Path) -> None:
    """Make an empty environment at ``path``: there whole, or not at all."""
    aside = path.with_name(f"{path.name}{ASIDE_SUFFIX}{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        environment = open_lmdb(aside)
        try:
            with environment.begin(write=True) as transaction:
                transaction.put(b"made by", b"eventlog")
        finally:
            environment.close()
        reserve_lock(aside)
        for name in (DATA_FILE, LOCK_FILE):
            fd = os.open(aside / name, os.O_RDWR)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        seal.sync_directory(aside)
        aside.rename(path)
        seal.sync_directory(path.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def reserve_lock(path: Path) -> None:
    """Give the lock file real blocks. Only while this process has not opened the environment.

    (Closing any descriptor of the file would drop the locks that LMDB holds on it.)
    """
    try:
        if (path / LOCK_FILE).stat().st_blocks * 512 >= LOCK_SIZE_BYTES:
            return
    except FileNotFoundError:
        pass
    fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, LOCK_SIZE_BYTES)
        elif os.fstat(fd).st_size < LOCK_SIZE_BYTES:
            os.pwrite(fd, bytes(LOCK_SIZE_BYTES), 0)
    finally:
        os.close(fd)


def move_aside(path: Path) -> Path:
    """Rename a damaged environment, so that it is out of the way and still there to look at."""
    number = 1
    while (target := path.with_name(f"{path.name}{BROKEN_SUFFIX}{number}")).exists():
        number += 1
    path.rename(target)
    seal.sync_directory(path.parent)
    return target


class Found(NamedTuple):
    """An open environment, whether a seal proved it, and where damaged ones before it went."""

    lmdb: Any
    is_proven: bool
    moved_aside: list[Path]


def inode_of(path: Path) -> int:
    """Of the data file: another one, once the files were made anew. 0: there is none."""
    try:
        return (path / DATA_FILE).stat().st_ino
    except FileNotFoundError:
        return 0


def open_for_writing(path: Path, *, is_first: bool, is_derived: bool) -> Found:
    """The environment, made or made anew where need be.

    Args:
        path: its directory.
        is_first: no other process has it open, so its files can be looked at.
        is_derived: False: damage is an error, and nothing is changed.
    """
    if not is_first and path.exists():
        return Found(_open_both_ways(path), False, [])
    for name in os.listdir(path.parent):
        if re.fullmatch(re.escape(path.name + ASIDE_SUFFIX) + r"\d+", name):
            shutil.rmtree(path.with_name(name), ignore_errors=True)
    moved: list[Path] = []
    state = state_of(path, is_writer=True)
    if state is State.DAMAGED and path.exists():
        if not is_derived:
            raise damaged(path, "its bytes are not those that were left", is_derived=False)
        moved.append(move_aside(path))
    if not path.exists():
        make(path)
    try:
        return Found(_open_both_ways(path), state is not State.UNPROVEN, moved)
    except DAMAGE as error:
        if not is_derived:
            raise damaged(path, str(error), is_derived=False) from error
        moved.append(move_aside(path))
        make(path)
        return Found(_open_both_ways(path), True, moved)


def open_for_reading(path: Path, *, is_derived: bool) -> Found | None:
    """The environment; None: there is none, or it is damaged (derived: else that is an error). Nothing
    is changed."""
    state = state_of(path, is_writer=False)
    if state is State.DAMAGED:
        if path.exists() and not is_derived:
            raise damaged(path, "its bytes are not those that were left", is_derived=False)
        return None
    try:
        if os.access(path, os.W_OK) and os.access(path / DATA_FILE, os.W_OK):
            # LMDB opens a path once in a process: so that a writer's handle can come later, it is
            # opened for both. It writes no data unless asked to.
            environment = _open_both_ways(path)
        else:
            environment = open_lmdb(path, readonly=True, lock=os.access(path / LOCK_FILE, os.W_OK))
            _check_size(environment, path)
    except DAMAGE as error:
        if not is_derived:
            raise damaged(path, str(error), is_derived=False) from error
        return None
    return Found(environment, state is State.PROVEN, [])


def _open_both_ways(path: Path) -> Any:
    reserve_lock(path)
    environment = open_lmdb(path)
    _check_size(environment, path)
    environment.reader_check()
    return environment


def _check_size(environment: Any, path: Path) -> None:
    """LMDB maps what the meta page promises: a shorter file would be a SIGBUS."""
    pages = environment.info()["last_pgno"] + 1
    if (path / DATA_FILE).stat().st_size < pages * environment.stat()["psize"]:
        environment.close()
        raise lmdb.CorruptedError("the file is shorter than its meta page says")


def state_of(path: Path, *, is_writer: bool) -> State:
    """What is known of the files; DAMAGED also where there are none."""
    try:
        return seal.state_of(path, path / DATA_FILE, is_writer=is_writer)
    except (FileNotFoundError, NotADirectoryError):
        return State.DAMAGED
