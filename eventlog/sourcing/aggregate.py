"""Aggregates: the state of a stream is what its events come to, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, overload

from eventlog.sourcing.event import RecordedEvent

State = TypeVar("State")


@overload
def fold(
    events: Iterable[RecordedEvent],
    initial: Callable[[], State],
    evolve: Callable[[State, RecordedEvent], State],
) -> State: ...
@overload
def fold(
    events: Iterable[RecordedEvent],
    initial: State,
    evolve: Callable[[State, RecordedEvent], State],
) -> State: ...
def fold(
    events: Iterable[RecordedEvent], initial: Any, evolve: Callable[[Any, RecordedEvent], Any]
) -> Any:
    """``evolve(state, event)`` over the events; returns the last state.

    ``initial`` is the state before the first event, or something that makes it when called (a class, a
    function): needed where ``evolve`` changes the state in place.
    """
    state = initial() if callable(initial) else initial
    for event in events:
        state = evolve(state, event)
    return state


def fold_streams(
    chunks: Iterable[list[RecordedEvent]],
    prefix: bytes,
    initial: Any,
    evolve: Callable[[Any, RecordedEvent], Any],
) -> Iterator[tuple[str, Any]]:
    """Every stream's state after one scan of the log, in the order in which the streams began.

    Holds the states of all streams in memory.
    """
    states: dict[bytes, Any] = {}
    is_callable = callable(initial)
    for events in chunks:
        if prefix:
            events = [event for event in events if event[4].startswith(prefix)]
        for event in events:
            key = event[4]
            if key in states:
                state = states[key]
            else:
                state = initial() if is_callable else initial
            states[key] = evolve(state, event)
    for key, state in states.items():
        yield key.decode("utf-8", "replace"), state
