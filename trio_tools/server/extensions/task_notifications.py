"""`notifications/tasks`: the state of tasks, on the stream of `subscriptions/listen`.

The client lists the tasks in `notifications.taskIds`. The acknowledgement repeats those that it
may see. For each of them it receives the current state, then every change, and finally the
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import require_client_extension
from mcp.server.session import ServerSession
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS

from trio_tools.server.extensions.tasks import TASKS, TasksExtension

_MOST_IDS = 100


class _Notification(NamedTuple):
    """A notification without a type in the SDK."""

    method: str
    params: dict[str, Any]

    def model_dump(self, **_: object) -> dict[str, Any]:
        """Return it as JSON values, with the method that the SDK calls."""
        return self._asdict()


class TaskNotifications:
    """A stage of a server's middleware that adds tasks to `subscriptions/listen`.

    Args:
        tasks: The tasks of the server.
    """

    def __init__(self, tasks: TasksExtension) -> None:
        self._tasks = tasks

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Follow the tasks in a listen request, until it ends."""
        wanted = _task_ids(ctx)
        if not wanted:
            return await call_next(ctx)
        require_client_extension(ctx, TASKS)
        known = [task_id for task_id in wanted if await self._tasks.find(task_id) is not None]
        session = _Session(ctx.session, known)
        result: HandlerResult = None
        async with trio.open_nursery() as nursery:
            for task_id in known:
                nursery.start_soon(self._follow, ctx, session.acknowledged, task_id)
            result = await call_next(replace(ctx, session=cast("ServerSession", session)))
            nursery.cancel_scope.cancel(reason="the client listens no more")
        return result

    async def _follow(
        self, ctx: ServerRequestContext[Any, Any], acknowledged: trio.Event, task_id: str
    ) -> None:
        """Send the state of a task after each change, until it has ended."""
        await acknowledged.wait()
        told: dict[str, Any] | None = None
        while (task := await self._tasks.find(task_id)) is not None:
            detailed = await self._tasks.detailed(task)
            if detailed != told:
                told = detailed
                params = {**told, "_meta": {SUBSCRIPTION_ID_META_KEY: ctx.request_id}}
                notification: Any = _Notification("notifications/tasks", params)
                await ctx.session.send_notification(notification, related_request_id=ctx.request_id)
            if detailed["status"] != "working":
                return
            await task.changed()


def _task_ids(ctx: ServerRequestContext[Any, Any]) -> Sequence[str]:
    """Return the tasks in a request to listen.

    Raises:
        MCPError: They are not a list of at most 100 texts.
    """
    wanted = (ctx.params or {}).get("notifications")
    if ctx.method != "subscriptions/listen" or not isinstance(wanted, dict):
        return ()
    given = cast("dict[str, Any]", wanted).get("taskIds")
    if given is None:
        return ()
    ids = cast("list[Any]", given)
    if not isinstance(given, list) or not all(isinstance(task_id, str) for task_id in ids):
        raise MCPError(INVALID_PARAMS, "notifications.taskIds must be a list of task ids")
    if len(ids) > _MOST_IDS:
        raise MCPError(
            INVALID_PARAMS,
            f"notifications.taskIds must have at most {_MOST_IDS} ids, got {len(ids)}: listen in "
            "several requests",
        )
    return list(dict.fromkeys(ids))


class _Session:
    """The session of a request, whose acknowledgement also contains the followed tasks."""

    def __init__(self, session: ServerSession, task_ids: Sequence[str]) -> None:
        self._session = session
        self._task_ids = task_ids
        self.acknowledged = trio.Event()

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of the session."""
        return getattr(self._session, name)

    async def send_notification(self, notification: Any, related_request_id: Any = None) -> None:
        """Send a notification; the first one is the acknowledgement."""
        if not self.acknowledged.is_set():
            told = notification.model_dump(by_alias=True, mode="json", exclude_none=True)
            told["params"]["notifications"]["taskIds"] = list(self._task_ids)
            notification = _Notification(told["method"], told["params"])
        await self._session.send_notification(notification, related_request_id)
        self.acknowledged.set()
