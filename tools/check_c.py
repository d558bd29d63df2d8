"""Check the C core: ``python tools/check_c.py``.

Compiles every native/*.c with warnings as errors, with gcc and with clang (whichever are there, at least
one), and holds the boundary to its rules: one file alone includes Python.h, and abi.h stays small enough
to be read at a sitting. Exit code 0: all is well; 1: a list of what is not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NATIVE = Path(__file__).resolve().parents[1] / "native"
PYTHON_FILE = "pyobjects.c"
ABI_FUNCTIONS_MAX = 70
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wpointer-arith",
         "-Wstrict-prototypes", "-Wno-unused-parameter", "-Werror"]  # fmt: skip


def compilers() -> list[str]:
    """Those of this machine, each once."""
    names = ["gcc", "clang"] if "CC" not in os.environ else [os.environ["CC"]]
    return [name for name in names if shutil.which(name)]


def compile_file(compiler: str, source: Path) -> str:
    """What the compiler has to say; empty if nothing."""
    include = sysconfig.get_paths()["include"]
    command = [compiler, *FLAGS, f"-I{include}", "-c", str(source), "-o", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    return f"{compiler} refuses {source.name}:\n{done.stderr.rstrip()}"


def boundary() -> list[str]:
    """Breaches of the rules about Python.h and abi.h."""
    found = [
        f"{path.name} includes Python.h; only {PYTHON_FILE} may"
        for path in sorted(NATIVE.glob("*.[ch]"))
        if path.name != PYTHON_FILE and re.search(r"#\s*include\s*[<\"]Python\.h", path.read_text())
    ]
    declarations = re.sub(r"/\*.*?\*/", "", (NATIVE / "abi.h").read_text(), flags=re.DOTALL)
    functions = re.findall(r"\b(el_\w+)\s*\([^;{]*\)\s*;", declarations)
    if len(functions) > ABI_FUNCTIONS_MAX:
        found.append(f"abi.h declares {len(functions)} functions, more than {ABI_FUNCTIONS_MAX}")
    preprocessor = re.findall(
        r"^\s*#\s*(?!define EL_\w+ -?\d+\b)(.*)", declarations, flags=re.MULTILINE
    )
    found += [
        f"abi.h has more than plain constants, which cffi cannot read: #{line}"
        for line in preprocessor
    ]
    return found


def main() -> int:
    """Print what is wrong; the exit code."""
    with_which = compilers()
    if not with_which:
        print("no C compiler: install gcc or clang, or set CC", file=sys.stderr)
        return 1
    jobs = [(compiler, source) for compiler in with_which for source in sorted(NATIVE.glob("*.c"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        refused = [said for said in pool.map(lambda job: compile_file(*job), jobs) if said]
    findings = [*boundary(), *refused]
    for finding in findings:
        print(finding, file=sys.stderr)
    if not findings:
        print(f"{len(jobs)} compilations by {' and '.join(with_which)} without a warning")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
