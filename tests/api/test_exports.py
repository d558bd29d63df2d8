"""The public face: what `import eventlog` offers is decided, not drifted into."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys

import pytest

import eventlog
from eventlog import errors

PUBLIC = [
    "ANY",
    "Activity",
    "BackupProblem",
    "BackupReport",
    "Clock",
    "Codec",
    "Consumer",
    "Durability",
    "Event",
    "EventLog",
    "EventLogError",
    "EventReceipt",
    "EventStore",
    "ExpectedVersion",
    "FencedError",
    "Groups",
    "JsonCodec",
    "ManualClock",
    "Metrics",
    "NO_STREAM",
    "OffsetAndMetadata",
    "Partition",
    "PartitionState",
    "Producer",
    "Receipt",
    "Record",
    "RecordedEvent",
    "RecoveryReport",
    "RepairStep",
    "RestoreReport",
    "RetentionPlan",
    "STREAM_EXISTS",
    "StreamAppend",
    "SystemClock",
    "Topic",
    "TopicPartition",
    "TopicSettings",
    "WrongExpectedVersion",
    "errors",
    "open",
    "repair",
    "restore",
    "verify_backup",
]


def test_the_names_are_these() -> None:
    assert sorted(eventlog.__all__) == sorted(PUBLIC)
    assert all(hasattr(eventlog, name) for name in PUBLIC)


def test_every_public_thing_has_a_docstring() -> None:
    for name in PUBLIC:
        thing = getattr(eventlog, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        assert inspect.getdoc(thing), name
        for attribute, member in vars(thing).items():
            if not attribute.startswith("_") and inspect.isfunction(member):
                assert inspect.getdoc(member), f"{name}.{attribute}"


ERRORS = [
    error
    for error in vars(errors).values()
    if inspect.isclass(error) and issubclass(error, errors.EventLogError)
]


def test_every_error_is_in_the_tree_that_the_page_shows() -> None:
    assert errors.__doc__ is not None
    missing = [error.__name__ for error in ERRORS if error.__name__ not in errors.__doc__]
    assert missing == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_errors_cross_process_boundaries(error: type[errors.EventLogError]) -> None:
    if error is errors.WrongExpectedVersion:
        made: errors.EventLogError = errors.WrongExpectedVersion("s", 1, 2)
    else:
        made = error("what happened", hint="What to do", path="/p", offset=3)
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is error
    assert (str(again), again.hint, vars(again)) == (str(made), made.hint, vars(made))


def test_the_library_does_not_need_the_command_line() -> None:
    """typer, rich and crcmod come with extras and tools; importing eventlog loads none of them."""
    code = (
        "import sys, eventlog; print([m for m in ('typer', 'rich', 'crcmod') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_module_says_what_it_is() -> None:
    for module in pkgutil.walk_packages(eventlog.__path__, "eventlog."):
        if module.name.rpartition(".")[2] not in {"_core", "__main__"}:
            assert importlib.import_module(module.name).__doc__, module.name
