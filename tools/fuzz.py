"""Fuzz the batch decoder: ``python tools/fuzz.py --seconds 60``.

Builds tests/native/fuzz_batch.c with AddressSanitizer and UndefinedBehaviorSanitizer: for clang's
libFuzzer where clang has it, else with its own mutation driver. Then first shows that the harness
is alive (a canary bug that it has to find), then runs. Exit code 0: nothing found; 1: a finding,
whose input is named; 2: the harness itself does not work.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "native"
SOURCES = [ROOT / "tests" / "native" / "fuzz_batch.c"] + [
    NATIVE / name for name in ("batch.c", "crc32c.c", "error.c")
]
BUILD = ROOT / "build" / "fuzz"
CORPUS = BUILD / "corpus"
FLAGS = ["-std=gnu11", "-g", "-O1", "-fno-omit-frame-pointer", "-pthread", f"-I{NATIVE}"]
CHECKS = "address,undefined"
CANARY_SECONDS_MAX = 60
INPUT_SIZE_BYTES_MAX = 4096
# An abort() is to go through the sanitizer, which then saves the input.
ENVIRONMENT = {
    **os.environ,
    "ASAN_OPTIONS": "handle_abort=1:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


class HarnessError(Exception):
    """Fuzzing would prove nothing."""


def compile_target(compiler: str, name: str, *more: str) -> Path:
    """Compile the target and return the program."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / name
    command = [compiler, *FLAGS, "-fno-sanitize-recover=all", *more, *map(str, SOURCES)]
    done = subprocess.run(
        [*command, "-o", str(program)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise HarnessError(f"{compiler} cannot build {name}:\n{done.stderr}")
    return program


def build_driver() -> Path:
    """The target with its own mutations: needs no more than a compiler with sanitizers."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise HarnessError("no C compiler: install gcc or clang, or set CC")
    return compile_target(compiler, "driver", f"-fsanitize={CHECKS}")


def build_libfuzzer() -> Path | None:
    """The target for libFuzzer; None where clang or its fuzzer runtime is not installed."""
    compiler = shutil.which("clang")
    if compiler is None:
        return None
    try:
        return compile_target(
            compiler, "libfuzzer", f"-fsanitize=fuzzer,{CHECKS}", "-DFUZZ_LIBFUZZER"
        )
    except HarnessError as error:
        print(f"without libFuzzer (apt: libclang-rt-14-dev): {error}", file=sys.stderr)
        return None


def command_of(libfuzzer: Path | None, driver: Path, seconds: int, seed: int) -> list[str]:
    """What to run for so many seconds; the input of a finding lands in BUILD."""
    if libfuzzer is None:
        return [str(driver), "run", str(seconds), str(seed), str(BUILD / f"finding-{seed}")]
    return [
        str(libfuzzer),
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_SIZE_BYTES_MAX}",
        f"-seed={seed}",
        "-timeout=10",
        "-print_final_stats=1",
        f"-artifact_prefix={BUILD}/finding-{seed}-",
        str(CORPUS),
    ]


def require_canary(command: list[str]) -> None:
    """The harness must find a bug that is there."""
    done = subprocess.run(
        command,
        env={**ENVIRONMENT, "EVENTLOG_FUZZ_CANARY": "1"},
        capture_output=True,
        text=True,
        timeout=3 * CANARY_SECONDS_MAX,
        check=False,
    )
    for saved in BUILD.glob("finding-0*"):
        saved.unlink()
    if done.returncode == 0 or "heap-buffer-overflow" not in done.stderr:
        raise HarnessError(f"the canary bug was not found:\n{done.stdout}\n{done.stderr}")
    print("canary: found, the harness is alive")


def fuzz(seconds: int, seed: int, *, with_libfuzzer: bool) -> int:
    """Build, canary, run; the exit code."""
    driver = build_driver()
    libfuzzer = build_libfuzzer() if with_libfuzzer else None
    CORPUS.mkdir(exist_ok=True)
    subprocess.run([str(driver), "corpus", str(CORPUS), "1"], check=True)
    require_canary(command_of(libfuzzer, driver, CANARY_SECONDS_MAX, 0))
    print(f"{'libFuzzer' if libfuzzer else 'own driver'}, {seconds} s, seed {seed}", flush=True)
    done = subprocess.run(
        command_of(libfuzzer, driver, seconds, seed), env=ENVIRONMENT, check=False
    )
    if done.returncode:
        print(f"FINDING (exit code {done.returncode}); replay it with:", file=sys.stderr)
        for saved in sorted(BUILD.glob(f"finding-{seed}*")):
            print(f"  {driver} replay {saved}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=60, help="how long (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="repeat a run (default: random)")
    parser.add_argument(
        "--no-libfuzzer", action="store_true", help="use the own driver even where clang is there"
    )
    arguments = parser.parse_args()
    seed = arguments.seed or secrets.randbelow(2**31 - 1) + 1
    try:
        return fuzz(arguments.seconds, seed, with_libfuzzer=not arguments.no_libfuzzer)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
