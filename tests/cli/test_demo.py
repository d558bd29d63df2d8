"""``eventlog demo`` keeps its word: in a git repository, outside of one, and without a terminal."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from eventlog.cli.demo_steps import find_histories


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    git = ["git", "-C", str(path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    for round_ in range(3):
        for number in range(30):
            (path / f"file-{number}").write_text(f"{round_} {number}")
        (path / f"file-{round_}").unlink()
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "a round"], check=True)
    return path


def check_told(told: str, *phrases: str) -> None:
    words = " ".join(told.split())
    for phrase in (*phrases, "0 lost", "acknowledged", "What next", "durable append", "on disk"):
        assert phrase in words
    assert "✗" not in told
    assert "\x1b" not in told
    assert max(len(line) for line in told.splitlines() if "eventlog stats" not in line) <= 100


def test_in_a_repository(repository: Path, run: Any) -> None:
    told = run("demo", cwd=repository).stdout.decode()
    check_told(told, "the git history of repository: 89 events", "29 files alive", "8,000 orders")


def test_outside_of_one_and_kept(tmp_path: Path, run: Any) -> None:
    store = tmp_path / "kept"
    told = run("demo", "--generated", "--keep", store, cwd=tmp_path).stdout.decode()
    check_told(told, "a generated shop of 8,000 orders", "orders alive", "eventlog stats")
    assert b"all is well" in run("verify", store).stdout
    assert b"is not empty" in run("demo", "--keep", store, cwd=tmp_path, code=2).stderr


def test_a_history_that_is_too_short_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "fresh"
    path.mkdir()
    git = ["git", "-C", str(path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    [history] = find_histories(path)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert find_histories(path)[0].title == history.title
    assert "shop" in history.title
