"""The durable whole-file operations of the C core, under faults and power cuts.

Goal: replace, preserve, rename, unlink, mkdir, truncate and reserve have happened when they return
success, are old or new whatever fails or whenever the power goes, and tell errno and path.
Method: files_driver.py makes every operation fail in every way, and builds the states that a cut
after each of them may leave.
"""

from __future__ import annotations

from pathlib import Path

from faults import run_driver


def test_whole_file_operations_are_old_or_new_under_every_fault(
    fault_module: Path, scratch: Path
) -> None:
    runs = run_driver(fault_module, "files_driver", str(scratch))
    assert all(faults > 10 and cuts > 40 for faults, cuts in runs.values()), runs
