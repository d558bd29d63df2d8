"""Builds ``_eventlog_fault``: the C core over the faulty file layer (os_fault.c).

The module lands in ``build/fault/`` and is made again only when a source is newer. Tests load it in
a process of its own: tests/fault/faults.py puts it where ``eventlog._native`` looks for the core.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NATIVE = ROOT / "native"
MODULE = "_eventlog_fault"
VARIANT = "fault-sanitize" if os.environ.get("EVENTLOG_SANITIZE") else "fault"
# By interpreter too: the file's name alone does not tell a free-threaded build from another.
CACHE = ROOT / "build" / f"{VARIANT}-{sys.implementation.cache_tag}{sys.abiflags}"


def build() -> Path:
    """Return the path of the compiled module, compiling it first where that is needed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once
        module = CACHE / f"{MODULE}.so"
        if not module.exists() or module.stat().st_mtime_ns < _newest_source_ns():
            _compile(module)
        return module


def _newest_source_ns() -> int:
    sources = [
        path
        for directory in (NATIVE, HERE)
        for path in directory.iterdir()
        if path.suffix in {".c", ".h", ".py"}
    ]
    return max(path.stat().st_mtime_ns for path in sources)


def _compile(target: Path) -> None:
    begun_ns = _newest_source_ns()
    specification = importlib.util.spec_from_file_location(
        "eventlog_native_build", NATIVE / "build.py"
    )
    assert specification
    assert specification.loader
    native_build = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(native_build)
    builder = native_build.make(
        MODULE, os_source=HERE / "os_fault.c", header=HERE / "os_fault.h", root=None
    )
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        compiled = Path(builder.compile(tmpdir=directory))
        # A source that was changed meanwhile is newer than the module, so the next run sees it.
        os.utime(compiled, ns=(begun_ns, begun_ns))
        shutil.move(compiled, target)


if __name__ == "__main__":
    print(build())
