"""Several processes that do something at the same time.

Each is a script of ours. It prepares, calls :func:`take_part` with what is to be measured, and so says that
it is ready, waits for the word and tells what came out. Only what lies between is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from harness import Run

Figures = dict[str, float]


def take_part(
    run: Callable[[], Figures | None], meanwhile: Callable[[], object] | None = None
) -> None:
    """In a process of the crew: wait for the word, run, report; returns when the others are done too.

    Args:
        run: what is measured; its figures are added up over the crew's processes.
        meanwhile: what to do until the word comes; it reads standard input's line.
    """
    print(flush=True)
    if meanwhile is not None:
        meanwhile()
    else:
        sys.stdin.readline()
    begun = time.monotonic()
    figures = run() or {}
    print(json.dumps({"begun": begun, "ended": time.monotonic(), "figures": figures}), flush=True)
    sys.stdin.read()


@contextmanager
def crew(script: str, arguments: Sequence[Sequence[object]]) -> Iterator[Run]:
    """Processes of one script, each with its arguments; the run lets them go and waits for all.

    Its figures are those of the processes, added up; ``seconds`` are from the first one's start to the
    last one's end.
    """
    with ExitStack() as stack:
        processes = []
        for each in arguments:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, script, *map(str, each)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            processes.append(process)

        def lines() -> list[str]:
            found = [process.stdout.readline() for process in processes if process.stdout]
            if not all(found):
                raise RuntimeError("a process ended early; above is what it said")
            return found

        def run() -> Figures:
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            reports = [json.loads(line) for line in lines()]
            figures: Figures = {}
            for name in {name for report in reports for name in report["figures"]}:
                figures[name] = sum(report["figures"][name] for report in reports)
            begun = min(report["begun"] for report in reports)
            return {**figures, "seconds": max(report["ended"] for report in reports) - begun}

        lines()
        yield run
        for process in processes:
            process.communicate()
