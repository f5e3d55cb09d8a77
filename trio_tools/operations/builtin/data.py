"""`query` and `infer`: one statement, one run of a model."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import Field

from trio_tools.answers.texts import markdown_table
from trio_tools.operations.item_types import Item
from trio_tools.operations.operation import Operation
from trio_tools.services import Services

if TYPE_CHECKING:
    from trio_tools.database.results import QueryResult

# The batch bounds the time of an item; its cancel ends the statement.
_NEVER_BINDING_SECONDS = 86_400.0


class QueryItem(Item):
    """One read-only statement for one database."""

    database: str = Field(description="Name of the database.")
    sql: str = Field(description="One SELECT, with :name for each parameter.")
    parameters: dict[str, Any] = Field(default_factory=dict[str, Any])
    max_rows: int = Field(100, gt=0, le=10_000)


class InferItem(Item):
    """One run of one model."""

    model: str = Field(description="Name of the model.")
    inputs: dict[str, Any] = Field(description="Numbers, texts or nested lists, by input name.")


def data_operations(services: Services) -> list[Operation]:
    """Return `query` and `infer`."""
    return [
        Operation(
            name="query",
            fn=functools.partial(_query, services),
            description="Run one read-only SQL statement.",
            item_type=QueryItem,
            label=_statement_of,
            render=rows_text,
            limit_name="query_database",
        ),
        Operation(
            name="infer",
            fn=functools.partial(_infer, services),
            description="Run an ONNX model on inputs.",
            item_type=InferItem,
            label=_model_of,
            limit_name="run_inference",
            computes_in="process",
        ),
    ]


def query_data(result: QueryResult) -> dict[str, Any]:
    """Return the rows of a query, its timing and its warnings, as JSON values."""
    data = {
        "columns": list(result.columns),
        "rows": [list(row) for row in result.rows],
        "row_count": result.row_count,
        "truncated": result.truncated,
        "timing": {name: round(value, 6) for name, value in asdict(result.timing).items()},
    }
    return {**data, "warnings": list(result.warnings)} if result.warnings else data


def rows_text(value: dict[str, Any]) -> str:
    """Return the text of a query: the number of rows and timing, then a Markdown table."""
    count = value["row_count"]
    told = f"{count} row{'' if count == 1 else 's'}{', there are more' * value['truncated']}"
    timing = ", ".join(f"{name}={seconds}" for name, seconds in value["timing"].items())
    return f"{told}; {timing}\n{markdown_table(value['columns'], value['rows'])}"


def _statement_of(item: QueryItem) -> dict[str, Any]:
    return {"database": item.database, "sql": item.sql, "parameters": item.parameters}


def _model_of(item: InferItem) -> str:
    return item.model


async def _query(services: Services, item: QueryItem) -> dict[str, Any]:
    result = await services.databases.query(
        item.database,
        item.sql,
        item.parameters,
        max_rows=item.max_rows,
        timeout_seconds=_NEVER_BINDING_SECONDS,
    )
    return query_data(result)


async def _infer(services: Services, item: InferItem) -> dict[str, Any]:
    return await services.models.run(item.model, item.inputs)
