"""``python -m eventlog.cli``: the command without its script."""

from __future__ import annotations

from eventlog.cli import main

if __name__ == "__main__":
    main()
