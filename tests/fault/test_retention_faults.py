"""Deleting old records while files fail, processes end and the power goes.

Goal: the log is as it was or as it was to be, what was acknowledged as deleted stays deleted, what is kept
is whole, and the next retention ends what was begun.
Method: retention_driver.py does the same deletions once for each file operation and plan, over the faulty
file layer (tests/native/os_fault.c), and on what a power cut may leave after each.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import run_driver


def run(module: Path, directory: Path, *plans: str) -> dict[str, int]:
    counts: dict[str, int] = run_driver(module, "retention_driver", str(directory), *plans)
    assert counts["runs"] > 10, counts
    return counts


@pytest.mark.guarantee("G-23")
def test_an_operation_that_fails_leaves_old_or_new(fault_module: Path, scratch: Path) -> None:
    counts = run(fault_module, scratch, "once:EIO")
    assert counts["raised"] > 20
    assert all(counts[f"at {start}"] > 3 for start in (0, 10, 12)), counts


@pytest.mark.guarantee("G-23")
@pytest.mark.guarantee("G-13")
def test_a_disk_that_is_full_leaves_old_or_new(fault_module: Path, scratch: Path) -> None:
    counts = run(fault_module, scratch, "full:0")
    assert counts["raised"] > 20


@pytest.mark.guarantee("G-23")
@pytest.mark.guarantee("G-11")
def test_syncs_that_fail_leave_old_or_new(fault_module: Path, scratch: Path) -> None:
    run(fault_module, scratch, "lost:EIO")


@pytest.mark.guarantee("G-23")
def test_a_process_that_ends_leaves_old_or_new(fault_module: Path, scratch: Path) -> None:
    counts = run(fault_module, scratch, "kill:9")
    assert counts["killed"] > 60
    assert all(counts[f"at {start}"] > 3 for start in (0, 10, 12)), counts


@pytest.mark.guarantee("G-23")
def test_a_power_cut_leaves_old_or_new(fault_module: Path, scratch: Path) -> None:
    counts = run(fault_module, scratch, "cut:4")
    assert all(counts[f"at {start}"] > 3 for start in (0, 10, 12)), counts
