"""The faulty file layer from Python: plans, and the trace that it kept.

Only for processes started by ``run_driver``: ``install`` puts the test build of the C core in the
place of the real one, which must happen before eventlog is imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from crash_states import Kind, Operation

TESTS = Path(__file__).resolve().parent.parent
CORE = "eventlog._native._core"


def run_driver(module: Path, driver: str, *arguments: str, timeout_s: float = 120) -> Any:
    """Run tests/fault/<driver>.py in a process of its own; returns the JSON that it printed last.

    Whatever it writes to stderr, and a status that is not 0, fails the test that called.
    """
    result = subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            str(TESTS / "fault" / f"{driver}.py"),
            str(module),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS / "fault")]),
        },
    )
    assert result.returncode == 0, f"status {result.returncode}\n{result.stdout}\n{result.stderr}"
    return json.loads(result.stdout.splitlines()[-1])


def install(path: str) -> Faults:
    """Load the test build and let eventlog find it instead of the real core."""
    assert CORE not in sys.modules, "eventlog was imported before the faulty core"
    specification = importlib.util.spec_from_file_location("_eventlog_fault", path)
    assert specification
    assert specification.loader
    core = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(core)
    sys.modules[CORE] = core
    return Faults(core)


class Faults:
    """Plans and trace of the loaded test build; ``lib`` and ``ffi`` are its own."""

    def __init__(self, core: Any) -> None:
        self.ffi, self.lib = core.ffi, core.lib

    def reset(self) -> None:
        """Forget trace, count and plan."""
        self.lib.el_fault_reset()

    def plan(self, number: int, kind: str, value: int = 0) -> None:
        """``kind``: the name of an EL_FAULT_* plan in lower case."""
        self.lib.el_fault_plan(number, getattr(self.lib, f"EL_FAULT_{kind.upper()}"), value)

    def lift(self) -> None:
        """Nothing fails any more."""
        self.lib.el_fault_plan(-1, self.lib.EL_FAULT_NONE, 0)

    @property
    def count(self) -> int:
        """Operations since the last reset."""
        return int(self.lib.el_fault_count())

    @property
    def fired(self) -> int:
        """How often the plan was carried out."""
        return int(self.lib.el_fault_fired())

    @property
    def trace_count(self) -> int:
        """Entries of the trace so far."""
        return int(self.lib.el_fault_trace_count())

    def skip_syncs(self) -> None:
        """Note fsync and fdatasync, and let them fail on order, but do not wait for the disk."""
        self.lib.el_fault_real_syncs(0)

    def reboot(self, number: int) -> None:
        """From now on the machine seems to have been started anew."""
        self.lib.el_fault_boot_id(number.to_bytes(16, "big"))

    def trace(self, root: Path) -> list[Operation]:
        """What changed the disk, with paths relative to ``root``."""
        entry = self.ffi.new("el_fault_operation *")
        operations = []
        for index in range(self.trace_count):
            assert self.lib.el_fault_trace_read(index, entry) == 0
            operations.append(
                Operation(
                    kind=Kind(entry.kind),
                    path=self._relative(entry.path, root),
                    target=self._relative(entry.target, root),
                    position=int(entry.position),
                    size=int(entry.size),
                    data=b""
                    if entry.data == self.ffi.NULL
                    else bytes(self.ffi.buffer(entry.data, entry.size)),
                    os_errno=int(entry.os_errno),
                    number=int(entry.number),
                )
            )
        return operations

    def kinds(self) -> list[Kind]:
        """The kind of each operation by number, also of those that changed nothing."""
        return [Kind(self.lib.el_fault_kind(number)) for number in range(self.count)]

    def _relative(self, path: Any, root: Path) -> str:
        if path == self.ffi.NULL:
            return ""
        text = os.fsdecode(self.ffi.string(path))
        return os.path.relpath(text, root) if text else ""
