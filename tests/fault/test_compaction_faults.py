"""Compaction over a disk that fails, in a process that ends, on a machine whose power goes.

Goal: whatever happens at whatever file operation, each segment is as before or as afterwards: nothing that
stays by the rules is lost, nothing that was replaced comes back once, and the next round, or the next
opening, ends what was begun. Method: compaction_driver.py makes each operation fail, ends the process before
it, and builds the states that a power cut after it may leave.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import run_driver

pytestmark = pytest.mark.guarantee("G-23")


def test_every_operation_fails_once(fault_module: Path, scratch: Path) -> None:
    counts = run_driver(fault_module, "compaction_driver", str(scratch), "once:EIO")
    assert counts["fired"] == counts["runs"] > 15
    assert counts["raised"] > 0.7 * counts["runs"]
    assert counts["C-G"] > 0


def test_the_process_ends_before_every_operation(fault_module: Path, scratch: Path) -> None:
    counts = run_driver(fault_module, "compaction_driver", str(scratch), "kill:9")
    assert counts["killed"] > 15
    assert counts["C-G"] > 0


def test_the_power_goes_after_every_operation(fault_module: Path, scratch: Path) -> None:
    counts = run_driver(fault_module, "compaction_driver", str(scratch), "cut:2")
    assert counts["states"] > 40
    assert counts["C-G"] > 2


@pytest.mark.deep
@pytest.mark.timeout(1200)
def test_compaction_under_more_of_everything(fault_module: Path, scratch: Path) -> None:
    jobs = (
        "once:EIO",
        "kill:9",
        "once:ENOSPC",
        "sticky:EIO",
        "full:1",
        "short:7",
        "short_full:20",
        "syncs:EIO",
        "cut:40",
    )
    run_driver(fault_module, "compaction_driver", str(scratch), *jobs, timeout_s=1100)
