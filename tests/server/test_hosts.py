"""What an application that embeds the server may count on."""

import logging
import threading
from contextlib import suppress
from functools import partial

import pytest
import trio
from mcp.server.mcpserver import server as sdk_server
from mcp.shared.exceptions import MCPError
from mcp.types import JSONRPCNotification, JSONRPCRequest
from trio.testing import wait_all_tasks_blocked

import trio_tools
from tests.support.servers_in_memory import connected, envelope_of, server_of, work
from trio_tools.live.state import ServerState
from trio_tools.live.telemetry.telemetry import Telemetry
from trio_tools.operations.operation import Operation
from trio_tools.server import ToolServer, create_server
from trio_tools.settings import Settings
from trio_tools.tools.call import Answer


@pytest.mark.parametrize("handlers", [[], [logging.NullHandler()]])
def test_making_a_server_leaves_the_logging_of_its_host_alone(handlers, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(handlers))
    monkeypatch.setattr(root, "level", logging.CRITICAL)
    create_server(Settings(log_level="debug"))
    assert root.handlers == handlers
    assert root.level == logging.CRITICAL


def test_servers_that_are_made_in_several_threads_leave_the_sdk_as_it_was(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    configure_logging = sdk_server.configure_logging
    inside = threading.Barrier(2)

    class Meeting:
        """Read for the name in the middle of the SDK's constructor, where the two would meet."""

        @property
        def name(self) -> str:
            with suppress(threading.BrokenBarrierError):
                inside.wait(0.1)
            return "name"

    def make():
        state = ServerState(Settings())
        telemetry = Telemetry(state.settings, list)
        state.settings = Meeting()
        ToolServer(state, (), telemetry=telemetry)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sdk_server.configure_logging is configure_logging
    assert root.handlers == []


async def test_tools_of_the_sdk_work_beside_ours(era):
    server = server_of(work)

    @server.tool()
    def shout(text: str) -> str:
        return text.upper()

    async with connected(server, era) as client:
        names = [listing.name for listing in (await client.list_tools()).tools]
        assert names == ["get_concurrency_status", "work", "shout"]
        result = await client.call_tool("shout", {"text": "ho"})
        assert result.content[0].text == "HO"
        assert (await envelope_of(client, "work"))["data"] == {"text": "done"}


async def test_a_tool_of_the_sdk_with_the_name_of_ours_is_neither_listed_nor_called(era):
    server = server_of(work)

    @server.tool(name="work")
    def other() -> str:
        return "other"

    async with connected(server, era) as client:
        names = [listing.name for listing in (await client.list_tools()).tools]
        assert names == ["get_concurrency_status", "work"]
        assert (await envelope_of(client, "work"))["data"] == {"text": "done"}


async def test_an_unknown_prompt_is_refused_by_name_and_logs_no_traceback(era, caplog):
    server = server_of(work)

    @server.prompt()
    def greet() -> str:
        return "say hello"

    async with connected(server, era) as client:
        assert (await client.get_prompt("greet")).messages[0].content.text == "say hello"
        [told] = await errors_of(client.get_prompt, "great")
    assert told == "no prompt is named 'great'; there are: greet"
    assert not [record for record in caplog.records if record.exc_info]


async def errors_of(fn, *args):
    try:
        await fn(*args)
    except MCPError as error:
        return [error.message]
    return []


class Door:
    """Stands in for a service and counts."""

    def __init__(self):
        self.events = []

    async def __aenter__(self):
        self.events.append("opened")
        return self

    async def __aexit__(self, *_):
        self.events.append("closed")

    def hosts(self):
        return {}


async def through_the_door(call):
    """Use a service."""
    await call.state.services.fetcher()
    return Answer(summary="used", data={})


def door_of(server):
    door = Door()
    server.state.services._make_fetcher = lambda: door
    return door


async def test_connections_share_the_services_and_the_last_one_closes_them(era, autojump_clock):
    server = server_of(through_the_door)
    door = door_of(server)
    async with trio.open_nursery() as nursery:

        async def connection(seconds):
            async with connected(server, era) as client:
                assert (await envelope_of(client, "through_the_door"))["success"]
                await trio.sleep(seconds)

        nursery.start_soon(connection, 1)
        nursery.start_soon(connection, 3)
        await trio.sleep(2)
        assert door.events == ["opened"], "the connection that ended left it open for the other"
    assert door.events == ["opened", "closed"]
    async with connected(server, era) as client:
        assert (await envelope_of(client, "through_the_door"))["success"]
    assert door.events == ["opened", "closed"] * 2


async def test_services_are_closed_when_a_connection_is_cancelled(era, autojump_clock):
    server = server_of(through_the_door)
    door = door_of(server)
    with trio.move_on_after(1):
        async with connected(server, era) as client:
            assert (await envelope_of(client, "through_the_door"))["success"]
            await trio.sleep_forever()
    assert door.events == ["opened", "closed"]


async def test_operations_of_the_application_are_there_by_name():
    async def count_words(text: str) -> int:
        """Count words."""
        return len(text.split())

    blocking = Operation(name="upper", fn=str.upper, item_type=str, runs="thread")
    server = create_server(Settings(), operations=[count_words, blocking])
    operations = server.state.operations
    assert await operations.find("count_words").run("a b c") == 3
    assert await operations.find("upper").run("a") == "A"
    assert operations.find("count_words").description == "Count words."


@pytest.mark.parametrize(
    ("operations", "error", "words"),
    [
        ([len], TypeError, "runs='thread'"),
        ([5], TypeError, "async function of one item"),
        (
            [Operation(name="same", fn=trio.sleep), Operation(name="same", fn=trio.sleep)],
            ValueError,
            "two operations are named 'same'",
        ),
    ],
)
def test_what_is_no_operation_is_refused_with_the_words_for_one(operations, error, words):
    with pytest.raises(error, match=words):
        create_server(Settings(), operations=operations)


class Greeter:
    """Greets each item."""

    async def __call__(self, item: int) -> str:
        return f"hello {item}"

    async def method(self, item: int) -> str:
        """Greet."""
        return await self(item)


async def greet(greeting: str, item: int) -> str:
    """Say a greeting."""
    return f"{greeting} {item}"


@pytest.mark.parametrize(
    ("fn", "description"),
    [
        (Greeter(), "Greets each item."),
        (Greeter().method, "Greet."),
        (partial(greet, "hello"), "Say a greeting."),
        (partial(Greeter()), "Greets each item."),
    ],
)
async def test_whatever_is_called_like_an_async_function_may_be_an_operation(fn, description):
    operation = Operation(name="greet", fn=fn)
    assert operation.description == description
    assert operation.item_schema() == {"type": "integer"}
    assert await operation.run(operation.check_item(7)) == "hello 7"


async def nothing() -> None: ...


async def by_name(*, item: int) -> None: ...


@pytest.mark.parametrize(
    ("fn", "runs", "error", "words"),
    [
        (len, "async", TypeError, "declare it with `async def`"),
        (greet, "thread", TypeError, "runs in a thread but its fn is an async function"),
        (Greeter(), "process", TypeError, "runs in a process but its fn is an async function"),
        (len, "proces", ValueError, "runs='proces': say 'async', 'thread', 'process' or 'cluster'"),
        (5, "thread", TypeError, "has 5 for a function: pass the function itself"),
        (greet, "async", TypeError, "one item and nothing else"),
        (nothing, "async", TypeError, "one item and nothing else"),
        (by_name, "async", TypeError, "one item and nothing else"),
    ],
)
def test_an_operation_that_could_do_no_item_is_refused_at_once(fn, runs, error, words):
    with pytest.raises(error, match=words):
        Operation(name="x", fn=fn, runs=runs)


def test_a_file_root_that_is_no_folder_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        create_server(Settings(file_roots=(tmp_path / "nowhere",)))


async def test_a_call_without_any_client_answers_too(autojump_clock):
    result = await server_of(work).call_tool("work", {"text": "alone"})
    assert result.structured_content["data"] == {"text": "alone"}


async def hang(call) -> Answer:
    """Hang."""
    await trio.sleep_forever()
    return Answer(summary="never", data={})


async def test_a_call_that_its_client_cancelled_is_never_answered(autojump_clock):
    from mcp.shared.message import SessionMessage  # noqa: PLC0415 - the wire, for this test alone

    from trio_tools.transports.sdk import serve_protocol  # noqa: PLC0415

    to_server, inlet = trio.open_memory_channel[SessionMessage](0)
    outlet, answers = trio.open_memory_channel[SessionMessage](50)
    server = server_of(hang, work)

    async def send(method, params, request_id=None):
        kind = JSONRPCNotification if request_id is None else JSONRPCRequest
        fields = {"jsonrpc": "2.0", "method": method, "params": params}
        given = fields if request_id is None else fields | {"id": request_id}
        await to_server.send(SessionMessage(kind(**given)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_protocol, server, inlet, outlet)
        info = {"name": "test", "version": "1"}
        handshake = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        await send("initialize", handshake, 1)
        await send("notifications/initialized", {})
        await send("tools/call", {"name": "hang", "arguments": {}}, 2)
        await wait_all_tasks_blocked()
        assert len(server.state.calls) == 1
        await send("notifications/cancelled", {"requestId": 2, "reason": "enough"})
        await wait_all_tasks_blocked()
        assert server.state.calls == {}
        await send("tools/call", {"name": "work", "arguments": {}}, 3)
        await trio.sleep(60)
        await to_server.aclose()
    answered = [message.message.id async for message in answers]
    assert answered == [1, 3]


def test_the_names_for_applications_come_from_the_package_itself():
    assert trio_tools.create_server is create_server
    assert trio_tools.Settings is Settings
    assert {name: getattr(trio_tools, name).__name__ for name in trio_tools.__all__} == {
        name: name for name in trio_tools.__all__
    }
    with pytest.raises(AttributeError, match="module 'trio_tools' has no attribute 'serve_ftp'"):
        _ = trio_tools.serve_ftp
