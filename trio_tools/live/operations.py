"""Operations of one server: made for a call, restored from the store, and run."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any

from nursery_patterns import Batch, Frontier, Journal, Observer, Outcome, Status
from trio_tools.answers.errors import InvalidArgument, NotFound, ToolFailure
from trio_tools.live.crawls import CRAWL, CrawlJournal, restored_crawl, stored_start
from trio_tools.live.datasets import (
    DatasetItems,
    DatasetRequest,
    DatasetStart,
    restored_items,
    storable_items,
)
from trio_tools.live.state import ServerState
from trio_tools.operations.builtin.crawl import Crawl, CrawlStart
from trio_tools.operations.durable.blobs import Stored, StoredOutcome
from trio_tools.operations.durable.journal import ItemJournal, OperationJournal
from trio_tools.operations.durable.records import Record, restored_name, schema_mark
from trio_tools.operations.durable.writer import Writer
from trio_tools.operations.item_runner import ItemRunner
from trio_tools.operations.item_types import BadItem
from trio_tools.operations.memory_budget import MemoryAccount
from trio_tools.operations.operation import Operation
from trio_tools.operations.output_state import OutputState
from trio_tools.operations.result import Result
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.operations.timeline import Timeline
from trio_tools.settings.telemetry.seam import current_tracing


def make_operation(
    state: ServerState,
    operation: Operation,
    items: Sequence[Any],
    *,
    given: list[Any],
    operation_id: str,
    owner: str,
    tool: str,
    source: Crawl | None = None,
    dataset: DatasetStart | None = None,
) -> StoredOperation:
    """Make a new operation over items. It is kept once the store has opened it.

    Args:
        state: The live server.
        operation: The operation on each item.
        items: The items as the operation takes them.
        given: The items as the caller gave them, or a substitute for an unreadable one.
        operation_id: Its id.
        owner: The client that may see it.
        tool: The tool that was called.
        source: A crawl, whose pages are the items, in place of `items`. What it finds is stored
            with its outcomes.
        dataset: The whole dataset that the items come from, in place of `items`. Records are read
            while earlier ones are processed, and stored when they are read.
    """
    request = (operation.name, given)
    marks = {"dataset": dataset is not None, CRAWL: source is not None}
    stored = {**_storable(request), **{mark: True for mark, holds in marks.items() if holds}}
    journal = state.store.journal(operation_id, owner, tool, operation, stored)
    if dataset is not None:
        read = DatasetItems(state, operation, dataset.request)
        read.journal = journal if isinstance(journal, OperationJournal) else None
        read.add(dataset.chunk)
        return _over(state, operation, read, given, journal, (operation_id, owner, tool, request))
    names = (operation_id, owner, tool, request)
    if source is not None:
        return _over_crawl(state, operation, source, CrawlStart(), journal, names)
    return _over(state, operation, items, given, journal, names)


async def revive(
    state: ServerState,
    writer: Writer,
    record: Record,
    stored: Stored,
) -> StoredOperation:
    """Restore an operation from its stored form.

    If its function no longer exists, or takes other items, its results can still be read.
    """
    told = json.loads(record.request)
    name, given = told["operation"], restored_items(told)
    if CRAWL in told:
        return _revive_crawl(state, writer, record, stored, given)
    operation, why_not = await _operation_of(state, name, record.schema)
    read: DatasetItems | None = None
    items: list[Any] = given
    if "dataset" in told:
        read = DatasetItems(state, operation, DatasetRequest(**given[0]))
        for growth in stored.growth:
            read.restore(growth)
        items = read.items
    elif not why_not:
        try:
            items = [
                item if isinstance(item, BadItem) else operation.check_items([item])[0]
                for item in given
            ]
        except InvalidArgument as error:
            why_not = f"its items do not fit the operation {name!r} any more ({error})"
    outcomes = [_outcome(ended, items[index], state) for index, ended in stored.ended.items()]
    if operation.at_most_once:
        outcomes += [_lost(index, items[index]) for index in stored.started]
    journal = OperationJournal(writer, record, outcomes, stored.growth)
    if read is not None:
        read.journal = journal
    ids = (restored_name(record.operation_id), restored_name(record.owner), record.tool)
    kept = _over(state, operation, read or items, given, journal, (*ids, (name, given)))
    return _restored(kept, journal, record, why_not)


def _revive_crawl(
    state: ServerState, writer: Writer, record: Record, stored: Stored, given: list[Any]
) -> StoredOperation:
    """Restore a crawl: the pages that were added and have no outcome are still to be done."""
    start = stored_start(stored.growth)
    crawl, operation, why_not = restored_crawl(state, given[0], start)
    pages = {index: found for found, index in start.entries if index is not None}
    outcomes = [
        _outcome(ended, pages[index], state)
        for index, ended in stored.ended.items()
        if index in pages
    ]
    journal = OperationJournal(writer, record, outcomes, stored.growth)
    ids = (restored_name(record.operation_id), restored_name(record.owner), record.tool)
    kept = _over_crawl(state, operation, crawl, start, journal, (*ids, (operation.name, given)))
    return _restored(kept, journal, record, why_not)


def _restored(
    kept: StoredOperation, journal: OperationJournal, record: Record, why_not: str
) -> StoredOperation:
    journal.batch = kept.batch
    kept.background = record.background
    kept.cannot_go_on = why_not
    kept.output = OutputState.stored_in(json.loads(record.options))
    kept.work.restored(journal.outcomes())
    return kept


def run_failed_again(state: ServerState, kept: StoredOperation) -> None:
    """Let the next run of an operation repeat its failed and timed-out items.

    Succeeded items stay. A running operation is not changed.
    """
    batch, operation = kept.batch, kept.work.operation
    if kept.running:
        return
    outcomes = batch.report().outcomes
    again = {Status.FAILED, Status.TIMED_OUT}
    if not any(outcome.status in again for outcome in outcomes):
        return
    retried = _Retried(kept.journal, [o for o in outcomes if o.succeeded])
    kept.memory = MemoryAccount(
        state.memory, kept.owner, operation.name, retried, leaves_memory=kept.journal is not None
    )
    kept.batch = Batch(
        kept.work.run,
        [outcome.item for outcome in outcomes],
        limiter=None
        if operation.takes_own_place
        else state.limits_of(operation.limit_name).limiter,
        bucket=operation.bucket,
        name=batch.name,
        journal=kept.memory,
        observer=_observers(kept.timeline),
    )
    if kept.journal is not None:
        kept.journal.batch = kept.batch


class _Retried(Journal[Any, Result]):
    """The journal of a batch that repeats the failed items of an earlier one."""

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

    def behind(self) -> bool:
        return self._journal is not None and self._journal.behind()

    async def ready(self) -> None:
        if self._journal is not None:
            await self._journal.ready()


@asynccontextmanager
async def working(state: ServerState, kept: StoredOperation) -> AsyncGenerator[None]:
    """Run an operation within the block, exclusively; `stop` cancels the block.

    Raises:
        InvalidArgument: Another call or another server is running it.
    """
    with kept.at_work() as scope:
        await state.store.begin(kept)
        tracing = current_tracing.get()
        if kept.memory is not None:
            kept.memory.when_full = kept.stop_for_room
        if kept.journal is not None:
            kept.journal.when_full = kept.stop_for_disk
        try:
            with scope, tracing.batch(kept.batch, kept.tool) if tracing else nullcontext():
                yield
        finally:
            if kept.memory is not None:
                kept.memory.rest()
                kept.memory.when_full = None  # otherwise the two would refer to each other
            if kept.journal is not None:
                kept.journal.when_full = None
            state.store.end(kept)


def _over_crawl(
    state: ServerState,
    operation: Operation,
    crawl: Crawl,
    start: CrawlStart,
    journal: ItemJournal | None,
    names: tuple[str, str, str, Any],
) -> StoredOperation:
    """Make the operation of a crawl, which stores what it finds if there is a disk."""
    given = names[-1][1]
    if not isinstance(journal, OperationJournal):
        return _over(state, operation, crawl.frontier, given, journal, names)
    stores = CrawlJournal(journal, start)
    crawl.note_answer = stores.answered
    return _over(state, operation, crawl.frontier, given, journal, names, heard_by=stores)


def _over(
    state: ServerState,
    operation: Operation,
    items: Sequence[Any] | Frontier[Any] | DatasetItems,
    given: Sequence[Any],
    journal: ItemJournal | None,
    names: tuple[str, str, str, Any],
    *,
    heard_by: CrawlJournal | None = None,
) -> StoredOperation:
    operation_id, owner, tool, request = names
    timeline = Timeline()
    work = ItemRunner(
        operation,
        items.items if isinstance(items, DatasetItems) else given,
        page_bytes=state.page_bytes,
        reserve=partial(state.store.reserve, owner),
        count=partial(state.store.count, owner),
        journal=journal,
        timeline=timeline,
    )
    if isinstance(journal, OperationJournal):
        work.hold(len(journal.record.request))
    if isinstance(items, DatasetItems):
        items.count = work.add_items
    # The number of items is known only once the source was read to its end.
    source = items.items if isinstance(items, DatasetItems) and items.read_whole else items
    shared = state.limits_of(operation.limit_name).limiter
    on_disk = journal if isinstance(journal, OperationJournal) else None
    memory = MemoryAccount(
        state.memory, owner, operation.name, heard_by or journal, leaves_memory=on_disk is not None
    )
    batch: Batch[Any, Result] = Batch(
        work.run,
        source,
        limiter=None if operation.takes_own_place else shared,
        bucket=operation.bucket,
        name=operation.name,
        journal=memory,
        observer=_observers(timeline),
    )
    return StoredOperation(
        operation_id=operation_id,
        owner=owner,
        tool=tool,
        request=request,
        work=work,
        batch=batch,
        timeline=timeline,
        memory=memory,
        journal=on_disk,
    )


def _observers(timeline: Timeline) -> list[Observer[Any, Any]]:
    tracing = current_tracing.get()
    return [timeline] if tracing is None else [timeline, tracing.item_spans()]


async def _operation_of(state: ServerState, name: str, schema: str) -> tuple[Operation, str]:
    """Return the operation of that name; or a substitute for reading results, and the reason."""
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


def _storable(request: tuple[str, list[Any]]) -> dict[str, Any]:
    """Return a request as plain values."""
    name, given = request
    return {"operation": name, **storable_items(given)}


def _outcome(stored: StoredOutcome, item: Any, state: ServerState) -> Outcome[Any, Result]:
    if stored.status is Status.SUCCEEDED:
        value = stored.result(page_bytes=state.page_bytes)
        return Outcome(stored.index, item, stored.status, value, None, stored.elapsed)
    return Outcome(stored.index, item, stored.status, None, stored.failure(), stored.elapsed)


def _lost(index: int, item: Any) -> Outcome[Any, Result]:
    failure = ToolFailure(
        "The server ended while this item was worked on, and it must not be done twice: look "
        "whether it was done.",
        error_code="LOST",
    )
    return Outcome(index, item, Status.FAILED, None, failure)
