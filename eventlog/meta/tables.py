"""Tables: a name in the environment, and what the bytes of its rows mean."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from eventlog.errors import CorruptionError
from eventlog.meta.environment import Transaction

Value = TypeVar("Value")
_CRC_SIZE = 4


class Table(ABC, Generic[Value]):
    """Rows of bytes keys and typed values. Subclasses say how a value becomes bytes and back."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def encode(self, key: bytes, value: Value) -> bytes:
        """The bytes of a row."""

    @abstractmethod
    def decode(self, key: bytes, data: bytes) -> Value:
        """The value of a row. Raises CorruptionError (case C-H) if the bytes are no such value."""

    def get(self, transaction: Transaction, key: bytes) -> Value | None:
        """The value of ``key``, or None."""
        data = transaction.get(self.name, key)
        return None if data is None else self.decode(key, data)

    def put(self, transaction: Transaction, key: bytes, value: Value) -> None:
        """Set the value of ``key`` (1 to 511 bytes)."""
        transaction.put(self.name, key, self.encode(key, value))

    def delete(self, transaction: Transaction, key: bytes) -> bool:
        """Delete ``key``; whether it was there."""
        return transaction.delete(self.name, key)

    def count(self, transaction: Transaction) -> int:
        """The number of rows."""
        return transaction.count(self.name)

    def clear(self, transaction: Transaction) -> None:
        """Delete every row."""
        transaction.clear(self.name)

    def items(
        self,
        transaction: Transaction,
        *,
        prefix: bytes = b"",
        start: bytes = b"",
        backwards: bool = False,
    ) -> Iterator[tuple[bytes, Value]]:
        """Rows in the order of keys: see :meth:`Transaction.items`."""
        for key, data in transaction.items(
            self.name, prefix=prefix, start=start, backwards=backwards
        ):
            yield key, self.decode(key, data)

    def keys(
        self, transaction: Transaction, *, prefix: bytes = b"", start: bytes = b""
    ) -> Iterator[bytes]:
        """Keys in their order, values left alone."""
        for key, _ in transaction.items(self.name, prefix=prefix, start=start):
            yield key


class BytesTable(Table[bytes]):
    """Bytes behind a CRC over key and value: LMDB itself would not notice a changed byte."""

    def encode(self, key: bytes, value: bytes) -> bytes:
        """The value and its checksum."""
        return value + zlib.crc32(value, zlib.crc32(key)).to_bytes(_CRC_SIZE, "little")

    def decode(self, key: bytes, data: bytes) -> bytes:
        """The value, if the checksum fits."""
        value = data[:-_CRC_SIZE]
        if zlib.crc32(value, zlib.crc32(key)).to_bytes(_CRC_SIZE, "little") != data[-_CRC_SIZE:]:
            raise _bad_row(self.name, key, "its checksum does not fit")
        return value


class StructTable(Table[Value]):
    """msgspec Structs (or other types that msgspec knows) as msgpack, behind a CRC."""

    def __init__(self, name: str, kind: type[Value]) -> None:
        super().__init__(name)
        self._rows = BytesTable(name)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder = msgspec.msgpack.Decoder(kind)

    def encode(self, key: bytes, value: Value) -> bytes:
        """The value as msgpack, and a checksum."""
        return self._rows.encode(key, self._encode(value))

    def decode(self, key: bytes, data: bytes) -> Value:
        """The value, if the checksum and the type fit."""
        try:
            return self._decoder.decode(self._rows.decode(key, data))
        except msgspec.MsgspecError as error:
            raise _bad_row(self.name, key, str(error)) from error


def _bad_row(table: str, key: bytes, what: str) -> CorruptionError:
    return damaged_table(table, f"row {key!r}: {what}")


def damaged_table(table: str, what: str) -> CorruptionError:
    """The error for a table whose rows are not what was written."""
    return CorruptionError(
        f"the metadata table {table!r} is damaged: {what}",
        hint="It is derived from the log: open the store for writing to make it anew",
        case="C-H",
        table=table,
    )
