"""Reading: a thin hand on C's cursor. One crossing moves a chunk of records, never one."""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Any, Literal, Self

from eventlog._native import check, ffi, lib
from eventlog.errors import ClosedError, CorruptionError, OffsetOutOfRangeError
from eventlog.log.compression import decompress

if TYPE_CHECKING:
    from eventlog.log.partition import Partition

Take = Literal["records", "values", "tuples", "keys"]
_TAKE = {
    "records": lib.EL_TAKE_RECORDS,
    "values": lib.EL_TAKE_VALUES,
    "tuples": lib.EL_TAKE_TUPLES,
    "keys": lib.EL_TAKE_KEYS,
}

ROUTE_OBJECTS = sys.implementation.name == "cpython"
"""Objects are walked and made in C on CPython only."""

CHUNK_COUNT = 1024
CHUNK_SIZE_BYTES = 4 * 1024 * 1024


class Cursor:
    """Reads a partition in order, or picks records by where they lie.

    After :meth:`next` or :meth:`gather` the cursor holds so many *views* of records; :meth:`take`,
    :meth:`numbers` and :meth:`locations` say what is in them. Not thread-safe: one cursor a reader.

    Args:
        partition: what is read.
        capacity: most records that it holds at a time.
        unsynced: read up to the log end, what is not durable yet too (in a store open for writing);
            "high watermark" then means that.
    """

    def __init__(
        self, partition: Partition, capacity: int = CHUNK_COUNT, *, unsynced: bool = False
    ) -> None:
        self._partition = partition
        handle = lib.el_cursor_open(partition.handle, capacity, unsynced)
        if handle == ffi.NULL:
            raise MemoryError("no memory for a cursor")
        self._handle: Any = ffi.gc(handle, lib.el_cursor_close)
        self._count = ffi.new("int32_t *")
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the segments it looks at. Twice is fine."""
        if self._handle is not None:
            ffi.release(self._handle)
            self._handle = None
            self.count = 0

    def seek(self, offset: int) -> None:
        """Stand before the record at ``offset``, or before the next one there is."""
        check(lib.el_cursor_seek(self._open_handle(), offset))
        self.count = 0

    def next(
        self,
        end_offset: int = -1,
        record_count_max: int = CHUNK_COUNT,
        size_bytes_max: int = CHUNK_SIZE_BYTES,
    ) -> int:
        """Move on over the next records; returns how many the views hold, 0 where there are none.

        Args:
            end_offset: stop before it; -1: the high watermark.
            record_count_max: at most so many (and at most the cursor's capacity).
            size_bytes_max: stop once so many bytes are reached; at least one record comes.

        Raises:
            CorruptionError: the next batch is damaged, or missing.
            OffsetOutOfRangeError: the place is below the log start.
            CompressionUnavailableError: the codec's library is missing.
        """
        handle = self._open_handle()
        while True:
            result = lib.el_cursor_next(
                handle, end_offset, record_count_max, size_bytes_max, self._count
            )
            if result == lib.EL_COMPRESSED:
                self._supply(handle)
                continue
            self.count = 0
            try:
                check(result, topic=self._partition.topic, partition=self._partition.number)
            except OffsetOutOfRangeError as error:  # C tells the offset only
                raise self._partition.out_of_range(error.offset) from None
            self.count = int(self._count[0])
            return self.count

    def _supply(self, handle: Any) -> None:
        size, codec = ffi.new("int64_t *"), ffi.new("int32_t *")
        payload = lib.el_cursor_payload(handle, size, codec)
        try:
            data = decompress(codec[0], ffi.buffer(payload, size[0])[:])
        except CorruptionError as error:
            try:
                check(lib.el_cursor_refuse(handle), detail=error.message)
            except CorruptionError as placed:
                raise placed from error
        check(lib.el_cursor_supply(handle, data, len(data)))

    def gather(
        self,
        offsets: array[int],
        batch_positions: array[int],
        record_positions: array[int],
        counts: array[int],
    ) -> int:
        """Fill the views with runs of records by where they lie (see :meth:`locations`).

        Args:
            offsets, batch_positions: ``array('q')``, of the first record of each run.
            record_positions, counts: ``array('i')``.

        Raises:
            OffsetOutOfRangeError: a record is not where the caller believes (or its batch is
                compressed): read it by :meth:`seek` and :meth:`next`.
            CorruptionError: a batch is damaged.
        """
        self.count = 0
        check(
            lib.el_cursor_gather(
                self._open_handle(),
                ffi.from_buffer("int64_t[]", offsets),
                ffi.from_buffer("int64_t[]", batch_positions),
                ffi.from_buffer("int32_t[]", record_positions),
                ffi.from_buffer("int32_t[]", counts),
                len(offsets),
                self._count,
            )
        )
        self.count = int(self._count[0])
        return self.count

    def take(
        self, take: Take, record_type: type = tuple, topic: object = None, partition: object = None
    ) -> list[Any]:
        """What the views hold, as a list made in C.

        Args:
            take: ``"records"``: instances of ``record_type``, a tuple subclass of seven items
                (topic, partition, offset, timestamp, key, value, encoded headers), made without
                calling it; ``"values"``; ``"keys"``; ``"tuples"``: (offset, timestamp, key, value).
            record_type, topic, partition: for ``"records"``; the latter two go into the first items.
        """
        items: list[Any] = [None] * self.count
        if ROUTE_OBJECTS:
            check(
                lib.el_cursor_take(
                    self._open_handle(),
                    _TAKE[take],
                    id(items),
                    id(record_type),
                    id(topic),
                    id(partition),
                )
            )
        else:
            self._take_views(items, take, record_type, topic, partition)
        return items

    def _take_views(
        self, items: list[Any], take: Take, record_type: type, topic: object, partition: object
    ) -> None:
        """The same without Python objects in C: for PyPy, and to check the fast route against."""
        views = lib.el_cursor_views(self._open_handle())
        for i in range(self.count):
            view = views[i]
            key = None if view.key_size < 0 else ffi.buffer(view.key, view.key_size)[:]
            value = None if view.value_size < 0 else ffi.buffer(view.value, view.value_size)[:]
            if take == "values":
                items[i] = value
            elif take == "keys":
                items[i] = key
            elif take == "tuples":
                items[i] = (view.offset, view.timestamp, key, value)
            else:
                headers = ffi.buffer(view.headers, view.headers_size)[:]
                items[i] = tuple.__new__(
                    record_type,
                    (topic, partition, view.offset, view.timestamp, key, value, headers),
                )

    def numbers(self, name: bytes, missing: int = -1) -> array[int]:
        """The number in header ``name`` of each record, ``array('q')``; ``missing`` without one."""
        numbers = array("q", bytes(8 * self.count))
        if self.count:
            check(
                lib.el_cursor_numbers(
                    self._open_handle(), name, missing, ffi.from_buffer("int64_t[]", numbers)
                )
            )
        return numbers

    def locations(self) -> tuple[array[int], array[int], array[int]]:
        """Offsets, batch positions (``array('q')``) and record positions (``array('i')``)."""
        offsets, batches = array("q", bytes(8 * self.count)), array("q", bytes(8 * self.count))
        records = array("i", bytes(4 * self.count))
        if self.count:
            check(
                lib.el_cursor_locations(
                    self._open_handle(),
                    ffi.from_buffer("int64_t[]", offsets),
                    ffi.from_buffer("int64_t[]", batches),
                    ffi.from_buffer("int32_t[]", records),
                )
            )
        return offsets, batches, records

    def find_time(self, timestamp_ms: int) -> int:
        """Offset of a batch at or before the first record with that time or a later one; the high
        watermark where there is none. Moves the cursor's place to nowhere: seek afterwards."""
        self.count = 0
        return check(lib.el_cursor_find_time(self._open_handle(), timestamp_ms))

    def _open_handle(self) -> Any:
        if self._handle is None:
            raise ClosedError("the cursor was closed", hint="Make a new one")
        return self._handle
