"""Runs the durable whole-file operations (el_file_*) under every fault and every power cut.

``python files_driver.py MODULE DIRECTORY``; prints how many runs it made. Asserts as it goes.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import faults as fault_layer
from crash_states import Disk, Kind, State, snapshot

OLD, NEW = b"old" * 500, b"new" * 3000
SEEDS = 40
# What the operations begin with; `keep` must never change.
INITIAL: State = {"keep": OLD, "file": OLD, "there": None, "there/other": NEW}


class Case:
    """One operation, and what may be seen after it: before, after, nothing else."""

    def __init__(self, call: Callable[[Any, Any, Path], int], before: State, after: State) -> None:
        self.call, self.before, self.after = call, before, after

    def check(self, state: State, *, is_done: bool, is_certain: bool, told: str) -> None:
        """``is_done``: the call returned success; ``is_certain``: nothing may be pending."""
        seen = {path: content for path, content in state.items() if not path.endswith(".tmp")}
        if is_done and is_certain:
            assert seen == self.after, f"{told}: success, but {_names(seen)}"
        else:
            # Paths that the call does not concern stay, each that it does is old or new.
            for path in {*seen, *self.before, *self.after}:
                allowed = [self.before.get(path, "absent"), self.after.get(path, "absent")]
                assert seen.get(path, "absent") in allowed, f"{told}: {path} is neither"


def _names(state: State) -> dict[str, int | None]:
    return {path: None if content is None else len(content) for path, content in state.items()}


def _with(**changes: bytes | None) -> State:
    return {**INITIAL, **changes}


def _without(*paths: str) -> State:
    return {path: content for path, content in INITIAL.items() if path not in paths}


def _path(root: Path, name: str) -> bytes:
    return str(root / name).encode()


CASES: dict[str, Case] = {
    "replace": Case(
        lambda lib, ffi, root: lib.el_file_replace(_path(root, "file"), NEW, len(NEW)),
        INITIAL,
        _with(file=NEW),
    ),
    "replace_absent": Case(
        lambda lib, ffi, root: lib.el_file_replace(_path(root, "made"), NEW, len(NEW)),
        INITIAL,
        _with(made=NEW),
    ),
    "preserve": Case(
        lambda lib, ffi, root: lib.el_file_preserve(
            _path(root, "file"), 3, 1200, _path(root, "there/cut")
        ),
        INITIAL,
        {**INITIAL, "there/cut": OLD[3:1200]},
    ),
    "rename": Case(
        lambda lib, ffi, root: lib.el_file_rename(_path(root, "file"), _path(root, "there/file")),
        INITIAL,
        {**_without("file"), "there/file": OLD},
    ),
    "unlink": Case(
        lambda lib, ffi, root: lib.el_file_unlink(_path(root, "file")), INITIAL, _without("file")
    ),
    "mkdir": Case(
        lambda lib, ffi, root: lib.el_file_mkdir(_path(root, "made")), INITIAL, _with(made=None)
    ),
    "mkdir_there": Case(
        lambda lib, ffi, root: lib.el_file_mkdir(_path(root, "there")), INITIAL, INITIAL
    ),
    "truncate": Case(
        lambda lib, ffi, root: lib.el_file_truncate(_path(root, "file"), 100),
        INITIAL,
        _with(file=OLD[:100]),
    ),
    "sync": Case(lambda lib, ffi, root: lib.el_file_sync(_path(root, "file")), INITIAL, INITIAL),
    "reserve": Case(
        lambda lib, ffi, root: lib.el_file_reserve(_path(root, "made"), 8192),
        INITIAL,
        _with(made=bytes(8192)),
    ),
}
# A truncation or a new length is not one step on disk: only "shorter or longer" is promised before
# success, so a cut during these two is not held against them.
NOT_ATOMIC = {"truncate", "reserve"}
PLANS = [
    ("once", errno.EIO),
    ("once", errno.ENOSPC),
    ("once", errno.EINTR),
    ("once", errno.EOPNOTSUPP),
    ("sticky", errno.EIO),
    ("full", 0),
    ("syncs", errno.EIO),
    ("short", 1),
    ("short", 511),
    ("short_full", 7),
]


def prepare(root: Path) -> None:
    """Put INITIAL into a fresh directory."""
    root.mkdir()
    for path, content in INITIAL.items():
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def run_faults(faults: fault_layer.Faults, name: str, case: Case, root: Path) -> int:
    """Every operation of the case fails once in every way. Returns the runs."""
    runs = 0
    for kind, value in PLANS:
        number = 0
        while True:
            prepare(root)
            faults.reset()
            faults.plan(number, kind, value)
            code = case.call(faults.lib, faults.ffi, root)
            fired, count = faults.fired, faults.count
            kinds = faults.kinds()
            told = f"{name} {kind} {value} at {number} {[kind.name for kind in kinds]}"
            error = faults.ffi.new("el_error *")
            faults.lib.el_error_last(error)
            faults.lift()
            state = snapshot(root)
            shutil.rmtree(root)
            runs += 1
            assert state["keep"] == OLD, told
            if kind == "short" or (
                value == errno.EINTR and kinds[number : number + 1] != [Kind.RENAME]
            ):
                # carried on with, apart from the calls that POSIX does not let be interrupted
                interruptible = fired and kinds[number] in (Kind.UNLINK, Kind.MKDIR, Kind.SIZE)
                assert code == 0 or interruptible, f"{told}: code {code}"
            if code != 0:
                assert code == faults.lib.EL_ERR_OS, f"{told}: code {code}"
                texts = [faults.ffi.string(text) for text in (error.path, error.what)]
                assert all((error.os_errno, *texts)), told
                if kind == "once" and kinds[number] not in (Kind.UNLINK,):
                    assert not [path for path in state if path.endswith(".tmp")], told
            if name not in NOT_ATOMIC or code == 0:
                case.check(state, is_done=code == 0, is_certain=True, told=told)
            number += 1
            if number > count or (kind in ("syncs", "full") and not fired):
                break
    return runs


def run_cuts(faults: fault_layer.Faults, name: str, case: Case, root: Path) -> int:
    """The power goes after every operation of the case. Returns the states looked at."""
    runs = 0
    prepare(root)
    faults.reset()
    assert case.call(faults.lib, faults.ffi, root) == 0
    trace = faults.trace(root)
    disk = Disk(INITIAL)
    for done in range(len(trace) + 1):
        is_done = done == len(trace)
        if is_done:
            assert disk.running() == snapshot(root), name
        for seed in range(SEEDS):
            state = disk.crash(Random(f"{name} {done} {seed}"))
            told = f"{name} cut after {done} of {[op.kind.name for op in trace]}, seed {seed}"
            assert state["keep"] == OLD, told
            if name not in NOT_ATOMIC or is_done:
                case.check(state, is_done=is_done, is_certain=True, told=told)
            runs += 1
        if not is_done:
            disk.apply(trace[done])
    shutil.rmtree(root)
    return runs


def main() -> None:
    """Run all cases."""
    faults = fault_layer.install(sys.argv[1])
    faults.skip_syncs()
    root = Path(sys.argv[2]) / "files"
    result = {
        name: [run_faults(faults, name, case, root), run_cuts(faults, name, case, root)]
        for name, case in CASES.items()
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
