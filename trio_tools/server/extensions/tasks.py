"""The Tasks extension: a long call becomes a task, for clients that declare the extension.

A task of a batch-like tool is one run of an operation: its id consists of the operation's id and
the number of the run, and its counts are those of the batch. Cancelling it stops the operation,
which ends with its partial results. It survives a restart as the operation does. Nothing changes
for clients that do not declare the extension.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp.types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    RequestParams,
)
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

from nursery_patterns import current_request
from trio_tools.answers.errors import NotFound
from trio_tools.live.state import ServerState
from trio_tools.operations.store import new_operation_id
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.server.extensions.task_states import (
    POLL_MS,
    StoredTask,
    Task,
    latest_run,
    let_the_next_start_go_on,
)
from trio_tools.tools.batches.progress import known_total
from trio_tools.tools.declaring.declaration import Tool

TASKS = "io.modelcontextprotocol/tasks"
BATCH_TOOLS = frozenset({"batch_process", "crawl_site", "fetch_urls", "process_large_dataset"})

# Seconds after which a call becomes a task.
_MOMENT_SECONDS = 1.5
_MOST_TASKS = 250  # each with its answer


class TaskParams(RequestParams):
    """Parameters of `tasks/get` and `tasks/cancel`."""

    task_id: str = Field(alias="taskId", max_length=256)


class TaskUpdateParams(TaskParams):
    """Parameters of `tasks/update`. Our tasks never request input, so every key is unknown."""

    input_responses: dict[str, Any] = Field(default_factory=dict, alias="inputResponses")


class TasksExtension(Extension):
    """Makes tasks of long calls, for clients that declare the extension.

    Args:
        state: The live server.
        tools: Its tools, by name; `Tool.task` determines which calls may be tasks.
    """

    identifier = TASKS

    def __init__(self, state: ServerState, tools: Mapping[str, Tool]) -> None:
        self._state = state
        self._tools = tools
        self._tasks: dict[tuple[str, str], Task] = {}
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
        """Run a call as a job of the server, and make it a task if it takes long."""
        tool = self._tools.get(params.name)
        if tool is None or tool.task == "never":
            return await call_next(ctx)
        if not declares_tasks(ctx):
            if tool.task == "required":
                require_client_extension(ctx, TASKS)
            return await call_next(ctx)
        task = await self._new_task(params)
        if task is None or not self._start(task, ctx, call_next):
            return await call_next(ctx)
        handed_over = False
        try:
            if tool.task == "optional":
                with trio.move_on_after(_MOMENT_SECONDS):
                    await task.done.wait()
            if not task.done.is_set():
                await self._keep(task)
                handed_over = True
                return {"resultType": "task", **self._told(task)}
        finally:
            if not handed_over:  # its caller left before it received the task
                task.scope.cancel(reason="the caller left")
        if task.error is not None:
            raise MCPError(task.error["code"], task.error["message"], task.error.get("data"))
        return task.answer

    def _start(self, task: Task, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> bool:
        """Start the call of a task as a job of the server. False if no connection is served."""

        async def job() -> None:
            await self._work(task, ctx, call_next)

        return self._state.jobs.start(job)

    async def find(self, task_id: str) -> Task | StoredTask | None:
        """Return a task of the caller, also one of an earlier or another process."""
        owner = _client()
        task = self._tasks.get((owner, task_id))
        if task is not None:
            await trio.lowlevel.checkpoint()
            return task
        operation_id, _, run = task_id.rpartition(".")
        kept = await self._recalled(owner, operation_id)
        if kept is None or run != str(latest_run(kept)):
            return None
        return StoredTask(self._state, kept, task_id)

    async def detailed(self, task: Task | StoredTask) -> dict[str, Any]:
        """Return a task in the form of `tasks/get` and its notifications."""
        told = self._told(task)
        if told["status"] == "completed":
            told["result"] = await task.result()
        if told["status"] == "failed":
            told["error"] = task.error
        return told

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        task = await self._find(ctx, params)
        return {"resultType": "complete", **await self.detailed(task)}

    async def _cancel(
        self, ctx: ServerRequestContext[Any, Any], params: TaskParams
    ) -> HandlerResult:
        task = await self._find(ctx, params)
        if isinstance(task, StoredTask):
            await task.stop()
        elif not task.done.is_set():
            operation = self._operation(task)
            # A call that waits in a queue has no partial results.
            if operation is None or not operation.stop(for_good=True):
                task.scope.cancel(reason="the task was cancelled")
        return {"resultType": "complete"}

    async def _update(
        self, ctx: ServerRequestContext[Any, Any], params: TaskUpdateParams
    ) -> HandlerResult:
        await self._find(ctx, params)
        return {"resultType": "complete"}

    async def _work(
        self, task: Task, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> None:
        """Run the call. If the end of the server cancels it, the next start resumes the task."""
        try:
            with task.scope:
                task.answer = await call_next(ctx)
        except MCPError as error:
            task.error = error.error.model_dump(by_alias=True, exclude_none=True)
        except Exception:
            task.error = {"code": INTERNAL_ERROR, "message": "Something broke inside this server."}
            task.end()
            raise
        finally:
            self._state.when_begun.pop((task.owner, task.operation_id), None)
        operation = self._operation(task)
        if not (self._state.drained and operation is not None and operation.background):
            task.end()

    async def _new_task(self, params: CallToolRequestParams) -> Task | None:
        """Make a task for a call; None if its arguments are wrong, which the call will report."""
        owner = _client()
        if params.name not in BATCH_TOOLS:
            return Task(new_operation_id().replace("op_", "task_", 1), owner)
        arguments = params.arguments = dict(params.arguments or {})
        operation_id = arguments.setdefault("operation_id", new_operation_id())
        if not isinstance(operation_id, str):
            return None
        kept = await self._recalled(owner, operation_id)
        earlier = self._runs.get((owner, operation_id), 0)
        run = max(earlier, 0 if kept is None else latest_run(kept)) + 1
        self._runs[owner, operation_id] = run
        return Task(f"{operation_id}.{run}", owner, operation_id, run)

    async def _keep(self, task: Task) -> None:
        """Keep a task for its lifetime, also beyond the process; evict the oldest ended ones."""
        oldest = trio.current_time() - self._state.settings.operation_ttl_seconds
        for key, kept in list(self._tasks.items()):
            full = len(self._tasks) >= _MOST_TASKS and kept.done.is_set()
            if kept.ended_at < oldest or full:
                del self._tasks[key]
                self._runs.pop((kept.owner, kept.operation_id), None)
        self._tasks[task.owner, task.task_id] = task
        if task.operation_id:
            go_on = partial(let_the_next_start_go_on, task)
            operation = self._operation(task)
            if operation is None or not operation.running_here:  # it waits in the queue
                self._state.when_begun[task.owner, task.operation_id] = go_on
                return
            go_on(operation)
            await self._state.store.settled(operation)

    async def _find(
        self, ctx: ServerRequestContext[Any, Any], params: TaskParams
    ) -> Task | StoredTask:
        require_client_extension(ctx, TASKS)
        _check_name(ctx, params.task_id)
        task = await self.find(params.task_id)
        if task is None:
            raise MCPError(
                INVALID_PARAMS,
                "there is no task of that id, or not any more: read what it did with the tool "
                "get_operation",
            )
        return task

    async def _recalled(self, owner: str, operation_id: str) -> StoredOperation | None:
        await trio.lowlevel.checkpoint()
        await self._state.store.recall(operation_id, owner)
        try:
            return self._state.store.find(operation_id, owner)
        except NotFound:
            return None

    def _operation(self, task: Task | StoredTask) -> StoredOperation | None:
        try:
            return self._state.store.find(task.operation_id, task.owner)
        except NotFound:
            return None

    def _told(self, task: Task | StoredTask) -> dict[str, Any]:
        operation = self._operation(task)
        ttl = self._state.settings.operation_ttl_seconds
        status = task.status
        told: dict[str, Any] = {
            "taskId": task.task_id,
            "status": status,
            "createdAt": _iso(task.created),
            "lastUpdatedAt": _iso(task.updated or task.created),
            "ttlMs": None if status == "working" else round(ttl * 1000),
            "pollIntervalMs": POLL_MS,
        }
        if operation is not None:
            counts = operation.batch.progress.value
            told["statusMessage"] = f"{counts.done} of {known_total(counts)} done"
        return told


def _check_name(ctx: ServerRequestContext[Any, Any], task_id: str) -> None:
    """Check that the header by which proxies route contains the task id, for HTTP requests.

    Raises:
        MCPError: It does not. The SDK checks it only for its own methods.
    """
    headers: Any = getattr(ctx.request, "headers", None)
    if headers is None or decode_header_value(headers.get(MCP_NAME_HEADER)) == task_id:
        return
    raise MCPError(
        HEADER_MISMATCH,
        f"{MCP_NAME_HEADER} does not match the request body's 'taskId': send the task id in both",
    )


def declares_tasks(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether the client of a request declares the extension."""
    capabilities = ctx.session.client_capabilities
    extensions = capabilities.extensions if capabilities else None
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and TASKS in (extensions or {})


def _client() -> str:
    request = current_request()
    return request.client_id if request else "anonymous"


def _iso(time: dt.datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
