"""The directory of a store: whether it is one, and making it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from eventlog._native import check, lib, os_error, path_bytes
from eventlog.errors import FormatVersionError, NotAStoreError
from eventlog.log import checkpoints
from eventlog.log.topics_file import FORMAT_VERSION

FORMAT_FILE = "eventlog.json"


def has_format(directory: Path) -> bool:
    """Is this a store that we know? False: there is none.

    Raises:
        NotAStoreError: it is something else.
        FormatVersionError: it is of a newer format (C-K).
        StorageError: it cannot be read.
    """
    path = directory / FORMAT_FILE
    try:
        found = json.loads(path.read_bytes())["format"]
        if type(found) is not int or found < 1:
            raise ValueError(f"format {found!r}")
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise _is_a_file(directory) from None
    except OSError as error:
        raise os_error(error.errno or 0, str(path), "cannot read the store's format") from error
    except (ValueError, KeyError, TypeError) as error:
        raise NotAStoreError(
            f"{path} is not the format file of a store: {error}",
            hint="Restore it from a backup, or name another directory",
            path=str(path),
        ) from error
    if found > FORMAT_VERSION:
        raise FormatVersionError(
            f"C-K: {directory} has format {found}, this eventlog knows up to {FORMAT_VERSION}",
            hint="Upgrade eventlog-engine",
            found=found,
            known=FORMAT_VERSION,
            path=str(directory),
        )
    return True


def make_directory(directory: Path, run_directory: Path, *, may_create: bool) -> None:
    """The place for a new store, if it can be one.

    Raises:
        NotAStoreError: it holds something else, or nothing and none may be made.
        StorageReadOnlyError, StorageFullError, StorageError: of the operating system.
    """
    try:
        others = [
            name
            for name in os.listdir(directory)
            if not name.startswith(FORMAT_FILE) and name != run_directory.name
        ]
    except FileNotFoundError:
        others = []
    except NotADirectoryError:
        raise _is_a_file(directory) from None
    except OSError as error:
        raise os_error(
            error.errno or 0, str(directory), "cannot look into the directory"
        ) from error
    if others and not has_format(directory):  # another process may just have made it
        raise NotAStoreError(
            f"{directory} holds {sorted(others)[0]!r} and is not an eventlog store",
            hint="Name an empty or new directory",
            path=str(directory),
        )
    if not may_create:
        raise NotAStoreError(
            f"there is no store in {directory}",
            hint="Open it for writing with create=True, or run `eventlog init`",
            path=str(directory),
        )
    for each in reversed([run_directory, directory, *directory.parents]):
        if not each.exists():
            check(lib.el_file_mkdir(path_bytes(each)))


def write_format(directory: Path) -> None:
    """It comes first: everything else is made where it is missing, so a crash at any point leaves
    something that the next opening completes."""
    checkpoints.replace_file(
        directory / FORMAT_FILE, json.dumps({"format": FORMAT_VERSION}).encode() + b"\n"
    )


def _is_a_file(directory: Path) -> NotAStoreError:
    return NotAStoreError(f"{directory} is a file", hint="Name a directory", path=str(directory))
