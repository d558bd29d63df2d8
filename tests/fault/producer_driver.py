"""Idempotent appends while every file operation fails in its turn.

``python producer_driver.py MODULE DIRECTORY PLAN...`` with plans like ``once:EIO``. Appends batches that
are tried until they are taken, over several segments, then opens the store anew and looks: each sequence
number is there once, and the answers named their places. Prints counts; asserts as it goes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import faults as fault_layer

BATCHES = 10
SETTINGS: dict[str, Any] = {"segment_size_bytes_max": 1024, "index_interval_bytes": 100}


class Warnings(logging.Handler):
    """Counts what is said of snapshots."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "snapshot" in record.getMessage()


def run(faults: fault_layer.Faults, root: Path, plan: tuple[int, str, int] | None) -> list[str]:
    """The workload, with a plan from the first append on; what happened."""
    import eventlog
    from eventlog.errors import EventLogError, PoisonedError

    happened: list[str] = []
    offsets: dict[int, int] = {}
    log = eventlog.open(root, durability="os")
    log._stop.set()  # nothing else touches files
    assert log._flusher is not None
    log._flusher.join()
    partition = log.topic("t", **SETTINGS).partition(0)
    faults.reset()
    if plan is not None:
        faults.plan(*plan)
    sequence = tries = 0
    while sequence < BATCHES:
        tries += 1
        assert tries < 100, "never taken"
        try:
            offset, _ = partition.append_columns([bytes(150)] * 2, producer=(7, 0, 2 * sequence))
        except PoisonedError:
            happened.append("poisoned")
            with contextlib.suppress(EventLogError):
                log.close()
            faults.lift()
            log = eventlog.open(root, durability="os")
            partition = log.topic("t").partition(0)
        except EventLogError:
            happened.append("raised")
        else:
            offsets[sequence] = offset
            sequence += 1
    try:
        log.close()
    except EventLogError:
        happened.append("close raised")
    count = faults.count
    faults.lift()
    with eventlog.open(root, durability="os") as log:
        partition = log.topic("t").partition(0)
        last = BATCHES - 1
        again, position = partition.append_columns([bytes(150)] * 2, producer=(7, 0, 2 * last))
        assert (again, position) == (offsets[last], -1), "the last batch is not known again"
        assert partition.log_end_offset == 2 * BATCHES, "not each once"
        assert offsets == {n: 2 * n for n in range(BATCHES)}, "wrong answers"
    return [*happened, str(count)]


def main(module: str, directory: str, *plans: str) -> None:
    faults = fault_layer.install(module)
    warnings = Warnings()
    logging.getLogger("eventlog.log").addHandler(warnings)
    logging.getLogger("eventlog.log").propagate = False
    root = Path(directory) / "store"
    counts: Counter[str] = Counter()
    (operations,) = run(faults, root, None)
    for plan in plans:
        kind, value = plan.split(":")
        for number in range(int(operations)):
            shutil.rmtree(root)
            happened = run(faults, root, (number, kind, getattr(errno, value)))[:-1]
            counts.update(happened)
            counts["runs"] += 1
    counts["warnings"] = warnings.count
    counts["operations"] = int(operations)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
