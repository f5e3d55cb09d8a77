"""How every batch-like tool works: an operation over many items, answered in time, never in vain.

The batch belongs to the store, not to the call. So whatever ends the call (its budget, its caller,
`cancel_operation`, the server's end), what finished is kept and readable, and the same call with
the same `operation_id` does only what is missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import trio

from nursery_patterns import Batch, Counts, Outcome, Report, Status, TimeBudget, time_budget
from trio_tools.errors import InvalidArgument
from trio_tools.explain import explain_outcome
from trio_tools.operations.base import Operation
from trio_tools.store import StoredOperation, new_operation_id
from trio_tools.tools.call import Answer, Call

# Progress goes out at most this often; what happens in between is coalesced.
_PROGRESS_INTERVAL_SECONDS = 0.05
# How long the last progress message may hold up the answer if the client does not read.
_LAST_PROGRESS_SECONDS = 0.05
_MAX_TEXT_LINES = 30


@dataclass(frozen=True)
class BatchRequest:
    """What a batch-like tool was asked to do.

    Attributes:
        operation: What is done to each item.
        items: As the caller gave them.
        items_argument: The argument they came in, for messages.
        max_concurrent: Items in flight; None for the default.
        timeout_seconds: Budget of the call; None for the default.
        item_timeout_seconds: Time of one item; None for no bound of its own.
        operation_id: Chosen by the caller, to find the operation again; None for a new one.
    """

    operation: Operation
    items: list[Any]
    items_argument: str = "items"
    max_concurrent: int | None = None
    timeout_seconds: float | None = None
    item_timeout_seconds: float | None = None
    operation_id: str | None = None


async def run_batch_call(call: Call, request: BatchRequest) -> Answer:
    """Run the operation over the items, and answer with all that finished within the budget.

    Raises:
        InvalidArgument: An argument is out of its bounds, or the operation id is taken.
    """
    _check_size(call, request)
    limits = call.state.limits_of(request.operation.limit_name)
    concurrency = limits.concurrency_for(request.max_concurrent)
    seconds = call.limits.seconds_for(request.timeout_seconds)
    kept = call.state.store.open(_stored(call, request, concurrency))
    kept.batch.limit = concurrency  # also when it is an earlier batch that goes on
    with kept.at_work(), time_budget(seconds) as budget:
        await _run_with_progress(call, kept)
    report = kept.batch.report()
    call.state.pace_of(request.operation.limit_name).add(report)
    return _answer(call, kept, report, budget, concurrency)


def _check_size(call: Call, request: BatchRequest) -> None:
    size, most = len(request.items), call.state.settings.max_items
    if not 1 <= size <= most:
        raise InvalidArgument(
            f"{request.items_argument} takes 1 to {most} items, got {size}: "
            + ("split them over several calls" if size else "give at least one"),
            data={"argument": request.items_argument, "minimum": 1, "maximum": most},
        )


def _stored(call: Call, request: BatchRequest, concurrency: int) -> StoredOperation:
    operation = request.operation
    limits = call.state.limits_of(operation.limit_name)
    return StoredOperation(
        operation_id=request.operation_id or new_operation_id(),
        owner=call.client_id,
        tool=call.tool,
        request=(operation.name, request.items),
        batch=Batch(
            operation.run,
            operation.check_items(request.items, name=request.items_argument),
            limit=concurrency,
            limiter=limits.limiter,
            item_timeout=request.item_timeout_seconds,
            name=operation.name,
        ),
        describe=operation.label_of,
    )


async def _run_with_progress(call: Call, kept: StoredOperation) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_report_progress, call, kept)
        await kept.batch.run()
        nursery.cancel_scope.cancel(reason="the batch is done")
    with trio.move_on_after(_LAST_PROGRESS_SECONDS):
        await _send_progress(call, kept, kept.batch.progress.value)


async def _report_progress(call: Call, kept: StoredOperation) -> None:
    """Tell the caller how it goes; a client that does not read stalls this task and no other."""
    async for counts in kept.batch.progress.eventual_values():  # pyright: ignore[reportUnknownMemberType] - trio-util annotates it loosely
        await _send_progress(call, kept, counts)
        await trio.sleep(_PROGRESS_INTERVAL_SECONDS)


async def _send_progress(call: Call, kept: StoredOperation, counts: Counts) -> None:
    failed = counts.failed + counts.timed_out
    trouble = f", {failed} failed" if failed else ""
    message = f"{kept.operation_id}: {counts.done} of {counts.total} done{trouble}"
    await call.report_progress(counts.done, counts.total, message)


def _answer(
    call: Call,
    kept: StoredOperation,
    report: Report[Any, Any],
    budget: TimeBudget,
    concurrency: int,
) -> Answer:
    counts = report.counts
    results, left_out = _fitting(call, report)
    errors = [_error_of(kept, o) for o in report.outcomes if o.status is not Status.SUCCEEDED]
    summary = _summary(kept, report, budget)
    data = {
        "summary": summary,
        "counts": {**counts_of(counts), "concurrency_limit": concurrency},
        "complete": report.complete,
        "results": results,
        "errors": errors or None,
        "timing": {
            "elapsed_seconds": round(budget.elapsed, 6),
            "timeout_seconds": budget.seconds,
            "headroom_seconds": round(budget.headroom, 6),
        },
        "operation_id": kept.operation_id,
    }
    pagination = None
    if left_out:
        cursor = call.state.cursors.encode({"id": kept.operation_id, "index": left_out[0].index})
        pagination = {"cursor": cursor, "remaining": len(left_out), "total": counts.total}
    return Answer(
        summary=summary,
        data=data,
        text=_text(errors),
        warnings=_warnings(kept, report, budget, len(left_out)),
        pagination=pagination,
    )


def counts_of(counts: Counts) -> dict[str, Any]:
    """Return the counts as every answer shows them."""
    return {
        "total": counts.total,
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "timed_out": counts.timed_out,
        "cancelled": counts.cancelled,
        "not_started": counts.not_started,
    }


def _fitting(call: Call, report: Report[Any, Any]) -> tuple[list[Any], list[Outcome[Any, Any]]]:
    """Split the results into those within the output budget, at least one, and the rest."""
    room = call.state.settings.max_output_chars
    done = [o for o in report.outcomes if o.status is Status.SUCCEEDED]
    for position, outcome in enumerate(done):
        room -= len(json.dumps(outcome.value, default=str, ensure_ascii=False))
        if room < 0 and position > 0:
            return [o.value for o in done[:position]], done[position:]
    return [o.value for o in done], []


def _error_of(kept: StoredOperation, outcome: Outcome[Any, Any]) -> dict[str, Any]:
    failure = explain_outcome(outcome)
    return {
        "item": kept.describe(outcome.item),
        "reason": failure.message,
        "error_code": failure.error_code,
    }


def _summary(kept: StoredOperation, report: Report[Any, Any], budget: TimeBudget) -> str:
    counts = report.counts
    parts = [f"{counts.succeeded} of {counts.total} succeeded"]
    names = ("failed", "timed_out", "cancelled", "not_started")
    parts += [f"{n} {name.replace('_', ' ')}" for name in names if (n := getattr(counts, name))]
    told = f"{kept.batch.name}: {', '.join(parts)}, in {budget.elapsed:.3g} s"
    if report.complete:
        return f"{told}."
    why = f"the {budget.seconds:g} s were up" if budget.expired else "it was stopped"
    return f"{told} ({why})."


def _warnings(
    kept: StoredOperation, report: Report[Any, Any], budget: TimeBudget, left_out: int
) -> list[str]:
    counts = report.counts
    warnings: list[str] = []
    if counts.failed or counts.timed_out:
        warnings.append(
            f"{counts.failed + counts.timed_out} of {counts.total} items have no result: "
            "see `errors` for each and its reason."
        )
    if not report.complete:
        missing = counts.cancelled + counts.not_started
        warnings.append(
            f"{missing} items are not done. To go on with just those, repeat the call with "
            f'operation_id="{kept.operation_id}".'
        )
    elif budget.tight:
        warnings.append(
            f"{budget.elapsed:.3g} of {budget.seconds:g} s were used, so a larger call may not "
            "finish: allow more time or fewer items."
        )
    if left_out:
        warnings.append(
            f"{left_out} results did not fit into this answer and are kept: read them with "
            f'get_operation(operation_id="{kept.operation_id}", cursor=meta.pagination.cursor).'
        )
    return warnings


def _text(errors: list[dict[str, Any]]) -> str:
    lines = [f"{e['error_code']} {e['item']}: {e['reason']}" for e in errors[:_MAX_TEXT_LINES]]
    if len(errors) > _MAX_TEXT_LINES:
        lines.append(f"… and {len(errors) - _MAX_TEXT_LINES} more in `errors`")
    return "\n".join(lines)
