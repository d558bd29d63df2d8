"""An index checkpoint is evidence for recovery: the log is known to have reached that far."""

from __future__ import annotations

from pathlib import Path

import eventlog
from eventlog.log import checkpoints
from eventlog.sourcing import Event


def test_an_index_checkpoint_moves_the_recovery_point(tmp_path: Path) -> None:
    with eventlog.open(tmp_path, durability="os") as log:
        store = log.event_store("orders")
        store.append("o-1", [Event(b"x", type="t")] * 7)
        store.checkpoint()
        points = checkpoints.read_offsets(log.log_directory / checkpoints.RECOVERY_POINT)
        assert points["orders", 0] == 7
