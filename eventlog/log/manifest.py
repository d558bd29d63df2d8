"""What a backup consists of: ``backup.json``, the last file that is written into one.

Sizes and CRC-32C of all files, and where the sealed ones came from, so that the next backup knows them
again. It has a checksum of its own, so it is never half believed.
"""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path, PurePosixPath

import msgspec

from eventlog._native import ffi, lib, os_error
from eventlog.errors import CorruptionError, FormatVersionError, NotAStoreError
from eventlog.log import checkpoints
from eventlog.log.store_directory import FORMAT_FILE

MANIFEST_FILE = "backup.json"
MANIFEST_VERSION = 1
PARTIAL_SUFFIX = ".partial"
_BACKUP_NAME = re.compile(r"(?P<number>\d{6,})-\d{8}T\d{6}Z")
_HINT = "It cannot be trusted: restore another backup"


class BackupFile(msgspec.Struct, frozen=True):
    """A file of a backup.

    Attributes:
        size_bytes: its size.
        crc32c: of all its bytes.
        inode, mtime_ns: of the file in the store, where that never changes; -1: it does.
    """

    size_bytes: int
    crc32c: int
    inode: int = -1
    mtime_ns: int = -1


class Manifest(msgspec.Struct):
    """What a backup holds.

    Attributes:
        version: of this format.
        store: the directory that it is a backup of.
        time: when it began, ISO 8601, UTC.
        ends: of each ``topic-partition``, the offset behind the last record that it holds.
        files: by path inside the backup, with ``/``.
    """

    version: int
    store: str
    time: str
    ends: dict[str, int]
    files: dict[str, BackupFile]


class _Sealed(msgspec.Struct):
    crc32c: int
    manifest: msgspec.Raw


def checksum(path: Path) -> int:
    """CRC-32C of a file that nobody cuts meanwhile. Raises OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return 0
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            buffer = ffi.from_buffer(data)
            try:
                return int(lib.el_crc32c_of(buffer, size))
            finally:
                ffi.release(buffer)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Into a backup, durably. Raises StorageError."""
    data = msgspec.json.encode(manifest)
    whole = _Sealed(int(lib.el_crc32c_of(data, len(data))), msgspec.Raw(data))
    checkpoints.replace_file(directory / MANIFEST_FILE, msgspec.json.encode(whole) + b"\n")


def read_manifest(directory: Path) -> Manifest:
    """Of a backup.

    Raises:
        NotAStoreError: there is none.
        CorruptionError: it is damaged.
        FormatVersionError: it was made by a newer eventlog.
    """
    path = directory / MANIFEST_FILE
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
        data = bytes(sealed.manifest)
        if lib.el_crc32c_of(data, len(data)) != sealed.crc32c:
            raise ValueError("its checksum does not fit")
        version = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("version")
        if version is not None and int(bytes(version)) > MANIFEST_VERSION:
            raise FormatVersionError(
                f"{path} has version {int(bytes(version))}, this eventlog knows up to {MANIFEST_VERSION}",
                hint="Upgrade eventlog-engine",
                found=int(bytes(version)),
                known=MANIFEST_VERSION,
                path=str(directory),
            )
        manifest = msgspec.json.decode(data, type=Manifest)
        if FORMAT_FILE not in manifest.files:
            raise ValueError(f"it names no {FORMAT_FILE}")
        for name in manifest.files:
            if not _is_inside(name):
                raise ValueError(f"{name!r} lies outside of it")
    except (FileNotFoundError, NotADirectoryError):
        raise NotAStoreError(
            f"{directory} is no backup: it has no {MANIFEST_FILE}",
            hint="Name a directory that a backup was made in, or one backup in it",
            path=str(directory),
        ) from None
    except OSError as error:
        raise os_error(error.errno or 0, str(path), "cannot read the backup") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise CorruptionError(
            f"{path} is damaged: {error}", hint=_HINT, path=str(path), position=0
        ) from error
    return manifest


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def backups_in(tree: Path) -> list[Path]:
    """The backups in the directory that they are made in, oldest first. What was interrupted is not
    among them."""
    found = []
    for path in tree.iterdir() if tree.is_dir() else ():
        match = _BACKUP_NAME.fullmatch(path.name)
        if match and (path / MANIFEST_FILE).is_file():
            found.append((int(match["number"]), path))
    return [path for _, path in sorted(found)]


def next_name(tree: Path, utc: str) -> str:
    """For another backup: numbers order them, whatever the clock says."""
    numbers = [
        int(match["number"])
        for path in tree.iterdir()
        if (match := _BACKUP_NAME.fullmatch(path.name.removesuffix(PARTIAL_SUFFIX)))
    ]
    return f"{max(numbers, default=0) + 1:06d}-{utc}"
