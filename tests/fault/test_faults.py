"""Every file operation of a store's life fails, in every way that disks and kernels know.

Goal: only errors of eventlog, with their errno; nothing acknowledged is lost, moved or doubled, what
was refused is not there; afterwards the store goes on by itself, or is poisoned and opens again.
Method: fault_driver.py runs a small workload once for each operation and plan over the faulty file
layer (tests/native/os_fault.c), then looks at the log through a new opening.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import run_driver


def run(module: Path, directory: Path, *plans: str) -> dict[str, int]:
    counts: dict[str, int] = run_driver(module, "fault_driver", str(directory), *plans)
    assert counts["operations"] > 150
    assert counts.get("runs", 0) + counts.get("killed", 0) > 20, counts
    return counts


@pytest.mark.guarantee("G-12")
@pytest.mark.guarantee("G-21")
def test_an_operation_that_fails_once_costs_one_call_at_most(
    fault_module: Path, scratch: Path
) -> None:
    counts = run(fault_module, scratch, "once:EIO", "once:EMFILE")
    assert counts["poisoned"] > 5


@pytest.mark.guarantee("G-12")
def test_short_transfers_and_interrupted_calls_are_carried_on_with(
    fault_module: Path, scratch: Path
) -> None:
    counts = run(fault_module, scratch, "once:EINTR", "short:1", "short:100")
    assert counts["raised"] == 0


@pytest.mark.guarantee("G-13")
def test_a_full_disk_is_an_error_and_appends_go_on_once_there_is_room(
    fault_module: Path, scratch: Path
) -> None:
    counts = run(fault_module, scratch, "full:0:lifted", "short_full:7:lifted")
    assert counts["raised"] > 100


@pytest.mark.guarantee("G-12")
def test_a_disk_that_goes_away_and_comes_back_has_lost_nothing(
    fault_module: Path, scratch: Path
) -> None:
    counts = run(fault_module, scratch, "sticky:EIO:lifted")
    assert counts["raised"] == counts["runs"]


@pytest.mark.guarantee("G-11")
def test_a_failed_sync_poisons_until_reopening(fault_module: Path, scratch: Path) -> None:
    counts = run(fault_module, scratch, "lost:EIO", "syncs:EIO")
    assert counts["raised"] == counts["runs"]
    assert counts["poisoned"] > 10


@pytest.mark.guarantee("G-02")
def test_a_process_that_ends_at_any_operation_loses_nothing_that_it_accepted(
    fault_module: Path, scratch: Path
) -> None:
    counts = run(fault_module, scratch, "kill:9")
    assert counts["killed"] > 100


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_more_of_everything(fault_module: Path, scratch: Path) -> None:
    run(
        fault_module,
        scratch,
        "once:ENOSPC",
        "once:EDQUOT",
        "sticky:ENOSPC",
        "short:7",
        "short_full:1",
        "short_full:100:lifted",
        "once:EACCES",
        "sticky:EROFS:lifted",
    )
