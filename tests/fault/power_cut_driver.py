"""Cuts the power after every operation of a store's life, and again while it recovers.

``python power_cut_driver.py MODULE DIRECTORY JOB...``; prints counts. Asserts as it goes. A job is

- ``cut:STEPS:DURABILITY:SEEDS:RECOVERIES``: cuts after every operation of the steps (of workload.py) in
  a topic of that durability; SEEDS states each; of RECOVERIES of them the recovery is cut, too.
- ``fault:ERRNO:SEEDS``: each operation that changes the disk fails once, the store goes on, and the
  power goes at some later moment, SEEDS times.
- ``restart:SEEDS``: the process ends after each step, another opens the store and serves what the page
  cache has; then the power goes, SEEDS times.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import faults as fault_layer
from crash_states import Disk, Kind, Operation, State, materialise, snapshot

DIRECTORIES_NOT_TRACED = ("run", "meta")
CHANGING = {
    Kind.PWRITE,
    Kind.FDATASYNC,
    Kind.FSYNC,
    Kind.FTRUNCATE,
    Kind.FALLOCATE,
    Kind.RENAME,
    Kind.UNLINK,
    Kind.MKDIR,
}
SYNCS = {Kind.FSYNC, Kind.FDATASYNC}


class PowerCuts:
    """Runs of the workload, and states of the disk after cuts of them."""

    def __init__(self, faults: fault_layer.Faults, directory: Path) -> None:
        import workload  # only now: eventlog must find the faulty core

        self.w = workload
        self.faults = faults
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self.boots = 0

    def live_run(self, steps_name: str = "SHORT", durability: str = "sync") -> None:
        """Run the workload, under whatever plan is set."""
        self.boots += 1
        self.live = self.directory / f"live{self.boots}"
        self.live.mkdir()
        self.history = self.w.run(
            self.live,
            getattr(self.w, steps_name),
            settings={"durability": durability},
            moment=lambda: self.faults.trace_count,
        )
        self.trace = self.faults.trace(self.live)

    def cut_everywhere(self, steps_name: str, durability: str, seeds: int, recoveries: int) -> None:
        """Look at ``seeds`` states at every moment of a run in which nothing fails."""
        self.faults.reset()
        self.live_run(steps_name, durability)
        assert not self.history.failures, self.history.failures
        assert all(attempt.is_acknowledged for attempt in self.history.attempts)
        moments = range(len(self.trace) + 1)
        picked = set(Random(1).sample(moments, min(recoveries, len(moments))))
        disk = Disk()
        for moment in moments:
            for seed in range(seeds):
                random = Random(f"{moment} {seed}")
                with _told_on_failure(f"cut after {self.near(moment)}, seed {seed}"):
                    state = disk.crash(random)
                    self.check(state, random, moment)
                    if moment in picked and seed == 0:
                        self.cut_recovery(state, random, moment)
            if moment < len(self.trace):
                disk.apply(self.trace[moment])
        self.check_traced(disk, self.live)
        self.counts["operations"] += len(self.trace)

    def cut_after_faults(self, os_errno: int, seeds: int) -> None:
        """Each operation that changes the disk fails once; the power goes some time after."""
        self.faults.reset()
        self.live_run()
        kinds = self.faults.kinds()
        for number in [number for number, kind in enumerate(kinds) if kind in CHANGING]:
            self.faults.reset()
            self.faults.plan(number, "lost" if kinds[number] in SYNCS else "once", os_errno)
            self.live_run()
            assert self.faults.fired == 1
            near = " ".join(kind.name for kind in kinds[max(0, number - 3) : number + 1])
            self.faults.lift()
            random = Random(number)
            # A cut before the fault is any other cut; most come soon after it.
            first = sum(operation.number < number for operation in self.trace)
            moments = sorted(
                min(first + int(random.expovariate(0.05)), len(self.trace)) for _ in range(seeds)
            )
            disk, done = Disk(), 0
            for moment in moments:
                while done < moment:
                    disk.apply(self.trace[done])
                    done += 1
                with _told_on_failure(
                    f"fault at operation {number} ({near}), cut after {self.near(moment)}"
                ):
                    self.check(disk.crash(random), random, moment)
            self.w.remove(self.live)

    def cut_after_restart(self, seeds: int) -> None:
        """What was read from the page cache once is durable by then: readers may have acted on it."""
        # With and without room reserved: recovery goes different ways.
        for done, reserved in itertools.product(range(1, len(self.w.SHORT) + 1), (0, 1024)):
            self.faults.reset()
            self.boots += 1
            live = self.directory / f"live{self.boots}"
            live.mkdir()
            history = self.w.run(
                live,
                self.w.SHORT[:done],
                settings={"preallocation_bytes_max": reserved},
                finish=self.w.abandon,
            )
            with self.w.opened(live) as log:
                served = self.w.contents(log)
                self.w.check_acknowledged(history, served)
                trace = self.faults.trace(live)
            disk = Disk()
            for operation in trace:
                disk.apply(operation)
            for seed in range(seeds):
                random = Random(f"{done} {seed}")
                root = self.boot(disk.crash(random), random, live)
                with (
                    _told_on_failure(f"restart after step {done}, {reserved=}, seed {seed}"),
                    self.w.opened(root) as log,
                ):
                    assert self.w.contents(log) == served, "what was served is gone"
                self.counts["restarts"] += 1
                self.w.remove(root)
            self.w.remove(live)

    def near(self, moment: int) -> str:
        """Where a moment is, for messages."""
        return f"{moment} changes, the last {_told_all(self.trace[max(0, moment - 3) : moment])}"

    def boot(self, state: State, random: Random, live: Path | None = None) -> Path:
        """A machine that comes up with this state on its disk; ``live`` is where it came from."""
        live = live or self.live
        self.boots += 1
        self.faults.reboot(self.boots)
        root = self.directory / f"boot{self.boots}"
        untraced = {name: random.choice((None, live / name)) for name in DIRECTORIES_NOT_TRACED}
        materialise(state, root, untraced=untraced)
        return root

    def check(self, state: State, random: Random, moment: int) -> None:
        """Opens by itself, holds what it has to, goes on, says the same again."""
        root = self.boot(state, random)
        with self.w.opened(root) as log:
            found = self.w.contents(log)
            self.w.check_cut(self.history, found, moment)
            self.counts.update(report.case for report in log.recovery)
            topic = log.topic(self.w.TOPIC, **self.w.SETTINGS)
            assert topic.append(b"after").offset == len(found)
            assert topic.append_many([b"more"] * 5, durability="os")[0].offset == len(found) + 1
        found += [b"after", *[b"more"] * 5]
        for _ in range(2):
            with self.w.opened(root) as log:
                assert self.w.contents(log) == found, "another answer at the next opening"
        self.counts["states"] += 1
        self.w.remove(root)

    def cut_recovery(self, state: State, random: Random, moment: int) -> None:
        """The power goes again at every operation of the recovery of this state."""
        root = self.boot(state, random)
        initial = snapshot(root)
        self.faults.reset()
        with self.w.opened(root) as log:
            opened = self.faults.trace_count
            served = self.w.contents(log)
        whole = self.faults.trace(root)
        trace = whole[:opened]
        disk = Disk(initial)
        for operation in whole:
            disk.apply(operation)
        self.check_traced(disk, root)
        self.w.remove(root)
        disk = Disk(initial)
        for cut in range(opened + 1):
            again = disk.crash(random)
            root = self.boot(again, random)
            with (
                _told_on_failure(f"cut again after these of recovery: {_told_all(trace[:cut])}"),
                self.w.opened(root) as log,
            ):
                found = self.w.contents(log)
                self.w.check_cut(self.history, found, moment)
                assert cut < opened or found == served, "what recovery had served is gone"
                topic = log.topic(self.w.TOPIC, **self.w.SETTINGS)
                assert topic.append(b"after").offset == len(found)
            self.counts["recoveries"] += 1
            self.w.remove(root)
            if cut < opened:
                disk.apply(trace[cut])

    def check_traced(self, disk: Disk, root: Path) -> None:
        """Nothing was written past the traced layer, apart from mapped pages and LMDB."""
        modelled, real = disk.running(), snapshot(root)
        for state in (modelled, real):
            for path in [path for path in state if path.startswith(DIRECTORIES_NOT_TRACED)]:
                del state[path]
        assert modelled == real, "files were changed past the traced layer"


def _told(operation: Operation) -> str:
    target = f">{operation.target}" if operation.target else ""
    return f"{operation.kind.name}({operation.path}{target}@{operation.position}+{operation.size})"


def _told_all(operations: list[Operation]) -> str:
    return " ".join(_told(operation) for operation in operations)


@contextlib.contextmanager
def _told_on_failure(place: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(place)
        raise


def main() -> None:
    """Run as the head comment says."""
    module, directory, *jobs = sys.argv[1:]
    faults = fault_layer.install(module)
    faults.skip_syncs()
    cuts = PowerCuts(faults, Path(directory))
    for job in jobs:
        match job.split(":"):
            case ["cut", steps, durability, seeds, recoveries]:
                cuts.cut_everywhere(steps, durability, int(seeds), int(recoveries))
            case ["fault", errno_name, seeds]:
                cuts.cut_after_faults(getattr(errno, errno_name), int(seeds))
            case ["restart", seeds]:
                cuts.cut_after_restart(int(seeds))
            case _:
                sys.exit(f"no such job: {job}")
    print(json.dumps(cuts.counts))


if __name__ == "__main__":
    main()
