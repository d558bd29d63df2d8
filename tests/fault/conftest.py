"""Compiles the faulty core once for all tests of this folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

BUILD_FAULT = Path(__file__).resolve().parent.parent / "native" / "build_fault.py"


@pytest.fixture(scope="session")
def fault_module() -> Path:
    """The compiled module over os_fault.c."""
    specification = importlib.util.spec_from_file_location("build_fault", BUILD_FAULT)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    path = module.build()
    assert isinstance(path, Path)
    return path
