"""Signals that come at a bad moment."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog._native import lib
from eventlog.log import partition


@pytest.mark.guarantee("G-25")
def test_a_signal_just_before_the_sleep_is_not_slept_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal between the last look of the interpreter and the futex interrupts no system call.

    It is made here: the first wait that C begins finds the signal delivered already, with its Python
    handler still to run.
    """

    class Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(lib, name)

        def el_partition_wait(self, *arguments: Any) -> int:
            if not fired.is_set():
                fired.set()
                # Blocked in this thread during the call: as good as come and gone before it.
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
                signal.raise_signal(signal.SIGALRM)
                result = int(lib.el_partition_wait(*arguments))
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
                return result
            return int(lib.el_partition_wait(*arguments))

    fired = threading.Event()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        with eventlog.open(tmp_path) as log:
            topic = log.topic("t")
            monkeypatch.setattr(partition, "lib", Late())
            with pytest.raises(KeyboardInterrupt):
                next(topic.tail())
            monkeypatch.undo()
            topic.append(b"still works")
    finally:
        signal.signal(signal.SIGALRM, former)
