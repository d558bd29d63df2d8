"""The arguments that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

StoreDirectory = Annotated[
    Path, typer.Argument(metavar="DIR", help="Directory of the store.", show_default=False)
]
StoreName = Annotated[
    str,
    typer.Argument(metavar="STORE", help="Event store or topic inside it.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class Durability(StrEnum):
    """When an append counts as done: see docs/GUARANTEES.md."""

    SYNC = "sync"
    INTERVAL = "interval"
    OS = "os"
