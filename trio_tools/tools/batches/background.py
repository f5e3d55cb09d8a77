"""Operations that continue after their call has answered, and after a restart of the server.

The work is a job of the server. Stopping the server cancels it and leaves it stored as
interrupted, and the next start resumes it.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import trio

from nursery_patterns import request_context
from trio_tools.answers.error_mapping import to_failure
from trio_tools.answers.errors import ServerOverloaded, ToolFailure
from trio_tools.answers.texts import counted
from trio_tools.live.operations import working
from trio_tools.live.state import ServerState
from trio_tools.operations.output_state import OutputState
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.tools.batches.answers import counts_of, counts_text, link_to, trouble_of
from trio_tools.tools.batches.output import write_output
from trio_tools.tools.batches.progress import known_total, run_with_progress
from trio_tools.tools.call import Answer, Call, no_progress

_log = logging.getLogger("trio_tools")

# Seconds between checks for operations that another server has abandoned.
_LOOK_SECONDS = 5.0
_ELSEWHERE_SECONDS = 1.0
_STOP_ELSEWHERE_SECONDS = 5.0
_WAIT_SECONDS = 50
# Factor by which a caller waits longer than for the first outcome, within its time.
_MORE_NEWS = 0.1
_MORE_NEWS_SECONDS = 1.0


@dataclass(frozen=True)
class HowToGoOn:
    """The options of a background operation.

    Attributes:
        concurrency: Limit of items in flight.
        item_seconds: Timeout of one item; None for no bound.
        seconds: Timeout of the whole operation.
    """

    concurrency: int
    item_seconds: float | None
    seconds: float


async def go_on_in_background(call: Call, kept: StoredOperation, how: HowToGoOn) -> Answer:
    """Start the work, and answer at once.

    Raises:
        InvalidArgument: A call or another server runs it.
        ServerOverloaded: The server is about to stop.
    """
    if kept.running:
        kept.refuse_second_call()
    if not kept.batch.progress.value.complete:
        options = {**asdict(how), "until": time.time() + how.seconds}
        kept.background = True
        if call.state.drained or not start_in_background(call.state, kept, options):
            raise ServerOverloaded(
                "This server is about to stop: call again when it is back.",
                data={"retry_after_seconds": 5.0},
            )
        await kept.begun.wait()
    await call.state.store.settled(kept)
    counts = kept.batch.progress.value
    total = known_total(counts)
    known = (
        counted(total, "item") if counts.total is not None else f"{counted(total, 'item')} and more"
    )
    summary = (
        f"{kept.batch.name}: {known} go on in the background as {kept.operation_id}."
        if not counts.complete
        else f"{kept.batch.name}: all {total} items of {kept.operation_id} are done."
    )
    wait = f'get_operation(operation_id="{kept.operation_id}", wait_seconds={_WAIT_SECONDS})'
    elapsed = round(call.waited, 3)
    return Answer(
        summary=summary,
        data={
            "summary": summary,
            "counts": {**counts_of(counts), "concurrency_limit": how.concurrency},
            "complete": counts.complete,
            "results": [],
            "errors": None,
            "timing": {
                "elapsed_seconds": elapsed,
                "timeout_seconds": how.seconds,
                "headroom_seconds": how.seconds,
            },
            "operation_id": kept.operation_id,
            "running": kept.running,
        },
        told=(),
        text=(
            f"Wait for it and read it with {wait}; stop it with cancel_operation.\n"
            f"{counts_text(counts)}; concurrency_limit {how.concurrency}, {how.seconds} s for all "
            f"of it, answered after {elapsed} s"
        ),
        warnings=trouble_of(call),
        link=link_to(call, kept),
    )


def start_in_background(
    state: ServerState, kept: StoredOperation, options: Mapping[str, Any]
) -> bool:
    """Start the work on an operation as a job of the server. False if no connection is served."""
    if kept.journal is not None:
        stored = OutputState.store_in(options, kept.output)
        kept.journal.record.options = json.dumps(stored).encode()
    kept.begun = trio.Event()

    async def job() -> None:
        try:
            with request_context(client_id=kept.owner) as request:
                kept.request_id = request.request_id
                await _work(state, kept, options)
        except ToolFailure as failure:
            # If another server was faster, that is not an error.
            level = logging.INFO if failure.error_code == "OPERATION_RUNNING" else logging.WARNING
            _log.log(level, "%s does not go on in the background: %s", kept.operation_id, failure)
        finally:
            kept.begun.set()

    return state.jobs.start(job)


async def _work(state: ServerState, kept: StoredOperation, options: Mapping[str, Any]) -> None:
    """Run the operation until it is done, stopped, cancelled, or its timeout expires."""
    call = Call(state, kept.tool, kept.owner, no_progress)
    seconds = max(0.0, options["until"] - time.time())
    async with working(state, kept):
        kept.begun.set()
        with trio.move_on_after(seconds) as budget:
            kept.deadline = budget.deadline
            if state.drained:
                kept.stop()
            kept.batch.limit = options["concurrency"]
            kept.batch.item_timeout = options["item_seconds"]
            kept.interrupted = ""
            try:
                with state.counting_items(kept.tool, kept.batch):
                    await run_with_progress(call, kept)
            except* ToolFailure as failures:  # a dataset whose rest cannot be read
                kept.interrupted = to_failure(failures).message
                kept.background = False
        # It is done or its timeout expired, so no server must resume it.
        if budget.cancelled_caught or kept.batch.progress.value.complete:
            kept.background = False
        await state.store.settled(kept)
        if kept.output is not None and not kept.background:
            await write_output(state, kept)
            if kept.output.trouble:
                _log.warning("%s: %s", kept.operation_id, kept.output.trouble)


async def take_up(state: ServerState) -> None:
    """Resume operations that a stop or a crash interrupted, now and from time to time."""
    if not state.settings.state.resume:
        return
    while True:
        for kept in await state.store.parked():
            if kept.running or kept.cannot_go_on or state.drained:
                continue
            assert kept.journal is not None
            options: dict[str, Any] = json.loads(kept.journal.record.options)
            if "task" in options:  # its timeout starts again
                options["until"] = time.time() + options["seconds"]
            if "until" in options:
                _log.info("going on with %s in the background", kept.operation_id)
                start_in_background(state, kept, options)
                await kept.begun.wait()
        await state.store.changed(None, _LOOK_SECONDS)


async def find_operation(call: Call, operation_id: str) -> StoredOperation:
    """Return an operation of the caller, from memory or the store.

    Raises:
        NotFound: It does not exist, or no longer exists.
    """
    await trio.lowlevel.checkpoint()
    await call.state.store.recall(operation_id, call.client_id)
    return call.state.store.find(operation_id, call.client_id)


async def wait_for_news(call: Call, kept: StoredOperation, seconds: float) -> StoredOperation:
    """Wait until more items have ended, and then a little for others; return the operation.

    Args:
        call: The waiting call.
        kept: The operation. If it does not run, this returns at once.
        seconds: Longest wait.
    """
    known = kept.batch.progress.value.done
    with trio.move_on_after(seconds):
        while kept.running and not kept.running_here:  # another server runs it
            await call.state.store.changed(kept, _ELSEWHERE_SECONDS)
            kept = await find_operation(call, kept.operation_id)
            if kept.batch.progress.value.done > known:
                return kept
        if kept.running:
            await kept.ended_or_more_than(known)
            # The first outcome of many is not a reason to answer: most of them may end at once.
            with trio.move_on_after(max(_MORE_NEWS_SECONDS, seconds * _MORE_NEWS)):
                await kept.ended_or_more_than(math.inf)
    return kept


async def stop_for_good(call: Call, kept: StoredOperation) -> tuple[bool, StoredOperation]:
    """Stop an operation so that no start resumes it, and wait until it has ended.

    Another server that runs it has some seconds to end.

    Returns:
        Whether it was running, and its state afterwards.
    """
    if kept.stop(for_good=True):
        await kept.ended_or_more_than(math.inf)
        return True, kept
    kept.background = False
    stopped = await call.state.store.stop_elsewhere(kept)
    with trio.move_on_after(_STOP_ELSEWHERE_SECONDS):
        while stopped and kept.running:
            await call.state.store.changed(kept, _ELSEWHERE_SECONDS)
            kept = await find_operation(call, kept.operation_id)
    return stopped, kept
