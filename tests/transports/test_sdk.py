"""What we lean on in the SDK beside its promises. A change there fails here."""

import inspect

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
