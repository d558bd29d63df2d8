"""Which processes have a directory open, and who may change what they share.

Two locks on files, let go of by the operating system however a process ends. *Members* share one as
long as they are there; who gets it alone is the first one, or the last. The other one, the *mutex*, is
held for the short while of opening, closing, or changing what all of them rely on.

A child of ``fork`` holds none of its parent's locks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventlog._native import check, ffi, lib, path_bytes
from eventlog.errors import LockedError

WAIT_S = 30.0
_PAUSE_S_MAX = 0.02


class Members:
    """The processes that have something open. Thread-safe, reentrant.

    Args:
        directory: where the two files are; made if it is missing.
        name: theirs.
        what: is open, for messages.
    """

    def __init__(self, directory: Path, name: str, what: str) -> None:
        self._directory = directory
        self._members_path = directory / f"{name}.lock"
        self._mutex_path = directory / f"{name}.change.lock"
        self._what = what
        self._lock = threading.RLock()
        self._depth = 0
        self._mutex_fd = -1
        self._members_fd = -1

    @contextmanager
    def mutex(self, timeout_s: float = WAIT_S) -> Iterator[None]:
        """Alone among all processes and threads.

        Raises:
            LockedError: another process has it, for longer than ``timeout_s``.
        """
        with self._lock:
            if self._depth == 0:
                self._mutex_fd = self._take(timeout_s)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    fd, self._mutex_fd = self._mutex_fd, -1
                    lib.el_file_unlock(fd)

    def _take(self, timeout_s: float) -> int:
        until, pause_s = time.monotonic() + timeout_s, 0.0005
        while True:
            fd, holder = _try(self._mutex_path, is_shared=False)
            if fd >= 0:
                return fd
            if time.monotonic() >= until:
                raise LockedError(
                    f"{self._what} is being opened, closed or changed by process "
                    f"{holder or 'unknown'}, for {timeout_s:g} s already",
                    hint="Try again; end that process if it hangs",
                    path=str(self._directory),
                    holder_pid=holder,
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)

    def join(self) -> bool:
        """Become a member; whether nobody else is one. Under the mutex.

        Raises:
            LockedError: a process that does not share has it open (an older version).
        """
        self._members_fd, _ = _try(self._members_path, is_shared=False)
        if self._members_fd >= 0:
            check(lib.el_file_lock_change(self._members_fd, True))
            return True
        self._members_fd, holder = _try(self._members_path, is_shared=True)
        if self._members_fd < 0:
            raise LockedError(
                f"{self._what} is open in process {holder or 'unknown'}, which does not share it",
                hint="Close it there",
                path=str(self._directory),
                holder_pid=holder,
            )
        return False

    def is_last(self) -> bool:
        """Is nobody else a member? Only before leaving, and under the mutex: the asker may not be one
        any more, either."""
        if self._members_fd < 0:
            return False
        result = lib.el_file_lock_change(self._members_fd, False)
        if result == lib.EL_ERR_LOCKED:
            return False
        check(result)
        return True

    def leave(self) -> None:
        """Be no member any more. Twice is fine."""
        fd, self._members_fd = self._members_fd, -1
        if fd >= 0:
            lib.el_file_unlock(fd)


def _try(path: Path, *, is_shared: bool) -> tuple[int, int]:
    """(descriptor, 0), or (-1, holder's pid) where somebody else has the lock."""
    fd, holder = ffi.new("int32_t *", -1), ffi.new("int32_t *")
    result = lib.el_file_lock(path_bytes(path), is_shared, fd, holder)
    if result == lib.EL_ERR_LOCKED:
        return -1, int(holder[0])
    if result != lib.EL_OK and not path.parent.is_dir():
        check(lib.el_file_mkdir(path_bytes(path.parent)))
        return _try(path, is_shared=is_shared)
    check(result)
    return int(fd[0]), 0
