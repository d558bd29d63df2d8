"""One process meets a fault at every single file operation while another one has the store open (C-I).

Goal: what either was told is there, once, where it was told; a batch is there whole or not at all; no lock
stays held; topics are made, grown and deleted as a whole or not at all; the other one goes on at once, and
so does the next opening. Method: processes_driver.py, with a child for each operation.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import run_driver

APPENDS = ("append", "group", "large")  # a group of appends goes over several segments
LIVES = ("open", "close", "checkpoint")
TOPICS = ("create", "delete", "grow", "alter")


def run(module: Path, directory: Path, fault: str, *scenarios: str) -> dict[str, int]:
    jobs = [f"{scenario}:{fault}" for scenario in scenarios]
    counts: dict[str, int] = run_driver(module, "processes_driver", str(directory), *jobs)
    assert all(counts[job] > 5 for job in jobs), counts
    return counts


@pytest.mark.guarantee("G-02")
@pytest.mark.guarantee("G-05")
@pytest.mark.guarantee("G-17")
@pytest.mark.parametrize("scenarios", [APPENDS, LIVES, TOPICS], ids=["appends", "lives", "topics"])
def test_a_process_that_ends_at_any_operation_leaves_nothing_stuck_or_half_done(
    fault_module: Path, scratch: Path, scenarios: tuple[str, ...]
) -> None:
    counts = run(fault_module, scratch, "kill", *scenarios)
    assert counts["rounds"] > 60


@pytest.mark.guarantee("G-11")
@pytest.mark.guarantee("G-12")
@pytest.mark.guarantee("G-17")
def test_an_operation_that_fails_in_one_process_harms_no_other(
    fault_module: Path, scratch: Path
) -> None:
    counts = run(
        fault_module, scratch, "EIO", "append", "large", "checkpoint", "create", "delete", "alter"
    )
    assert counts["refused"] > 10
    assert counts["poisoned"] > 2


@pytest.mark.deep
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "EMFILE", "EDQUOT"])
def test_more_faults(fault_module: Path, scratch: Path, fault: str) -> None:
    for scenarios in (APPENDS, LIVES, TOPICS):
        run(fault_module, scratch, fault, *scenarios)
