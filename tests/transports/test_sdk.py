"""What we lean on in the SDK and in Hypercorn beside their promises. A change there fails here."""

import inspect

import pytest
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.shared.message import ServerMessageMetadata

from trio_tools.transports.sdk import protocol_server


def test_the_protocol_server_is_still_behind_a_private_attribute_only():
    server = MCPServer("x")
    assert isinstance(protocol_server(server), Server)
    public = [
        name
        for name in dir(server)
        if not name.startswith("_")
        and name != "session_manager"
        and isinstance(getattr(server, name), Server)
    ]
    assert public == []  # use it, and drop trio_tools.transports.sdk


def test_the_protocol_server_runs_over_any_pair_of_streams():
    parameters = list(inspect.signature(Server.run).parameters)
    assert parameters[:4] == ["self", "read_stream", "write_stream", "initialization_options"]


def test_a_transport_is_told_of_requests_that_settle_without_an_answer():
    assert "on_request_unanswered" in ServerMessageMetadata.__dataclass_fields__


def test_hypercorn_serves_one_connection_as_we_call_it():
    parameters = list(inspect.signature(TCPServer.__init__).parameters)
    assert parameters == ["self", "app", "config", "context", "state", "stream"]


def test_hypercorn_tells_its_idle_task_when_a_connection_is_idle_and_when_it_is_not():
    server = TCPServer(None, Config(), WorkerContext(None), {}, None)
    assert list(inspect.signature(server.idle_task.restart).parameters) == ["task_group", "action"]
    assert list(inspect.signature(server.idle_task.stop).parameters) == []
    uses = inspect.getsource(TCPServer).count("idle_task.")
    assert uses == 3  # restarted at the beginning and when idle, stopped when not


@pytest.mark.parametrize("name", ["_read_data", "protocol_send"])
def test_hypercorn_reads_and_sends_by_the_names_that_we_go_between(name):
    assert inspect.iscoroutinefunction(getattr(TCPServer, name))
    assert f"self.{name}" in inspect.getsource(TCPServer.run)
