"""Whether what is kept of groups is as it was written, and fits the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventlog.consumer import offsets as _offsets
from eventlog.consumer.members import HEARTBEATS, MEMBERS
from eventlog.consumer.reconciliation import GROUPS
from eventlog.errors import CorruptionError

if TYPE_CHECKING:
    from eventlog.consumer.group_store import GroupStore

_TABLES = (GROUPS, MEMBERS, HEARTBEATS, _offsets.OFFSETS)


def problems_of(store: GroupStore) -> list[str]:
    """Rows that cannot be read, and committed offsets past the end of the log; in words. Changes nothing.

    Raises CorruptionError where it cannot be opened at all.
    """
    problems: list[str] = []
    with store.read() as transaction:
        for table in _TABLES:
            for key, data in transaction.items(table.name):
                try:
                    table.decode(key, data)
                except CorruptionError as error:
                    problems.append(error.message)
        if problems:
            return problems
        names = [key.decode() for key in GROUPS.keys(transaction)]
        rows = {name: _offsets.rows_of(transaction, name) for name in names}
    for name, found in rows.items():
        beside = _offsets.beside_log(store.log, name, found, store.reported)
        problems += [
            f"group {name}: {committed.problem}"
            for unit, committed in beside.items()
            if found[unit].offset > committed.standing.high_watermark
        ]
    return problems
