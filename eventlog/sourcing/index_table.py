"""The part of a stream index that lies in LMDB.

One table for each partition. The postings of a stream are in its head row and, what is older and no
longer changes, in chunk rows:

    head    stream, NUL                              -> the newest postings
    chunk   stream, NUL, first version (u64 BE)      -> up to 1024 postings

No stream id holds a NUL, so a head is followed by its chunks, and heads come in the order of ids.
Every row has a checksum over key and value.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import msgspec

from eventlog.meta import BytesTable, Environment, StructTable, Transaction, damaged_table
from eventlog.sourcing import postings
from eventlog.sourcing.postings import POSTING_SIZE_BYTES

FORMAT_VERSION = 1
_HEAD_SIZE_BYTES_MAX = 56 * POSTING_SIZE_BYTES  # larger rows would go to pages of their own
_CHUNK_SIZE_BYTES_MAX = 1024 * POSTING_SIZE_BYTES
_PAGE_COUNT = 1024
_AUDITED_COUNT_MAX = 20_000  # more take too long at each opening after a kill
_END = b"\0"
_PAST = b"\x01"


class Checkpoint(msgspec.Struct, frozen=True):
    """How far the rows are folded, and how many there are.

    Rows of another format or byte order are of no use.
    """

    end_offset: int
    is_regular: bool
    row_count: int = 0
    format_version: int = FORMAT_VERSION
    byte_order: str = sys.byteorder

    @property
    def is_readable(self) -> bool:
        """Whether the rows beside it mean what this version reads."""
        return self.format_version == FORMAT_VERSION and self.byte_order == sys.byteorder


_checkpoints = StructTable("stream index", Checkpoint)


class StaleIndexError(Exception):
    """The rows are not those of the checkpoint that was loaded any more: load again."""


class IndexTable:
    """The rows of one partition, as of the checkpoint that was loaded or written last.

    Methods raise CorruptionError (case C-H) for damaged rows, StaleIndexError when somebody else moved
    the checkpoint or made the rows anew. Without a checkpoint there are no rows. Not thread-safe.
    """

    def __init__(self, environment: Environment, name: str) -> None:
        self.environment = environment
        self.name = name
        self.generation = environment.generation
        self._rows = BytesTable(f"stream index {name}")
        self._key = name.encode()
        self._end_offset = -1
        self._seen = (-1, -1)

    def _read(self) -> Transaction:
        return self.environment.read(self._rows.name, _checkpoints.name)

    def load(self) -> Checkpoint | None:
        """The checkpoint; what is read from now on belongs to it."""
        with self._read() as transaction:
            self.generation = transaction.generation
            self._seen = (transaction.generation, transaction.id)
            checkpoint = _checkpoints.get(transaction, self._key)
            self._end_offset = checkpoint.end_offset if checkpoint is not None else -1
            if checkpoint is None or checkpoint.is_readable:
                self._audit(transaction, 0 if checkpoint is None else checkpoint.row_count)
        return checkpoint

    def _audit(self, transaction: Transaction, expected_count: int) -> None:
        """Look whether all rows are there, and read them if nothing else proves them.

        (A damaged key is not noticed by looking for the right one.)
        """
        row_count = self._rows.count(transaction)
        if row_count != expected_count:
            raise damaged_table(self._rows.name, f"{row_count} rows, not {expected_count}")
        if not self.environment.is_proven and row_count <= _AUDITED_COUNT_MAX:
            for _ in self._rows.items(transaction):
                pass  # each is checked

    def _check(self, transaction: Transaction) -> None:
        seen = (transaction.generation, transaction.id)
        if seen == self._seen:
            return  # nobody wrote anything since
        checkpoint = _checkpoints.get(transaction, self._key)
        end_offset = checkpoint.end_offset if checkpoint is not None else -1
        if transaction.generation != self.generation or end_offset != self._end_offset:
            raise StaleIndexError
        self._seen = seen

    def clear(self) -> None:
        """Delete the rows and the checkpoint."""
        with self.environment.write() as transaction:
            self.generation = transaction.generation
            self._rows.clear(transaction)
            _checkpoints.delete(transaction, self._key)
        self._end_offset = -1

    def version(self, key: bytes) -> int:
        """The last version of a stream, 0 where there is none."""
        head = self.head(key)
        return postings.last_version(head) if head else 0

    def head(self, key: bytes) -> bytes:
        """The newest postings of a stream; empty where there is none."""
        if self._end_offset < 0:
            return b""
        with self._read() as transaction:
            self._check(transaction)
            return self._rows.get(transaction, key + _END) or b""

    def find(self, key: bytes, version: int) -> tuple[bytes, bytes]:
        """(chunk, head): postings of a stream from the version on; both empty where there are none.

        The chunk is the one that holds the version, or the next one; empty if the head begins there.
        """
        if self._end_offset < 0:
            return b"", b""
        prefix = key + _END
        with self._read() as transaction:
            self._check(transaction)
            head = self._rows.get(transaction, prefix) or b""
            if not head or postings.first_version(head) <= version:
                return b"", head
            bound = prefix + (version + 1).to_bytes(8, "big")
            chunk = self._chunk_below(transaction, prefix, bound)
            if not chunk or postings.last_version(chunk) < version:
                rows = self._rows.items(transaction, prefix=prefix, start=bound)
                _, chunk = next(rows, (b"", b""))
        return chunk, head

    def chunk_before(self, key: bytes, version: int) -> bytes:
        """The last chunk that begins below the version; empty where there is none."""
        prefix = key + _END
        with self._read() as transaction:
            self._check(transaction)
            return self._chunk_below(transaction, prefix, prefix + version.to_bytes(8, "big"))

    def _chunk_below(self, transaction: Transaction, prefix: bytes, bound: bytes) -> bytes:
        for key, data in self._rows.items(transaction, prefix=prefix, start=bound, backwards=True):
            return data if len(key) > len(prefix) else b""  # else it is the head
        return b""

    def page(self, prefix: bytes, start: bytes) -> tuple[list[bytes], bytes]:
        """A page of stream ids with the prefix from ``start`` on, and where the next page begins.

        Empty: there is no next one.
        """
        page: list[bytes] = []
        if self._end_offset < 0:
            return page, b""
        with self._read() as transaction:
            self._check(transaction)
            while True:
                for key in self._rows.keys(transaction, prefix=prefix, start=start):
                    stream, _, version = key.partition(_END)
                    if version:
                        break  # leap over the chunks
                    if len(page) == _PAGE_COUNT:
                        return page, key
                    page.append(stream)
                    start = stream + _PAST
                else:
                    return page, b""

    def write(self, tail: Mapping[bytes, bytearray], checkpoint: Checkpoint) -> None:
        """Add postings to their streams and move the checkpoint: all of it or nothing."""
        with self.environment.write() as transaction:
            self._check(transaction)
            for key in sorted(tail):
                self._add(transaction, key + _END, bytes(tail[key]))
            row_count = self._rows.count(transaction)
            checkpoint = msgspec.structs.replace(checkpoint, row_count=row_count)
            _checkpoints.put(transaction, self._key, checkpoint)
        self._end_offset = checkpoint.end_offset

    def _add(self, transaction: Transaction, head_key: bytes, added: bytes) -> None:
        head = self._rows.get(transaction, head_key)
        if head:
            if postings.last_version(head) >= postings.first_version(added):
                # Written before: whoever wrote it was interrupted and did not learn of it.
                added = postings.between(added, postings.last_version(head) + 1, 1 << 62)
            added = head + added
        if len(added) > _HEAD_SIZE_BYTES_MAX:
            # The newest stays in the head: it tells the version.
            whole, added = added[:-POSTING_SIZE_BYTES], added[-POSTING_SIZE_BYTES:]
            for at in range(0, len(whole), _CHUNK_SIZE_BYTES_MAX):
                chunk = whole[at : at + _CHUNK_SIZE_BYTES_MAX]
                version = postings.first_version(chunk).to_bytes(8, "big")
                self._rows.put(transaction, head_key + version, chunk)
        self._rows.put(transaction, head_key, added)
