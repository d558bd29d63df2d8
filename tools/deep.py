"""The long things, one after another: ``python tools/deep.py [--minutes N] [--only NAME ...]``.

properties   the whole suite with Hypothesis' deep profile and the tests marked `deep`
kill         1,000 rounds of kill -9 of a writer for each durability, and of writers and consumers together
fuzz         the batch decoder under sanitizers, by tools/fuzz.py
sanitizers   AddressSanitizer and UndefinedBehaviorSanitizer under the suite, in a copy of the tree

``--minutes`` is about how long all of it may take (default 60); the kill loop always goes its full rounds
unless less than 20 minutes are given. Exit code 1 if anything was found; the output of what failed is kept
under build/deep/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "build" / "deep"
MINUTES_DEFAULT = 60
KILL_ROUNDS = 1000
SANITIZED_TESTS = ["tests/native", "tests/log", "tests/judge", "tests/fault", "tests/kill"]
COPIED = ["eventlog", "native", "tests", "tools", "docs", "examples", "setup.py", "pyproject.toml",
          "README.md", "LICENSE", "Makefile"]  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One of the long things."""

    name: str
    what: str
    run: Callable[[float, Path], int]
    """given its minutes and where its output goes; the exit code"""
    share: float
    """of the time"""


def run(command: list[str], output: Path, *, cwd: Path = ROOT, **environment: str) -> int:
    """Run a command; its output goes to the terminal and to a file."""
    with output.open("a") as file:
        file.write(f"$ {' '.join(command)}\n")
        with subprocess.Popen(
            command, cwd=cwd, env=os.environ | environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                print("   ", line, end="", flush=True)
        return process.wait()


def pytest(paths: list[str]) -> list[str]:
    """The command for some tests, without the limit that is meant for a hanging quick one."""
    return [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-o",
        "timeout=3600",
        "--show-capture=stderr",
        *paths,
    ]


def properties(minutes: float, output: Path) -> int:
    """More examples for more minutes: about twelve a minute and property on two cores."""
    examples = max(100, int(12 * minutes))
    return run(
        pytest(["tests", "--ignore=tests/integration", "--ignore=tests/kill"]), output,
        EVENTLOG_PROFILE="deep", EVENTLOG_EXAMPLES=str(examples),
    )  # fmt: skip


def kill(minutes: float, output: Path) -> int:
    """The full rounds, or what fits into little time (about five a second of all of them)."""
    rounds = str(KILL_ROUNDS if minutes >= 3 else max(20, int(minutes * 100)))
    code = run([sys.executable, "tests/kill/kill_rounds.py", rounds], output)
    return run([sys.executable, "tests/kill/process_rounds.py", rounds], output) or code


def fuzz(minutes: float, output: Path) -> int:
    """A colleague of the suite with a corpus of its own."""
    return run(
        [sys.executable, "tools/fuzz.py", "--seconds", str(max(5, int(minutes * 60)))], output
    )


def sanitizers(minutes: float, output: Path) -> int:
    """Build a copy of the tree with sanitizers and run the tests of the C core on it."""
    tree = OUTPUT / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    ignore = shutil.ignore_patterns("*.so", "_core.c", "__pycache__")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignore)
        elif source.exists():
            shutil.copy2(source, tree / name)
    code = run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], output, cwd=tree,
        EVENTLOG_SANITIZE="1",
    )  # fmt: skip
    if code:
        return code
    libraries = " ".join(
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    )
    report = output.with_suffix(".asan")
    environment = {
        "LD_PRELOAD": libraries,
        # Python never frees all; and an allocation that fails is to give NULL, as without sanitizers.
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:log_path={report}:log_exe_name=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(tree),
        "EVENTLOG_SANITIZE": "1",
    }
    where = [sys.executable, "-c", "import eventlog._native as n; print(n._core.__file__)"]
    built = subprocess.run(
        where, cwd=tree, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if str(tree) not in built.stdout:
        print(f"    the tests would not run on the copy: {built.stdout}{built.stderr}")
        return 1
    profile = {"EVENTLOG_PROFILE": "ci" if minutes >= 10 else "fast"}
    code = run(pytest(SANITIZED_TESTS), output, cwd=tree, **environment, **profile)
    reports = sorted(output.parent.glob(f"{report.name}.*"))
    for path in reports:
        print(f"    a sanitizer reports: {path}\n{path.read_text(errors='replace')}")
    return code or len(reports)


STEPS = [
    Step("properties", "Hypothesis' deep profile over the suite", properties, 0.5),
    Step("kill", "kill -9, again and again", kill, 0.15),
    Step("fuzz", "hostile bytes into the decoder", fuzz, 0.1),
    Step("sanitizers", "the suite under AddressSanitizer and UBSan", sanitizers, 0.25),
]


def main() -> int:
    """Run them all, even after one has failed; then say how it went."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=MINUTES_DEFAULT, help="about how long it may take"
    )
    parser.add_argument(
        "--only", nargs="+", choices=[step.name for step in STEPS], help="only these"
    )
    arguments = parser.parse_args()
    chosen = [step for step in STEPS if not arguments.only or step.name in arguments.only]
    whole = sum(step.share for step in chosen)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for step in chosen:
        for former in OUTPUT.glob(f"{step.name}.*"):
            former.unlink()
    outcomes: list[tuple[Step, int, float, Path]] = []
    for step in chosen:
        minutes = arguments.minutes * step.share / whole
        print(f"== {step.name}: {step.what} (about {minutes:.0f} min)", flush=True)
        output = OUTPUT / f"{step.name}.txt"
        begun_s = time.monotonic()
        code = step.run(minutes, output)
        outcomes.append((step, code, time.monotonic() - begun_s, output))
    print("\n== summary")
    for step, code, seconds, output in outcomes:
        verdict = "good  " if code == 0 else "FAILED"
        print(f"{verdict} {step.name:<11} {seconds / 60:6.1f} min   {output.relative_to(ROOT)}")
    return 1 if any(code for _, code, _, _ in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
