"""The LMDB environment of a store: opened once a process, with one set of rules for transactions.

What lies here is derived: the log is the truth, so what is damaged is moved aside by a writer, made
anew, and folded again from the log (case C-H).

- A process opens a path once, its handles share it. A handle is refused after a fork.
- Any number of processes have it open. The first one looks whether it is sound, the last one seals it.
- Read transactions are short: an open one keeps the space of all that was deleted since.
- ``generation`` goes up when the files are made anew; who keeps something that was read looks at it.
- A clean close seals the files (seal.py), opening for writing breaks the seal.

`Any` stands for LMDB's own objects, here and in files.py, nowhere else.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import lmdb

from eventlog.errors import (
    ClosedError,
    EventLogError,
    ForkedError,
    StorageError,
    StorageReadOnlyError,
)
from eventlog.locks import Members
from eventlog.meta import files as _files
from eventlog.meta import seal


class _Opened(NamedTuple):
    """What belongs together and is swapped as one. ``inode``: of the data file."""

    lmdb: Any
    generation: int
    databases: dict[str, Any]
    inode: int


def _members_of(path: Path) -> Members:
    """Who has the environment open for writing: beside the store's own locks."""
    return Members(path.parent / "run", path.name, f"metadata in {path}")


class _Shared:
    """One open path; shared by the handles of this process."""

    def __init__(
        self, path: Path, found: _files.Found, *, is_temporary: bool, is_derived: bool = True
    ) -> None:
        self.path = path
        self.is_derived = is_derived
        self.members = _members_of(path)
        self.opened = _Opened(found.lmdb, 0, {}, _files.inode_of(path))
        self.is_proven = found.is_proven
        self.moved_aside = found.moved_aside
        self.is_temporary = is_temporary
        self.handle_count = 0
        self.writer_count = 0
        self.pid = os.getpid()
        self.write_lock = threading.RLock()
        self.is_writing = False
        self.active: set[Transaction] = set()

    def start_writing(self) -> None:
        """One writing transaction at a time; LMDB would wait for ever for a second on one thread."""
        self.write_lock.acquire()
        if self.is_writing:
            self.write_lock.release()
            raise StorageError(
                "this thread has a write transaction open already", hint="End that one first"
            )
        self.is_writing = True

    def stop_writing(self) -> None:
        self.is_writing = False
        self.write_lock.release()

    def replace(self, generation: int) -> None:
        """Move damaged files aside and go on with new ones, once for all who found them so."""
        self.start_writing()
        try:
            if self.opened.generation != generation:
                return
            with self.members.mutex():
                if _files.inode_of(self.path) == self.opened.inode:
                    # Who is writing to them in another process ends that first.
                    raw = _begun(self.opened.lmdb)
                    try:
                        self.moved_aside.append(_files.move_aside(self.path))
                        _files.make(self.path)
                    finally:
                        if raw is not None:
                            raw.abort()
                self.reopen()
        finally:
            self.stop_writing()

    def reopen(self) -> None:
        """Go on with the files that are there now."""
        # The old environment closes when the last transaction on it has ended, not under it.
        self.opened = _Opened(
            _files.open_lmdb(self.path),
            self.opened.generation + 1,
            {},
            _files.inode_of(self.path),
        )
        self.is_proven = True

    def follow(self) -> None:
        """Before writing: has another process moved the files aside and made them anew?"""
        if not self.is_temporary and _files.inode_of(self.path) != self.opened.inode:
            with self.members.mutex():
                self.reopen()

    def open_table(self, table: str) -> None:
        """Get LMDB's handle of a table for transactions that begin later; if there is such a table."""
        self.start_writing()  # LMDB opens tables in one transaction at a time
        try:
            self.opened.databases[table] = self.opened.lmdb.open_db(table.encode(), create=False)
        except lmdb.NotFoundError:
            return  # nobody has written to it
        except lmdb.Error as error:
            raise _files.translated(error, self.path) from error
        finally:
            self.stop_writing()

    def close(self) -> None:
        self.opened.databases.clear()
        self.opened.lmdb.close()
        if self.is_temporary:
            shutil.rmtree(self.path, ignore_errors=True)


def _begun(environment: Any) -> Any:
    """A write transaction, None where the files are too damaged for one."""
    try:
        return environment.begin(write=True)
    except lmdb.Error:
        return None


_shared: dict[Path, _Shared] = {}
_registry_lock = threading.RLock()


def _forget_parents() -> None:
    """In a forked child: what the parent has open is not ours, and must not be in our way.

    Closing frees the path for the child. It leaves the parent's locks alone (they are a process's own),
    but would end transactions in the shared lock file: if there are any, it stays open.
    """
    global _registry_lock
    _registry_lock = threading.RLock()
    for shared in _shared.values():
        if not shared.active:
            shared.opened.lmdb.close()
    _shared.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)


class Environment:
    """A handle on the metadata of a store. Thread-safe; refused after a fork."""

    def __init__(self, shared: _Shared, *, read_only: bool) -> None:
        self._shared = shared
        self.read_only = read_only
        self.is_closed = False
        shared.handle_count += 1
        shared.writer_count += not read_only

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, read_only: bool = False, is_derived: bool = True
    ) -> Environment:
        """Open the environment in the directory ``path``; a writer makes it where it is missing.

        A writer moves a damaged one aside (``moved_aside`` says where) and makes it anew. A reader
        takes a private empty one in place of one that is missing or damaged.

        Args:
            path: the directory.
            read_only: write nothing.
            is_derived: what it holds can be made anew. If not, damage is never put right by
                forgetting: CorruptionError, and nothing is moved.

        Raises StorageFullError, StorageReadOnlyError, LockedError, StorageError: as the machine has it.
        """
        directory = Path(os.path.realpath(path))
        with _registry_lock:
            shared = _shared.get(directory)
            try:
                members = shared.members if shared is not None else _members_of(directory)
                with nullcontext() if read_only else members.mutex():
                    is_first = (
                        not read_only
                        and (shared is None or shared.writer_count == 0)
                        and members.join()
                    )
                    try:
                        if shared is None:
                            if read_only:
                                found = _files.open_for_reading(directory, is_derived=is_derived)
                            else:
                                found = _files.open_for_writing(
                                    directory, is_first=is_first, is_derived=is_derived
                                )
                            if found is None:
                                return cls.temporary(read_only=True)
                            shared = _Shared(
                                directory, found, is_temporary=False, is_derived=is_derived
                            )
                            shared.members = members
                            _shared[directory] = shared
                        if is_first:
                            seal.remove(directory)
                    except BaseException:
                        if not read_only and (shared is None or shared.writer_count == 0):
                            members.leave()
                        raise
            except (lmdb.Error, OSError) as error:
                raise _files.translated(error, directory) from error
            return cls(shared, read_only=read_only)

    @classmethod
    def temporary(cls, *, read_only: bool = False) -> Environment:
        """A private empty environment in the machine's temporary directory, gone when closed."""
        path = Path(tempfile.mkdtemp(prefix="eventlog-"))
        try:
            found = _files.Found(_files.open_lmdb(path, sync=False), True, [])
        except (lmdb.Error, OSError) as error:
            shutil.rmtree(path, ignore_errors=True)
            raise _files.translated(error, path) from error
        return cls(_Shared(path, found, is_temporary=True), read_only=read_only)

    @property
    def path(self) -> Path:
        """The directory."""
        return self._shared.path

    @property
    def is_temporary(self) -> bool:
        """Whether it is a private one that nobody else sees."""
        return self._shared.is_temporary

    @property
    def generation(self) -> int:
        """Goes up when the files are made anew."""
        return self._shared.opened.generation

    @property
    def is_proven(self) -> bool:
        """Whether its bytes are known to be sound: new, or sealed when they were opened.

        If not, keys may be damaged too: who keeps rows here looks through them as far as it can.
        """
        return self._shared.is_proven

    @property
    def moved_aside(self) -> tuple[Path, ...]:
        """Where damaged environments went since this process opened the path."""
        return tuple(self._shared.moved_aside)

    def read(self, *tables: str) -> Transaction:
        """A read transaction on these tables, for ``with``; keep it short.

        Raises ClosedError and ForkedError.
        """
        shared = self._checked()
        databases = shared.opened.databases
        for table in tables:
            if table not in databases:
                shared.open_table(table)
        return Transaction(shared, tables)

    def write(self) -> Transaction:
        """A write transaction, for ``with``: committed and synced at its end, dropped on an exception.

        One at a time, in all processes; others wait. Raises StorageReadOnlyError on a reader's handle;
        at the end StorageFullError or StorageError, and then nothing of it was kept.
        """
        shared = self._checked()
        if self.read_only and not shared.is_temporary:
            raise StorageReadOnlyError(
                f"metadata in {self.path} was opened for reading",
                hint="Open the store without read_only",
                path=str(self.path),
            )
        return Transaction(shared, None)

    def replace(self, generation: int) -> None:
        """Give up files that proved damaged in use: moved aside by a writer, left by a reader.

        ``generation``: of the transaction that met the damage; if it was replaced since, nothing.
        """
        shared = self._checked()
        if shared.opened.generation != generation:
            return
        if not shared.is_derived:
            raise _files.damaged(shared.path, "found while it was in use", is_derived=False)
        try:
            if self.read_only and not shared.is_temporary:
                private = Environment.temporary()._shared
                private.opened = private.opened._replace(generation=generation + 1)
                self._shared = private
                _release(shared, is_writer=False)
            else:
                shared.replace(generation)
        except (lmdb.Error, OSError) as error:
            raise _files.translated(error, self.path) from error

    def copy(self, target: Path) -> None:
        """Make a sealed environment at ``target`` (which is not there yet) that holds all that was
        committed before the call. Others may go on writing.

        Raises StorageFullError, StorageError, and CorruptionError where LMDB finds damage.
        """
        shared = self._checked()
        data = target / _files.DATA_FILE
        try:
            target.mkdir()
            shared.opened.lmdb.copy(str(target))
            with data.open("rb") as file:
                os.fsync(file.fileno())
            seal.write(target, data)
        except (lmdb.Error, OSError) as error:
            raise _files.translated(error, target) from error

    def check_readers(self) -> int:
        """Give back the reader slots of processes that were killed; how many. Cheap: call it now and
        then, or pages that such a process was reading are never used again."""
        return int(self._checked().opened.lmdb.reader_check())

    def close(self) -> None:
        """Close the handle; that of the last writer of all processes seals the files. Twice is fine."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._shared.pid != os.getpid():
            return
        try:
            _release(self._shared, is_writer=not self.read_only)
        except (lmdb.Error, OSError) as error:
            raise _files.translated(error, self.path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked(self) -> _Shared:
        if self.is_closed:
            raise ClosedError("the metadata of the store is closed", hint="Open the store again")
        shared = self._shared
        if shared.pid != os.getpid():
            raise ForkedError(
                f"metadata in {shared.path} was opened by process {shared.pid}; this is a fork of it",
                hint="Open the store after the fork, in the process that uses it",
                path=str(shared.path),
            )
        return shared


def _release(shared: _Shared, *, is_writer: bool) -> None:
    with _registry_lock:
        shared.handle_count -= 1
        shared.writer_count -= is_writer
        if shared.handle_count == 0 and _shared.get(shared.path) is shared:
            del _shared[shared.path]
        is_last_writer = is_writer and shared.writer_count == 0 and not shared.is_temporary
        with shared.members.mutex() if is_last_writer else nullcontext():
            if shared.handle_count == 0:
                shared.close()
            if is_last_writer:
                is_last = shared.members.is_last()
                try:
                    if is_last:
                        seal.write(shared.path, shared.path / _files.DATA_FILE)
                finally:
                    shared.members.leave()


class Transaction:
    """A consistent view of all tables; made by ``Environment.read`` and ``Environment.write``.

    Keys have 1 to 511 bytes. Every method raises CorruptionError (case C-H) where LMDB finds damage:
    then give the files up with ``Environment.replace``.
    """

    __slots__ = ("_is_writing", "_new_databases", "_opened", "_raw", "_shared", "_tables")

    def __init__(self, shared: _Shared, tables: tuple[str, ...] | None) -> None:
        self._shared = shared
        self._tables = tables
        self._is_writing = tables is None
        self._new_databases: dict[str, Any] = {}
        self._opened = shared.opened
        self._raw: Any = None

    @property
    def generation(self) -> int:
        """Of the files that it sees."""
        return self._opened.generation

    @property
    def id(self) -> int:
        """The number of the last transaction that it sees (a writer: its own). It only goes up."""
        number: int = self._raw.id()
        return number

    def __enter__(self) -> Self:
        shared = self._shared
        if self._is_writing:
            shared.start_writing()
        try:
            self._raw = self._begin()
        except (lmdb.Error, OSError) as error:
            if self._is_writing:
                shared.stop_writing()
            raise self._failed(error) from error
        except BaseException:
            if self._is_writing:
                shared.stop_writing()
            raise
        shared.active.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._is_writing:
                self._raw.commit()
                self._opened.databases.update(self._new_databases)
            else:
                self._raw.abort()
        except lmdb.Error as failure:
            raise self._failed(failure) from failure
        finally:
            self._raw = None
            self._shared.active.discard(self)
            if self._is_writing:
                self._shared.stop_writing()

    def _begin(self) -> Any:
        if not self._is_writing:
            try:
                return self._opened.lmdb.begin()
            except lmdb.ReadersFullError:
                if not self._opened.lmdb.reader_check():
                    raise
                return self._opened.lmdb.begin()
        while True:
            self._opened = self._shared.opened  # a replacement may just have ended
            raw = self._opened.lmdb.begin(write=True)
            # While it is open nobody replaces the files; that they were not before is to be seen.
            if (
                self._shared.is_temporary
                or _files.inode_of(self._shared.path) == self._opened.inode
            ):
                return raw
            raw.abort()
            self._shared.follow()

    def _failed(self, error: lmdb.Error | OSError) -> EventLogError:
        return _files.translated(error, self._shared.path)

    def _database(self, table: str) -> Any:
        """LMDB's handle of the table; None: a reader asks for one that nobody has written to."""
        found = self._opened.databases.get(table)
        if self._tables is not None:
            if table not in self._tables:
                raise ValueError(f"the transaction was not begun for the table {table!r}")
        elif found is None:
            found = self._new_databases.get(table)
            if found is None:  # it is this transaction's own until that is committed
                found = self._opened.lmdb.open_db(table.encode(), txn=self._raw)
                self._new_databases[table] = found
        return found

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of ``key``, or None."""
        try:
            database = self._database(table)
            value: bytes | None = None
            if database is not None:
                value = self._raw.get(key, db=database)
        except lmdb.Error as error:
            raise self._failed(error) from error
        return value

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set the value of ``key``."""
        try:
            self._raw.put(key, value, db=self._database(table))
        except lmdb.Error as error:
            raise self._failed(error) from error

    def delete(self, table: str, key: bytes) -> bool:
        """Delete ``key``; whether it was there."""
        try:
            was_there: bool = self._raw.delete(key, db=self._database(table))
        except lmdb.Error as error:
            raise self._failed(error) from error
        return was_there

    def count(self, table: str) -> int:
        """The number of rows."""
        try:
            database = self._database(table)
            rows: int = 0 if database is None else self._raw.stat(database)["entries"]
        except lmdb.Error as error:
            raise self._failed(error) from error
        return rows

    def clear(self, table: str) -> None:
        """Delete every row of the table."""
        try:
            self._raw.drop(self._database(table), delete=False)
        except lmdb.Error as error:
            raise self._failed(error) from error

    def items(
        self, table: str, *, prefix: bytes = b"", start: bytes = b"", backwards: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows whose key has the prefix, by key, from ``start`` on.

        Backwards: down from the last row below ``start``, or from the last of all where it is empty.
        """
        try:
            database = self._database(table)
            if database is None:
                return
            cursor = self._raw.cursor(database)
            if backwards:
                bound = start or _after(prefix)
                is_found = cursor.prev() if bound and cursor.set_range(bound) else cursor.last()
                rows = cursor.iterprev() if is_found else iter(())
            else:
                first = max(start, prefix)
                is_found = cursor.set_range(first) if first else cursor.first()
                rows = cursor.iternext() if is_found else iter(())
            for key, value in rows:
                if not key.startswith(prefix):
                    return
                yield key, value
        except lmdb.Error as error:
            raise self._failed(error) from error


def _after(prefix: bytes) -> bytes:
    """The smallest key above all that have the prefix; empty: there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b""
