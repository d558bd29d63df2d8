"""What a consumer subscribes to: names of topics, or a pattern that names match."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from eventlog.errors import SettingError
from eventlog.log.store import Store
from eventlog.log.topic import Topic
from eventlog.log.topics_file import check_topic_name

_logger = logging.getLogger("eventlog.consumer")

Topics = str | Sequence[str] | re.Pattern[str]


class Subscription:
    """Finds the topics that there are; others are waited for. One thread at a time.

    Args:
        log: where topics are looked for.
        topics: a name, several, or a compiled pattern that has to match the whole name.

    Raises:
        SettingError: none of these, or no name at all.
        InvalidNameError: not a name that a topic can have.
    """

    def __init__(self, log: Store, topics: Topics) -> None:
        self._log = log
        self._pattern = topics if isinstance(topics, re.Pattern) else None
        self._names: tuple[str, ...] = ()
        self._missing: set[str] = set()
        if self._pattern is None:
            self._names = (topics,) if isinstance(topics, str) else _names(topics)
            for name in self._names:
                check_topic_name(name)
        elif not isinstance(self._pattern.pattern, str):
            raise _not_topics(topics)

    def look(self) -> dict[str, Topic]:
        """The topics that there are now, by name."""
        found: dict[str, Topic] = {}
        for name in self._known():
            topic = self._log.find_topic(name)
            if topic is not None:  # else deleted since it was listed
                found[name] = topic
        return found

    def _known(self) -> Sequence[str]:
        if self._pattern is not None:
            return [name for name in self._log.topics() if self._pattern.fullmatch(name)]
        known = [name for name in self._names if self._log.has_topic(name)]
        if len(known) + len(self._missing) != len(self._names):
            missing = set(self._names).difference(known)
            for name in sorted(missing - self._missing):
                _logger.warning(
                    "there is no topic %r yet: it is read once somebody makes it",
                    name,
                    extra={"topic": name},
                )
            self._missing = missing
        return known


def _names(topics: object) -> tuple[str, ...]:
    if isinstance(topics, Sequence) and topics and all(type(name) is str for name in topics):
        return tuple(dict.fromkeys(topics))
    raise _not_topics(topics)


def _not_topics(topics: object) -> SettingError:
    return SettingError(
        f"topics is {topics!r:.100}",
        hint="Pass the name of a topic, a sequence of names, or a compiled pattern of str",
        setting="topics",
        value=topics,
    )
