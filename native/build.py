"""Builds ``eventlog._native._core`` from native/*.c with cffi in API mode.

Run by setuptools (setup.py) and by tests/native/build_fault.py, which swaps the file layer.
``EVENTLOG_SANITIZE=1`` builds with AddressSanitizer and UndefinedBehaviorSanitizer;
``EVENTLOG_STRICT=1`` turns warnings into errors (`make check` does).
"""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = [
    "error.c",
    "crc32c.c",
    "batch.c",
    "file.c",
    "segment.c",
    "activity.c",
    "control.c",
    "partition.c",
    "headers.c",
    "cursor.c",
    "compaction.c",
    "pyobjects.c",
]
WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wpointer-arith",
    "-Wstrict-prototypes",
    "-Wno-unused-parameter",
]


def make(
    module: str = "eventlog._native._core",
    os_source: Path = HERE / "os.c",
    header: Path | None = None,
    root: Path | None = HERE.parent,
) -> FFI:
    """The cffi builder of the core, with the given implementation of os.h.

    ``header`` declares what Python can call besides abi.h. Paths are given relative to ``root``, as
    setuptools wants them; None leaves them absolute, for a build outside the project.
    """
    headers = [HERE / "abi.h", *([header] if header else [])]
    builder = FFI()
    for path in headers:
        builder.cdef(path.read_text())
    flags = [
        "-std=gnu11",
        "-O3",
        "-fno-semantic-interposition",
        "-fvisibility=hidden",
        "-pthread",
        *WARNINGS,
    ]
    link = ["-pthread"]
    if os.environ.get("EVENTLOG_STRICT"):
        flags.append("-Werror")
    if os.environ.get("EVENTLOG_SANITIZE"):
        sanitize = [
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=undefined",
            "-fno-omit-frame-pointer",
            "-g",
            "-O1",
        ]
        flags += sanitize
        link += sanitize

    def place(path: Path) -> str:
        return os.path.relpath(path, root) if root else str(path)

    builder.set_source(
        module,
        "".join(f'#include "{path.name}"\n' for path in [Path("stdint.h"), *headers]),
        sources=[place(path) for path in [*(HERE / name for name in SOURCES), os_source]],
        include_dirs=[place(path) for path in sorted({path.parent for path in headers})],
        depends=[place(path) for path in sorted(HERE.glob("*.h"))],
        extra_compile_args=flags,
        extra_link_args=link,
    )
    return builder


ffibuilder = make()

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
