"""Compiles the faulty core once for all tests of this folder."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

BUILD_FAULT = Path(__file__).resolve().parent.parent / "native" / "build_fault.py"


@pytest.fixture(scope="session")
def fault_module() -> Path:
    """The compiled module over os_fault.c."""
    specification = importlib.util.spec_from_file_location("build_fault", BUILD_FAULT)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    path = module.build()
    assert isinstance(path, Path)
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A directory for thousands of short-lived stores: in memory where there is such a place.

    What reaches the disk is worked out from the trace, so the real disk has nothing to add but time.
    """
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="eventlog-", dir=memory) as directory:
        yield Path(directory)
