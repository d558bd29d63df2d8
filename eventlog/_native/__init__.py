"""The C core as the rest of the package sees it: ``ffi``, ``lib`` and :func:`check`.

The only importer of the compiled module, and the only place where error codes of ``native/abi.h``
become exceptions of :mod:`eventlog.errors`. `Any` is allowed here and nowhere else: what cffi makes
at run time has no static types.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Any

from eventlog import errors
from eventlog._native import _core

ffi: Any = _core.ffi
lib: Any = _core.lib

DURABILITY = {
    "os": lib.EL_DURABILITY_OS,
    "interval": lib.EL_DURABILITY_INTERVAL,
    "sync": lib.EL_DURABILITY_SYNC,
}

_FULL = {_errno.ENOSPC, _errno.EDQUOT, _errno.EFBIG}
_READ_ONLY = {_errno.EROFS, _errno.EACCES, _errno.EPERM}
_HANDLES = {_errno.EMFILE, _errno.ENFILE}


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """A path as C takes it."""
    return os.fsencode(path)


def check(result: int, **fields: Any) -> int:
    """Return ``result`` if it is not negative, else raise what it stands for.

    Must be called on the thread that made the call. ``fields`` are added to the exception's.
    """
    if result >= 0:
        return result
    raise last_error(result, **fields)


def last_error(code: int, **fields: Any) -> Exception:
    """The exception for an error code that a call on this thread just returned."""
    told = ffi.new("el_error *")
    lib.el_error_last(told)
    what = ffi.string(told.what).decode("utf-8", "replace")
    path = os.fsdecode(ffi.string(told.path))
    number, position, offset = int(told.os_errno), int(told.position), int(told.offset)
    if code == lib.EL_ERR_OS:
        return os_error(number, path, what, position=position, offset=offset, **fields)
    if code == lib.EL_ERR_CORRUPT:
        return errors.CorruptionError(
            f"{path} is damaged at byte {position}: {what}"
            + (f"; offsets from {offset} on cannot be read" if offset >= 0 else ""),
            hint="Restore the file from a backup or look at it with `eventlog verify`; "
            "what lies before can be read",
            path=path,
            position=position,
            offset=offset,
            **fields,
        )
    if code == lib.EL_ERR_POISONED:
        return errors.PoisonedError(
            f"{path}: {what} ({os.strerror(number)})",
            hint="Nothing is acknowledged any more: close the store, see to the disk, open it again",
            path=path,
            errno=number,
            **fields,
        )
    if code == lib.EL_ERR_TOO_LARGE:
        return errors.RecordTooLargeError(
            what,
            hint="Split it, or raise the topic's batch_size_bytes_max",
            size=position,
            limit=offset,
            **fields,
        )
    if code == lib.EL_ERR_TYPE:
        where = f"{path}[{offset}]" if offset >= 0 else path
        return errors.InvalidRecordError(
            f"{where}: {what}",
            hint="Pass milliseconds since 1970 UTC, 0 or more"
            if path == "timestamps_ms"
            else "Pass bytes (None is allowed for keys and values)",
            field=path,
            **fields,
        )
    if code == lib.EL_ERR_RANGE:
        return errors.OffsetOutOfRangeError(f"offset {offset}: {what}", offset=offset, **fields)
    if code == lib.EL_ERR_CLOSED:
        return errors.ClosedError("the store was closed", hint="Open it again", path=path, **fields)
    if code == lib.EL_ERR_FORKED:
        return errors.ForkedError(
            "the store was opened before a fork and belongs to the parent process",
            hint="Open it again in the child",
            path=path,
            **fields,
        )
    if code == lib.EL_ERR_READ_ONLY:
        return errors.StorageReadOnlyError(
            what, hint="Open the store without read_only=True", path=path, **fields
        )
    if code == lib.EL_ERR_MOVED:
        return errors.EndOffsetMovedError(
            f"the log ends at offset {offset}: others have appended",
            hint="Look at what they appended and try again",
            log_end_offset=offset,
            **fields,
        )
    if code == lib.EL_ERR_DELETED:
        topic = os.path.basename(path).rpartition("-")[0]  # noqa: PTH119
        return errors.UnknownTopicError(
            f"topic {topic!r} was deleted", hint="Make it anew under that name", topic=topic
        )
    if code == lib.EL_ERR_MEMORY:
        return MemoryError(what)
    return errors.StorageError(f"{what} (code {code})", path=path, errno=number, **fields)


def os_error(number: int, path: str, what: str, **fields: Any) -> errors.StorageError:
    """The typed error for an errno of a file operation."""
    message = f"{what}: {path}: {os.strerror(number)}" if path else f"{what}: {os.strerror(number)}"
    if number in _FULL:
        return errors.StorageFullError(
            message,
            hint="Make room and call again: nothing of this call was kept",
            path=path,
            errno=number,
            **fields,
        )
    if number in _READ_ONLY:
        return errors.StorageReadOnlyError(
            message,
            hint="Check permissions and mount options, or open with read_only=True",
            path=path,
            errno=number,
            **fields,
        )
    if number in _HANDLES:
        return errors.StorageError(
            message,
            hint="Raise the limit of open files (ulimit -n) or close some, then call again",
            path=path,
            errno=number,
            **fields,
        )
    return errors.StorageError(
        message, hint="The operating system refused; see errno", path=path, errno=number, **fields
    )
