"""Run the benchmarks and print what came out: `make bench`.

    python benchmarks/run.py [--quick | --full] [--only THEME ...] [--data DIRECTORY]

`--quick` takes under 6 minutes, the default under 20; `--full` opens a store of 10 M events and reads a topic
of 10 GiB. `python tools/servers.py install` gets the servers of the theme `servers`. Each theme is
a test_<theme>.py that pytest runs in a process of its own; harness.py says how things are measured,
goals.py what they are held to. Writes results/latest.json and results/latest.md.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
import report
from harness import SCALES
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tools import servers  # noqa: E402  from beside this directory

THEMES = (
    "append",
    "durable",
    "scan",
    "event_append",
    "streams",
    "processes",
    "consumers",
    "maintenance",
    "retention",
    "backup",
    "servers",
    "tail",
    "open",
)
PERCENT = re.compile(r"\[\s*(\d+)%\]")
SKIPPED = re.compile(r"^SKIPPED \[\d+\] \S+: (.*)$", re.MULTILINE)
STYLES = {True: "green", False: "bold red", None: "dim"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", dest="scale", action="store_const", const="quick", help="less of everything"
    )
    size.add_argument(
        "--full", dest="scale", action="store_const", const="full", help="more turns, 10 M events"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=THEMES,
        default=THEMES,
        metavar="THEME",
        help="of: " + ", ".join(THEMES),
    )
    parser.add_argument("--turns", type=int, help="turns of each contender")
    parser.add_argument(
        "--data",
        type=Path,
        default=HERE.parent / "build" / "benchmarks" / "data",
        help="directory for files; decides which disk is measured",
    )
    parser.add_argument(
        "--results", type=Path, default=HERE / "results", help="directory for what came out"
    )
    parser.set_defaults(scale="default")
    return parser.parse_args()


def run_theme(theme: str, options: argparse.Namespace, target: Path, progress: Progress) -> bool:
    """Run one file of benchmarks; False if something in it failed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(HERE / "pytest.ini"),
        "-v",
        "-rs",
        "-p",
        "no:xdist",
        str(HERE / f"test_{theme}.py"),
        f"--benchmark-json={target}",
        "--benchmark-quiet",
        f"--scale={options.scale}",
        f"--data={options.data}",
    ]
    if options.turns:
        command.append(f"--turns={options.turns}")
    task = progress.add_task(theme.replace("_", " "), total=100)
    output = []
    with subprocess.Popen(
        command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            output.append(line)
            if found := PERCENT.search(line):
                progress.update(task, completed=int(found[1]))
    for reason in dict.fromkeys(SKIPPED.findall("".join(output))):
        progress.console.print(reason, style="yellow", markup=False)
    if run.returncode != 0:
        progress.console.print("".join(output[-60:]), style="red", markup=False)
    return run.returncode == 0


def server_versions() -> list[str]:
    """Of the servers that are there."""
    return [servers.version(name) for name, missing in servers.available().items() if not missing]


def show(console: Console, table: list[report.Line]) -> None:
    """The table on the screen."""
    shown = Table(header_style="bold", title="eventlog, beside others and the machine's limit")
    for heading in report.HEADINGS:
        shown.add_column(heading, overflow="fold")
    for line in table:
        shown.add_row(
            line.work,
            line.goal,
            line.measured,
            line.beside.replace("; ", "\n"),
            f"[{STYLES[line.met]}]{report.MET[line.met]}[/]",
        )
    console.print(shown)


def main() -> int:
    """Returns the exit code: 0 whether or not goals are met, 1 if a benchmark did not run."""
    options = arguments()
    console = Console()
    options.data = options.data.absolute()
    options.data.mkdir(parents=True, exist_ok=True)
    results, failed = report.Measured(), []
    columns = (TextColumn("{task.description:14}"), BarColumn(), TimeElapsedColumn())
    if not os.environ.get(machine.LOCK_HELD):
        console.print("waiting until no other benchmark runs ...", style="dim", end="\r")
    with machine.only_one(), tempfile.TemporaryDirectory() as scratch:
        load, begun = machine.Load(), time.monotonic()
        with Progress(*columns, console=console) as progress:
            for theme in options.only:
                target = Path(scratch) / f"{theme}.json"
                if not run_theme(theme, options, target, progress):
                    failed.append(theme)
                if target.exists() and target.stat().st_size:
                    results.read(target)
        about = {
            **machine.describe(options.data),
            "scale": options.scale,
            "turns": options.turns or SCALES[options.scale].turns,
            "seconds": round(time.monotonic() - begun),
            "load": load.so_far(),
            "servers": server_versions() if "servers" in options.only else [],
        }
    table = report.save(options.results, results, about)
    show(console, table)
    console.print(
        f"{about['seconds']} s; load average {load.average_before:.2f} before; "
        f"{about['load']['others_percent']} % of the processors' time went to others, "
        f"{about['load']['stolen_percent']} % to the host. Written: {options.results}/latest.{{json,md}}"
    )
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="bold red")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
