"""Offsets as Kafka's ``kafka-consumer-groups.sh --reset-offsets`` reads (``--from-file``) and writes
(``--export``) them: lines of comma separated values without a header.

``topic,partition,offset`` where one group is meant, ``group,topic,partition,offset`` where several are. The
tool splits at line feeds before it looks at quotes, so no value holds one. Text is in double quotes, which
are doubled inside, by the rule of the library that it uses (Jackson, loose checking): where it is longer
than 24 characters or has one up to the comma.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping

from eventlog.consumer.assignment import TopicPartition
from eventlog.errors import SettingError

_UNQUOTED_LENGTH_MAX = 24
_SAFE = ","  # characters above it are
_PARTITION_MAX = 2**31 - 1
_OFFSET_MAX = 2**63 - 1

Plans = Mapping[str, Mapping[TopicPartition, int]]


def write(plans: Plans) -> str:
    """Offsets by group and partition as lines; without the group where there is one.

    Numbers are never quoted. Lines are in the order of groups, topics and partitions.
    """
    lines = []
    for group, plan in sorted(plans.items()):
        names = [] if len(plans) == 1 else [_quoted(group)]
        for unit, offset in sorted(plan.items()):
            fields = (*names, _quoted(unit.topic), str(unit.partition), str(offset))
            lines.append(",".join(fields) + "\n")
    return "".join(lines)


def read(text: str, group: str | None) -> dict[str, dict[TopicPartition, int]]:
    """Offsets by group and partition; of two lines for one partition the later counts.

    As the tool does it, the first line decides: where it has no group none has, and all are of ``group``.

    Raises:
        SettingError: a line of another form, or no ``group`` for lines that name none.
    """
    plans: dict[str, dict[TopicPartition, int]] = {}
    width = 0
    for line in text.removeprefix("\ufeff").split("\n"):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        try:
            (fields,) = csv.reader([line], strict=True)
            width = width or len(fields)
            *names, partition, offset = fields
            if len(fields) != width or width not in (3, 4) or not all(names):
                raise ValueError("not the fields of the first line")
            unit = TopicPartition(names[-1], _number(partition, _PARTITION_MAX))
            to = _number(offset, _OFFSET_MAX)
        except (csv.Error, ValueError) as error:
            raise _refused(
                line, "Lines are topic,partition,offset or group,topic,partition,offset"
            ) from error
        owner = names[0] if width == 4 else group
        if owner is None:
            raise _refused(line, "It names no group: pass group=")
        plans.setdefault(owner, {})[unit] = to
    return plans


def _number(text: str, most: int) -> int:
    text = text.strip()
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= number <= most:
        raise ValueError(f"{text!r} is no number from 0 to {most}")
    return number


def _quoted(text: str) -> str:
    if len(text) <= _UNQUOTED_LENGTH_MAX and all(character > _SAFE for character in text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _refused(line: str, hint: str) -> SettingError:
    return SettingError(
        f"not a line of committed offsets: {line[:200]!r}", hint=hint, setting="text", value=line
    )
