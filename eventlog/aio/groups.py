"""The consumer groups of a store, whose calls are awaited."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from eventlog.aio.host import Host
from eventlog.consumer.assignment import TopicPartition
from eventlog.consumer.group import OffsetAndMetadata
from eventlog.consumer.group_admin import GroupDescription


class Groups:
    """As :class:`eventlog.consumer.group.Groups`, for looking at groups and administering them. Each call is
    made in a thread: it reads or writes a disk.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._core = host.core.groups

    async def list(self) -> builtins.list[str]:
        """Names of all groups, sorted."""
        return await self._host.run(self._core.list)

    async def describe(self, group: str) -> GroupDescription:
        """State, members, and how far each unit is."""
        return await self._host.run(self._core.describe, group)

    async def committed(
        self, group: str, units: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Committed offsets: the next to read, by unit."""
        return await self._host.run(self._core.committed, group, units)

    async def lag(self, group: str) -> dict[TopicPartition, int]:
        """Records that can be read and lie at or past the committed offset, by unit with one."""
        return await self._host.run(self._core.lag, group)

    async def commit(self, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit without being a member. Durable on return."""
        await self._host.run(self._core.commit, group, dict(offsets))

    async def reset(
        self,
        group: str,
        *,
        to: Literal["earliest", "latest"] | int | datetime,
        topics: Iterable[str | TopicPartition] | None = None,
        dry_run: bool = False,
    ) -> dict[TopicPartition, int]:
        """Move the committed offsets of an idle group; see
        :meth:`eventlog.consumer.group.Groups.reset`."""
        return await self._host.run(self._core.reset, group, to=to, topics=topics, dry_run=dry_run)

    async def delete(self, group: str) -> None:
        """Forget an idle group and its offsets."""
        await self._host.run(self._core.delete, group)

    async def export_csv(self, groups: str | Iterable[str]) -> str:
        """Committed offsets as Kafka's group tool writes them; see
        :meth:`eventlog.consumer.group.Groups.export_csv`."""
        return await self._host.run(self._core.export_csv, groups)

    async def import_csv(
        self, text: str, *, group: str | None = None, dry_run: bool = False
    ) -> dict[str, dict[TopicPartition, int]]:
        """Set committed offsets from what Kafka's group tool wrote; see
        :meth:`eventlog.consumer.group.Groups.import_csv`."""
        return await self._host.run(self._core.import_csv, text, group=group, dry_run=dry_run)
