"""The power goes at any moment of a store's life, and again while it recovers.

Goal: what was acknowledged under sync is there, nothing else but a prefix of what was attempted; opening
needs no help, says the same twice, and writing goes on.
Method: power_cut_driver.py traces a workload, builds disk states that a cut after each operation may
leave (crash_states.py), boots a machine with each and looks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import run_driver


def run(module: Path, directory: Path, *jobs: str, timeout_s: float = 120) -> dict[str, int]:
    counts: dict[str, int] = run_driver(
        module, "power_cut_driver", str(directory), *jobs, timeout_s=timeout_s
    )
    return counts


@pytest.mark.guarantee("G-01")
@pytest.mark.guarantee("G-03")
@pytest.mark.guarantee("G-05")
@pytest.mark.guarantee("G-07")
@pytest.mark.guarantee("G-08")
@pytest.mark.guarantee("G-10")
def test_a_cut_at_any_moment_keeps_what_was_durable(fault_module: Path, scratch: Path) -> None:
    counts = run(fault_module, scratch, "cut:SHORT:sync:2:4", "cut:SHORT:os:1:0")
    assert counts["states"] > 3 * 130
    assert counts["recoveries"] > 50
    assert all(counts[case] > 0 for case in ("C-A", "C-B", "C-C", "C-F")), counts


@pytest.mark.guarantee("G-04")
def test_what_was_served_after_a_restart_survives_a_cut(fault_module: Path, scratch: Path) -> None:
    assert run(fault_module, scratch, "restart:4")["restarts"] > 50


@pytest.mark.guarantee("G-11")
@pytest.mark.guarantee("G-12")
def test_a_cut_after_something_failed_keeps_what_was_durable(
    fault_module: Path, scratch: Path
) -> None:
    assert run(fault_module, scratch, "fault:EIO:2")["states"] > 200


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_many_more_cuts(fault_module: Path, scratch: Path) -> None:
    run(
        fault_module,
        scratch,
        "cut:LONG:sync:20:250",
        "cut:LONG:os:10:50",
        "fault:EIO:60",
        "fault:ENOSPC:20",
        "restart:200",
        timeout_s=3500,
    )
