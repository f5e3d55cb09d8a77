"""To clients that declare the Tasks extension, a batch call that takes long is a task."""

from typing import Any, Literal

import pytest
import trio
from mcp.client import Client, ClientExtension
from mcp.client.extension import NotificationBinding, ResultClaim
from mcp.shared.exceptions import MCPError
from mcp.types import Request, RequestParams, Result
from pydantic import ConfigDict, Field

from tests.support.followed_operations import server_with, until
from trio_tools.server.extensions import tasks


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


class ListenParams(RequestParams):
    notifications: dict[str, Any]


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
    server = server_with(nap, **state)
    async with Client(server, extensions=[Declares()]) as client:
        await start(client, [0.001, 30.0])
        await until(lambda: server.state.store.operations()[0].batch.counts.succeeded == 1)
        await ask(client, "tasks/cancel", "op.1")
        with trio.fail_after(20):
            while (task := await ask(client, "tasks/get", "op.1"))["status"] == "working":  # noqa: ASYNC110
                await trio.sleep(0.05)
        counts = task["result"]["structuredContent"]["data"]["counts"]
        assert (counts["succeeded"], counts["cancelled"]) == (1, 1)
        assert (await start(client, [0.001, 30.0])).task_id == "op.2"


async def wait_for_end(client, task_id):
    with trio.fail_after(20):
        while (task := await ask(client, "tasks/get", task_id))["status"] == "working":  # noqa: ASYNC110
            await trio.sleep(0.05)
    return task


async def test_a_task_survives_a_restart_of_its_server(state, at_once):
    items = [0.001, 1.5, 1.5]
    async with Client(server_with(nap, **state), extensions=[Declares()]) as client:
        handle = await start(client, items)
        assert handle.status == "working"
    async with Client(server_with(nap, **state), extensions=[Declares()]) as client:
        task = await ask(client, "tasks/get", "op.1")
        assert task["createdAt"] == handle.model_dump()["createdAt"]
        task = await wait_for_end(client, "op.1")
        assert task["status"] == "completed"
        data = task["result"]["structuredContent"]["data"]
        assert [result["value"] for result in data["results"]] == items
        assert data["complete"]
    # It has ended for good: a later start does not take it up, and another run is another task.
    async with Client(server_with(nap, **state), extensions=[Declares()]) as client:
        assert (await ask(client, "tasks/get", "op.1"))["status"] == "completed"
        with pytest.raises(MCPError):
            await ask(client, "tasks/get", "op.2")


async def test_a_task_from_before_a_restart_is_cancelled_and_ends_with_what_it_has(state, at_once):
    async with Client(server_with(nap, **state), extensions=[Declares()]) as client:
        await start(client, [0.001, 30.0])
    async with Client(server_with(nap, **state), extensions=[Declares()]) as client:
        assert (await ask(client, "tasks/get", "op.1"))["status"] == "working"
        await ask(client, "tasks/cancel", "op.1")
        task = await wait_for_end(client, "op.1")
        counts = task["result"]["structuredContent"]["data"]["counts"]
        assert counts["succeeded"] == 1
        handle = await start(client, [0.001, 30.0])
        assert handle.task_id == "op.2"


async def test_a_task_whose_time_is_up_is_not_taken_up_again(state, at_once):
    async with Client(server_with(nap, **state), extensions=[Declares()]) as client:
        asked = {
            "operation": "nap",
            "items": [0.001, 30.0],
            "operation_id": "op",
            "timeout_seconds": 0.5,
        }
        await client.session.call_tool("batch_process", asked, allow_claimed=True)
        task = await wait_for_end(client, "op.1")
        assert task["result"]["structuredContent"]["data"]["counts"]["cancelled"] == 1
    async with Client(server_with(nap, **state), extensions=[Declares()]) as client:
        assert (await ask(client, "tasks/get", "op.1"))["status"] == "completed"


class Listen(Request[RequestParams, Literal["subscriptions/listen"]]):
    method: Literal["subscriptions/listen"] = "subscriptions/listen"
    params: ListenParams


class Told(ClientExtension):
    """Remembers what it is told of tasks."""

    identifier = tasks.TASKS

    def __init__(self):
        self.told = []
        self.begun, self.ended = trio.Event(), trio.Event()

    def claims(self):
        return [ResultClaim(result_type="task", model=TaskHandle, resolve=no_resolve)]

    def notifications(self):
        return [
            NotificationBinding(
                method="notifications/tasks", params_type=Anything, handler=self.hear
            )
        ]

    async def hear(self, params):
        await trio.lowlevel.checkpoint()
        self.told.append(params.model_dump())
        self.begun.set()
        if self.told[-1]["status"] != "working":
            self.ended.set()


async def test_a_listener_is_told_how_a_task_goes_and_ends(state, at_once):
    told = Told()
    async with Client(server_with(nap, **state), extensions=[told]) as client:
        await start(client, [0.001, 30.0])
        async with trio.open_nursery() as nursery:
            filters = {"taskIds": ["op.1", "unknown.1"]}
            request = Listen(params=ListenParams(notifications=filters))
            nursery.start_soon(client.session.send_request, request, Anything)
            with trio.fail_after(20):
                await told.begun.wait()
                await ask(client, "tasks/cancel", "op.1")
                await told.ended.wait()
            nursery.cancel_scope.cancel()
    assert {each["taskId"] for each in told.told} == {"op.1"}
    assert told.told[0]["status"] == "working"
    last = told.told[-1]
    assert last["status"] == "completed"
    assert last["result"]["structuredContent"]["data"]["counts"]["cancelled"] == 1


@pytest.mark.parametrize("ids", ["op.1", [1], ["x"] * 101])
async def test_wrong_task_ids_are_refused(state, ids):
    async with Client(server_with(nap, **state), extensions=[Declares()]) as client:
        request = Listen(params=ListenParams(notifications={"taskIds": ids}))
        with pytest.raises(MCPError) as refused:
            await client.session.send_request(request, Anything)
        assert refused.value.error.code == -32602
        assert "taskIds" in refused.value.error.message


async def test_only_clients_that_declare_the_extension_may_listen_to_tasks(state):
    async with Client(server_with(nap, **state)) as client:
        request = Listen(params=ListenParams(notifications={"taskIds": ["op.1"]}))
        with pytest.raises(MCPError) as refused:
            await client.session.send_request(request, Anything)
        assert refused.value.error.code == -32021


async def test_a_client_without_the_extension_sees_no_change(state, at_once):
    async with Client(server_with(nap, **state)) as client:
        asked = {"operation": "nap", "items": [0.2]}
        answer = await client.call_tool("batch_process", asked)
        assert answer.structured_content["data"]["complete"]
