"""PostgreSQL: a log as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tools import servers

from . import Batch, Client, System

TABLES = """
    CREATE TABLE records (id bigserial PRIMARY KEY, time timestamptz NOT NULL DEFAULT now(),
                          key bytea, value bytea NOT NULL);
    CREATE TABLE positions (consumer_group text PRIMARY KEY, position bigint NOT NULL)"""
INSERT = "INSERT INTO records (key, value) VALUES (%b, %b)"
INSERT_MANY = "INSERT INTO records (key, value) SELECT * FROM unnest(%b::bytea[], %b::bytea[])"
INSERT_AND_TELL = """WITH added AS (INSERT INTO records (value) VALUES (%b) RETURNING id)
    SELECT pg_notify('records', '') FROM added"""
SELECT = "SELECT id, key, value FROM records WHERE id > %s ORDER BY id LIMIT %s"
SELECT_NEW = "SELECT id, value FROM records WHERE id > %s ORDER BY id"
MOVE = "UPDATE positions SET position = %s WHERE consumer_group = %s"


class _Client(Client):
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cursor = connection.cursor(binary=True)

    def append(self, value: bytes) -> None:
        self._cursor.execute(INSERT_AND_TELL, (value,))

    def append_each(self, values: Sequence[bytes], keys: Sequence[bytes]) -> None:
        execute = self._cursor.execute
        for value, key in zip(values, keys, strict=True):
            execute(INSERT, (key, value))

    def append_batches(self, batches: Sequence[Batch]) -> None:
        for values, keys in batches:
            self._cursor.execute(INSERT_MANY, (list(keys), list(values)))

    def consume(self, group: str, count: int, batch_count: int) -> None:
        self._cursor.execute("INSERT INTO positions VALUES (%s, 0)", (group,))
        last = 0
        while count > 0:
            rows = self._cursor.execute(SELECT, (last, batch_count)).fetchall()
            last = rows[-1][0]
            self._cursor.execute(MOVE, (last, group))
            count -= len(rows)

    def follow(self) -> Iterator[bytes]:
        self._connection.execute("LISTEN records")
        last = 0
        while True:
            rows = self._cursor.execute(SELECT_NEW, (last,)).fetchall()
            for last, value in rows:  # noqa: B007  where to go on
                yield value
            for _ in self._connection.notifies(stop_after=1):
                pass


class Postgres(System):
    server = "PostgreSQL"

    @contextmanager
    def serve(self, directory: Path, *, is_durable: bool) -> Iterator[str]:
        with servers.Postgres(is_synced=is_durable, parent=directory) as server:
            address = f"host={servers.HOST} port={server.port} user=postgres"
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(TABLES)
            yield address

    @contextmanager
    def connect(self, address: str) -> Iterator[Client]:
        with psycopg.connect(address, autocommit=True) as connection:
            yield _Client(connection)


SYSTEM = Postgres()
