"""kill -9 of a writer, again and again: nothing acknowledged is lost, and the store opens every time."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from kill_rounds import Rounds

ROUNDS = int(os.environ.get("EVENTLOG_KILL_ROUNDS") or 20)


@pytest.mark.guarantee("G-01")
@pytest.mark.guarantee("G-02")
@pytest.mark.guarantee("G-04")
@pytest.mark.guarantee("G-05")
@pytest.mark.guarantee("G-07")
@pytest.mark.guarantee("G-08")
@pytest.mark.guarantee("G-09")
@pytest.mark.timeout(60 + 2 * ROUNDS)
@pytest.mark.parametrize(("durability", "rounds"), [("sync", ROUNDS), ("os", (ROUNDS + 2) // 3)])
def test_kill(tmp_path: Path, rng: random.Random, durability: str, rounds: int) -> None:
    state = Rounds(tmp_path / "store", durability, rng)
    for number in range(rounds):
        state.run(number)
    state.check_everything()
    assert state.kills >= rounds // 2
    assert len(list((tmp_path / "store" / "log" / "t-0").glob("*.log"))) > 1
    assert set(state.cases) <= {"C-A", "C-B", "C-C", "C-F", "C-E"}
