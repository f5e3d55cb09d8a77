"""Operations of one server: made for a call, brought back from the disk, and worked on."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from nursery_patterns import Batch, Frontier, Journal, Outcome, Status
from trio_tools.answers.errors import InvalidArgument, NotFound, ToolFailure
from trio_tools.live.state import ServerState
from trio_tools.operations.durable.records import (
    Record,
    StoredOutcome,
    restored_name,
    schema_mark,
)
from trio_tools.operations.durable.writer import ItemJournal, OperationJournal, Writer
from trio_tools.operations.item_runner import ItemRunner, Result
from trio_tools.operations.operation import BadItem, Operation
from trio_tools.operations.store import StoredOperation
from trio_tools.operations.timeline import Timeline


def make_operation(
    state: ServerState,
    operation: Operation,
    items: Sequence[Any],
    *,
    given: list[Any],
    operation_id: str,
    owner: str,
    tool: str,
    source: Frontier[Any] | None = None,
) -> StoredOperation:
    """Make a new operation over items. It is kept when the store has opened it.

    Args:
        state: The live server.
        operation: What is done to each item.
        items: As the operation takes them.
        given: As the caller gave them, or what stands for one that there is not.
        operation_id: Names it.
        owner: The client that may see it.
        tool: The tool that was called.
        source: Items that grow, in place of `items`; what becomes of them is not stored beyond
            memory, since the next start could not find the same ones.
    """
    request = (operation.name, given)
    if source is not None:
        return _over(state, operation, source, given, None, (operation_id, owner, tool, request))
    journal = state.store.journal(operation_id, owner, tool, operation, _storable(request))
    return _over(state, operation, items, given, journal, (operation_id, owner, tool, request))


async def revive(
    state: ServerState,
    writer: Writer,
    record: Record,
    ended: dict[int, StoredOutcome],
    started: set[int],
) -> StoredOperation:
    """Bring an operation back from what was stored of it.

    One whose function is not there any more, or takes other items, can be read all the same.
    """
    name, given = _restored(record.request)
    operation, why_not = await _operation_of(state, name, record.schema)
    items: list[Any] = given
    if not why_not:
        try:
            items = [
                item if isinstance(item, BadItem) else operation.check_items([item])[0]
                for item in given
            ]
        except InvalidArgument as error:
            why_not = f"its items do not fit the operation {name!r} any more ({error})"
    outcomes = [_outcome(stored, items[index], state) for index, stored in ended.items()]
    if operation.at_most_once:
        outcomes += [_lost(index, items[index]) for index in started]
    journal = OperationJournal(writer, record, outcomes)
    ids = (restored_name(record.operation_id), restored_name(record.owner), record.tool)
    kept = _over(state, operation, items, given, journal, (*ids, (name, given)))
    journal.batch = kept.batch
    kept.background = record.background
    kept.cannot_go_on = why_not
    kept.work.restored(outcomes)
    return kept


def run_failed_again(state: ServerState, kept: StoredOperation) -> None:
    """Let the next run of an operation do its failed and timed out items once more.

    What succeeded stays. Nothing is done to an operation that runs.
    """
    batch, operation = kept.batch, kept.work.operation
    if kept.running:
        return
    outcomes = batch.report().outcomes
    again = {Status.FAILED, Status.TIMED_OUT}
    if not any(outcome.status in again for outcome in outcomes):
        return
    kept.batch = Batch(
        kept.work.run,
        [outcome.item for outcome in outcomes],
        limiter=None
        if operation.takes_own_place
        else state.limits_of(operation.limit_name).limiter,
        bucket=operation.bucket,
        name=batch.name,
        journal=_Retried(kept.journal, [o for o in outcomes if o.succeeded]),
        observer=kept.timeline,
    )
    if kept.journal is not None:
        kept.journal.batch = kept.batch


class _Retried(Journal[Any, Result]):
    """The journal of a batch that goes on with the failed items of an earlier one."""

    def __init__(self, journal: ItemJournal | None, kept: list[Outcome[Any, Result]]) -> None:
        self._journal = journal
        self._kept = kept

    def outcomes(self) -> list[Outcome[Any, Result]]:
        return self._kept

    def started(self, index: int, item: Any) -> None:
        if self._journal is not None:
            self._journal.started(index, item)

    def ended(self, outcome: Outcome[Any, Any]) -> None:
        if self._journal is not None:
            self._journal.ended(outcome)

    async def ready(self) -> None:
        if self._journal is not None:
            await self._journal.ready()


@asynccontextmanager
async def working(state: ServerState, kept: StoredOperation) -> AsyncGenerator[None]:
    """Work on an operation within the block, alone; `stop` cuts the block short.

    Raises:
        InvalidArgument: Another call is at work on it, or another server.
    """
    with kept.at_work():
        await state.store.begin(kept)
        try:
            yield
        finally:
            state.store.end(kept)


def _over(
    state: ServerState,
    operation: Operation,
    items: Sequence[Any] | Frontier[Any],
    given: Sequence[Any],
    journal: ItemJournal | None,
    names: tuple[str, str, str, Any],
) -> StoredOperation:
    operation_id, owner, tool, request = names
    work = ItemRunner(
        operation,
        given,
        page_bytes=state.page_bytes,
        reserve=partial(state.store.reserve, owner),
        journal=journal,
    )
    shared = state.limits_of(operation.limit_name).limiter
    batch: Batch[Any, Result] = Batch(
        work.run,
        items,
        limiter=None if operation.takes_own_place else shared,
        bucket=operation.bucket,
        name=operation.name,
        journal=journal,
        observer=(timeline := Timeline()),
    )
    return StoredOperation(
        operation_id=operation_id,
        owner=owner,
        tool=tool,
        request=request,
        work=work,
        batch=batch,
        timeline=timeline,
        journal=journal if isinstance(journal, OperationJournal) else None,
    )


async def _operation_of(state: ServerState, name: str, schema: str) -> tuple[Operation, str]:
    """Return the operation of that name, or one to read results with and why there is none."""
    try:
        operation = await state.operations.look_up(name)
    except ToolFailure:
        absent = Operation(name="absent", fn=_absent)
        return absent, f"this server has no operation {name!r} any more"
    if schema_mark(operation.item_schema()) != schema:
        return operation, f"the items of operation {name!r} have another schema now"
    return operation, ""


async def _absent(item: Any) -> Any:
    raise NotFound(f"there is no function any more for {item!r}")


_BAD = "\x00bad item"


def _storable(request: tuple[str, list[Any]]) -> Any:
    """Return a request with what stands for items that there are not as plain values."""
    name, given = request
    bad = {index: [i.label, i.reason] for index, i in enumerate(given) if isinstance(i, BadItem)}
    items = [None if index in bad else item for index, item in enumerate(given)] if bad else given
    return {"operation": name, "items": items, **({"bad": bad} if bad else {})}


def _restored(request: bytes) -> tuple[str, list[Any]]:
    told = json.loads(request)
    given: list[Any] = told["items"]
    for index, (label, reason) in told.get("bad", {}).items():
        given[int(index)] = BadItem(label, reason)
    return told["operation"], given


def _outcome(stored: StoredOutcome, item: Any, state: ServerState) -> Outcome[Any, Result]:
    if stored.status is Status.SUCCEEDED:
        value = Result.of_json(stored.json, page_bytes=state.page_bytes)
        return Outcome(stored.index, item, stored.status, value, None, stored.elapsed)
    return Outcome(stored.index, item, stored.status, None, stored.failure(), stored.elapsed)


def _lost(index: int, item: Any) -> Outcome[Any, Result]:
    failure = ToolFailure(
        "The server ended while this item was worked on, and it must not be done twice: look "
        "whether it was done.",
        error_code="LOST",
    )
    return Outcome(index, item, Status.FAILED, None, failure)
