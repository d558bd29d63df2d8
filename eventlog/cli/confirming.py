"""Asking before something is lost."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from eventlog.cli.output import CommandError

Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if the answer is yes.

    Raises:
        CommandError: there is nobody to ask, and ``--yes`` was not given.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            f"{question}: there is no terminal to ask at", hint="Add --yes if you mean it"
        )
    typer.confirm(question, abort=True, err=True)
