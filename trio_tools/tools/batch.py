"""`batch_process`, and `get_operation` and `cancel_operation` for its stored outcomes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from mcp.types import ToolAnnotations
from pydantic import Field

from nursery_patterns import Counts
from trio_tools.answers.errors import InvalidArgument
from trio_tools.answers.texts import Told
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.tools.batches.answers import counts_of, counts_text, how_to_go_on, trouble_of
from trio_tools.tools.batches.background import (
    find_operation,
    stop_for_good,
    wait_for_news,
)
from trio_tools.tools.batches.calls import BatchRequest, go_on, run_batch_call
from trio_tools.tools.batches.output import with_output
from trio_tools.tools.batches.pagination import Page, Pages, Part
from trio_tools.tools.batches.progress import known_total
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import USUAL, BatchOptions, Retry
from trio_tools.tools.declaring.declaration import Tool
from trio_tools.tools.declaring.naming import operation_lines, operation_names


async def batch_process(
    call: Call,
    *,
    operation: Annotated[str | None, Field(description="What to do with each.")] = None,
    items: Annotated[
        list[Any] | None, Field(description="As listed above; or plain values.")
    ] = None,
    retry: Retry = None,
    how: BatchOptions = USUAL,
) -> Answer:
    """Run an operation over many items. Answers in time with what finished, and names the rest."""
    if operation is None and items is None:
        return await go_on(call, "operation and items", how, retry=retry)
    if operation is None or items is None:
        missing = "operation" if operation is None else "items"
        raise InvalidArgument(f"{missing} is missing. Correct that and call batch_process again.")
    found = await call.state.operations.look_up(operation)
    return await run_batch_call(call, BatchRequest(found, items, retry=retry, **asdict(how)))


async def get_operation(
    call: Call,
    *,
    operation_id: Annotated[str, Field(max_length=128, description="From an answer.")],
    cursor: Annotated[str | None, Field(description="Where to go on.")] = None,
    page_size: Annotated[int, Field(gt=0, le=1_000, description="Most outcomes of a page.")] = 100,
    wait_seconds: Annotated[
        float, Field(ge=0, le=50, description="While it runs, wait that long for news.")
    ] = 0,
) -> Answer:
    """Read what an operation has finished so far, also after its call was cancelled."""
    kept = await find_operation(call, operation_id)
    if wait_seconds:
        kept = await wait_for_news(call, kept, wait_seconds)
    pages = Pages(kept, call.state.cursors, call.state.settings.max_output_chars)
    counts = kept.batch.progress.value
    data: dict[str, Any] = {
        "operation_id": operation_id,
        "tool": kept.tool,
        "operation": kept.batch.name,
        "running": kept.running,
        "complete": counts.complete,
        "counts": counts_of(counts),
    }
    state = "running" if kept.running else "complete" if counts.complete else "not complete"
    summary = f"{kept.batch.name} is {state}: {counts.done} of {known_total(counts)} done"
    match await pages.read(cursor, page_size):
        case Page(outcomes, told, following):
            data["outcomes"] = outcomes
            summary = f"{summary}; {len(outcomes)} outcomes on this page."
        case Part(index, offset, text, total, following):
            data |= {"index": index, "offset": offset, "json_part": text, "json_chars": total}
            told = [Told(f"[{index}] characters {offset} to {offset + len(text)} of {total}", text)]
            summary = f"{summary}; characters {offset} to {offset + len(text)} of result {index}."
    pagination = {"cursor": following, "page_size": page_size, "total": known_total(counts)}
    await call.state.store.settled(kept)  # nothing is reported before it is committed
    answer = Answer(
        summary=summary,
        data=data,
        told=told,
        text="\n".join(filter(None, (_closing(data, counts), _following(following)))),
        warnings=[*trouble_of(call), *_warnings(kept, counts)],
        pagination=pagination,
    )
    return with_output(answer, kept)


def _closing(data: dict[str, Any], counts: Counts) -> str:
    return f"operation_id {data['operation_id']} of {data['tool']}; {counts_text(counts)}"


def _following(cursor: str | None) -> str:
    return f'To go on: cursor="{cursor}".' if cursor else ""


def _warnings(kept: StoredOperation, counts: Counts) -> list[str]:
    if kept.running:
        still = "It is running: what ends from now on may lie before the page of a cursor. Read it"
        return [f"{still} again without cursor when it has ended."]
    if counts.complete:
        return []
    if kept.cannot_go_on:
        return [f"It cannot go on: {kept.cannot_go_on}."]
    broken = [f"It ended early: {kept.interrupted}"] if kept.interrupted else []
    return [*broken, how_to_go_on(kept, counts)]


async def cancel_operation(
    call: Call,
    *,
    operation_id: Annotated[str, Field(max_length=128, description="From the status.")],
) -> Answer:
    """Stop a running operation. Its call returns what it has."""
    kept = await find_operation(call, operation_id)
    stopped, kept = await stop_for_good(call, kept)
    counts = kept.batch.progress.value
    await call.state.store.settled(kept)
    answer = Answer(
        summary=(
            f"{operation_id} was stopped with {counts.done} of {known_total(counts)} done."
            if stopped
            else f"{operation_id} was not running; {counts.done} of {known_total(counts)} are done."
        ),
        data={"operation_id": operation_id, "stopped": stopped, "counts": counts_of(counts)},
        told=(),
        text=counts_text(counts),
        warnings=[] if counts.complete else [how_to_go_on(kept, counts)],
    )
    return with_output(answer, kept)


BATCH_PROCESS = Tool(
    fn=batch_process,
    title="Process a batch",
    execution="as the operation declares",
    task="optional",
    annotations=ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
    ),
    by_operation=True,
    names={"operation": operation_names},
    more=operation_lines,
)
GET_OPERATION = Tool(
    fn=get_operation,
    title="Read an operation",
    execution="async, at once",
    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    control=True,
)
CANCEL_OPERATION = Tool(
    fn=cancel_operation,
    title="Stop an operation",
    execution="async, at once",
    annotations=ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    ),
    control=True,
)
