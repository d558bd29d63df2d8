"""Deleting and compacting in an event loop: the same, awaitable."""

from __future__ import annotations

from pathlib import Path

import pytest
from aio_support import in_loop

from eventlog import aio
from eventlog.errors import OffsetOutOfRangeError


@in_loop
async def test_what_is_done_to_segments(tmp_path: Path) -> None:
    async with aio.open(tmp_path, durability="os", maintenance=False) as log:
        topic = log.topic(
            "t", segment_size_bytes_max=1024, cleanup_policy="compact,delete", retention_count=20
        )
        for number in range(40):
            await topic.append(bytes(110), key=b"%d" % (number % 2))
        [plan] = await log.retention_plan("t")
        assert plan.new_log_start_offset == 20
        assert await log.apply_retention() == [plan]
        assert await log.delete_records("t", before=23) == 23
        assert await log.roll("t") == {0: 40}
        [due] = await log.compaction_plan()
        assert due.reason == "dirty ratio"
        [done] = await log.compact("t")
        assert done.end_offset == 40
        assert len([record async for record in topic.read()]) < 10
        with pytest.raises(OffsetOutOfRangeError) as raised:
            [record async for record in topic.read(start=5)]
        assert (raised.value.log_start_offset, raised.value.log_end_offset) == (23, 40)
