"""A call of a batch-like tool: an operation over many items, answered in time.

The batch belongs to the store, not to the call. So when the call ends (its budget, its caller,
`cancel_operation`, the server's end), finished outcomes are kept and readable, and the same call
with the same `operation_id` runs only what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trio import move_on_after

from nursery_patterns import current_request, time_budget
from trio_tools.answers.errors import InvalidArgument
from trio_tools.live.datasets import DatasetStart
from trio_tools.live.operations import make_operation, run_failed_again, working
from trio_tools.operations.builtin.crawl import Crawl
from trio_tools.operations.operation import Operation
from trio_tools.operations.output_state import OutputState
from trio_tools.operations.store import new_operation_id
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.tools.batches.answers import Timing, answer_of
from trio_tools.tools.batches.background import (
    HowToGoOn,
    find_operation,
    go_on_in_background,
)
from trio_tools.tools.batches.output import check_output, with_output, write_output
from trio_tools.tools.batches.progress import run_with_progress
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import BatchOptions
from trio_tools.tools.declaring.declaration import check_count


@dataclass(frozen=True)
class BatchRequest(BatchOptions):
    """The request of a batch-like tool: the options, the operation and its items.

    Attributes:
        operation: What is done to each item.
        items: As the caller gave them.
        items_argument: The argument they came in, for messages.
        checked: Whether they were checked and are as the operation takes them.
        retry: `"failed"` to run the failed and timed out items of an earlier call again.
        source: The crawl whose pages are the items; then `items` only tell this request from
            others.
        dataset: Where the items come from if they are those of a whole dataset.
    """

    operation: Operation
    items: list[Any]
    items_argument: str = "items"
    checked: bool = False
    retry: Literal["failed"] | None = None
    source: Crawl | None = None
    dataset: DatasetStart | None = None


async def go_on(call: Call, missing: str, how: BatchOptions, **options: Any) -> Answer:
    """Resume an earlier operation of the caller, whose items need not be given again.

    Args:
        call: The call.
        missing: The arguments that were not given, for messages.
        how: The options of the call; their `operation_id` selects the operation.
        options: Other attributes of a `BatchRequest`.

    Raises:
        InvalidArgument: No id was given, or one of another tool.
        NotFound: The caller has no operation with that id.
    """
    operation_id = how.operation_id
    if operation_id is None:
        raise InvalidArgument(
            f"{missing} is missing: give it, or an operation_id alone to go on with what is "
            "missing of an earlier call"
        )
    kept = await find_operation(call, operation_id)
    if kept.tool != call.tool:
        raise InvalidArgument(
            f"operation_id {operation_id!r} belongs to a call of {kept.tool}: go on with that tool",
            error_code="OPERATION_MISMATCH",
        )
    operation, items = kept.work.operation, kept.request[1]
    return await run_batch_call(call, BatchRequest(operation, items, **asdict(how), **options))


async def run_batch_call(call: Call, request: BatchRequest) -> Answer:
    """Run the operation over the items, and answer within the budget with all finished outcomes.

    The budget starts when the call arrives, so it includes the time in the queue.

    Raises:
        InvalidArgument: An argument is out of its bounds, or the operation id is taken.
    """
    check_count(request.items_argument, len(request.items), call.state.settings.max_items)
    limits = call.state.limits_of(request.operation.limit_name)
    concurrency = limits.concurrency_for(request.max_concurrent)
    seconds = call.limits.seconds_for(request.timeout_seconds)
    item_seconds = call.limits.item_seconds_for(request.item_timeout_seconds)
    if item_seconds is None:
        item_seconds = request.operation.item_timeout_seconds
    background_seconds = call.background_seconds_for(request.background_timeout_seconds)
    name, output = request.output_file, None
    if name is not None:
        output = OutputState(name, str(await check_output(call.state, name)))
    if not request.background:
        # After it, the answer names all items that are missing.
        with move_on_after(max(0.0, seconds - call.waited)):
            await call.state.prepare(request.operation)
    kept = await _open(call, request)
    if request.retry == "failed":
        run_failed_again(call.state, kept)
    if not kept.running:
        kept.note_output(output)
    if request.background:
        how = HowToGoOn(concurrency, item_seconds, background_seconds)
        answer = await go_on_in_background(call, kept, how)
    else:
        answer = await _run(call, kept, concurrency, seconds, item_seconds, detail=request.detail)
    return await _with_file(call, kept, answer)


async def resume_call(call: Call, kept: StoredOperation) -> Answer:
    """Resume a stored operation, with the timeout of a background operation.

    Raises:
        InvalidArgument: It cannot be resumed, or another server runs it.
    """
    _refuse_what_cannot_go_on(kept)
    operation = kept.work.operation
    concurrency = call.state.limits_of(operation.limit_name).concurrency_for(None)
    seconds = call.background_seconds_for(None)
    answer = await _run(call, kept, concurrency, seconds, operation.item_timeout_seconds)
    return await _with_file(call, kept, answer)


async def stored_answer(call: Call, kept: StoredOperation, how: Mapping[str, Any]) -> Answer:
    """Return the answer that the call of an operation would give, if another server ran it.

    Args:
        call: The requesting call.
        kept: The operation.
        how: As stored with it: `seconds` and `concurrency`.
    """
    await call.state.store.settled(kept)  # nothing is reported before it is committed
    timing = Timing(0.0, how["seconds"], expired=False)
    answer = await answer_of(call, kept, kept.batch.report(), timing, how["concurrency"], "full")
    return with_output(answer, kept)


async def _with_file(call: Call, kept: StoredOperation, answer: Answer) -> Answer:
    """Write the output file of an ended operation, and name it in the answer."""
    if kept.output is None:
        return answer
    if not kept.goes_on:
        await write_output(call.state, kept)
    return with_output(answer, kept)


async def _run(
    call: Call,
    kept: StoredOperation,
    concurrency: int,
    seconds: float,
    item_seconds: float | None,
    *,
    detail: str = "full",
) -> Answer:
    """Run the operation within the budget, and answer."""
    waited, was_background = call.waited, kept.background
    tell_last = None
    async with working(call.state, kept):
        with time_budget(max(0.0, seconds - waited)) as budget:
            kept.deadline = budget.scope.deadline
            begun = call.state.when_begun.pop((kept.owner, kept.operation_id), None)
            if begun is not None:
                begun(kept)
            if call.state.drained:
                kept.stop()
            # An earlier batch that is resumed uses the options of this call.
            kept.interrupted = ""
            kept.batch.limit = concurrency
            kept.batch.item_timeout = item_seconds
            with call.state.counting_items(call.tool, kept.batch):
                tell_last = await run_with_progress(call, kept)
        kept.background = was_background  # an ended task is not resumed
    # Nothing is reported before it is committed. One commit has the last outcomes and the end of
    # the lease.
    await call.state.store.settled(kept)
    if tell_last is not None:
        await tell_last()
    report = kept.batch.report()
    call.state.pace_of(kept.work.operation.limit_name).add(report)
    timing = Timing(waited + budget.elapsed, waited + budget.seconds, expired=budget.expired)
    return await answer_of(call, kept, report, timing, concurrency, detail)


async def _open(call: Call, request: BatchRequest) -> StoredOperation:
    """Make the operation, or find the earlier one of that id."""
    operation, state = request.operation, call.state
    items = request.items
    if not request.checked:
        items = operation.check_items(items, name=request.items_argument)
    if request.operation_id is not None:
        await state.store.recall(request.operation_id, call.client_id)
    kept = state.store.open(
        make_operation(
            state,
            operation,
            items,
            given=request.items,
            operation_id=request.operation_id or new_operation_id(),
            owner=call.client_id,
            tool=call.tool,
            source=request.source,
            dataset=request.dataset,
        )
    )
    _refuse_what_cannot_go_on(kept)
    context = current_request()
    if not kept.running:
        kept.request_id = context.request_id if context else None
    return kept


def _refuse_what_cannot_go_on(kept: StoredOperation) -> None:
    if kept.cannot_go_on:
        raise InvalidArgument(
            f"operation {kept.operation_id!r} cannot go on: {kept.cannot_go_on}. Read what it did "
            "with get_operation, and use another operation_id for what is missing.",
            error_code="CANNOT_GO_ON",
        )
