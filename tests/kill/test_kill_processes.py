"""kill -9 of writers and consumers beside others that live: nothing is lost, doubled or stuck."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from process_rounds import ProcessRounds

ROUNDS = int(os.environ.get("EVENTLOG_KILL_ROUNDS") or 20)


@pytest.mark.guarantee("G-02")
@pytest.mark.guarantee("G-04")
@pytest.mark.guarantee("G-05")
@pytest.mark.guarantee("G-07")
@pytest.mark.guarantee("G-17")
@pytest.mark.guarantee("G-29")
@pytest.mark.guarantee("G-31")
@pytest.mark.timeout(60 + 2 * ROUNDS)
def test_writers_and_consumers_are_killed_and_replaced(tmp_path: Path, rng: random.Random) -> None:
    state = ProcessRounds(tmp_path / "store", rng)
    state.run(ROUNDS)
    assert state.counts["writers killed"] >= ROUNDS // 2
    assert state.counts["consumers killed"] >= 2
    assert len(list((tmp_path / "store" / "log" / "synced-0").glob("*.log"))) > 1
    assert set(state.cases) <= {"C-A", "C-B", "C-C", "C-F", "C-E"}
