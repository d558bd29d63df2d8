"""The ``eventlog`` command.

One file a command; ``_app.py`` puts them together, ``output.py`` is how they speak. Nothing here
imports the engine before a command needs it, so that ``eventlog --help`` answers at once.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA_MODULES = ("typer", "rich", "click")


def main() -> None:
    """Run the command line; the entry point of the ``eventlog`` script."""
    if sys.argv[1:] == ["--version"]:  # needs neither typer nor rich
        from eventlog.cli.version import version_text

        print(version_text())
        return
    try:
        import rich  # noqa: F401  typer does without it, the commands do not

        from eventlog.cli._app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA_MODULES:
            raise
        print(
            f"error: the eventlog command needs {error.name}, which is not installed.\n"
            'hint:  pip install "eventlog-engine[cli]"',
            file=sys.stderr,
        )
        sys.exit(2)
    app()
