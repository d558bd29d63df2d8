"""The crash of the demo: a writer process, killed in the middle of appending, and what is left.

The writer sends a number down a pipe only after ``append`` has returned: what the pipe holds was
acknowledged. Run as a module it is the writer; :func:`run` is the one who kills and counts.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

TOPIC = "payments"
_LINE_SIZE_BYTES = 12
_START_SECONDS_MAX = 30.0
_FILLER = b"x" * 200


class Crash(NamedTuple):
    """What was promised before the kill and found after it."""

    acknowledged_count: int
    found_count: int
    lost_count: int
    wrong_count: int
    seconds: float  # of appending
    open_seconds: float
    recovery_text: str


def value_of(number: int) -> bytes:
    """The value of the event with this number."""
    return b'{"payment":%d,"note":"%s"}' % (number, _FILLER)


def run(directory: Path) -> Crash:
    """Start a writer, kill it after about a second, reopen, count."""
    acknowledged, seconds = _write_and_kill(directory)

    import eventlog

    started = time.perf_counter()
    with eventlog.open(directory) as log:
        open_seconds = time.perf_counter() - started
        topic = log.topic(TOPIC)
        cases = [
            f"{report.case}, {report.detail}" for report in log.recovery if report.topic == TOPIC
        ]
        values = [value for chunk in topic.read_batches(take="values") for value in chunk]
    wrong = sum(value != value_of(number) for number, value in enumerate(values))
    return Crash(
        acknowledged_count=acknowledged,
        found_count=len(values),
        lost_count=max(0, acknowledged - len(values)),
        wrong_count=wrong,
        seconds=seconds,
        open_seconds=open_seconds,
        recovery_text="; ".join(cases) or "nothing to do",
    )


def _write_and_kill(directory: Path) -> tuple[int, float]:
    """(acknowledged appends, seconds of appending)."""
    command = [sys.executable, "-m", "eventlog.cli.demo_crash", str(directory)]
    acknowledgements = bytearray()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        fd = writer.stdout.fileno()
        try:
            select.select([fd], [], [], _START_SECONDS_MAX)  # the first acknowledgement
            started = time.perf_counter()
            deadline = started + random.uniform(0.8, 1.2)
            while (left := deadline - time.perf_counter()) > 0:
                if select.select([fd], [], [], left)[0]:
                    data = os.read(fd, 1 << 16)
                    if not data:
                        break
                    acknowledgements += data
        finally:
            with contextlib.suppress(ProcessLookupError):
                writer.send_signal(signal.SIGKILL)
        seconds = time.perf_counter() - started
        while data := os.read(fd, 1 << 16):
            acknowledgements += data
    return len(acknowledgements) // _LINE_SIZE_BYTES, seconds


def write_for_ever(directory: Path) -> None:
    """The writer: append durably, then say so; never ends by itself."""
    import eventlog

    with eventlog.open(directory, durability="sync") as log:
        topic = log.topic(TOPIC)
        number = 0
        while True:
            topic.append(value_of(number), key=b"customer-%d" % (number % 97))
            os.write(1, b"%011d\n" % number)
            number += 1


if __name__ == "__main__":
    write_for_ever(Path(sys.argv[1]))
