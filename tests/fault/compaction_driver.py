"""A compaction while every file operation fails in its turn, the process ends, or the power goes.

``python compaction_driver.py MODULE DIRECTORY JOB...`` with jobs like ``once:EIO``, ``kill:9`` or
``cut:SEEDS``; prints counts. Afterwards each segment is as before or as afterwards; nothing that a reader may
rely on is gone, and another compaction ends what this one began. Asserts as it goes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import faults as fault_layer
from crash_states import Disk, materialise, snapshot

NOW_MS = 1_790_000_000_000
SETTINGS: dict[str, Any] = {
    "cleanup_policy": "compact",
    "segment_size_bytes_max": 1024,
    "index_interval_bytes": 100,
    "preallocation_bytes_max": 0,
    "delete_retention_ms": 1000,
}
APPENDS = 20
LEFT_OVER = (".cleaned", ".swap", ".deleted", ".tmp")


class CompactionRuns:
    """Compactions of copies of one store."""

    def __init__(self, faults: fault_layer.Faults, directory: Path) -> None:
        import eventlog
        from eventlog.clock import ManualClock
        from eventlog.errors import EventLogError
        from eventlog.log.compaction import compact

        self.eventlog, self.clock, self.error = eventlog, ManualClock(NOW_MS), EventLogError
        self.compact_partition = compact
        self.faults = faults
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self.boots = 0
        self.model = directory / "model"
        self.make_model()

    def open(self, root: Path, **options: Any) -> Any:
        log = self.eventlog.open(
            root, durability="os", clock=self.clock, maintenance=False, **options
        )
        if log._flusher is not None:
            log._stop.set()  # nothing else touches files
            log._flusher.join()
        return log

    def compact(self, log: Any) -> Any:
        topic = log.topic("t")
        return self.compact_partition(
            topic.partition(0), topic.settings, self.clock.now_ms(), topic_lock=log._change
        )

    def make_model(self) -> None:
        """Compacted once, with tombstones whose time is over; small neighbours that will be joined."""
        with self.open(self.model) as log:
            topic = log.topic("t", **SETTINGS)
            self.append(topic, range(APPENDS))
            topic.partition(0).roll()
            self.compact(log)
            self.clock.advance(1000)
            self.append(topic, range(APPENDS, 2 * APPENDS))
            topic.partition(0).roll()
            self.before = self.contents(log)
        root = self.copy("whole")
        with self.open(root) as log:
            self.faults.reset()
            result = self.compact(log)
            self.operations = self.faults.count
            self.after = self.contents(log)
            assert result.segments_after < result.segments_before - 1
            assert len(self.after) < len(self.before) * 0.8
        self.files = {p.name for p in (root / "log" / "t-0").iterdir()}
        self.remove(root)

    def append(self, topic: Any, numbers: range) -> None:
        for number in numbers:
            value = None if number % 9 == 0 else b"%d:" % number + bytes(90)
            topic.append(value, key=b"key-%d" % (number * number % 7))

    def contents(self, log: Any) -> dict[int, tuple[bytes | None, bytes | None]]:
        return {record.offset: (record.key, record.value) for record in log.topic("t").read()}

    def copy(self, name: str) -> Path:
        root = self.directory / name
        shutil.copytree(self.model, root)
        return root

    def remove(self, root: Path) -> None:
        shutil.rmtree(root)

    # -- what has to hold -----------------------------------------------------------------------

    def check(self, found: dict[int, Any], told: str) -> None:
        """Between the two: what stays is there, and nothing that was not there before."""
        assert found.items() >= self.after.items(), f"{told}: records are lost"
        assert found.items() <= self.before.items(), f"{told}: records that never were"
        latest = {key: offset for offset, (key, _) in self.before.items()}
        here = {key: offset for offset, (key, _) in found.items()}
        for key, offset in here.items():
            assert offset == latest[key], f"{told}: {key!r} has an old value"
        gone = [key for key in latest if key not in here]
        assert all(self.before[latest[key]][1] is None for key in gone), f"{told}: a key is gone"

    def check_opened(self, root: Path, told: str) -> None:
        """Reads, then opens, goes on, ends the compaction, says the same when opened again."""
        with self.open(root, read_only=True) as log:
            self.check(self.contents(log), told + ", read only")
        with self.open(root) as log:
            self.counts.update(report.case for report in log.recovery)
            found = self.contents(log)
            self.check(found, told)
            names = {path.name for path in (root / "log" / "t-0").iterdir()}
            left = [name for name in names if name.endswith(LEFT_OVER)]
            assert not left, f"{told}: {left}"
            assert {int(name[:20]) for name in names if name.endswith(".log")} >= {
                int(name[:20]) for name in self.files if name.endswith(".log")
            }, f"{told}: a segment is missing"
        with self.open(root) as log:
            assert self.contents(log) == found, f"{told}: another answer at the next opening"
            self.end_it(log, root, told)

    def end_it(self, log: Any, root: Path, told: str) -> None:
        """Another compaction brings it where the first was to come."""
        topic = log.topic("t")
        assert topic.append(b"after", key=b"after").offset == 2 * APPENDS, told
        checkpoint = root / "log" / "cleaner-offset-checkpoint"
        checkpoint.unlink(missing_ok=True)  # all of it is dirty
        self.compact(log)
        found = self.contents(log)
        assert found.pop(2 * APPENDS) == (b"after", b"after")
        assert found == self.after, f"{told}: not what it was to be in the end"

    def numbers(self) -> range:
        """Of the operations to be tried: all of them, or, in the fast profile, each time another fifth."""
        step = 5 if os.environ.get("EVENTLOG_PROFILE", "fast") == "fast" else 1
        return range(os.getpid() % step, self.operations, step)

    # -- jobs -----------------------------------------------------------------------------------

    def fail(self, kind: str, value: int) -> None:
        """Every operation fails; the store stays open, and others have it open, too."""
        for number in self.numbers():
            told = f"{kind} {value} at operation {number}"
            root = self.copy("failing")
            log, other = self.open(root), self.open(root)
            self.contents(other)
            self.faults.reset()
            self.faults.plan(number, kind, value)
            raised: Exception | None = None
            try:
                self.compact(log)
            except self.error as error:
                raised = error
            fired = self.faults.fired
            self.faults.lift()
            self.counts["runs"] += 1
            self.counts["fired"] += fired > 0
            self.counts["raised"] += raised is not None
            if raised is not None:
                assert getattr(raised, "errno", 0), f"{told}: no errno: {raised!r}"
            for each in (log, other):
                self.check(self.contents(each), told)
            if number % 2:  # the next round ends it, in another process maybe
                self.end_it(other, root, told)
                self.check_nothing_left(root, told)
                log.close()
                other.close()
            else:
                for each in (log, other):
                    each._abandon()
                self.check_opened(root, told)
            self.remove(root)

    def check_nothing_left(self, root: Path, told: str) -> None:
        left = [p.name for p in (root / "log" / "t-0").iterdir() if p.name.endswith(LEFT_OVER)]
        assert not left, f"{told}: {left}"

    def kill(self, status: int) -> None:
        """The process ends before each operation; another one goes on, or opens what is left."""
        for number in self.numbers():
            told = f"killed at operation {number}"
            root = self.copy("killed")
            stays = self.open(root) if number % 3 == 0 else None
            child = os.fork()
            if child == 0:
                log = self.open(root)
                self.faults.reset()
                self.faults.plan(number, "kill", status)
                self.compact(log)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status, told
            self.counts["killed"] += 1
            if stays is not None:
                self.check(self.contents(stays), told)
                self.end_it(stays, root, told)
                self.check_nothing_left(root, told)
                stays.close()
            else:
                self.check_opened(root, told)
            self.remove(root)

    def cut(self, seeds: int) -> None:
        """The power goes after each operation that changes the disk; at times also while it recovers."""
        live = self.copy("live")
        with self.open(live) as log:
            initial = snapshot(live)
            self.faults.reset()
            self.compact(log)
            trace = self.faults.trace(live)
        disk = Disk(initial)
        step = self.numbers().step
        for moment in range(len(trace) + 1):
            for seed in range(seeds if moment % step == os.getpid() % step else 0):
                random = Random(f"{moment} {seed}")
                last = trace[moment - 1] if moment else None
                told = (
                    f"cut after {moment} changes (the last {last and last.kind.name}), seed {seed}"
                )
                root = self.boot(disk.crash(random))
                if seed == 0:
                    root = self.cut_recovery(root, random)
                self.check_opened(root, told)
                self.counts["states"] += 1
                self.remove(root)
            if moment < len(trace):
                disk.apply(trace[moment])
        self.remove(live)

    def boot(self, state: Any) -> Path:
        self.boots += 1
        self.faults.reboot(self.boots)
        root = self.directory / f"boot{self.boots}"
        materialise(state, root, untraced={"run": None, "groups": None, "meta": None})
        return root

    def cut_recovery(self, root: Path, random: Random) -> Path:
        initial = snapshot(root)
        self.faults.reset()
        with self.open(root):
            trace = self.faults.trace(root)
        disk = Disk(initial)
        for operation in trace[: random.randint(0, len(trace))]:
            disk.apply(operation)
        self.remove(root)
        return self.boot(disk.crash(random))


def main(module: str, directory: str, *jobs: str) -> None:
    faults = fault_layer.install(module)
    faults.skip_syncs()
    import logging

    logging.getLogger("eventlog").setLevel(logging.CRITICAL)
    runs = CompactionRuns(faults, Path(directory))
    for job in jobs:
        kind, value = job.split(":")
        if kind == "cut":
            runs.cut(int(value))
        elif kind == "kill":
            runs.kill(int(value))
        else:
            runs.fail(kind, getattr(errno, value, None) or int(value))
    print(json.dumps(runs.counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
