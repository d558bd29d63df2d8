"""What all tests share: how hard Hypothesis tries, which long tests run, and the seed of it all.

``EVENTLOG_PROFILE`` chooses between ``fast`` (the default), ``ci`` and ``deep``. Tests marked ``deep`` run
only under the last. ``EVENTLOG_EXAMPLES`` overrides how many examples a property gets under ``deep``,
``EVENTLOG_SEED`` repeats a run.
"""

from __future__ import annotations

import os
import random
import secrets
import signal

import pytest
from hypothesis import HealthCheck, settings

PROFILE = os.environ.get("EVENTLOG_PROFILE", "fast")
SEED = int(os.environ.get("EVENTLOG_SEED") or secrets.randbits(32))

# Files are made in every example, so nothing is said about how long one may take.
_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile(
    "fast",
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    print_blob=True,
    suppress_health_check=_SLOW,
)
settings.register_profile(
    "ci",
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=_SLOW,
)
settings.register_profile(
    "deep",
    max_examples=int(os.environ.get("EVENTLOG_EXAMPLES") or 1000),
    stateful_step_count=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=_SLOW,
)
settings.load_profile(PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(SEED)
    # A shell starts what it puts in the background deaf to Ctrl-C, and so would be what tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> str:
    seed = config.option.hypothesis_seed
    return f"profile {PROFILE}, seed {seed} (EVENTLOG_PROFILE, EVENTLOG_SEED={seed} repeats it)"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"repeat with EVENTLOG_PROFILE={PROFILE} EVENTLOG_SEED={SEED}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if PROFILE == "deep":
        return
    deep = [item for item in items if item.get_closest_marker("deep")]
    if deep:
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if item not in deep]


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of the run's seed, different in each test."""
    return random.Random(f"{SEED} {request.node.nodeid}")
