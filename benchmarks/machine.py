"""What the numbers depend on: the machine, what else it was doing, and that only one run goes on."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOCK = Path(tempfile.gettempdir()) / "eventlog-benchmarks.lock"
LOCK_HELD = "EVENTLOG_BENCHMARKS_LOCK_HELD"
"""Environment variable: a parent process holds the lock."""


@contextmanager
def only_one() -> Iterator[None]:
    """Wait until no other benchmark runs on this machine, and keep others waiting."""
    if os.environ.get(LOCK_HELD):
        yield
        return
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.environ[LOCK_HELD] = "1"
        try:
            yield
        finally:
            del os.environ[LOCK_HELD]


def processor_name() -> str:
    """As the kernel calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def file_system_of(path: Path) -> str:
    """Type of the file system that the path lies on."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    points = (mount.split(" ")[1:3] for mount in mounts)
    holders = [(len(point), kind) for point, kind in points if path.is_relative_to(point)]
    return max(holders)[1] if holders else "unknown"


def describe(directory: Path) -> dict[str, Any]:
    """The machine, as it is written into the results."""
    return {
        "processor": processor_name(),
        "processors": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "architecture": platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": file_system_of(directory.resolve()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


class Load:
    """How busy the machine was with other things while something of ours ran."""

    def __init__(self) -> None:
        self.average_before = os.getloadavg()[0]
        self._before = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float, float]:
        """Seconds of all processors: in all, busy, stolen by the host; and our own."""
        own = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            own += usage.ru_utime + usage.ru_stime
        try:
            fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        except OSError:
            return 0.0, 0.0, 0.0, own
        user, nice, system, idle, io_wait, irq, soft_irq, steal = (
            int(field) / os.sysconf("SC_CLK_TCK") for field in fields
        )
        busy = user + nice + system + irq + soft_irq
        return busy + idle + io_wait + steal, busy, steal, own

    def so_far(self) -> dict[str, float]:
        """Load average before and now; shares of all processor time that went to others and the host.

        Children count as our own once they have ended.
        """
        total, busy, steal, own = (
            now - then for now, then in zip(self._read(), self._before, strict=True)
        )
        share = 100 / total if total else 0.0
        return {
            "load_average_before": round(self.average_before, 2),
            "load_average_after": round(os.getloadavg()[0], 2),
            "others_percent": round(max(0.0, busy - own) * share, 1),
            "stolen_percent": round(steal * share, 1),
        }
