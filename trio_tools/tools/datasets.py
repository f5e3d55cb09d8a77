"""`process_large_dataset`: an operation over a dataset, one chunk per call, or all in one.

Nothing is held open between calls: the cursor is the position of the next chunk. With
`background=true` one operation processes all chunks.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any

from mcp.types import ToolAnnotations
from pydantic import AfterValidator, Field

from nursery_patterns import Counts
from trio_tools.answers.errors import InvalidArgument, brief_repr
from trio_tools.answers.json_values import json_bytes
from trio_tools.live.datasets import DatasetChunk, DatasetRequest, DatasetStart, read_chunk
from trio_tools.operations.item_types import Texts
from trio_tools.operations.operation import Operation
from trio_tools.tools.batches.answers import Timing, counts_of
from trio_tools.tools.batches.calls import BatchRequest, go_on, run_batch_call
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import USUAL, BatchOptions, Retry
from trio_tools.tools.declaring.declaration import Tool
from trio_tools.tools.declaring.naming import dataset_names, has_datasets, operation_names

# They become part of each item.
_MAX_OPTIONS_BYTES = 20_000


def _check_options(options: dict[str, Any] | None) -> dict[str, Any] | None:
    size = len(json_bytes(options))
    if size > _MAX_OPTIONS_BYTES:
        raise ValueError(
            f"at most {_MAX_OPTIONS_BYTES:,} bytes are allowed, got {size:,}: shorten them"
        )
    return options


async def process_large_dataset(
    call: Call,
    *,
    dataset: Annotated[
        str | None,
        Field(
            description="Configured name, or path of a folder or of files (logs/*.csv.gz): JSON, "
            "CSV, text, Parquet, Excel."
        ),
    ] = None,
    operation: Annotated[str | None, Field(description="As of batch_process.")] = None,
    chunk_size: Annotated[int, Field(gt=0, description="Records of this call.")] = 50,
    cursor: Annotated[str | None, Field(description="Where the chunk begins.")] = None,
    fields: Annotated[
        Texts | None,
        Field(description='Item field to record key, as in {"url": "homepage"}.'),
    ] = None,
    options: Annotated[
        dict[str, Any] | None,
        Field(description="Further fields of each item."),
        AfterValidator(_check_options),
    ] = None,
    retry: Retry = None,
    how: BatchOptions = USUAL,
) -> Answer:
    """Run an operation over a dataset, a chunk in each call, which says how to go on.

    background=true goes through all chunks. Records are {"path": …} for a folder, objects for a
    table or CSV.
    """
    if dataset is None and operation is None:
        return await go_on(call, "dataset and operation", how, checked=True, retry=retry)
    if dataset is None or operation is None:
        missing = "dataset" if dataset is None else "operation"
        raise InvalidArgument(f"{missing} is missing. Correct that and call {call.tool} again.")
    found = await call.state.operations.look_up(operation)
    most = call.state.settings.max_items
    if chunk_size > most:
        raise InvalidArgument(
            f"chunk_size must be at most {most}, got {chunk_size}: lower it",
            data={"argument": "chunk_size", "maximum": most},
        )
    start = _position(call, dataset, cursor)
    with call.time_limit(how.timeout_seconds):
        chunk = await read_chunk(call.state, dataset, start, chunk_size)
    if not chunk.records and chunk.following is None:
        return _nothing(call, found, dataset, how)
    asked = DatasetRequest(dataset, start, chunk_size, fields, options or {})
    request = BatchRequest(
        operation=found,
        items=[],
        items_argument="chunk_size",
        checked=True,
        retry=retry,
        **asdict(how),
    )
    if how.background:
        request = replace(request, items=[asked.as_json()], dataset=DatasetStart(asked, chunk))
        answer = await run_batch_call(call, request)
        return _with_all_chunks(answer, chunk)
    items = [asked.item_of(found, record) for record in chunk.records]
    answer = await run_batch_call(call, replace(request, items=items))
    return _with_next_chunk(call, answer, dataset, chunk)


def _nothing(
    call: Call,
    operation: Operation,
    dataset: str,
    how: BatchOptions,
) -> Answer:
    summary = f"{brief_repr(dataset)} has no records from there on."
    concurrency = call.state.limits_of(operation.limit_name).concurrency_for(how.max_concurrent)
    timing = Timing(call.waited, call.limits.seconds_for(how.timeout_seconds), expired=False)
    data: dict[str, Any] = {
        "summary": summary,
        "counts": {**counts_of(Counts(total=0)), "concurrency_limit": concurrency},
        "complete": True,
        "results": [],
        "errors": None,
        "timing": timing.as_data(),
        "operation_id": None,
        "next_cursor": None,
    }
    return Answer(summary=summary, data=data)


def _position(call: Call, dataset: str, cursor: str | None) -> Any:
    if cursor is None:
        return None
    mark = call.state.dataset_cursors.decode(cursor)
    if mark["dataset"] != dataset:
        raise InvalidArgument(
            f"cursor belongs to another dataset than {brief_repr(dataset)}: name that one, or "
            "leave cursor out to start from the beginning",
            error_code="INVALID_CURSOR",
        )
    return mark["at"]


def _with_next_chunk(call: Call, answer: Answer, dataset: str, chunk: DatasetChunk) -> Answer:
    """Add the position of the next chunk. Missing items of this one stay with its operation."""
    following = None
    text = "This was the last chunk."
    if chunk.following is not None:
        mark = {"dataset": dataset, "at": chunk.following}
        following = call.state.dataset_cursors.encode(mark)
        text = f'For the next chunk repeat the call with cursor="{following}", no operation_id.'
    return replace(
        answer,
        data={**answer.data, "next_cursor": following},
        text="\n".join(filter(None, (text, answer.text))),
        warnings=[*answer.warnings, *chunk.warnings],
        pagination={"cursor": following, "page_size": len(chunk.records), "total": None},
        lean_data=None,
    )


def _with_all_chunks(answer: Answer, chunk: DatasetChunk) -> Answer:
    """Add that the next chunks need no further call."""
    return replace(
        answer,
        data={**answer.data, "next_cursor": None},
        text=f"It goes through all chunks by itself. {answer.text}",
        warnings=[*answer.warnings, *chunk.warnings],
        lean_data=None,
    )


PROCESS_LARGE_DATASET = Tool(
    fn=process_large_dataset,
    title="Process a dataset",
    execution="as the operation declares",
    task="optional",
    annotations=ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
    ),
    by_operation=True,
    names={"operation": operation_names, "dataset": dataset_names},
    listed=has_datasets,
    needs="file_roots or datasets",
)
