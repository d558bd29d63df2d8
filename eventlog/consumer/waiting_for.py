"""How far the groups are in a topic, for retention that waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventlog.errors import UnknownGroupError

if TYPE_CHECKING:
    from eventlog.consumer.group import Groups


def group_positions(groups: Groups, topic: str) -> dict[int, dict[str, int]]:
    """By partition, the next offset that each group reads there.

    A group counts where it has committed, or where a live member of it shall read. What it has not
    committed counts as unread from the log start on; with key slots the least of them counts.

    Raises:
        CorruptionError: ``groups/`` is damaged.
    """
    positions: dict[int, dict[str, int]] = {}
    for name in groups.list():
        try:
            description = groups.describe(name)
        except UnknownGroupError:
            continue  # deleted meanwhile
        found: dict[int, list[int]] = {}
        for each in description.partitions:
            if each.unit.topic == topic:
                offset = each.log_start_offset if each.committed is None else each.committed
                found.setdefault(each.unit.partition, []).append(offset)
        for number, offsets in found.items():
            if len(offsets) < description.key_slots:
                offsets.append(0)  # of slots that nobody owns, and nobody has committed
            positions.setdefault(number, {})[name] = min(offsets)
    return positions
