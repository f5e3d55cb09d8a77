"""To clients that declare the Tasks extension, a batch call that takes long is a task."""

from typing import Literal

import pytest
import trio
from mcp.client import Client, ClientExtension
from mcp.client.extension import ResultClaim
from mcp.shared.exceptions import MCPError
from mcp.types import Request, RequestParams, Result
from pydantic import ConfigDict, Field

from tests.tools.kit import server_with
from trio_tools.server import tasks


class TaskHandle(Result):
    model_config = ConfigDict(extra="allow")
    result_type: Literal["task"] = Field(alias="resultType")
    task_id: str = Field(alias="taskId")
    status: str


async def no_resolve(handle, _):
    return handle


class Declares(ClientExtension):
    identifier = tasks.TASKS

    def claims(self):
        return [ResultClaim(result_type="task", model=TaskHandle, resolve=no_resolve)]


class TaskParams(RequestParams):
    task_id: str = Field(alias="taskId")


class TaskRequest(Request[TaskParams, Literal["tasks/get", "tasks/cancel", "tasks/update"]]):
    method: Literal["tasks/get", "tasks/cancel", "tasks/update"]
    params: TaskParams


class Anything(Result):
    model_config = ConfigDict(extra="allow")


async def nap(seconds: float) -> float:
    """Wait."""
    await trio.sleep(seconds)
    return seconds


async def ask(client, method, task_id):
    request = TaskRequest(method=method, params=TaskParams(taskId=task_id))
    return (await client.session.send_request(request, Anything)).model_dump()


async def test_an_unknown_task_and_a_client_that_does_not_declare(state):
    async with Client(server_with(nap, **state), extensions=[Declares()]) as client:
        with pytest.raises(MCPError) as unknown:
            await ask(client, "tasks/get", "op.1")
        assert unknown.value.error.code == -32602
    async with Client(server_with(nap, **state)) as client:
        with pytest.raises(MCPError) as undeclared:
            await ask(client, "tasks/get", "op.1")
        assert undeclared.value.error.code == -32021


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(tasks, "_MOMENT_SECONDS", 0.05)


async def start(client, items, operation_id="op"):
    asked = {"operation": "nap", "items": items, "operation_id": operation_id}
    return await client.session.call_tool("batch_process", asked, allow_claimed=True)


async def test_a_call_that_takes_long_is_a_task_that_completes(state, at_once, monkeypatch):
    async with Client(server_with(nap, **state), extensions=[Declares()]) as client:
        handle = await start(client, [0.001, 0.5])
        assert (handle.task_id, handle.status) == ("op.1", "working")
        with trio.fail_after(20):
            while (task := await ask(client, "tasks/get", "op.1"))["status"] == "working":  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert task["status"] == "completed"
        counts = task["result"]["structuredContent"]["data"]["counts"]
        assert counts["succeeded"] == 2
        # A task that has ended does not work again: going on is another run.
        monkeypatch.setattr(tasks, "_MOMENT_SECONDS", 20.0)
        again = await start(client, [0.001, 0.5])
        assert again.structured_content["data"]["complete"]


async def test_a_cancelled_task_ends_with_what_it_has(state, at_once):
    async with Client(server_with(nap, **state), extensions=[Declares()]) as client:
        await start(client, [0.001, 30.0])
        await ask(client, "tasks/cancel", "op.1")
        with trio.fail_after(20):
            while (task := await ask(client, "tasks/get", "op.1"))["status"] == "working":  # noqa: ASYNC110
                await trio.sleep(0.05)
        counts = task["result"]["structuredContent"]["data"]["counts"]
        assert (counts["succeeded"], counts["cancelled"]) == (1, 1)
        assert (await start(client, [0.001, 30.0])).task_id == "op.2"


async def test_a_client_without_the_extension_sees_no_change(state, at_once):
    async with Client(server_with(nap, **state)) as client:
        asked = {"operation": "nap", "items": [0.2]}
        answer = await client.call_tool("batch_process", asked)
        assert answer.structured_content["data"]["complete"]
