"""Kafka's own assignors, those of kafka-clients, as the judge of ours.

    python -m tools.kafka.assignors

writes ``tests/data/assignors-<version>.json``, which ``make test`` reads without Java.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.kafka.assignor_cases import Case, Group, Life, pack
from tools.kafka.kafka import KafkaUnavailableError, java_command, require_command, version

PROJECT = Path(__file__).resolve().parent.parent.parent
SOURCE = Path(__file__).resolve().parent / "Assignors.java"
FIXTURE = PROJECT / "tests" / "data" / f"assignors-{version()}.json"
FIXTURE_SEED = "assignors"
# the last ones are rare: in them a partition goes back in place of another
FIXTURE_GROUPS = (*range(105), 149, 497, 974, 1947, 2071, 2529, 3472, 4435, 4535, 4936, 5209)
STOP_TIMEOUT_S = 30


class Judge:
    """A Java process that answers for Kafka's assignors. A context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        # a single source file is compiled as it is started, which a bare runtime cannot
        require_command("javac", "default-jdk-headless")
        self._process = subprocess.Popen(
            java_command(str(SOURCE)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            try:
                process.communicate(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()

    def ask(self, group: Group) -> Case:
        """Kafka's answers for a group."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        question = {"partitions": group.partitions, "members": [vars(m) for m in group.members]}
        print(json.dumps(question), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise KafkaUnavailableError(f"{SOURCE.name} ended")
        answers = {}
        for name, answer in json.loads(line).items():
            if isinstance(answer, str):
                raise AssertionError(f"Kafka's {name} fails over {group}: {answer}")
            answers[name] = {
                member.id: sorted((topic, number) for topic, number in answer[member.id])
                for member in group.members
            }
        return Case(group, answers)


def ask_about_groups(
    judge: Judge, seed: str, numbers: Iterable[int], *, any_names: bool = False
) -> Iterator[Case]:
    """What becomes of groups in up to 6 generations each, in Kafka's hands.

    Seed and number make a group. With ``any_names`` the ids of members are any, and not such that
    Kafka's order is ours.
    """
    for number in numbers:
        chance = random.Random(f"{seed} {number}")
        life = Life(chance, any_names=any_names)
        follow = chance.choice(("sticky", "cooperative-sticky"))
        for generation in range(3, 3 + chance.choice((1, 3, 6))):
            case = judge.ask(life.group())
            yield case
            life.assigned(case.answers[follow], generation)
            life.change()


def main() -> None:
    with Judge() as judge:
        cases = list(ask_about_groups(judge, FIXTURE_SEED, FIXTURE_GROUPS))
    lines = ",\n".join(json.dumps(pack(case), separators=(",", ":")) for case in cases)
    FIXTURE.write_text(f"[\n{lines}\n]\n")
    print(f"{FIXTURE}: {len(cases)} groups")


if __name__ == "__main__":
    main()
