"""Moving to a Kafka cluster and back: partition directories and committed offsets.

Not a copy record by record: the segments are Kafka's own format, so whole files change hands. A stopped
broker takes over what :func:`export_kafka` lays out, and :func:`import_kafka` takes over what a stopped broker
has. What either would lose or bend is found out first and listed (:class:`Finding`).
"""

from __future__ import annotations

from eventlog.transfer.findings import Finding
from eventlog.transfer.kafka_export import ExportReport, export_kafka
from eventlog.transfer.kafka_import import ImportReport, import_kafka
from eventlog.transfer.survey import PartitionSurvey

__all__ = [
    "ExportReport",
    "Finding",
    "ImportReport",
    "PartitionSurvey",
    "export_kafka",
    "import_kafka",
]
