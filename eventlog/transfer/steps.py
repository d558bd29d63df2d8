"""What there is left to do by hand, as commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

STEPS_FILE = "eventlog-steps.md"
OFFSETS_FILE = "eventlog-offsets.csv"


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """How a topic is made in the cluster.

    Attributes:
        name: of the topic.
        partition_count: how many partitions.
        config: its configuration, in Kafka's words.
    """

    name: str
    partition_count: int
    config: Mapping[str, str]


def steps(
    target: Path,
    plans: Iterable[TopicPlan],
    groups: Iterable[str],
    *,
    is_of_broker: bool,
    is_done: bool,
) -> str:
    """The text of eventlog-steps.md.

    Args:
        target: where the partitions are laid out.
        plans: the topics.
        groups: whose committed offsets are in eventlog-offsets.csv.
        is_of_broker: ``target`` is the data directory of the broker itself.
        is_done: they were laid out already.
    """
    parts = [_HEAD.format(target=shlex.quote(str(target)))]
    if is_of_broker and is_done:
        parts += [_PLACED]
    else:
        parts += [_CREATE, *map(_create, plans), "```\n", _STOP]
        parts += [_EXPORT if is_of_broker else _PLACE]
    parts += [_START]
    names = sorted(groups)
    if names:
        flags = "".join(f" --group {shlex.quote(name)}" for name in names)
        parts += [_OFFSETS.format(groups=flags, file=OFFSETS_FILE)]
    return "".join(parts)


def _create(plan: TopicPlan) -> str:
    config = "".join(f" \\\n  --config {name}={value}" for name, value in plan.config.items())
    return (
        'kafka-topics.sh --bootstrap-server "$BOOTSTRAP" --create '
        f'--topic {shlex.quote(plan.name)} \\\n  --replica-assignment "$(on_one {plan.partition_count})"'
        f"{config}\n"
    )


_HEAD = """\
# Moving to Kafka

Run the blocks below in order, in one shell, on the broker's machine. Nobody may write to the store any
more; if somebody did after this export, export again first.

```bash
set -e
BOOTSTRAP=${{BOOTSTRAP:-localhost:9092}}
NODE_ID=${{NODE_ID:-1}}                    # node.id of the broker that takes the data
LOG_DIR=${{LOG_DIR:-/var/lib/kafka/data}}  # its log.dirs
EXPORT=${{EXPORT:-{target}}}               # where this file is
```
"""
_CREATE = """
## 1. Create the topics

All partitions on one broker. More replicas come last: an empty replica that became leader would make the
others throw the data away. `max.message.bytes` has room for the largest batch that there is, `retention.ms`
counts from the time of the records.

```bash
on_one() { seq -s , "$1" | sed "s/[0-9][0-9]*/$NODE_ID/g"; }
"""
_STOP = """
## 2. Stop that broker

Once the directories of all partitions are there, stop it as usual and wait until it has ended.
"""
_EXPORT = """
## 3. Export

`eventlog export-kafka` once more, without `--dry-run`.
"""
_PLACED = """
The topics are there, the broker is stopped, and the files are in place in its own directory. To have the broker
itself check every byte when it starts, remove `$LOG_DIR/.kafka_cleanshutdown`.
"""
_PLACE = """
## 3. Put the files in place

Each directory keeps the broker's `partition.metadata`; without the topic's id in there a broker sets
the directory aside.

```bash
merge() {  # lines of the export replace those that the broker has
  test -e "$LOG_DIR/$1" || printf '0\\n0\\n' > "$LOG_DIR/$1"
  awk 'FNR > 2 { line[$1 " " $2] = $3; }
       END { n = 0; for (k in line) n++; print 0; print n; for (k in line) print k, line[k]; }' \\
    "$LOG_DIR/$1" "$EXPORT/$1" > "$LOG_DIR/$1.tmp"
  mv "$LOG_DIR/$1.tmp" "$LOG_DIR/$1"
}
for path in "$EXPORT"/*/; do
  place="$LOG_DIR/$(basename "$path")"
  test -s "$place/partition.metadata"                             # the topic is there
  test -z "$(find "$place" -name '*.log' -size +0 -print -quit)"  # and empty
done
for path in "$EXPORT"/*/; do
  place="$LOG_DIR/$(basename "$path")"
  find "$place" -type f ! -name partition.metadata -delete
  cp "$path"* "$place/"
done
merge recovery-point-offset-checkpoint
merge log-start-offset-checkpoint
sync
```

The files have to belong to the user that the broker runs as. To have the broker itself check every byte when
it starts, remove `$LOG_DIR/.kafka_cleanshutdown`.
"""
_START = """
## 4. Start the broker

Compare first and last offsets with those that the export told:
`kafka-get-offsets.sh --bootstrap-server "$BOOTSTRAP" --time earliest` (and `--time latest`). Then let the topics grow to
as many replicas as you want with `kafka-reassign-partitions.sh`.
"""
_OFFSETS = """
## 5. Committed offsets

Before the first consumer starts: a group must have no members.

```bash
kafka-consumer-groups.sh --bootstrap-server "$BOOTSTRAP"{groups} \\
  --reset-offsets --from-file "$EXPORT/{file}" --execute
```
"""
