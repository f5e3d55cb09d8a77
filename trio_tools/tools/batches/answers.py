"""The answer of a batch call: its summary, counts, outcomes, warnings, and how to continue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nursery_patterns import Counts, Report
from trio_tools.answers.texts import counted
from trio_tools.operations.item_runner import Result
from trio_tools.operations.store import StoredOperation
from trio_tools.tools.batches.pagination import Pages, ShownOutcomes, operation_uri
from trio_tools.tools.batches.progress import known_total
from trio_tools.tools.call import Answer, Call

_A_FEW = 3  # outcomes of each kind in a short answer
_TIGHT = 0.8  # share of a budget above which a larger call may exceed it


@dataclass(frozen=True)
class Timing:
    """The use of a call's time, in seconds since it arrived."""

    elapsed: float
    seconds: float
    expired: bool

    @property
    def tight(self) -> bool:
        """Whether more than 80 % of the time was used."""
        return self.elapsed > _TIGHT * self.seconds

    def as_data(self) -> dict[str, float]:
        """Return the timing in the form of every answer."""
        return {
            "elapsed_seconds": round(self.elapsed, 3),
            "timeout_seconds": round(self.seconds, 3),
            "headroom_seconds": round(max(0.0, self.seconds - self.elapsed), 3),
        }


async def answer_of(
    call: Call,
    kept: StoredOperation,
    report: Report[Any, Result],
    timing: Timing,
    concurrency: int,
    detail: str,
) -> Answer:
    """Return the answer of a call: the outcomes that fit, and the cursor for the rest.

    Args:
        call: The call.
        kept: The operation.
        report: The report of its batch.
        timing: The use of the call's time.
        concurrency: Limit of items in flight.
        detail: `"full"`, `"errors"` or `"summary"`.
    """
    counts = report.counts
    pages = Pages(kept, call.state.cursors, call.state.settings.max_output_chars)
    few = None if detail == "full" else _A_FEW
    shown = await pages.that_fit(report, few, few if detail == "summary" else None)
    summary = _summary(kept, report, timing)
    data = {
        "summary": summary,
        "counts": {**counts_of(counts), "concurrency_limit": concurrency},
        "complete": report.complete,
        "results": shown.results,
        "errors": shown.errors or None,
        "timing": timing.as_data(),
        "operation_id": kept.operation_id,
    }
    pagination, total = None, known_total(counts)
    if shown.cursor:
        pagination = {"cursor": shown.cursor, "remaining": shown.left_out, "total": total}
    warnings = _warnings(call, kept, report, timing, shown)
    is_plain = not (warnings or pagination or shown.errors)
    return Answer(
        summary=summary,
        data=data,
        told=shown.told,
        text=_closing(kept, timing, concurrency),
        warnings=warnings,
        pagination=pagination,
        link=link_to(call, kept),
        lean_data=_lean_data(kept, shown) if is_plain else None,
    )


def _lean_data(kept: StoredOperation, shown: ShownOutcomes) -> dict[str, Any]:
    """Return the data of a batch in which every item succeeded, and all results are shown."""
    results, lean = shown.results, kept.work.operation.lean
    if lean is not None:
        results = [{**result, "value": lean(result["value"])} for result in results]
    return {"complete": True, "results": results}


def _summary(kept: StoredOperation, report: Report[Any, Result], timing: Timing) -> str:
    counts = report.counts
    parts = [f"{counts.succeeded} of {known_total(counts)} succeeded"]
    names = ("failed", "timed_out", "cancelled", "not_started")
    parts += [f"{n} {name.replace('_', ' ')}" for name in names if (n := getattr(counts, name))]
    told = f"{kept.batch.name}: {', '.join(parts)}, in {timing.elapsed:.3g} s"
    if report.complete:
        return f"{told}."
    why = "it was stopped"
    if timing.expired:
        why = f"the {timing.seconds:g} s were up"
    elif kept.interrupted:
        why = "its results leave no room for more"
    return f"{told} ({why})."


def _warnings(
    call: Call,
    kept: StoredOperation,
    report: Report[Any, Result],
    timing: Timing,
    shown: ShownOutcomes,
) -> list[str]:
    counts = report.counts
    warnings = trouble_of(call)
    bad = counts.failed + counts.timed_out
    if bad:
        warnings.append(
            f"{bad} of {counted(known_total(counts), 'item')} failed or timed out: "
            "see `errors` for each and its reason."
        )
    if not report.complete:
        if kept.interrupted:
            warnings.append(f"It ended early: {kept.interrupted}.")
        warnings.append(how_to_go_on(kept, counts))
    elif timing.tight:
        warnings.append(
            f"{timing.elapsed:.3g} of {timing.seconds:g} s were used, so a larger call may not "
            "finish: allow more time or fewer items."
        )
    if shown.cursor:
        warnings.append(
            f"This answer leaves out {counted(shown.left_out, 'outcome')}: read on with "
            f'get_operation(operation_id="{kept.operation_id}", cursor="{shown.cursor}").'
        )
    return warnings


def how_to_go_on(kept: StoredOperation, counts: Counts) -> str:
    """Return how many items of an operation are missing, and how the caller continues them."""
    count = counts.cancelled + counts.not_started
    missing, are = ("1", "item is") if count == 1 else (str(count), "items are")
    how = f'repeat the call with operation_id="{kept.operation_id}".'
    if counts.total is None:
        return f"{missing} known {are} not done, and more may follow. To go on with them, {how}"
    return f"{missing} {are} not done. To go on with just those, {how}"


def _closing(kept: StoredOperation, timing: Timing, concurrency: int) -> str:
    used, seconds, left = timing.as_data().values()
    return (
        f"operation_id {kept.operation_id}, {concurrency} at once, {used} of {seconds} s used, "
        f"{left} left"
    )


def link_to(call: Call, kept: StoredOperation) -> str:
    """Return the URI for the link in an answer; empty if answers have no links."""
    if not call.state.settings.answers_link_resources:
        return ""
    return operation_uri(kept.operation_id)


def trouble_of(call: Call) -> list[str]:
    """Return warnings that outcomes are not on the disk, and that limits are not shared."""
    shared = call.state.services.shared_limits
    told = [shared.warning()] if shared is not None and shared.trouble else []
    trouble = call.state.store.trouble
    if not trouble:
        return told
    lost = "What finished is kept in memory only, and is lost if this server ends"
    return [f"{lost}: the state cannot be written ({trouble}).", *told]


def counts_text(counts: Counts) -> str:
    """Return the counts in the form of a text."""
    return ", ".join(f"{name} {count}" for name, count in counts_of(counts).items())


def counts_of(counts: Counts) -> dict[str, Any]:
    """Return the counts in the form of every answer."""
    return {
        "total": known_total(counts),
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "timed_out": counts.timed_out,
        "cancelled": counts.cancelled,
        "not_started": counts.not_started,
    }
