"""The segments under tests/data that a real Kafka wrote; see tools/kafka/make_fixtures.py."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.segment_reader import Record

PROJECT = Path(__file__).resolve().parents[2]
DATA = PROJECT / "tests" / "data"
(FIXTURES,) = DATA.glob("kafka-*")


@dataclass(frozen=True)
class Case:
    """One fixture: a partition's first segment, its indexes, and what Kafka says is in it."""

    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def directory(self) -> Path:
        return FIXTURES / self.name

    @property
    def log(self) -> Path:
        return self.directory / "00000000000000000000.log"

    @property
    def expected_path(self) -> Path:
        return self.directory / "expected.json"

    @cached_property
    def _expected(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.expected_path.read_text())
        return loaded

    @property
    def expected_batches(self) -> list[dict[str, Any]]:
        """As DumpLogSegments showed them."""
        batches: list[dict[str, Any]] = self._expected["batches"]
        return batches

    @property
    def expected_records(self) -> list[Record]:
        """As a consumer (reading uncommitted) received them."""

        def data(digits: str | None) -> bytes | None:
            return None if digits is None else bytes.fromhex(digits)

        return [
            Record(
                offset=record["offset"],
                timestamp_ms=record["timestamp_ms"],
                key=data(record["key"]),
                value=data(record["value"]),
                headers=tuple((name, data(value)) for name, value in record["headers"]),
            )
            for record in self._expected["records"]
        ]

    def copy_to(self, directory: Path) -> Path:
        """Copy the segment and its indexes; returns the copy of the log."""
        directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.glob(f"{self.log.stem}.*"):
            shutil.copy(path, directory)
        return directory / self.log.name


CASES = [Case(path.name) for path in sorted(FIXTURES.iterdir())]
