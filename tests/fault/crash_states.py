"""What a power cut may leave on disk, worked out from a trace of file operations.

The model is the weakest file system that we know to be real (docs/GUARANTEES.md lists the facts):

- What a successful fsync or fdatasync of a file covered is kept, bytes and length.
- Of writes that it did not cover any subset is kept, whatever their order; a write may end at any
  sector or page boundary, and bytes of it may be zero or garbage. Bytes that it did not touch stay.
- The length may lag behind writes and allocations. A truncation may have happened, or not, or have
  zeroed only the rest of its page; bytes cut off by it may show again when the file grows.
- Names (create, rename, unlink, mkdir) are kept when their directory was fsynced. Of the others in a
  directory those up to some moment are kept, and directories are independent of each other. An fsync
  of a file says nothing about its name.
- After a failed fsync the bytes that it covered may never reach the disk, whatever later ones return.

Files that are written past the traced layer (LMDB) are not known here: see ``materialise``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from random import Random

SECTOR_SIZE_BYTES = 512
PAGE_SIZE_BYTES = 4096


class Kind(IntEnum):
    """EL_FAULT_* of os_fault.h."""

    OPEN = 1  # in a trace: made a file
    PREAD = 2
    PWRITE = 3
    FDATASYNC = 4
    FSYNC = 5
    FTRUNCATE = 6
    FALLOCATE = 7
    RENAME = 8
    UNLINK = 9
    MKDIR = 10
    SIZE = 11
    MAP = 12
    LOCK = 13


@dataclass(frozen=True, slots=True)
class Operation:
    """One entry of a trace. Paths are relative to the store, "." being the store itself."""

    kind: Kind
    path: str
    target: str = ""
    position: int = 0
    size: int = 0
    data: bytes = b""
    os_errno: int = 0
    number: int = -1  # among all operations, also those that change nothing


State = dict[str, bytes | None]
"""Files with their bytes and directories (None) by relative path."""


@dataclass(slots=True)
class _Change:
    """A write, truncation or allocation; ``is_certain`` once a sync covered it."""

    operation: Operation
    is_certain: bool = False
    is_doomed: bool = False  # a failed sync has covered it: no later one makes it certain

    @property
    def end(self) -> int:
        return self.operation.position + self.operation.size


@dataclass(eq=False, slots=True)
class _File:
    content: bytearray = field(default_factory=bytearray)  # certain
    changes: list[_Change] = field(default_factory=list)

    def sync(self, os_errno: int) -> None:
        for change in self.changes:
            if os_errno:
                is_write = change.operation.kind is Kind.PWRITE
                change.is_doomed |= is_write and not change.is_certain
            else:
                change.is_certain |= not change.is_doomed
        while self.changes and self.changes[0].is_certain:
            _apply(self.content, self.changes.pop(0).operation)


@dataclass(eq=False, slots=True)
class _Directory:
    entries: dict[str, _Node] = field(default_factory=dict)  # as a running process sees them


_Node = _File | _Directory


@dataclass(slots=True)
class _Naming:
    """One change of names: in each of ``removed`` a name goes, in ``added`` one comes."""

    added: tuple[_Directory, str, _Node] | None
    removed: tuple[_Directory, str] | None
    is_certain: bool = False

    @property
    def directories(self) -> list[_Directory]:
        return [place[0] for place in (self.added, self.removed) if place]


class Disk:
    """The disk under a store: fed with operations, asked for states that a cut may leave now."""

    def __init__(self, initial: Mapping[str, bytes | None] | None = None) -> None:
        """``initial``: what is there, and durable, before the first operation."""
        self._root = _Directory()
        self._namings: list[_Naming] = []
        for path, content in sorted((initial or {}).items()):
            node: _Node = _Directory() if content is None else _File(bytearray(content))
            self._name(path, node)
        for naming in self._namings:
            naming.is_certain = True

    def apply(self, operation: Operation) -> None:
        """Let one operation of the trace happen."""
        kind, path = operation.kind, operation.path
        if kind is Kind.OPEN:
            self._name(path, _File())
        elif kind is Kind.MKDIR:
            self._name(path, _Directory())
        elif kind is Kind.RENAME:
            self._name(operation.target, self._find(path), path)
        elif kind is Kind.UNLINK:
            directory, name = self._place(path)
            del directory.entries[name]
            self._namings.append(_Naming(None, (directory, name)))
        elif not path:
            pass  # of a file that has no name any more nobody will see anything
        else:
            node = self._find(path)
            if isinstance(node, _Directory):
                if not operation.os_errno:
                    self._sync_names(node)
            elif kind in (Kind.FSYNC, Kind.FDATASYNC):
                node.sync(operation.os_errno)
            else:
                node.changes.append(_Change(operation))

    def running(self) -> State:
        """What a process sees: everything is kept."""
        return self._state(self._namings, _everything)

    def crash(self, random: Random) -> State:
        """One legal state after a power cut now.

        The mood decides how much of what is uncertain is kept: states in which nearly all or nearly
        nothing is are likely in life, and those that a fair coin for each write hardly ever gives.
        """
        mood = random.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        certain = _certain_with_forerunners(self._namings)
        pending: dict[int, int] = {}  # by directory
        for naming, is_certain in zip(self._namings, certain, strict=True):
            for directory in () if is_certain else naming.directories:
                pending[id(directory)] = pending.get(id(directory), 0) + 1
        left = {
            key: round(mood) * count if mood in (0.0, 1.0) else random.randint(0, count)
            for key, count in pending.items()
        }
        kept: list[_Naming] = []
        for naming, is_certain in zip(self._namings, certain, strict=True):
            keys = [id(directory) for directory in naming.directories]
            if is_certain or all(left[key] > 0 for key in keys):
                kept.append(naming)
            for key in () if is_certain else keys:
                left[key] = left[key] - 1 if kept and naming is kept[-1] else 0
        return self._state(kept, lambda file: _some(file, random, mood))

    def _place(self, path: str) -> tuple[_Directory, str]:
        parent, _, name = path.rpartition("/")
        directory = self._find(parent or ".")
        assert isinstance(directory, _Directory), f"{parent} is a file"
        return directory, name

    def _find(self, path: str) -> _Node:
        node: _Node = self._root
        for name in path.split("/") if path != "." else ():
            assert isinstance(node, _Directory), f"a file on the way to {path}"
            assert name in node.entries, f"{path} was made past the traced layer"
            node = node.entries[name]
        return node

    def _name(self, path: str, node: _Node, old: str = "") -> None:
        removed = self._place(old) if old else None
        if removed:
            del removed[0].entries[removed[1]]
        directory, name = self._place(path)
        directory.entries[name] = node
        self._namings.append(_Naming((directory, name, node), removed))

    def _sync_names(self, directory: _Directory) -> None:
        for naming in self._namings:
            naming.is_certain |= directory in naming.directories

    def _state(self, namings: Iterable[_Naming], content_of: Callable[[_File], bytearray]) -> State:
        entries: dict[int, dict[str, _Node]] = {}
        for naming in namings:
            if naming.removed:
                entries[id(naming.removed[0])].pop(naming.removed[1])
            if naming.added:
                directory, name, node = naming.added
                entries.setdefault(id(directory), {})[name] = node
        state: State = {}

        def visit(directory: _Directory, prefix: str) -> None:
            for name, node in sorted(entries.get(id(directory), {}).items()):
                if isinstance(node, _Directory):
                    state[prefix + name] = None
                    visit(node, f"{prefix}{name}/")
                else:
                    state[prefix + name] = bytes(content_of(node))

        visit(self._root, "")
        return state


def _certain_with_forerunners(namings: list[_Naming]) -> list[bool]:
    """A rename between directories that is certain makes certain what came before it in both."""
    certain: set[int] = set()  # ids of directories of certain later namings
    result = []
    for naming in reversed(namings):
        ids = {id(directory) for directory in naming.directories}
        is_certain = naming.is_certain or bool(ids & certain)
        if is_certain:
            certain |= ids
        result.append(is_certain)
    return result[::-1]


def _set_size(content: bytearray, size: int) -> None:
    if len(content) > size:
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.kind is Kind.FTRUNCATE:
        _set_size(content, operation.size)
        return
    end = operation.position + operation.size
    _set_size(content, max(end, len(content)))
    if operation.kind is Kind.PWRITE:
        content[operation.position : end] = operation.data


def _everything(file: _File) -> bytearray:
    content = bytearray(file.content)
    for change in file.changes:
        _apply(content, change.operation)
    return content


def _some(file: _File, random: Random, mood: float) -> bytearray:
    content = bytearray(file.content)
    size_min = len(content)
    for change in file.changes:
        operation = change.operation
        if change.is_certain:
            _apply(content, operation)
            size_min = operation.size if operation.kind is Kind.FTRUNCATE else len(content)
        elif operation.kind is Kind.FTRUNCATE:
            size_min = min(size_min, operation.size)
            _truncate(content, operation.size, random, mood)
        else:
            _write(content, operation, random, mood)
    if len(content) > size_min and random.random() > max(mood, 0.3):
        del content[_boundary(size_min, len(content), random) :]
    return content


def _truncate(content: bytearray, size: int, random: Random, mood: float) -> None:
    if random.random() < mood:
        _set_size(content, size)
    elif size < len(content) and random.random() < 0.5:  # its page was written, its length was not
        page_end = min(len(content), -(-size // PAGE_SIZE_BYTES) * PAGE_SIZE_BYTES)
        content[size:page_end] = bytes(page_end - size)


def _write(content: bytearray, operation: Operation, random: Random, mood: float) -> None:
    start, end = operation.position, operation.position + operation.size
    if random.random() < mood:
        _apply(content, operation)
        return
    fate = random.choice(("lost", "lost", "torn", "sparse", "zeros", "garbage"))
    if fate == "lost":
        return
    if fate == "torn":  # only what lies before, or only what lies behind, a boundary
        middle = _boundary(start, end, random)
        start, end = (start, middle) if random.random() < 0.7 else (middle, end)
    if start == end:
        return
    _set_size(content, max(len(content), end))
    if operation.kind is Kind.FALLOCATE:
        return
    if fate == "zeros":
        content[start:end] = bytes(end - start)
    elif fate == "garbage":
        content[start:end] = random.randbytes(end - start)
    elif fate == "torn":
        content[start:end] = operation.data[start - operation.position : end - operation.position]
    else:
        step = random.choice((SECTOR_SIZE_BYTES, PAGE_SIZE_BYTES))
        for piece in range(start // step * step, end, step):
            low, high = max(piece, start), min(piece + step, end)
            if random.random() < 0.5:
                content[low:high] = operation.data[low - start : high - start]


def _boundary(start: int, end: int, random: Random) -> int:
    """A sector or page boundary in [start, end]; where there is none, or at times, any byte."""
    step = random.choice((SECTOR_SIZE_BYTES, PAGE_SIZE_BYTES, 1))
    boundaries = range(-(-start // step) * step, end + 1, step)
    return random.choice(boundaries) if boundaries else random.randint(start, end)


def snapshot(directory: Path) -> State:
    """What is in the directory now, as a state."""
    return {
        path.relative_to(directory).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(directory.rglob("*"))
    }


def materialise(
    state: State, directory: Path, *, untraced: Mapping[str, Path | None] | None = None
) -> None:
    """Write a state into a fresh directory.

    ``untraced``: top-level folders that are not taken from the state but copied from the given
    folder if the state has them, or left out (None).
    """
    untraced = untraced or {}
    directory.mkdir(parents=True)
    for path, content in state.items():
        if path.partition("/")[0] in untraced:
            continue
        if content is None:
            (directory / path).mkdir()
        else:
            (directory / path).write_bytes(content)
    for name, source in untraced.items():
        if source is not None and source.is_dir() and name in state:
            shutil.copytree(source, directory / name)
