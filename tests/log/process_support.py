"""Helpers of the tests with several processes: a child that says how far it is, and can be killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import eventlog

READY = b"r"
DURABILITIES = ("sync", "os")


class Child:
    """A forked process that was told what to do; killed at the end of the test if it still runs."""

    def __init__(self, function: Callable[[Child], object]) -> None:
        self._told, tell = os.pipe()
        wait, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self._told)
                os.close(self._go)
                self._told, self._go = wait, tell
                function(self)
                status = 0
            except BaseException as error:
                sys.stderr.write(f"child: {error!r}\n")
                sys.stderr.flush()
            finally:
                os._exit(status)
        os.close(tell)
        os.close(wait)
        self.status: int | None = None

    def tell(self, what: bytes = READY) -> None:
        """To the other side."""
        os.write(self._go, what)

    def hear(self) -> bytes:
        """What the other side told; empty once it has ended."""
        return os.read(self._told, 1 << 16)

    def kill(self) -> None:
        """SIGKILL, and see it gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Its exit status, or minus the signal that ended it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def end(self) -> None:
        """Killed if it has not ended by itself."""
        if self.status is None:
            self.kill()
        os.close(self._told)
        os.close(self._go)


@contextmanager
def forked(function: Callable[[Child], object], *, until_ready: bool = True) -> Iterator[Child]:
    """A child that has said (by ``tell``) that it is where the test wants it."""
    process = Child(function)
    try:
        if until_ready:
            assert process.hear(), "the child ended before it was ready"
        yield process
    finally:
        process.end()


def cases(log: eventlog.EventLog) -> set[str]:
    return {report.case for report in log.recovery}


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.002)
