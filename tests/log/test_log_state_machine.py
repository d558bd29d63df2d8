"""The whole log against a model of a few lines: see log_machine.py.

Crashes here are kills: the page cache stays. Power cuts are in tests/fault/test_machine.py.
"""

from __future__ import annotations

import pytest
from log_machine import LogMachine

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

TestLogMachine = LogMachine.TestCase
for _guarantee in ("G-02", "G-04", "G-05", "G-07", "G-18", "G-19"):
    TestLogMachine = pytest.mark.guarantee(_guarantee)(TestLogMachine)
