"""Turns, sizes and places; see harness.py for how things are measured, run.py to run all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import machine
import pytest

HERE = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("eventlog")
    group.addoption(
        "--scale", choices=list(harness.SCALES), default="quick", help="how much of everything"
    )
    group.addoption("--turns", type=int, help="turns a contender has (after one to warm up)")
    group.addoption(
        "--data",
        type=Path,
        default=HERE.parent / "build" / "benchmarks" / "data",
        help="where files are made: decides which disk is measured",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "turn" in metafunc.fixturenames:
        turns = metafunc.config.option.turns or harness.SCALES[metafunc.config.option.scale].turns
        metafunc.parametrize("turn", range(turns + 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All contenders of a work take their first turn, then all their second, and so on."""
    modules: dict[Any, int] = {}
    functions: dict[Any, int] = {}

    def place(item: pytest.Item) -> tuple[Any, ...]:
        assert isinstance(item, pytest.Function)
        indices = dict(item.callspec.indices) if hasattr(item, "callspec") else {}
        turn, contender = indices.pop("turn", 0), indices.pop("contender", 0)
        module = modules.setdefault(item.module, len(modules))
        function = functions.setdefault(item.function, len(functions))
        return module, function, sorted(indices.items()), turn, contender

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _alone() -> Iterator[None]:
    with machine.only_one():
        yield


@pytest.fixture(scope="session")
def scale(pytestconfig: pytest.Config) -> harness.Scale:
    return harness.SCALES[pytestconfig.option.scale]


@pytest.fixture(scope="session")
def data_directory(pytestconfig: pytest.Config) -> Path:
    directory: Path = pytestconfig.option.data
    directory.mkdir(parents=True, exist_ok=True)
    return directory.resolve()


@pytest.fixture
def race(benchmark: Any, turn: int, scale: harness.Scale, data_directory: Path) -> harness.Race:
    return harness.Race(benchmark, turn, scale, data_directory)
