"""Metadata of a store in LMDB: an environment and typed tables. All of it can be folded from the log."""

from eventlog.meta.environment import Environment, Transaction
from eventlog.meta.tables import BytesTable, StructTable, Table, damaged_table

__all__ = ["BytesTable", "Environment", "StructTable", "Table", "Transaction", "damaged_table"]
