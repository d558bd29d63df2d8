"""What the tests of the command line share: running it inside this process, and as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import eventlog
from eventlog.cli._app import app

Invoke = Callable[..., Result]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]

PROJECT = Path(eventlog.__file__).parents[1]


@pytest.fixture
def invoke() -> Invoke:
    """Run a command in this process: ``invoke("read", path, "orders", code=0)``."""

    def call(*arguments: object, code: int = 0, stdin: bytes | None = None) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return call


def environment() -> dict[str, str]:
    """For a process that shall import the package from where these tests have it."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"}


def command(*arguments: object) -> list[str]:
    """The command line as a process would be given it."""
    return [sys.executable, "-m", "eventlog.cli", *(str(argument) for argument in arguments)]


@pytest.fixture
def run() -> Run:
    """Run a command as a process of its own."""

    def call(
        *arguments: object, code: int = 0, stdin: bytes = b"", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            command(*arguments),
            input=stdin,
            capture_output=True,
            env=environment(),
            cwd=cwd,
            check=False,
            timeout=100,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done

    return call


class _Started(subprocess.Popen[bytes]):
    """A process that a failed test does not wait for."""

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[bytes]]:
    """Start a command as a process of its own; ``stdin``: as subprocess.Popen has it."""

    def call(*arguments: object, stdin: int | None = None) -> subprocess.Popen[bytes]:
        return _Started(
            command(*arguments),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )

    return call
