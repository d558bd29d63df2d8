"""The whole log against a model of a few lines: see log_machine.py.

Crashes here are kills: the page cache stays. Power cuts are in tests/fault/test_machine.py.
"""

from __future__ import annotations

import pytest
from log_machine import LogMachine

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.guarantee("G-02"),
    pytest.mark.guarantee("G-04"),
    pytest.mark.guarantee("G-05"),
    pytest.mark.guarantee("G-07"),
    pytest.mark.guarantee("G-17"),
    pytest.mark.guarantee("G-18"),
    pytest.mark.guarantee("G-19"),
    pytest.mark.guarantee("G-29"),
    pytest.mark.guarantee("G-30"),
    pytest.mark.guarantee("G-31"),
]

TestLogMachine = LogMachine.TestCase
