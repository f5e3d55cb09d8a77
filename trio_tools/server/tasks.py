"""The Tasks extension: a batch call that takes longer than a moment is a task to who declares it.

A task is one run of an operation, not a second thing beside it: its id is the operation's and the
number of the run, and its figures are those of the batch. Cancelling it stops the operation, which
then ends with what it has. Clients that do not declare the extension see no change.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS, CallToolRequestParams, RequestParams
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field

from nursery_patterns import current_request
from trio_tools.answers.errors import NotFound
from trio_tools.live.state import ServerState
from trio_tools.operations.store import StoredOperation, new_operation_id
from trio_tools.tools.batches.progress import known_total

TASKS = "io.modelcontextprotocol/tasks"
BATCH_TOOLS = frozenset({"batch_process", "crawl_site", "fetch_urls", "process_large_dataset"})

# How long a call may take before it becomes a task.
_MOMENT_SECONDS = 1.5
_POLL_MS = 1_000
_MOST_TASKS = 1_000


class TaskParams(RequestParams):
    """Parameters of `tasks/get` and `tasks/cancel`."""

    task_id: str = Field(alias="taskId", max_length=256)


class TaskUpdateParams(TaskParams):
    """Parameters of `tasks/update`. No task of ours asks for input, so every key is unknown."""

    input_responses: dict[str, Any] = Field(default_factory=dict, alias="inputResponses")


@dataclass(eq=False)
class Task:
    """One run of an operation, as its client sees it."""

    task_id: str
    owner: str
    operation_id: str
    created: dt.datetime
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    updated: dt.datetime | None = None
    ended_at: float = math.inf
    answer: HandlerResult = None
    error: dict[str, Any] | None = None

    @property
    def status(self) -> str:
        """As the extension names it."""
        if not self.done.is_set():
            return "working"
        if self.error is not None:
            return "failed"
        return "cancelled" if self.answer is None else "completed"

    @property
    def result(self) -> dict[str, Any] | None:
        """The answer of the call as JSON values, if it has ended with one."""
        if isinstance(self.answer, BaseModel):
            return self.answer.model_dump(by_alias=True, mode="json", exclude_none=True)
        return self.answer


class TasksExtension(Extension):
    """Makes tasks of batch calls, for clients that declare the extension.

    Args:
        state: The live server.
    """

    identifier = TASKS

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._tasks: dict[str, Task] = {}
        self._runs: dict[tuple[str, str], int] = {}

    def methods(self) -> Sequence[MethodBinding]:
        """Return `tasks/get`, `tasks/cancel` and `tasks/update`."""
        versions = frozenset(MODERN_PROTOCOL_VERSIONS)
        return (
            MethodBinding("tasks/get", TaskParams, self._get, versions),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, versions),
            MethodBinding("tasks/update", TaskUpdateParams, self._update, versions),
        )

    async def intercept_tool_call(
        self,
        params: CallToolRequestParams,
        ctx: ServerRequestContext[Any, Any],
        call_next: CallNext,
    ) -> HandlerResult:
        """Run a batch call as a job of the server, and make a task of it if it takes long."""
        if params.name not in BATCH_TOOLS or not _declared(ctx):
            return await call_next(ctx)
        arguments = params.arguments = dict(params.arguments or {})
        operation_id = arguments.setdefault("operation_id", new_operation_id())
        if not isinstance(operation_id, str):
            return await call_next(ctx)  # which says what is wrong with it
        task = self._new_task(operation_id)

        async def job() -> None:
            await _work(task, ctx, call_next)

        if not self._state.jobs.start(job):
            return await call_next(ctx)
        handed_over = False
        try:
            with trio.move_on_after(_MOMENT_SECONDS):
                await task.done.wait()
            handed_over = True
        finally:
            if not handed_over:  # its caller left before it was told of a task
                task.scope.cancel(reason="the caller left")
        if task.answer is not None:
            return task.answer
        if task.error is not None:
            raise MCPError(task.error["code"], task.error["message"], task.error.get("data"))
        self._keep(task)
        return {"resultType": "task", **self._told(task)}

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        task = self._find(ctx, params)
        await trio.lowlevel.checkpoint()
        told = {"resultType": "complete", **self._told(task)}
        if task.answer is not None:
            told["result"] = task.result
        if task.error is not None:
            told["error"] = task.error
        return told

    async def _cancel(
        self, ctx: ServerRequestContext[Any, Any], params: TaskParams
    ) -> HandlerResult:
        task = self._find(ctx, params)
        await trio.lowlevel.checkpoint()
        if not task.done.is_set():
            operation = self._operation(task)
            # One that waits in line has nothing to end with.
            if operation is None or not operation.stop(for_good=True):
                task.scope.cancel(reason="the task was cancelled")
        return {"resultType": "complete"}

    async def _update(
        self, ctx: ServerRequestContext[Any, Any], params: TaskUpdateParams
    ) -> HandlerResult:
        self._find(ctx, params)
        await trio.lowlevel.checkpoint()
        return {"resultType": "complete"}

    def _new_task(self, operation_id: str) -> Task:
        owner = _client()
        run = self._runs[owner, operation_id] = self._runs.get((owner, operation_id), 0) + 1
        created = dt.datetime.now(dt.UTC)
        return Task(f"{operation_id}.{run}", owner, operation_id, created)

    def _keep(self, task: Task) -> None:
        """Keep a task for its time; the oldest that have ended make room."""
        oldest = trio.current_time() - self._state.settings.operation_ttl_seconds
        for task_id, kept in list(self._tasks.items()):
            full = len(self._tasks) >= _MOST_TASKS and kept.done.is_set()
            if kept.ended_at < oldest or full:
                del self._tasks[task_id]
                self._runs.pop((kept.owner, kept.operation_id), None)
        self._tasks[f"{task.owner}\0{task.task_id}"] = task

    def _find(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> Task:
        require_client_extension(ctx, TASKS)
        task = self._tasks.get(f"{_client()}\0{params.task_id}")
        if task is None:
            raise MCPError(
                INVALID_PARAMS,
                "there is no task of that id, or not any more: read what it did with the tool "
                "get_operation",
            )
        return task

    def _operation(self, task: Task) -> StoredOperation | None:
        try:
            return self._state.store.find(task.operation_id, task.owner)
        except NotFound:
            return None

    def _told(self, task: Task) -> dict[str, Any]:
        operation = self._operation(task)
        ttl = self._state.settings.operation_ttl_seconds
        told: dict[str, Any] = {
            "taskId": task.task_id,
            "status": task.status,
            "createdAt": _iso(task.created),
            "lastUpdatedAt": _iso(task.updated or task.created),
            "ttlMs": None if not task.done.is_set() else round(ttl * 1000),
            "pollIntervalMs": _POLL_MS,
        }
        if operation is not None:
            counts = operation.batch.progress.value
            told["statusMessage"] = f"{counts.done} of {known_total(counts)} done"
        return told


async def _work(task: Task, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> None:
    try:
        with task.scope:
            task.answer = await call_next(ctx)
    except MCPError as error:
        task.error = error.error.model_dump(by_alias=True, exclude_none=True)
    except Exception:
        task.error = {"code": INTERNAL_ERROR, "message": "Something broke inside this server."}
        raise
    finally:
        task.updated = dt.datetime.now(dt.UTC)
        task.ended_at = trio.current_time()
        task.done.set()


def _declared(ctx: ServerRequestContext[Any, Any]) -> bool:
    capabilities = ctx.session.client_capabilities
    extensions = capabilities.extensions if capabilities else None
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and TASKS in (extensions or {})


def _client() -> str:
    request = current_request()
    return request.client_id if request else "anonymous"


def _iso(time: dt.datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
