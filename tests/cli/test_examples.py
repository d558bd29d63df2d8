"""The examples run, twice on the same store, and the guide knows all commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eventlog.cli._app import app

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("orders_first_steps.py", "conflict: stream 'order-1' is at version"),
        ("replay_orders.py", "order-003: Order(status='delivered', items=('lamp',), shipped=1)"),
    ],
)
def test_an_example_runs(name: str, told: str, tmp_path: Path) -> None:
    for _ in range(2):
        command = [sys.executable, str(PROJECT / "examples" / name), str(tmp_path)]
        done = subprocess.run(
            command,
            cwd=PROJECT,
            capture_output=True,
            check=False,
            text=True,
            env={"PYTHONPATH": str(PROJECT)},
        )
        assert told in done.stdout, done.stderr


def test_the_guide_has_all_commands() -> None:
    guide = (PROJECT / "docs" / "guide" / "cli.md").read_text("utf-8")
    names = [command.name for command in app.registered_commands]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        commands = group.typer_instance.registered_commands
        names += [f"{group.name} {command.name}" for command in commands]
    assert [name for name in names if f"| `{name}" not in guide] == []
