"""How the commands speak: consoles, numbers for people, previews of bytes, errors in one line."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from eventlog.errors import EventLogError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH_WITHOUT_TERMINAL = 96
_SIZE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class CommandError(EventLogError):
    """What a command refuses by itself: a file it cannot read, a line that makes no sense."""


def console(*, stderr: bool = False) -> Console:
    """A console on the present ``sys.stdout`` or ``sys.stderr``; plain text without a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_WITHOUT_TERMINAL
    return Console(stderr=stderr, highlight=False, width=width, emoji=False)


def table(*columns: str, title: str | None = None) -> Table:
    """A calm table: columns that begin with ``>`` are set right."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for name in columns:
        if name.startswith(">"):
            result.add_column(name[1:], justify="right", no_wrap=True)
        else:
            result.add_column(name, overflow="fold", min_width=len(name))
    return result


def print_error(error: BaseException) -> None:
    """The message and the hint on standard error, never a traceback."""
    from rich.text import Text

    speak = console(stderr=True)
    message = error.message if isinstance(error, EventLogError) else describe(error)
    speak.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    hint = error.hint if isinstance(error, EventLogError) else ""
    if hint:
        speak.print(Text.assemble(("hint:  ", "bold"), hint), soft_wrap=True)


def describe(error: BaseException) -> str:
    """One line for an error that is not ours."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"


def write_json(value: Any) -> None:
    """One line of JSON on standard output. Bytes must have been made text before."""
    import msgspec

    write_bytes(msgspec.json.encode(value) + b"\n")


def write_bytes(data: bytes) -> None:
    """Bytes on standard output as they are, in order with what was printed."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # a test put a text stream there
        sys.stdout.write(data.decode("utf-8", "backslashreplace"))
    else:
        buffer.write(data)
        buffer.flush()


def count(number: float) -> str:
    """``98,257``."""
    return f"{number:,.0f}"


def plural(number: int, noun: str) -> str:
    """``1 event``, ``98,257 events``, ``2 batches``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith('ch') else 's'}"


def size(size_bytes: float) -> str:
    """``812 B``, ``1.4 MiB``."""
    for unit in _SIZE_UNITS:
        if size_bytes < 1024 or unit == _SIZE_UNITS[-1]:
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"


def rate(number: float, seconds: float) -> str:
    """``1.23 M/s``: three digits say all that one run can know."""
    return f"{short(number / seconds if seconds > 0 else 0.0)}/s"


def short(number: float) -> str:
    """``937``, ``48.2 k``, ``1.23 M``."""
    for limit, divisor, unit in ((1e4, 1, ""), (1e6, 1e3, " k"), (1e9, 1e6, " M")):
        if number < limit:
            value = number / divisor
            digits = 0 if divisor == 1 else 1 if value >= 100 else 2 if value < 10 else 1
            return f"{value:,.{digits}f}{unit}"
    return f"{number / 1e9:,.2f} G"


def duration(seconds: float) -> str:
    """``2.3 us``, ``48 us``, ``3.2 ms``, ``1.25 s``, ``2 min 5 s``."""
    if seconds < 1e-5:
        return f"{seconds * 1e6:.1f} us"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def time_text(timestamp_ms: int) -> str:
    """``2026-11-21 14:07:11.042`` in UTC; ``-`` where there is no time, the number out of range."""
    if timestamp_ms < 0:
        return "-"
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return str(timestamp_ms)
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{timestamp_ms % 1000:03d}"


def bytes_text(data: bytes | None) -> str | None:
    """Bytes as text that fits one line and loses nothing: ``\\xNN`` where they are no UTF-8."""
    if data is None:
        return None
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def preview(data: bytes | None, width: int = 72) -> str:
    """The beginning of the bytes as one line of text; ``null`` for None."""
    if data is None:
        return "null"
    text = bytes_text(data[: width * 4]) or ""
    cut = len(text) > width or len(data) > width * 4
    return text[: width - 3] + "..." if cut else text


def json_value(data: bytes | None) -> Any:
    """Bytes for a place in JSON: the document they hold, else text, else null."""
    import msgspec

    if data is None:
        return None
    try:
        return msgspec.Raw(msgspec.json.format(data, indent=-1))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.decode("utf-8", "backslashreplace")
