"""SQLite, LMDB and the eventsourcing library, opened as their users would open them to do the same work."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import harness
import lmdb
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

SQLITE_FULL = "SQLite, WAL, FULL"
SQLITE_NORMAL = "SQLite, WAL, NORMAL"
LMDB_SYNC = "LMDB"
LMDB_FAST = "LMDB, no sync"
EVENTSOURCING = "eventsourcing (SQLite)"

LMDB_MAP_SIZE_BYTES = 16 * 1024 * harness.MIB


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    """A connection that any thread may use, in autocommit mode, with a write-ahead log."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    return connection


EVENTS_TABLE = """CREATE TABLE events (
    offset INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB, value BLOB NOT NULL)"""
"""A log as a table."""
INSERT_EVENT = "INSERT INTO events (timestamp, key, value) VALUES (?, ?, ?)"

STREAMS_TABLE = """CREATE TABLE events (
    offset INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL,
    type TEXT NOT NULL, id BLOB NOT NULL, timestamp INTEGER NOT NULL, data BLOB NOT NULL,
    UNIQUE (stream, version))"""
"""An event store as a table: the unique index keeps expected versions."""
INSERT_STREAM_EVENT = (
    "INSERT INTO events (stream, version, type, id, timestamp, data) VALUES (?, ?, ?, ?, ?, ?)"
)


@contextmanager
def fresh_sqlite(directory: Path, synchronous: str, table: str) -> Iterator[sqlite3.Connection]:
    """A new database with one table, thrown away afterwards."""
    with (
        harness.scratch(directory) as path,
        closing(connect(path / "db", synchronous)) as connection,
    ):
        connection.execute(table)
        yield connection


def open_lmdb(path: Path, *, is_durable: bool, databases: int = 0) -> Any:
    """An environment: durable as LMDB is by default, or with everything off that costs time."""
    fast = (
        {}
        if is_durable
        else {"sync": False, "metasync": False, "writemap": True, "map_async": True}
    )
    return lmdb.open(str(path), map_size=LMDB_MAP_SIZE_BYTES, max_dbs=databases, **fast)


@contextmanager
def fresh_lmdb(directory: Path, *, is_durable: bool, databases: int = 0) -> Iterator[Any]:
    """A new environment, thrown away afterwards."""
    with (
        harness.scratch(directory) as path,
        open_lmdb(path, is_durable=is_durable, databases=databases) as environment,
    ):
        yield environment


@contextmanager
def open_recorder(path: Path) -> Iterator[SQLiteApplicationRecorder]:
    """The eventsourcing library's event store, below its aggregates and its JSON."""
    recorder = SQLiteApplicationRecorder(SQLiteDatastore(str(path)))
    recorder.create_table()
    try:
        yield recorder
    finally:
        recorder.datastore.close()


@contextmanager
def fresh_recorder(directory: Path) -> Iterator[SQLiteApplicationRecorder]:
    """A new one, thrown away afterwards."""
    with harness.scratch(directory) as path, open_recorder(path / "db") as recorder:
        yield recorder
