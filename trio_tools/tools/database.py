"""`query_database`: one read-only statement, ended in the database at its deadline."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypedDict

from mcp.types import ToolAnnotations
from pydantic import Field

from trio_tools.answers.errors import InvalidArgument, NotFound
from trio_tools.answers.texts import Told, counted
from trio_tools.operations.builtin.data import query_data, rows_text
from trio_tools.operations.item_runner import same_json
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import TimeoutSeconds
from trio_tools.tools.declaring.declaration import Tool
from trio_tools.tools.declaring.naming import database_names, has_databases


class _Bounds(TypedDict):
    max_rows: int
    max_bytes: int
    timeout_seconds: float
    position: int


async def query_database(
    call: Call,
    *,
    database: Annotated[
        str | None,
        Field(description="May be left out if there is just one."),
    ] = None,
    sql: Annotated[
        str | None,
        Field(
            description="One statement; :name marks a parameter. Leave out to list tables and "
            "columns."
        ),
    ] = None,
    parameters: Annotated[
        dict[str, Any] | None, Field(description="A value for each :name in sql.")
    ] = None,
    max_rows: Annotated[int, Field(gt=0, le=10_000, description="Most rows of one page.")] = 100,
    cursor: Annotated[str | None, Field(description="For more rows, with the same sql.")] = None,
    timeout_seconds: TimeoutSeconds = None,
) -> Answer:
    """Run one read-only SQL statement and return its rows, a page at a time.

    Use ORDER BY if you read several pages.
    """
    database = database or _the_only_one(call.state.services.databases.names)
    parameters = parameters or {}
    asked = partial(_fingerprint, database, sql, parameters)  # computed only when needed
    position = _position(call, cursor, asked)
    databases = call.state.services.databases
    bounds = _Bounds(
        max_rows=max_rows,
        max_bytes=call.state.settings.max_output_chars,
        timeout_seconds=call.limits.seconds_for(timeout_seconds),
        position=position,
    )
    with call.time_limit(timeout_seconds):
        async with call.slot():
            if sql is None:
                result = await databases.catalogue(database, **bounds)
            else:
                result = await databases.query(database, sql, parameters, **bounds)
    pagination = None
    warnings = list(result.warnings)
    if result.next_position is not None:
        mark = {"asked": asked(), "position": result.next_position}
        following = call.state.query_cursors.encode(mark)
        pagination = {"cursor": following, "page_size": max_rows, "total": None}
        warnings.append(f'There are more rows: repeat the call with cursor="{following}".')
    data = query_data(result)
    line, _, table = rows_text(data).partition("\n")
    return Answer(
        summary=f"{counted(result.row_count, 'row')} from {database!r}.",
        data=data,
        told=[Told(line, table)],
        warnings=warnings,
        pagination=pagination,
    )


def _the_only_one(names: tuple[str, ...]) -> str:
    if len(names) == 1:
        return names[0]
    if names:
        raise InvalidArgument(
            f"database is missing: name one of {', '.join(names)}", data={"databases": list(names)}
        )
    raise NotFound(
        "this server has no databases: let the operator configure one", error_code="NO_DATABASES"
    )


def _fingerprint(*asked: Any) -> str:
    return hashlib.sha256(same_json(asked).encode()).hexdigest()[:16]


def _position(call: Call, cursor: str | None, asked: Callable[[], str]) -> int:
    if cursor is None:
        return 0
    mark = call.state.query_cursors.decode(cursor)
    if mark["asked"] != asked():
        raise InvalidArgument(
            "cursor belongs to another statement: repeat database, sql and parameters as they were "
            "when it was given out, or leave it out",
            error_code="INVALID_CURSOR",
        )
    return mark["position"]


QUERY_DATABASE = Tool(
    fn=query_database,
    title="Query a database",
    execution="async; a cancel stops the statement",
    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    names={"database": database_names},
    listed=has_databases,
    needs="databases",
    refusal=partial(NotFound, error_code="NO_DATABASES"),
)
