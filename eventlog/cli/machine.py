"""What is known of this machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def file_system_of(path: Path) -> str:
    """The type of the file system that the path lies on, as ``ext4``; ``unknown`` if not told."""
    path = path.absolute()
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return "unknown"
    best, found = -1, "unknown"
    for mount in mounts:
        _, point, kind, *_ = mount.split(" ")
        point = point.encode().decode("unicode_escape")
        if path.is_relative_to(point) and len(point) >= best:
            best, found = len(point), kind
    return found


def machine(path: Path) -> dict[str, Any]:
    """What a measurement depends on."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.machine(),
        "cpu_count": os.cpu_count() or 0,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file_system": file_system_of(path),
        "directory": str(path),
    }
