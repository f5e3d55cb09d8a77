"""The tables of stored operations, in SQLAlchemy Core, and their migrations.

A migration only adds: a table, a column with a default, an index. So a server of the previous
version can still read the state, and an interrupted migration leaves usable tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from trio_tools.operations.durable.counters import usage_table
from trio_tools.operations.durable.records import Record

VERSION: Final = 2
"""The version of the tables that this code writes."""

metadata = sa.MetaData()
_integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
meta = sa.Table(
    "trio_tools_meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
operations = sa.Table(
    "operations",
    metadata,
    sa.Column("key", _integer, primary_key=True, autoincrement=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("operation_id", sa.Text, nullable=False),
    sa.Column("tool", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("options", sa.LargeBinary, nullable=False),
    sa.Column("background", sa.Boolean, nullable=False),
    sa.Column("run", sa.Integer, nullable=False),
    sa.Column("total", _integer),
    sa.Column("succeeded", _integer, nullable=False),
    sa.Column("failed", _integer, nullable=False),
    sa.Column("timed_out", _integer, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("last_used", sa.Double, nullable=False, index=True),
    sa.Column("size", _integer, nullable=False),
    sa.Column("holder", sa.Text),
    sa.Column("lease_until", sa.Double, nullable=False),
    sa.Column("revision", _integer, nullable=False),
    sa.Column("stop", sa.Boolean, nullable=False),
    sa.UniqueConstraint("owner", "operation_id"),
    sqlite_autoincrement=True,
)
outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("key", _integer, primary_key=True),
    sa.Column("revision", _integer, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
usage = usage_table(metadata)

MIGRATIONS: Final[dict[int, Callable[[sa.Connection], None]]] = {1: usage.create}
"""The statements that migrate the tables to the next version, by the current version."""

CHANGING: Final = (
    "options",
    "background",
    "run",
    "total",
    "succeeded",
    "failed",
    "timed_out",
    "last_used",
    "holder",
    "lease_until",
)
"""Columns that a commit changes, beside `revision`, `stop` and `size`.

The others are written once, by the call that made the operation.
"""


def of(owner: str, operation_id: str) -> sa.Select[Any]:
    """Select the row of an operation."""
    return sa.select(operations).where(
        operations.c.owner == owner, operations.c.operation_id == operation_id
    )


def state_of(owner: str, operation_id: str) -> Any:
    """Select the columns that a commit needs of an operation."""
    columns = operations.c
    return sa.select(
        columns.key, columns.holder, columns.lease_until, columns.revision, columns.stop
    ).where(columns.owner == owner, columns.operation_id == operation_id)


def meta_value(name: str) -> sa.Select[Any]:
    """Select a value that belongs to the whole state."""
    return sa.select(meta.c.value).where(meta.c.name == name)


def record_of(row: RowMapping) -> Record:
    """Return a row of operations, perhaps without its request, as a record."""
    values: dict[str, Any] = dict(row)
    values["request"] = bytes(values.get("request", b""))
    values["options"] = bytes(values["options"])
    return Record(**values)
