"""`process_large_dataset`: an operation over a dataset, a chunk in each call.

Between calls nothing is held open: the cursor says where the next chunk begins. What is wrong with
a record is that item's failure and stops nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath
from typing import Annotated, Any, NamedTuple

from mcp.types import ToolAnnotations
from pydantic import AfterValidator, Field

from nursery_patterns import Counts
from trio_tools.answers.errors import InvalidArgument, NotFound, brief_repr
from trio_tools.answers.json_values import json_bytes
from trio_tools.files.records import DatasetItem
from trio_tools.files.roots import FileRoots
from trio_tools.operations.operation import BadItem, Operation, Texts
from trio_tools.settings import DatasetSettings
from trio_tools.settings.threads import run_in_tool_thread
from trio_tools.tools.batches.calls import BatchRequest, Timing, counts_of, run_batch_call
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaration import (
    Background,
    BackgroundSeconds,
    BudgetSeconds,
    ItemTimeoutSeconds,
    MaxConcurrent,
    OperationId,
    Tool,
)
from trio_tools.tools.naming import dataset_names, has_datasets, operation_names

# They become part of each item.
_MAX_OPTIONS_BYTES = 20_000


def _check_options(options: dict[str, Any] | None) -> dict[str, Any] | None:
    size = len(json_bytes(options))
    if size > _MAX_OPTIONS_BYTES:
        raise ValueError(
            f"at most {_MAX_OPTIONS_BYTES:,} bytes are allowed, got {size:,}: shorten them"
        )
    return options


class Record(NamedTuple):
    """One record of a dataset: a JSON value, or the reason why there is none."""

    label: str
    value: Any
    error: str | None = None


class Chunk(NamedTuple):
    """Records in the order of the dataset, and where the next chunk begins; None at the end."""

    records: list[Record]
    following: Any
    warnings: tuple[str, ...] = ()


async def process_large_dataset(
    call: Call,
    *,
    dataset: Annotated[
        str,
        Field(
            description="Configured name, or path of a folder or file (several: logs/*.csv.gz) "
            "of JSON, JSON lines, CSV, text, Parquet or Excel."
        ),
    ],
    operation: Annotated[str, Field(description="As of batch_process.")],
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
    max_concurrent: MaxConcurrent = None,
    timeout_seconds: BudgetSeconds = None,
    item_timeout_seconds: ItemTimeoutSeconds = None,
    operation_id: OperationId = None,
    background: Background = False,
    background_timeout_seconds: BackgroundSeconds = None,
) -> Answer:
    """Run an operation over a dataset, a chunk in each call, which says how to go on.

    Records are {"path": …} for a folder, objects for a table or CSV.
    """
    found = await call.state.operations.look_up(operation)
    most = call.state.settings.max_items
    if chunk_size > most:
        raise InvalidArgument(
            f"chunk_size must be at most {most}, got {chunk_size}: lower it",
            data={"argument": "chunk_size", "maximum": most},
        )
    with call.time_limit(timeout_seconds):
        chunk = await _read(call, dataset, _position(call, dataset, cursor), chunk_size)
    if not chunk.records:
        return _nothing(call, found, dataset, max_concurrent, timeout_seconds)
    items = [_item(found, record, fields, options or {}) for record in chunk.records]
    answer = await run_batch_call(
        call,
        BatchRequest(
            operation=found,
            items=items,
            items_argument="chunk_size",
            checked=True,
            max_concurrent=max_concurrent,
            timeout_seconds=timeout_seconds,
            item_timeout_seconds=item_timeout_seconds,
            operation_id=operation_id,
            background=background,
            background_timeout_seconds=background_timeout_seconds,
        ),
    )
    return _with_next_chunk(call, answer, dataset, chunk)


def _nothing(
    call: Call,
    operation: Operation,
    dataset: str,
    max_concurrent: int | None,
    timeout_seconds: float | None,
) -> Answer:
    summary = f"{brief_repr(dataset)} has no records from there on."
    concurrency = call.state.limits_of(operation.limit_name).concurrency_for(max_concurrent)
    timing = Timing(call.waited, call.limits.seconds_for(timeout_seconds), expired=False)
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


async def _read(call: Call, dataset: str, position: Any, size: int) -> Chunk:
    configured = call.state.settings.datasets
    files = call.state.services.files
    known = configured.get(dataset)
    if known is None:
        known = DatasetSettings.model_validate({"path": dataset})
        # What has no suffix is the name of a dataset, if it is no folder.
        if not PurePath(dataset).suffix and not await run_in_tool_thread(files.is_folder, dataset):
            raise NotFound(
                f"no dataset is named {brief_repr(dataset)}, nor is a folder; there are: "
                f"{', '.join(configured) or 'none'}. Name one, or the path of a file or folder.",
                error_code="UNKNOWN_DATASET",
                data={"datasets": list(configured)},
            )
    if known.path is None:
        return await _read_table(call, known, position, size)
    return await run_in_tool_thread(_read_path, files, known, position, size)


def _read_path(roots: FileRoots, known: DatasetSettings, position: str | None, size: int) -> Chunk:
    from trio_tools.files.datasets import Dataset, DatasetKind  # noqa: PLC0415 - few need it

    assert known.path is not None
    kind = None if known.kind is None else DatasetKind(known.kind)
    if kind is None and roots.is_folder(known.path):
        kind = DatasetKind.FOLDER
    dataset = Dataset(roots, known.path, kind, known.encoding, known.delimiter)
    chunk = dataset.read_chunk(position, size)
    if kind is DatasetKind.FOLDER:
        records = [
            Record(item.value or f"file {item.number}", {"path": item.value}, item.error)
            for item in chunk.items
        ]
    else:
        records = [Record(_label(item), item.value, item.error) for item in chunk.items]
    return Chunk(records, chunk.next_position, chunk.warnings)


def _label(item: DatasetItem) -> str:
    return f"{item.source} line {item.number}" if item.source else f"line {item.number}"


async def _read_table(call: Call, known: DatasetSettings, after: Any, size: int) -> Chunk:
    from trio_tools.database.tables import Table  # noqa: PLC0415 - few need it

    assert known.database is not None
    assert known.table is not None
    assert known.key is not None
    seconds = call.limits.declared.max_timeout_seconds
    databases = call.state.services.databases
    table = Table(databases, known.database, known.table, known.key, seconds)
    chunk = await table.read_chunk(after, size)
    records = [Record(f"{known.key} {row[known.key]}", row) for row in chunk.rows]
    return Chunk(records, chunk.last_key)


def _item(
    operation: Operation, record: Record, fields: dict[str, str] | None, options: dict[str, Any]
) -> Any:
    """Return the item that a record makes, or what stands for it and fails."""
    if record.error is not None:
        return BadItem(record.label, record.error)
    value = record.value
    try:
        if fields is not None:
            value = {name: value[key] for name, key in fields.items()}
        value = {**value, **options} if options else value
    except (KeyError, TypeError) as error:
        reason = f"the record has no fields, or lacks {error}: see its keys, and `fields`"
        return BadItem(record.label, f"{record.label}: {reason}")
    try:
        return operation.check_item(value)
    except (TypeError, ValueError) as error:
        reason = str(error)
    return BadItem(record.label, f"{record.label}: {reason}")


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


def _with_next_chunk(call: Call, answer: Answer, dataset: str, chunk: Chunk) -> Answer:
    """Add where the next chunk begins; what is left of this one stays with its operation."""
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
    )


PROCESS_LARGE_DATASET = Tool(
    fn=process_large_dataset,
    title="Process a dataset",
    execution="as the operation declares",
    annotations=ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
    ),
    by_operation=True,
    names={"operation": operation_names, "dataset": dataset_names},
    listed=has_datasets,
)
