"""What a consumer counts and measures, by group, in the metrics of its store."""

from __future__ import annotations

from eventlog.log.store import Store


class ConsumerFigures:
    """The instruments that the consumers of one group in this process share.

    Attributes:
        records: handed out.
        poll: seconds that finding records took, waiting for them left out; only where there were some.
        commit: seconds that commits took.
        rebalances: changes of what a member owns.
    """

    def __init__(self, log: Store, group: str | None) -> None:
        metrics = log.metrics
        name = group or ""
        self.records = metrics.counter(
            "eventlog_consumer_records_total", "Records handed out by consumers", group=name
        )
        self.poll = metrics.histogram(
            "eventlog_consumer_poll_seconds",
            "Time in which consumers found records, without waiting for them",
            group=name,
        )
        self.commit = metrics.histogram(
            "eventlog_consumer_commit_seconds", "Time that commits of consumers took", group=name
        )
        self.rebalances = metrics.counter(
            "eventlog_consumer_rebalances_total",
            "Times that units were given to a consumer or taken from it",
            group=name,
        )
