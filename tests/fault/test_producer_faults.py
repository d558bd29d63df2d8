"""Idempotent appends over a disk that fails at every operation in its turn.

Goal: a batch that is tried until it is taken is in the log once, also where the failing operation wrote
a producer snapshot: that costs a warning and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import run_driver


@pytest.mark.guarantee("G-06")
@pytest.mark.parametrize("plan", ["once:EIO", "once:ENOSPC"])
def test_each_batch_is_there_once(fault_module: Path, scratch: Path, plan: str) -> None:
    counts = run_driver(fault_module, "producer_driver", str(scratch), plan)
    assert counts["runs"] == counts["operations"] > 50
    assert counts["warnings"] > 10
