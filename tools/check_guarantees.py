"""Check that every promise has a test: ``python tools/check_guarantees.py``.

The promises are the numbered rows of docs/GUARANTEES.md; a test that could falsify one is marked
``@pytest.mark.guarantee("G-07")``. Exit code 1, and a list, where a promise has no test or a test names a
promise that there is not.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "GUARANTEES.md"
TESTS = ROOT / "tests"
_PROMISE = re.compile(r"^\W*\b(G-\d\d)\b", re.MULTILINE)


def promised() -> list[str]:
    """Numbers in the page: each line (of the table) that begins with one makes a promise."""
    return _PROMISE.findall(PAGE.read_text("utf-8"))


def marks(path: Path) -> Iterator[tuple[str, int]]:
    """Numbers that tests of a file are marked with, and where."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "guarantee"
        ):
            for argument in node.args:
                number = (
                    argument.value if isinstance(argument, ast.Constant) else ast.unparse(argument)
                )
                yield str(number), node.lineno


def main() -> int:
    """Print what is wrong; the exit code."""
    numbers = promised()
    tested: dict[str, int] = {}
    findings = [f"{PAGE.name}: {number} stands there twice"
                for number in sorted({each for each in numbers if numbers.count(each) > 1})]  # fmt: skip
    for path in sorted(TESTS.rglob("*.py")):
        for number, line in marks(path):
            tested[number] = tested.get(number, 0) + 1
            if number not in numbers:
                findings.append(
                    f"{path.relative_to(ROOT)}:{line}: {PAGE.name} has no promise {number}"
                )
    findings += [
        f"{PAGE.name}: no test is marked with {each}" for each in numbers if each not in tested
    ]
    for finding in findings:
        print(finding, file=sys.stderr)
    if not numbers:
        print(f"{PAGE.name} makes no promises", file=sys.stderr)
    elif not findings:
        print(f"{len(numbers)} promises, {sum(tested.values())} marks on tests")
    return 1 if findings or not numbers else 0


if __name__ == "__main__":
    sys.exit(main())
