"""``eventlog topics``: list, create, alter, delete, describe, delete-records."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventlog.cli.arguments import Json, StoreDirectory
from eventlog.cli.confirming import Yes, confirm
from eventlog.cli.output import (
    CommandError,
    console,
    count,
    plural,
    table,
    time_text,
    write_json,
)
from eventlog.cli.store import open_to_change, open_to_read
from eventlog.settings import SETTING_NAMES, TopicSettings

if TYPE_CHECKING:
    from eventlog.log.topic import Topic

TopicName = Annotated[
    str, typer.Argument(metavar="TOPIC", help="Name of the topic.", show_default=False)
]
TopicNames = Annotated[
    list[str], typer.Argument(metavar="TOPIC", help="Names of topics.", show_default=False)
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "-s",
        "--set",
        metavar="NAME=VALUE",
        help="A setting, e.g. durability=interval; may be repeated.",
        show_default=False,
    ),
]


def list_topics(directory: StoreDirectory, json: Json = False) -> None:
    """List the topics: partitions, records, durability."""
    with open_to_read(directory) as log:
        found = [_overview(log.topic(name)) for name in log.topics()]
    if json:
        for topic in found:
            write_json(topic)
        return
    if not found:
        console(stderr=True).print("no topics yet", style="dim")
        return
    shown = table("topic", ">partitions", ">records", "durability")
    for topic in found:
        shown.add_row(
            topic["name"],
            count(topic["partition_count"]),
            count(topic["record_count"]),
            topic["durability"],
        )
    console().print(shown)


def create(
    directory: StoreDirectory,
    topic: TopicName,
    partitions: Annotated[
        int, typer.Option("-p", "--partitions", help="How many, 1 to 10,000.")
    ] = 1,
    settings: Settings = None,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="A topic that is there stays as it is.")
    ] = False,
    json: Json = False,
) -> None:
    """Create a topic; also the store, if there is none."""
    from eventlog.cli.store import open_to_write

    chosen = parse_settings(settings)
    with open_to_write(directory) as log:
        is_new = not log.has_topic(topic)
        if is_new:
            found = log.topic(topic, partitions=partitions, **chosen)
        elif if_not_exists:
            found = log.topic(topic)
        else:
            raise CommandError(
                f"there is a topic {topic} already",
                hint="`eventlog topics alter` changes it; --if-not-exists makes this no error",
            )
        told = {**_description(found), "is_new": is_new}
    if json:
        write_json(told)
        return
    what = f"[green]made[/green] topic {topic}" if is_new else f"topic {topic} is there already"
    console().print(f"{what}, with {plural(len(told['partitions']), 'partition')}", soft_wrap=True)


def alter(
    directory: StoreDirectory,
    topic: TopicName,
    partitions: Annotated[
        int | None,
        typer.Option(
            "-p",
            "--partitions",
            help="Let it have so many; only more. Keys then go to other partitions.",
            show_default=False,
        ),
    ] = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Change a topic's settings, or give it more partitions, beside whoever uses it."""
    from eventlog.cli.stream_checking import is_event_store

    chosen = parse_settings(settings)
    if partitions is None and not chosen:
        raise CommandError("nothing to change", hint="Give --partitions, or --set NAME=VALUE")
    with open_to_change(directory) as log:
        found = existing_topic(log, topic)
        if partitions is not None and partitions != found.partition_count:
            if is_event_store(found):
                raise CommandError(
                    f"{topic} is an event store: its streams would go to other partitions",
                    hint="Make a new event store with more partitions, and copy the events",
                )
            log.add_partitions(topic, partitions)
        if chosen:
            log.topic(topic, **chosen)
        told = _description(log.topic(topic))
    if json:
        write_json(told)
        return
    changes = [f"{name}={value}" for name, value in chosen.items()]
    if partitions is not None:
        changes.insert(0, plural(partitions, "partition"))
    console().print(f"[green]altered[/green] topic {topic}: {', '.join(changes)}", soft_wrap=True)


def delete(
    directory: StoreDirectory, topics: TopicNames, yes: Yes = False, json: Json = False
) -> None:
    """Delete topics with all their records, for all who use them."""
    with open_to_change(directory) as log:
        counts = {name: _overview(existing_topic(log, name))["record_count"] for name in topics}
        what = ", ".join(f"{name} ({plural(n, 'record')})" for name, n in counts.items())
        confirm(f"delete {what}", yes=yes)
        for name in counts:
            log.delete_topic(name)
    for name, record_count in counts.items():
        if json:
            write_json({"name": name, "record_count": record_count})
        else:
            told = f"[green]deleted[/green] topic {name}, {plural(record_count, 'record')}"
            console().print(told, soft_wrap=True)


def delete_records(
    directory: StoreDirectory,
    topic: TopicName,
    before: Annotated[
        int, typer.Option("--before", help="First offset to keep.", show_default=False)
    ],
    partition: Annotated[int, typer.Option("-p", "--partition", help="Which one.")] = 0,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete the records of a partition below an offset, for all who use it."""
    with open_to_change(directory) as log:
        start = existing_topic(log, topic).partition(partition).log_start_offset
        what = f"{plural(max(0, before - start), 'record')} of {topic}-{partition}"
        confirm(f"delete {what}, below offset {count(before)}", yes=yes)
        found = log.delete_records(topic, partition, before=before)
    if json:
        write_json({"topic": topic, "partition": partition, "log_start_offset": found})
        return
    told = f"[green]deleted[/green] {plural(found - start, 'record')} of {topic}-{partition}: "
    console().print(f"{told}it begins at offset {count(found)}", soft_wrap=True)


def describe(
    directory: StoreDirectory,
    topics: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC]", help="None: all.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Show settings and offsets of topics. `eventlog stats` shows sizes and compression."""
    with open_to_read(directory) as log:
        found = [_description(log.topic(name)) for name in topics or log.topics()]
    for topic in found:
        if json:
            write_json(topic)
        else:
            _print_description(topic)


def existing_topic(log: Any, name: str) -> Topic:
    """The topic, if there is one; never makes it.

    Raises:
        UnknownTopicError: there is none.
    """
    from eventlog.errors import UnknownTopicError

    if not log.has_topic(name):
        raise UnknownTopicError(
            f"there is no topic {name!r} in {log.path}",
            hint=f"Known are: {', '.join(log.topics()) or 'none'}; "
            f"`eventlog topics create {log.path} {name}` makes it",
            topic=name,
        )
    topic: Topic = log.topic(name)
    return topic


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """``NAME=VALUE`` pairs as arguments of ``log.topic``; limits are checked by the topic.

    Raises:
        CommandError: no pair, or something else where a number, true or false has to be.
        SettingError: an unknown name.
    """
    ordinary = TopicSettings().as_dict()
    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, sign, text = pair.partition("=")
        if not sign:
            raise CommandError(f"{pair!r} is no setting", hint="Write it NAME=VALUE")
        if name not in SETTING_NAMES:
            TopicSettings().changed(**{name: text})  # says which ones there are
        try:
            found[name] = _SORTS[type(ordinary[name])][0](text)
        except (KeyError, ValueError):
            raise CommandError(
                f"setting {name} is {text!r}",
                hint=f"It has to be {_SORTS[type(ordinary[name])][1]}",
            ) from None
    return found


_SORTS: dict[type, tuple[Callable[[str], Any], str]] = {
    bool: ({"true": True, "false": False}.__getitem__, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "text"),
}


def _overview(topic: Topic) -> dict[str, Any]:
    states = [partition.state() for partition in topic.partitions]
    return {
        "name": topic.name,
        "partition_count": topic.partition_count,
        "record_count": sum(s.log_end_offset - s.log_start_offset for s in states),
        "durability": topic.settings.durability,
    }


def _description(topic: Topic) -> dict[str, Any]:
    partitions = []
    for partition in topic.partitions:
        state = partition.state()
        newest_ms = -1
        if state.high_watermark > state.log_start_offset:
            for record in topic.read(partition.number, start=state.high_watermark - 1, limit=1):
                newest_ms = record.timestamp_ms
        partitions.append(
            {
                "partition": partition.number,
                "log_start_offset": state.log_start_offset,
                "high_watermark": state.high_watermark,
                "log_end_offset": state.log_end_offset,
                "newest_timestamp_ms": newest_ms,
            }
        )
    return {
        "name": topic.name,
        "topic_id": str(topic.topic_id),
        "partitions": partitions,
        "settings": topic.settings.as_dict(),
    }


def _print_description(topic: dict[str, Any]) -> None:
    speak = console()
    speak.print(f"[bold]{topic['name']}[/bold]  {topic['topic_id']}", soft_wrap=True)
    ordinary = TopicSettings().as_dict()
    for name, value in topic["settings"].items():
        line = f"  {name} = {value}"
        speak.print(line, style="dim" if value == ordinary[name] else None, soft_wrap=True)
    shown = table("partition", ">log start", ">readable to", ">log end", "newest record")
    for partition in topic["partitions"]:
        shown.add_row(
            str(partition["partition"]),
            count(partition["log_start_offset"]),
            count(partition["high_watermark"]),
            count(partition["log_end_offset"]),
            time_text(partition["newest_timestamp_ms"]),
        )
    speak.print(shown)
