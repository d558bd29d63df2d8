"""Real Kafka as the judge. What it needs is fetched; where that fails the tests fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

FIRST_FETCH_TIMEOUT_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All here needs Kafka, and the first of them may have to fetch it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.timeout(FIRST_FETCH_TIMEOUT_S))
