"""The whole log against its model, with power cuts at any moment: see tests/log/log_machine.py.

Appends by several handles and processes, syncs, rolls, checkpoints, closings, kills, a consumer group; a cut
keeps any legal subset of what was not synced. All that was surely durable is there afterwards, of the rest
whole batches in order, and the group has committed nothing that the log does not have.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from faults import run_driver


def run(module: Path, seed: int, *, examples: int, steps: int, timeout_s: float) -> dict[str, int]:
    counts: dict[str, int] = run_driver(
        module, "machine_driver", str(examples), str(steps), str(seed), timeout_s=timeout_s
    )
    return counts


@pytest.mark.guarantee("G-01")
@pytest.mark.guarantee("G-03")
@pytest.mark.guarantee("G-05")
@pytest.mark.guarantee("G-07")
@pytest.mark.guarantee("G-17")
@pytest.mark.guarantee("G-29")
def test_power_cuts(fault_module: Path, rng: random.Random) -> None:
    counts = run(fault_module, rng.randrange(2**32), examples=15, steps=25, timeout_s=110)
    assert counts["cuts"] > 0


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_many_power_cuts(fault_module: Path, rng: random.Random) -> None:
    counts = run(fault_module, rng.randrange(2**32), examples=400, steps=60, timeout_s=3500)
    assert counts["records lost"] > 100
    assert {"C-B", "C-C", "C-F"} <= counts.keys()
