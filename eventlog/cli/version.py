"""What ``eventlog --version`` prints."""

from __future__ import annotations

from importlib import metadata


def version_text() -> str:
    """``eventlog 1.2.3``, from the metadata of the installed distribution."""
    try:
        return f"eventlog {metadata.version('eventlog-engine')}"
    except metadata.PackageNotFoundError:
        return "eventlog, not installed (running from its source)"
