"""The machine's own limits: a small C library, compiled on demand into ``build/``."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from array import array
from pathlib import Path
from typing import Any

from cffi import FFI

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "benchmarks"
MIB = 1024 * 1024


def _load() -> tuple[FFI, Any]:
    sources = [HERE / "ceilings.c", HERE / "ceilings.h"]
    library = BUILD / "ceilings.so"
    if not library.exists() or library.stat().st_mtime < max(s.stat().st_mtime for s in sources):
        BUILD.mkdir(parents=True, exist_ok=True)
        fresh = library.with_suffix(f".{os.getpid()}")
        compiler = (sysconfig.get_config_var("CC") or "cc").split()
        flags = ["-std=gnu11", "-O3", "-Wall", "-Wextra", "-shared", "-fPIC"]
        subprocess.run([*compiler, *flags, "-o", fresh, sources[0]], check=True)
        fresh.replace(library)
    ffi = FFI()
    ffi.cdef(sources[1].read_text())
    return ffi, ffi.dlopen(str(library))


_ffi, _lib = _load()


def _check(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def touch(size_bytes: int) -> None:
    """Use so much fresh memory once and give it back."""
    _check(_lib.ceiling_touch(size_bytes))


class PreparedFile:
    """A fresh file with ``size_bytes`` of reserved room, to be written to and thrown away."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._fd = _check(_lib.ceiling_file_make(os.fsencode(path), size_bytes))

    def write(self, total_bytes: int, piece_bytes: int = MIB) -> None:
        """pwrite so many bytes in such pieces."""
        _check(_lib.ceiling_write(self._fd, total_bytes, piece_bytes))

    def write_durable(self, count: int, piece_bytes: int) -> None:
        """So many times pwrite + fdatasync."""
        _check(_lib.ceiling_write_durable(self._fd, count, piece_bytes))

    def close(self) -> None:
        """Throw it away."""
        os.ftruncate(self._fd, 0)
        _check(_lib.ceiling_file_close(self._fd))
        self._path.unlink()


def map_read(path: Path) -> None:
    """Map the file and read a byte of every cache line."""
    _check(_lib.ceiling_map_read(os.fsencode(path), path.stat().st_size))


class MappedFile:
    """A file in memory, to be read at many places."""

    def __init__(self, path: Path) -> None:
        self._size = path.stat().st_size
        self._data = _lib.ceiling_map_open(os.fsencode(path), self._size)
        if self._data == _ffi.NULL:
            raise OSError(_ffi.errno, os.strerror(_ffi.errno), str(path))

    def gather(self, positions: array[int], piece_bytes: int) -> None:
        """Read a byte of every cache line of pieces at these positions (``array('q')``)."""
        places = _ffi.from_buffer("int64_t[]", positions)
        _check(_lib.ceiling_gather(self._data, places, len(positions), piece_bytes))

    def close(self) -> None:
        """Let go of it."""
        _check(_lib.ceiling_map_close(self._data, self._size))
