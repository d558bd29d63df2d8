"""The example of the loop runs, twice on the same store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_the_example_runs(tmp_path: Path) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", PROJECT / "examples" / "async_orders.py", tmp_path],
            cwd=PROJECT,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )
        assert "shipped: 200" in done.stdout, done.stderr
        assert "one fdatasync served several requests: True" in done.stdout
