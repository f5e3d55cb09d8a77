"""A task of this process, and one that an earlier process made, as clients see them."""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass, field
from typing import Any

import trio
from mcp.server.context import HandlerResult
from pydantic import BaseModel

from trio_tools.live.state import ServerState
from trio_tools.operations.output_state import OutputState
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.server.results import Forms, succeeded
from trio_tools.tools.batches.background import stop_for_good
from trio_tools.tools.batches.calls import stored_answer
from trio_tools.tools.call import Call, no_progress

POLL_MS = 1_000
"""How often clients should ask for a task, in milliseconds."""


@dataclass(eq=False)
class Task:
    """A call of this process that became a task, as its client sees it.

    Attributes:
        task_id: Its id.
        owner: The client that may see it.
        operation_id: The operation of which it is a run; empty for a tool without one.
        run: The number of that run.
        done: Set when it has ended.
        answer: The answer of its call, if it ended with one.
        error: The protocol error with which it ended, as JSON values.
    """

    task_id: str
    owner: str
    operation_id: str = ""
    run: int = 1
    created: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    updated: dt.datetime | None = None
    ended_at: float = math.inf
    answer: HandlerResult = None
    error: dict[str, Any] | None = None

    @property
    def status(self) -> str:
        """The status in the extension's words."""
        if not self.done.is_set():
            return "working"
        if self.error is not None:
            return "failed"
        return "cancelled" if self.answer is None else "completed"

    async def result(self) -> dict[str, Any] | None:
        """Return the answer of the call as JSON values."""
        await trio.lowlevel.checkpoint()
        return _plain(self.answer)

    async def changed(self) -> None:
        """Return when it has ended, or after some time, since it may have made progress."""
        with trio.move_on_after(POLL_MS / 1000):
            await self.done.wait()

    def end(self) -> None:
        """Record that the call has ended."""
        self.updated = dt.datetime.now(dt.UTC)
        self.ended_at = trio.current_time()
        self.done.set()


class StoredTask:
    """A task of an earlier process, or of another one on the same state.

    Args:
        state: The live server.
        kept: The operation of which it is a run.
        task_id: Its id for the client.
    """

    error: None = None

    def __init__(self, state: ServerState, kept: StoredOperation, task_id: str) -> None:
        self._call = Call(state, kept.tool, kept.owner, no_progress)
        self._kept = kept
        self.task_id = task_id
        self.owner, self.operation_id = kept.owner, kept.operation_id
        self.created = dt.datetime.fromtimestamp(_options_of(kept)["task_created"], dt.UTC)

    @property
    def status(self) -> str:
        """The status: an interrupted task is working again after the next start."""
        return "working" if self._kept.running or self._kept.background else "completed"

    @property
    def updated(self) -> dt.datetime:
        """When it was last stored."""
        assert self._kept.journal is not None
        return dt.datetime.fromtimestamp(self._kept.journal.record.last_used, dt.UTC)

    async def result(self) -> dict[str, Any] | None:
        """Return the answer that its call would have returned."""
        answer = await stored_answer(self._call, self._kept, _options_of(self._kept))
        settings = self._call.state.settings
        return _plain(succeeded(answer, Forms(settings.answers, settings.answers_envelope)))

    async def stop(self) -> None:
        """Stop it; its results are kept."""
        await stop_for_good(self._call, self._kept)

    async def changed(self) -> None:
        """Return after some time: another process may be running it."""
        await trio.sleep(POLL_MS / 1000)


def let_the_next_start_go_on(task: Task, kept: StoredOperation) -> None:
    """Store an operation that runs as a task in a form that the next start resumes."""
    if kept.journal is None:
        return
    now = trio.current_time()
    assert kept.deadline is not None  # it is running
    options = {
        "concurrency": kept.batch.limit,
        "item_seconds": kept.batch.item_timeout,
        "seconds": kept.deadline - now,
        "task": task.run,
        "task_created": task.created.timestamp(),
    }
    kept.background = True
    kept.journal.record.background = True
    kept.journal.record.options = json.dumps(OutputState.store_in(options, kept.output)).encode()
    kept.journal.ask()


def _options_of(kept: StoredOperation) -> dict[str, Any]:
    return {} if kept.journal is None else json.loads(kept.journal.record.options)


def latest_run(kept: StoredOperation) -> int:
    """Return the number of the last run that was a task; 0 without one."""
    return _options_of(kept).get("task", 0)


def _plain(answer: HandlerResult) -> dict[str, Any] | None:
    """Return a result as JSON values."""
    if isinstance(answer, BaseModel):
        return answer.model_dump(by_alias=True, mode="json", exclude_none=True)
    return answer
