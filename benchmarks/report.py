"""Turns what pytest-benchmark measured into ratios, a table and files."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from goals import ROWS, Row


class Measured:
    """All turns of all contenders; see goals.Results."""

    def __init__(self) -> None:
        self._turns: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        self._figures: dict[tuple[str, str], dict[int, dict[str, float]]] = defaultdict(dict)
        self.events: dict[tuple[str, str], int] = {}

    def read(self, path: Path) -> None:
        """Take in one file of pytest-benchmark."""
        for each in json.loads(path.read_text())["benchmarks"]:
            info = each["extra_info"]
            place = each["group"], info["contender"]
            if info["turn"] == 0:
                continue  # it warmed up
            seconds = info["figures"].get("seconds", each["stats"]["min"])
            self._turns[place][info["turn"]] = seconds / info["events"]
            self._figures[place][info["turn"]] = info["figures"]
            self.events[place] = info["events"]

    def contenders(self, work: str) -> list[str]:
        """Who did the work, in order of appearance."""
        return [contender for found, contender in self._turns if found == work]

    def seconds(self, work: str, contender: str) -> float | None:
        """Time an event."""
        turns = self._turns.get((work, contender))
        return statistics.median(turns.values()) if turns else None

    def speed(self, work: str, contender: str, other: str) -> float | None:
        """Rate of the contender divided by that of the other."""
        ours, theirs = self._turns.get((work, contender), {}), self._turns.get((work, other), {})
        ratios = [theirs[turn] / ours[turn] for turn in ours.keys() & theirs.keys()]
        return statistics.median(ratios) if ratios else None

    def figure(self, work: str, contender: str, name: str) -> float | None:
        """A figure that the contender gave."""
        figures = self._figures.get((work, contender), {}).values()
        found = [each[name] for each in figures if name in each]
        return statistics.median(found) if found else None

    def as_dict(self) -> dict[str, Any]:
        """Everything, by work and contender."""
        works: dict[str, Any] = {}
        for (work, contender), turns in self._turns.items():
            figures = self._figures[work, contender]
            names = {name for each in figures.values() for name in each}
            works.setdefault(work, {})[contender] = {
                "events": self.events[work, contender],
                "ns_an_event": round(statistics.median(turns.values()) * 1e9, 2),
                "ns_an_event_by_turn": [round(turns[turn] * 1e9, 2) for turn in sorted(turns)],
                **{name: self.figure(work, contender, name) for name in sorted(names)},
            }
        return works


@dataclass(frozen=True)
class Line:
    """A row of the table, measured. ``met``: None where there is no goal."""

    work: str
    goal: str
    measured: str
    beside: str
    met: bool | None


def _line(row: Row, results: Measured) -> Line | None:
    if results.seconds(row.work, row.contender) is None:
        return None
    goals, measured, verdicts = [], [], []
    for goal in row.goals:
        number = goal.number(results, row.work, row.contender)
        if number is None:
            continue
        if goal.text:
            goals.append(goal.text)
        measured.append(goal.shown(number))
        verdict = goal.is_met(number)
        if verdict is not None:
            verdicts.append(verdict)
    names = row.beside if row.beside is not None else results.contenders(row.work)
    beside = []
    for name in names:
        speed = results.speed(row.work, row.contender, name)
        if name != row.contender and speed is not None:
            beside.append(f"{name.removesuffix(', 1 thread')} {_ratio(speed)}")
    return Line(
        row.title,
        "; ".join(goals),
        "; ".join(measured),
        "; ".join(beside),
        all(verdicts) if verdicts else None,
    )


def _ratio(value: float) -> str:
    return f"{value:.2f}x" if value < 10 else f"{value:,.0f}x"


def lines(results: Measured) -> list[Line]:
    """The table's rows, as far as they were measured."""
    return [line for row in ROWS if (line := _line(row, results)) is not None]


MET = {True: "yes", False: "no", None: ""}
HEADINGS = ("work", "goal", "measured", "eventlog's speed beside", "met")


def markdown(table: Iterable[Line], about: dict[str, Any]) -> str:
    """The table for people, with what it depends on."""
    load = about["load"]
    rows = [(each.work, each.goal, each.measured, each.beside, MET[each.met]) for each in table]
    cells = [HEADINGS, tuple("---" for _ in HEADINGS), *rows]
    text = "\n".join("| " + " | ".join(row) + " |" for row in cells)
    beside = (
        "" if not about["servers"] else f" Servers over loopback: {'; '.join(about['servers'])}."
    )
    return f"""{text}

256 B values, 16 B keys; medians of {about["turns"]} turns, ratios within a turn. "eventlog's speed beside"
is how many times as fast eventlog is: above 1x it is ahead. *limit*: the machine itself, without a log
(raw `pwrite` of 1 MiB pieces; `pwrite` + `fdatasync`; reading the map of the file). Appends without
"durable" go to the page cache, SQLite with `synchronous=NORMAL`, LMDB without sync; durable ones wait
for the disk in all.{beside}

{about["date"][:10]}, {about["processor"]} with {about["processors"]} processors, {about["memory_gib"]} GiB,
{about["kernel"]}, {about["file_system"]}, {about["python"]}; scale `{about["scale"]}`. Load average
{load["load_average_before"]} before and {load["load_average_after"]} after; {load["others_percent"]} % of
the processors' time went to other processes and {load["stolen_percent"]} % to the host.
"""


def save(directory: Path, results: Measured, about: dict[str, Any]) -> list[Line]:
    """Write latest.json and latest.md; returns the table."""
    table = lines(results)
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "about": about,
        "table": [asdict(line) for line in table],
        "works": results.as_dict(),
    }
    (directory / "latest.json").write_text(json.dumps(content, indent=1) + "\n")
    (directory / "latest.md").write_text(markdown(table, about))
    return table
