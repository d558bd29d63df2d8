"""The flusher: a thread of each store that makes durable in the background what nobody waits for, and keeps
up with what other processes did."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING

from eventlog.errors import ClosedError, EventLogError, UnknownTopicError

if TYPE_CHECKING:
    from eventlog.log.partition import Partition
    from eventlog.log.store import Store

_logger = logging.getLogger("eventlog.log")

_TICK_S_MAX = 1.0


def start_flusher(store: Store, stop: threading.Event) -> threading.Thread:
    """The thread, started. It ends when the event is set, or the store forgotten."""
    thread = threading.Thread(
        target=_flush, args=(weakref.ref(store), stop), name="eventlog-flusher", daemon=True
    )
    thread.start()
    return thread


def _flush(reference: weakref.ref[Store], stop: threading.Event) -> None:
    seen: dict[tuple[str, int], int] = {}
    wait_s, since_checkpoint_s = _TICK_S_MAX, 0.0
    while not stop.wait(wait_s):
        store = reference()
        if store is None:
            return
        since_checkpoint_s += wait_s
        try:
            wait_s = _sync_due(store._open_partitions(), seen)
            if since_checkpoint_s >= _TICK_S_MAX:
                since_checkpoint_s = 0.0
                store._keep_up()
        except (EventLogError, MemoryError) as error:
            _logger.warning("background checkpoint of %s: %s", store.path, error)
        del store


def _sync_due(partitions: Iterable[Partition], seen: dict[tuple[str, int], int]) -> float:
    """Sync what is due; returns seconds until this has to be done again.

    Args:
        partitions: to look at.
        seen: where each of them ended the last time.
    """
    shortest_s = _TICK_S_MAX
    for partition in partitions:
        if partition.settings.durability == "interval":
            shortest_s = min(shortest_s, partition.settings.interval_ms / 1000)
        try:
            state = partition.state()
            if state.poisoned_errno:
                continue
            place = (partition.topic, partition.number)
            is_idle = seen.get(place) == state.log_end_offset
            seen[place] = state.log_end_offset
            # Who was killed may have made durable what it did not come to tell the readers.
            told = min(state.durable_end_offset, state.high_watermark)
            if told < state.log_end_offset and (
                partition.settings.durability == "interval" or is_idle
            ):
                partition.sync()
        except (ClosedError, UnknownTopicError):
            continue  # deleted meanwhile
        except EventLogError as error:
            _logger.warning(
                "background sync of %s-%d: %s",
                partition.topic,
                partition.number,
                error,
                extra={"topic": partition.topic, "partition": partition.number},
            )
    return shortest_s
