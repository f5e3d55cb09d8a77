"""The use of clients per day, counted over all servers of a state. Blocking, for threads."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from trio_tools.operations.durable.records import Counted, Use

_ANY_NUMBER: Final = 2**62


def usage_table(metadata: sa.MetaData) -> sa.Table:
    """Return the table: a row for each client with a quota and each day."""
    integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Table(
        "usage",
        metadata,
        sa.Column("client", sa.Text, primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True),
        sa.Column("calls", integer, nullable=False),
        sa.Column("items", integer, nullable=False),
    )


def count_use(connection: sa.Connection, table: sa.Table, use: Use) -> Counted:
    """Add to the row of a client, and accept a call if its quota allows one.

    It is a separate transaction: servers that count at the same time wait for each other, so
    together they never accept a call too many.
    """
    columns = table.c
    connection.execute(sa.delete(table).where(columns.day < use.day - 1))
    row = {"client": use.client, "day": use.day}
    connection.execute(
        sa.text(
            "INSERT INTO usage (client, day, calls, items) VALUES (:client, :day, 0, 0) "
            "ON CONFLICT DO NOTHING"
        ),
        row,
    )
    this = sa.and_(columns.client == use.client, columns.day == use.day)
    if use.calls or use.items:
        added = {"calls": columns.calls + use.calls, "items": columns["items"] + use.items}
        connection.execute(sa.update(table).where(this).values(added))
    taken = False
    if use.takes_call:
        allowed = sa.and_(
            columns.calls < (_ANY_NUMBER if use.most_calls is None else use.most_calls),
            columns["items"] < (_ANY_NUMBER if use.most_items is None else use.most_items),
        )
        update = sa.update(table).where(this, allowed).values(calls=columns.calls + 1)
        taken = connection.execute(update).rowcount == 1
    calls, items = connection.execute(sa.select(columns.calls, columns["items"]).where(this)).one()
    return Counted(calls, items, taken=taken)
