"""Makes every operation of a store's life fail, in every way, and looks at what is left.

``python fault_driver.py MODULE DIRECTORY PLAN...`` with plans like ``once:EIO`` or ``short:7``; prints
counts, or all violations. In plans that end in ``:lifted`` the fault goes away after the first call that
raised, so the store has to work again without being opened anew. ``kill:9`` ends a forked child.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import faults as fault_layer
from crash_states import Kind

# Calls that POSIX lets a signal interrupt; at the others an EINTR may be handed up.
INTERRUPTIBLE = {
    Kind.PREAD,
    Kind.PWRITE,
    Kind.FSYNC,
    Kind.FDATASYNC,
    Kind.FTRUNCATE,
    Kind.FALLOCATE,
}
SYNCS = {Kind.FSYNC, Kind.FDATASYNC}
NEEDS_SPACE = {Kind.OPEN, Kind.PWRITE, Kind.FALLOCATE, Kind.MKDIR, Kind.RENAME}
TRANSFERS = {Kind.PREAD, Kind.PWRITE}
# Where a plan can begin to differ from the same plan one operation later.
PLACES = {
    "syncs": SYNCS,
    "lost": SYNCS,
    "full": NEEDS_SPACE,
    "short": TRANSFERS,
    "short_full": {Kind.PWRITE},
}
WHERE = {errno.EINTR: INTERRUPTIBLE, errno.EMFILE: {Kind.OPEN}}


class FaultRuns:
    """The workload under each plan at each operation."""

    def __init__(self, faults: fault_layer.Faults, directory: Path) -> None:
        import workload  # only now: eventlog must find the faulty core

        from eventlog.errors import PoisonedError

        self.poisoned_error = PoisonedError
        self.w = workload
        self.faults = faults
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self.violations: list[tuple[Exception, str]] = []
        self.kinds = self.whole_run()

    def run(self, plan: str) -> None:
        """One plan at every operation. A violation does not stop the others from being found."""
        kind, value_name, *rest = plan.split(":")
        value = getattr(errno, value_name, None)
        value = int(value_name) if value is None else value
        places = WHERE.get(value) or PLACES.get(kind, set(Kind))
        for number, place in enumerate(self.kinds):
            if place not in places:
                continue
            try:
                if kind == "kill":
                    self.kill_at(number, value)
                else:
                    self.run_at(number, kind, value, is_lifted="lifted" in rest)
            except Exception as error:
                kinds = [kind.name for kind in self.faults.kinds()]
                near = " ".join(kinds[max(0, number - 4) : number + 1])
                self.violations.append((error, f"plan {plan} at operation {number}: {near} <-"))

    def whole_run(self) -> list[Kind]:
        """The operations of the workload when nothing fails."""
        root = self.directory / "whole"
        root.mkdir()
        self.faults.reset()
        history = self.w.run(root)
        assert not history.failures
        assert all(a.is_acknowledged for a in history.attempts)
        return self.faults.kinds()

    def summary(self) -> str:
        """All violations: each message once, with all its places and the first's traceback."""
        places: dict[str, list[str]] = {}
        first: dict[str, Exception] = {}
        for error, place in self.violations:
            message = re.sub(r"[0-9]+", "N", f"{type(error).__name__}: {error}")
            places.setdefault(message, []).append(place)
            first.setdefault(message, error)
        return "\n\n".join(
            "".join(traceback.format_exception(first[message])) + "\n".join(found[:20])
            for message, found in places.items()
        )

    def run_at(self, number: int, kind: str, value: int, *, is_lifted: bool) -> None:
        """One run."""
        root = self.directory / f"{kind}-{value}-{number}"
        root.mkdir()
        self.faults.reset()
        self.faults.plan(number, kind, value)
        history = self.w.run(root, on_error=self.faults.lift if is_lifted else lambda: None)
        fired, hit = self.faults.fired, self.faults.kinds()[number:]
        self.faults.lift()
        self.counts["runs"] += 1
        self.counts["fired"] += fired > 0 or (is_lifted and bool(history.failures))
        errors = [*history.failures, *(a.error for a in history.attempts if a.error)]
        self.counts["raised"] += bool(errors)
        for error in errors:
            assert getattr(error, "errno", 0), f"no errno: {error!r}"
        if (kind == "short" or value == errno.EINTR) and hit and hit[0] in INTERRUPTIBLE:
            assert not errors, f"not carried on with: {errors}"
        self.check_goes_on(history, kind, is_lifted=is_lifted)
        self.check_reopened(root, history, kind)
        self.w.remove(root)

    def kill_at(self, number: int, status: int) -> None:
        """A process that ends at once: all that was accepted, under whatever durability, stays."""
        root = self.directory / f"kill-{number}"
        root.mkdir()
        self.faults.reset()
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            self.faults.plan(number, "kill", status)
            self.w.run(root, tell=lambda a: os.write(tell, b"%d %d\n" % (a.step, a.offset)))
            os._exit(0)
        os.close(tell)
        with os.fdopen(told, "rb") as lines:
            offsets = {int(step): int(offset) for step, offset in map(bytes.split, lines)}
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
        history = self.w.history_of(offsets)
        with self.w.opened(root) as log:
            found = self.w.contents(log)
            indexes = self.w.batches_of(history, found)
            accepted = [i for i, a in enumerate(history.attempts) if a.is_acknowledged]
            assert indexes[: len(accepted)] == accepted, f"{indexes}, accepted {accepted}"
            assert len(indexes) <= len(accepted) + 1
            topic = log.topic(self.w.TOPIC, **self.w.SETTINGS)
            assert topic.append(b"after").offset == len(found)
        self.counts["killed"] += 1
        self.w.remove(root)

    def check_goes_on(self, history: Any, kind: str, *, is_lifted: bool) -> None:
        """Poisoned for good, or whole again as soon as the cause is gone."""
        poisoned = failed = False
        for attempt in self.w.by_opening(history):
            if attempt is None:  # opened anew
                poisoned = failed = False
            elif poisoned:
                assert isinstance(attempt.error, self.poisoned_error), "an append went past poison"
            elif isinstance(attempt.error, self.poisoned_error):
                poisoned = True
                self.counts["poisoned"] += 1
            elif attempt.error:
                assert not (failed and (is_lifted or kind in ("once", "lost"))), (
                    f"again: {attempt.error}"
                )
                failed = True

    def check_reopened(self, root: Path, history: Any, kind: str) -> None:
        """Opens by itself, holds what was acknowledged, goes on."""
        with self.w.opened(root) as log:
            found = self.w.contents(log)
            self.w.check_acknowledged(history, found, only_sync=kind == "lost")
            topic = log.topic(self.w.TOPIC, **self.w.SETTINGS)
            assert topic.append(b"after").offset == len(found)
        with self.w.opened(root) as log:
            assert self.w.contents(log) == [*found, b"after"], "another answer at the next opening"


def main() -> None:
    """Run as the head comment says."""
    module, directory, *plans = sys.argv[1:]
    faults = fault_layer.install(module)
    faults.skip_syncs()
    runs = FaultRuns(faults, Path(directory))
    for plan in plans:
        runs.run(plan)
    if runs.violations:
        sys.exit(runs.summary())
    print(json.dumps({"operations": len(runs.kinds), **runs.counts}))


if __name__ == "__main__":
    main()
