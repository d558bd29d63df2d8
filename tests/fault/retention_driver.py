"""Deletes old records while every file operation fails, the process ends, or the power goes.

``python retention_driver.py MODULE DIRECTORY PLAN...`` with plans ``once:EIO``, ``sticky:ENOSPC``,
``kill:9``, ``cut:SEEDS``; prints counts, or all violations.

The log has 30 records in segments of five. Retention keeps 18 of them, so it moves the start to 10; then
``delete_records`` moves it to 12, inside a segment. Whatever happens, the log begins at 0, 10 or 12, not
before what was acknowledged, and from there on nothing is missing.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import faults as fault_layer
from crash_states import Disk, Kind, materialise, snapshot

COUNT = 30
VALUES = [b"%03d" % number + bytes(130) for number in range(COUNT)]
STARTS = (0, 10, 12)
AFTER = b"after"
SYNCS = {Kind.FSYNC, Kind.FDATASYNC}


class Runs:
    """The work under each plan at each operation."""

    def __init__(self, faults: fault_layer.Faults, directory: Path) -> None:
        import eventlog  # only now: it must find the faulty core

        self.eventlog = eventlog
        self.faults = faults
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.made = directory / "made"
        with self.opened(self.made) as log:
            topic = log.topic(
                "t", durability="sync", segment_size_bytes_max=1024, cleanup_policy="delete",
                retention_count=18,
            )  # fmt: skip
            for value in VALUES:
                topic.append(value)

    def opened(self, root: Path) -> Any:
        """The store, with no thread that touches files by itself."""
        log = self.eventlog.open(root, maintenance=False)
        log._stop.set()
        log._flusher.join()
        return log

    def work(self, root: Path, tell: Callable[[int], object]) -> list[Exception]:
        """Delete; ``tell`` is called with each log start that was acknowledged. Errors of the calls."""
        found: list[Exception] = []
        log = None
        try:
            log = self.opened(root)
            for delete in (
                lambda log: log.apply_retention("t")[0].new_log_start_offset,
                lambda log: log.delete_records("t", before=12),
            ):
                try:
                    tell(delete(log))
                except self.eventlog.EventLogError as error:
                    found.append(error)
        except self.eventlog.EventLogError as error:
            found.append(error)
        finally:
            if log is not None:
                try:
                    log.close()
                except self.eventlog.EventLogError as error:
                    found.append(error)
        return found

    def check(self, root: Path, acknowledged: int) -> None:
        """What is left opens by itself, is whole, and can be ended; twice gives the same answer."""
        for _ in range(2):
            with self.opened(root) as log:
                topic = log.topic("t")
                start = topic.log_start_offset()
                assert start in STARTS, f"begins at {start}"
                assert start >= acknowledged, f"begins at {start}, {acknowledged} was told"
                records = list(topic.read())
                assert [record.offset for record in records] == list(range(start, COUNT))
                assert [record.value for record in records] == VALUES[start:]
                acknowledged = start
        self.counts[f"at {start}"] += 1
        with self.opened(root) as log:
            topic = log.topic("t")
            log.apply_retention("t")
            assert log.delete_records("t", before=12) == 12
            assert topic.append(AFTER).offset == COUNT
            assert [record.value for record in topic.read()] == [*VALUES[12:], AFTER]
            names = sorted(path.name for path in topic.partition(0).directory.iterdir())
            logs = [int(name[:20]) for name in names if name.endswith(".log")]
            assert logs == list(range(10, COUNT + 1, 5)), f"segments {logs}"
            left = [name for name in names if name.endswith((".deleted", ".tmp"))]
            assert not left, f"left behind: {left}"

    # -- the plans ------------------------------------------------------------------------------

    def run(self, plan: str) -> None:
        """One plan at every operation."""
        kind, _, name = plan.partition(":")
        if kind == "cut":
            self.cut(int(name))
            return
        value = getattr(errno, name, None)
        value = int(name) if value is None else value
        for number, place in enumerate(self.whole_run()):
            if kind == "lost" and place not in SYNCS:
                continue
            root = self.directory / f"{kind}-{number}"
            shutil.copytree(self.made, root)
            try:
                (self.kill_at if kind == "kill" else self.fail_at)(root, kind, value, number)
            except Exception:
                near = " ".join(each.name for each in self.faults.kinds()[-6:])
                self.violations.append(f"{plan} at {number} ({near})\n{traceback.format_exc()}")
            self.faults.lift()
            shutil.rmtree(root)
            self.counts["runs"] += 1
            if len(self.violations) > 5:
                return

    def whole_run(self) -> list[Kind]:
        """The operations when nothing fails."""
        root = self.directory / "whole"
        shutil.copytree(self.made, root)
        self.faults.reset()
        errors = self.work(root, lambda start: None)
        assert not errors, errors
        shutil.rmtree(root)
        return self.faults.kinds()

    def fail_at(self, root: Path, kind: str, value: int, number: int) -> None:
        """An operation fails, or all from there on do."""
        told: list[int] = [0]
        self.faults.reset()
        self.faults.plan(number, kind, value)
        errors = self.work(root, told.append)
        self.faults.lift()
        for error in errors:
            assert getattr(error, "errno", 0), f"no errno: {error!r}"
        self.counts["raised"] += bool(errors)
        self.check(root, max(told))

    def kill_at(self, root: Path, kind: str, status: int, number: int) -> None:
        """The process ends before an operation."""
        told, tell = os.pipe()
        self.faults.reset()
        child = os.fork()
        if child == 0:
            self.faults.plan(number, kind, status)
            self.work(root, lambda start: os.write(tell, b"%d\n" % start))
            os._exit(0)
        os.close(tell)
        with os.fdopen(told, "rb") as lines:
            starts = [int(line) for line in lines]
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended in (0, status), f"the child ended with {ended}"
        self.counts["killed"] += ended == status
        self.check(root, max(starts, default=0))

    def cut(self, seeds: int) -> None:
        """The power goes after each operation: what was not synced is there in any part."""
        live = self.directory / "live"
        shutil.copytree(self.made, live)
        disk = Disk(snapshot(live))
        moments: list[tuple[int, int]] = []
        self.faults.reset()
        errors = self.work(live, lambda start: moments.append((self.faults.trace_count, start)))
        assert not errors, errors
        trace = self.faults.trace(live)
        self.faults.reset()
        for done in range(len(trace) + 1):
            acknowledged = max((start for at, start in moments if at <= done), default=0)
            for seed in range(seeds):
                state = disk.crash(Random(f"{done} {seed}"))
                root = self.directory / f"cut-{done}-{seed}"
                materialise(state, root, untraced={"run": None})
                self.faults.reset()
                try:
                    self.check(root, acknowledged)
                except Exception:
                    near = [
                        f"{each.kind.name} {each.path}" for each in trace[max(0, done - 3) : done]
                    ]
                    self.violations.append(f"cut after {near}, {seed}\n{traceback.format_exc()}")
                    if len(self.violations) > 5:
                        return
                shutil.rmtree(root)
                self.counts["runs"] += 1
            if done < len(trace):
                disk.apply(trace[done])


def main() -> None:
    """Run as the head comment says."""
    module, directory, *plans = sys.argv[1:]
    faults = fault_layer.install(module)
    faults.skip_syncs()
    runs = Runs(faults, Path(directory))
    for plan in plans:
        runs.run(plan)
    if runs.violations:
        sys.exit("\n\n".join(runs.violations))
    print(json.dumps(runs.counts))


if __name__ == "__main__":
    main()
