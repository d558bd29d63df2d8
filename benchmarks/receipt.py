"""How long a message is on its way from one process to another that waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import tailing
from harness import Run

PAUSE_S = 0.0005  # so that the reader sleeps when the next one comes


def percentile(sorted_values: list[int], share: float) -> int:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


@contextmanager
def reader(
    source: str, place: object, count: int, send: Callable[[bytes, IO[bytes]], object]
) -> Iterator[Run]:
    """Start the process that reads; the run sends to it and collects what it measured.

    Args:
        source: what tailing.py takes messages from.
        place: where that is.
        count: how many messages.
        send: sends one; it may use the reader's standard input.
    """
    command = [sys.executable, tailing.__file__, source, str(place), str(count)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        source_of, target = process.stdout, process.stdin
        assert source_of is not None
        assert target is not None
        try:
            send(tailing.stamped(), target)
            source_of.readline()

            def run() -> dict[str, float]:
                for _ in range(count):
                    send(tailing.stamped(), target)
                    time.sleep(PAUSE_S)
                latencies_ns = sorted(int(line) for line in source_of)
                assert len(latencies_ns) == count
                p50_us, p99_us = (percentile(latencies_ns, part) / 1000 for part in (0.50, 0.99))
                # what is compared is how long a message usually takes, not how long all took
                return {"p50_us": p50_us, "p99_us": p99_us, "seconds": p50_us * count / 1e6}

            yield run
        finally:
            process.kill()
