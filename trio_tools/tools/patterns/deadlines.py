"""A deadline with partial results, a query with a time limit, a cancel with partial results."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from nursery_patterns import Batch, Status, time_budget
from trio_tools.answers.errors import TimedOut
from trio_tools.answers.texts import Told, counted, json_line
from trio_tools.operations.builtin.data import query_data, rows_text
from trio_tools.tools.application.context import ToolContext
from trio_tools.tools.call import Answer
from trio_tools.tools.declaring.arguments import BudgetSeconds, OperationId
from trio_tools.tools.patterns.hashing import Seconds, Texts, failure_of, hashed

if TYPE_CHECKING:
    from trio_tools.database.databases import Databases

_TIGHT = 0.8
_LEAST_SECONDS = 0.001
_QUERY_ROWS = 100


async def process_with_timeout(
    context: ToolContext,
    items: Texts,
    timeout: Annotated[  # noqa: ASYNC109 - the subject of the example
        float, Field(gt=0, description="Seconds for all of it.")
    ] = 60.0,
    seconds: Seconds = 0.0,
) -> Answer:
    """Pattern: a deadline with partial results. What finished lies outside of what is cancelled."""
    batch = Batch(partial(hashed, context, after=seconds), items, limit=2)
    with time_budget(context.remaining):
        await batch.run()
    report = batch.report()
    return Answer(
        summary=f"{report.counts.done} of {len(items)} done in {context.elapsed:.3g} s.",
        data={
            "results": report.values(),
            "errors": [
                {"item": outcome.item, **failure_of(outcome)}
                for outcome in report.outcomes
                if outcome.status is Status.FAILED
            ],
            "complete": report.complete,
            "missing": report.unfinished(),
        },
        warnings=[]
        if report.complete
        else [f"Operation timed out after {timeout:g}s, returning partial results"],
    )


async def query_with_timeout(
    context: ToolContext,
    query: Annotated[str, Field(description="One SQL statement that reads.")],
    timeout_seconds: Annotated[float, Field(ge=0.001, description="Time for the call.")] = 30.0,
    database: Annotated[
        str | None, Field(description="The first one if left out; an empty one if there is none.")
    ] = None,
) -> Answer:
    """Pattern: a query with a time limit, stopped in the database when its time is up."""
    try:
        async with _databases(context, database) as (databases, name):
            result = await databases.query(
                name,
                query,
                max_rows=_QUERY_ROWS,
                max_bytes=context.max_output_chars,
                timeout_seconds=max(_LEAST_SECONDS, context.remaining),
            )
    except TimedOut:
        raise _timed_out(timeout_seconds, context.max_timeout_seconds) from None
    elapsed = context.elapsed
    timing = {
        "elapsed_seconds": round(elapsed, 2),
        "timeout_seconds": timeout_seconds,
        "headroom_seconds": round(max(0.0, timeout_seconds - elapsed), 2),
    }
    rows = query_data(result)
    line, _, table = rows_text(rows).partition("\n")
    tight = ["Query used >80% of timeout budget"] if elapsed > _TIGHT * timeout_seconds else []
    return Answer(
        summary=f"{counted(result.row_count, 'row')} in {elapsed:.3g} of {timeout_seconds:g} s.",
        data={"result": rows, "timing": timing},
        told=[Told(line, table)],
        text=f"timing {json_line(timing)}",
        warnings=[*tight, *result.warnings],
    )


async def cancellable_operation(
    context: ToolContext,
    items: Texts,
    max_items: Annotated[int, Field(ge=1, le=100, description="Only the first so many.")] = 100,
    operation_id: OperationId = None,
    timeout_seconds: BudgetSeconds = None,
) -> Answer:
    """Pattern: cancel with partial results. They belong to the operation, and not to the call.

    cancel_operation lets this call answer with what it has. A call that its client cancelled is
    never answered: read what it did with get_operation, or repeat it with its operation_id.
    """
    answer = await context.run_batch(
        "hash", items[:max_items], operation_id=operation_id, timeout_seconds=timeout_seconds
    )
    counts = answer.data["counts"]
    left = counts["cancelled"] + counts["not_started"]
    done, total = counts["total"] - left, counts["total"]
    cancellation: dict[str, Any] = {"was_cancelled": left > 0}
    if left:
        cancellation |= {"processed_before_cancel": done, "total_requested": total}
        cancellation |= {"remaining": left}
    else:
        cancellation |= {"processed": done, "total_requested": total}
    stopped = ["Operation was cancelled - returning partial results"] if left else []
    return replace(
        answer,
        data={**answer.data, "cancellation": cancellation},
        text=f"{answer.text}\ncancellation {json_line(cancellation)}".strip(),
        warnings=[*stopped, *answer.warnings],
        lean_data=None,
    )


@asynccontextmanager
async def _databases(
    context: ToolContext, name: str | None
) -> AsyncGenerator[tuple[Databases, str]]:
    """Yield the configured databases and the one to query; without any, an empty one."""
    from trio_tools.database.databases import Databases  # noqa: PLC0415 - costs
    from trio_tools.database.results import DatabaseConfig  # noqa: PLC0415

    configured = context.services.databases
    if name is not None or configured.names:
        yield configured, name or configured.names[0]
        return
    with _empty_file() as path:
        empty = DatabaseConfig("empty", f"sqlite:///{path}")
        limiter = context.limiter("query_database")
        async with Databases([empty], limiter=limiter) as databases:
            yield databases, "empty"


@contextmanager
def _empty_file() -> Generator[Path]:
    """Yield an empty file, which SQLite opens as a database without tables."""
    with TemporaryDirectory(prefix="trio-tools-") as folder:
        path = Path(folder, "empty.db")
        path.touch()
        yield path


def _timed_out(seconds: float, most: float) -> TimedOut:
    longer = min(2 * seconds, most)
    retry = f"Retry with timeout_seconds={longer:g} or break" if longer > seconds else "Break it"
    return TimedOut(
        f"Query timed out after {seconds:g}s",
        remediation=f"{retry} into smaller queries",
        data={
            "timeout_seconds": seconds,
            "suggestion": "Consider increasing timeout or simplifying query",
            "maximum": most,
        },
    )
