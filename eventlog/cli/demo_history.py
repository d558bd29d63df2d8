"""The histories that the demo imports: of a git repository, or of a made-up shop.

Both know what every stream must come to: git by ``git ls-tree``, the shop by a plain dict that is
kept beside the events.
"""

from __future__ import annotations

import dataclasses
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from eventlog.cli.output import CommandError

GIT_CHANGES_MIN = 50
_READ_SIZE_BYTES = 1 << 18
_GIT_TYPES = {b"A": "file_added", b"D": "file_deleted", b"T": "file_retyped"}
GIT_TYPE_DELETED = "file_deleted"


class HistoryEvent(NamedTuple):
    """An event before it is in a store; ``data`` is JSON."""

    stream: str
    type: str
    time_ms: int
    data: bytes


@dataclass
class History:
    """Events in their order, and the last value of each stream that is not deleted."""

    title: str
    noun: str  # what a stream is: "file", "order"
    judge: str  # who says what is right
    value_field: str  # of the data, whose last value is the state
    delete_type: str
    events: list[HistoryEvent] = dataclasses.field(default_factory=list)
    expected: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def stream_count(self) -> int:
        """How many streams the events belong to."""
        return len({event.stream for event in self.events})


# -- git ---------------------------------------------------------------------------------------


def git_root(directory: Path) -> Path | None:
    """The top of the git work tree that the directory lies in; None: no git, or no commit."""
    try:
        answer = _git(directory, "rev-parse", "--show-toplevel", "HEAD")
    except (OSError, CommandError):
        return None
    top = answer.split(b"\n")[0].decode("utf-8", "surrogateescape")
    return Path(top) if top else None


def git_history(
    root: Path, *, change_count_max: int = 150_000, seconds_max: float = 4.0
) -> History:
    """Each change of each file on the first-parent line of HEAD as one event, oldest first.

    A long history is read up to the limits and judged by the tree of the commit it stopped at.
    Merges count as one change against their first parent, so the events of a file come to exactly
    what the tree holds.
    """
    history = History(
        title=f"the git history of {root.name}",
        noun="file",
        judge="git ls-tree",
        value_field="blob",
        delete_type=GIT_TYPE_DELETED,
    )
    deadline = time.monotonic() + seconds_max
    last_commit = ""
    for commit, events in _git_commits(root):
        last_commit = commit
        history.events += events
        if len(history.events) >= change_count_max or time.monotonic() > deadline:
            break
    if last_commit:
        history.expected = _git_tree(root, last_commit)
    return history


def _git(directory: Path, *arguments: str) -> bytes:
    done = subprocess.run(
        ["git", "--no-replace-objects", "-C", str(directory), *arguments],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise CommandError(
            f"git {arguments[0]} failed: {done.stderr.decode('utf-8', 'replace').strip()}"
        )
    return done.stdout


def _git_commits(root: Path) -> Iterator[tuple[str, list[HistoryEvent]]]:
    command = ["git", "--no-replace-objects", "-c", "log.showRoot=true", "-C", str(root), "log"]
    command += ["--first-parent", "-m", "--reverse", "--raw", "--no-renames", "--no-abbrev", "-z"]
    command += ["--no-color", "--no-ext-diff", "--no-show-signature", "--no-relative"]
    command += ["--ignore-submodules=none", "--format=commit %H %ct", "HEAD", "--"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield from parse_git_log(_tokens(process))
        finally:
            process.kill()


def _tokens(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    assert process.stdout is not None
    rest = b""
    while chunk := process.stdout.read1(_READ_SIZE_BYTES):  # type: ignore[attr-defined]
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole
    if rest:
        yield rest


def parse_git_log(tokens: Iterator[bytes]) -> Iterator[tuple[str, list[HistoryEvent]]]:
    """(commit, its events) from the NUL-separated output of ``git log --raw -z``.

    A commit is one token, ``commit <id> <seconds>``; a change is two: ``:modes ids letter`` and
    the path, which may hold anything but NUL.
    """
    commit, time_ms = "", 0
    events: list[HistoryEvent] = []
    for raw_token in tokens:
        token = raw_token.lstrip(b"\n")
        if token.startswith(b"commit "):
            if commit:
                yield commit, events
            _, name, seconds = token.split()
            commit, time_ms, events = name.decode(), int(seconds) * 1000, []
        elif token.startswith(b":"):
            _, mode, _, blob, letter = token.split()
            events.append(
                HistoryEvent(
                    _path_text(next(tokens, b"")),
                    _GIT_TYPES.get(letter[:1], "file_modified"),
                    time_ms,
                    b'{"commit":"%s","blob":"%s","mode":"%s"}' % (commit.encode(), blob, mode),
                )
            )
    if commit:
        yield commit, events


def _git_tree(root: Path, commit: str) -> dict[str, str]:
    tree: dict[str, str] = {}
    for line in _git(root, "ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0"):
        if line:
            head, _, path = line.partition(b"\t")
            tree[_path_text(path)] = head.split()[2].decode()
    return tree


def _path_text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


# -- a shop ------------------------------------------------------------------------------------

_ITEMS = ("lamp", "chair", "desk", "kettle", "atlas", "radio", "globe", "clock")
ORDER_TYPE_CANCELLED = "order_cancelled"


def order_history(order_count: int = 8_000, seed: int = 7) -> History:
    """Customers who place orders whose items are shipped and delivered, or who think again.

    Orders overlap in time, as they do: the events of one stream lie far apart in the log.
    """
    draw = random.Random(seed)
    history = History(
        title=f"a generated shop of {order_count:,} orders",
        noun="order",
        judge="a plain dict",
        value_field="status",
        delete_type=ORDER_TYPE_CANCELLED,
    )
    time_ms = 1_700_000_000_000
    open_orders: list[tuple[str, Iterator[tuple[str, dict[str, object]]]]] = []
    started = 0
    while started < order_count or open_orders:
        time_ms += draw.randrange(1, 4_000)
        if started < order_count and (len(open_orders) < 500 or draw.random() < 0.2):
            started += 1
            open_orders.append((f"order-{started:06d}", _order(draw)))
        chosen = draw.randrange(len(open_orders))
        stream, steps = open_orders[chosen]
        step = next(steps, None)
        if step is None:
            open_orders[chosen] = open_orders[-1]
            open_orders.pop()
            continue
        event_type, data = step
        history.events.append(HistoryEvent(stream, event_type, time_ms, msgspec.json.encode(data)))
        if event_type == ORDER_TYPE_CANCELLED:
            history.expected.pop(stream, None)
        else:
            history.expected[stream] = str(data["status"])
    return history


def _order(draw: random.Random) -> Iterator[tuple[str, dict[str, object]]]:
    customer = f"customer-{draw.randrange(2_000):04d}"
    items = draw.sample(_ITEMS, draw.randrange(1, 5))
    yield "order_placed", {"status": "placed", "customer": customer, "items": items}
    if draw.random() < 0.08:
        yield ORDER_TYPE_CANCELLED, {"status": "cancelled", "by": customer}
        return
    yield "order_paid", {"status": "paid", "cents": draw.randrange(500, 90_000)}
    for number, item in enumerate(items, start=1):
        yield "item_shipped", {"status": f"shipped {number} of {len(items)}", "item": item}
    yield "order_delivered", {"status": "delivered", "to": customer}
