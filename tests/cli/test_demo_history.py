"""The histories of the demo come to what their judge says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from eventlog.cli.demo_history import (
    History,
    git_history,
    git_root,
    order_history,
    parse_git_log,
)


def state_of(history: History) -> dict[str, str]:
    state: dict[str, str] = {}
    for event in history.events:
        if event.type == history.delete_type:
            state.pop(event.stream, None)
        else:
            state[event.stream] = msgspec.json.decode(event.data)[history.value_field]
    return state


class Repository:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> None:
        identity = [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.org",
            "-c",
            "commit.gpgsign=false",
        ]
        subprocess.run(["git", "-C", str(self.path), *identity, *arguments], check=True)

    def commit(self, message: str, **files: str | None) -> None:
        for name, text in files.items():
            path = self.path / name
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "a repository")
    made.commit("one", a="1", **{"b\nc\té": "2", "gone": "3"})
    made.git("checkout", "-q", "-b", "side")
    made.commit("side", s="side", a="from the side")
    made.git("checkout", "-q", "main")
    made.commit("two", b="x", gone=None)
    made.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    (made.path / "link").symlink_to("a")
    made.commit("a link, and the file comes back", gone="again")
    made.commit("nothing")
    (made.path / "link").unlink()
    made.commit("the link becomes a file", link="plain")
    return made


def test_the_git_history_folds_to_the_tree(repository: Repository) -> None:
    history = git_history(repository.path)
    assert state_of(history) == history.expected
    assert set(history.expected) == {"a", "b", "b\nc\té", "s", "link", "gone"}
    assert [e.type for e in history.events if e.stream == "link"] == ["file_added", "file_retyped"]
    assert [e.type for e in history.events if e.stream == "gone"] == [
        "file_added", "file_deleted", "file_added",
    ]  # fmt: skip


def test_a_long_git_history_is_judged_where_it_was_cut(repository: Repository) -> None:
    history = git_history(repository.path, change_count_max=1)
    assert {event.stream for event in history.events} == {"a", "b\nc\té", "gone"}
    assert state_of(history) == history.expected


def test_the_root_is_found_from_below(repository: Repository, tmp_path: Path) -> None:
    below = repository.path / "deep" / "down"
    below.mkdir(parents=True)
    assert git_root(below) == repository.path
    assert git_root(tmp_path) is None


def test_a_repository_without_commits_is_none(tmp_path: Path) -> None:
    assert git_root(Repository(tmp_path / "empty").path) is None


def test_paths_may_look_like_anything() -> None:
    tokens = [
        b"commit abc 7",
        b"\n:000000 100644 0 1 A",
        b"commit abc 9",
        b":100644 100644 1 2 M",
        b":",
    ]
    [(commit, events)] = parse_git_log(iter(tokens))
    assert commit == "abc"
    assert [event.stream for event in events] == ["commit abc 9", ":"]
    assert {event.time_ms for event in events} == {7000}


def test_the_shop_folds_to_its_dict() -> None:
    history = order_history(order_count=300)
    assert state_of(history) == history.expected
    assert 0 < len(history.expected) < history.stream_count == 300
    assert len(history.events) > 900
    assert order_history(order_count=300).events == history.events
