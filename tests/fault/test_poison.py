"""A failed fdatasync leaves pages that pass for clean and never reached the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import run_driver


@pytest.mark.guarantee("G-11")
def test_reopening_writes_again_what_it_keeps(fault_module: Path, scratch: Path) -> None:
    seen = run_driver(fault_module, "poison_driver", str(scratch))
    assert seen["found"][0] == "durable"
    assert seen["bytes"] > 0
