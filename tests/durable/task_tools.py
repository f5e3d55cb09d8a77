"""The tools that the conformance suite calls as tasks."""

import trio
from mcp.server.extension import Extension
from mcp.shared.exceptions import MCPError

from trio_tools import tool
from trio_tools.answers.errors import ToolFailure
from trio_tools.server import create_server
from trio_tools.settings import Settings


async def greet(name: str) -> str:
    """Greet somebody."""
    await trio.lowlevel.checkpoint()
    return f"Hello, {name}!"


async def slow_compute(seconds: float, label: str = "") -> str:
    """Wait that long."""
    await trio.sleep(seconds)
    return f"{label} done"


async def failing_job() -> str:
    """Fail after a while."""
    await trio.sleep(0.3)
    raise ToolFailure("The job failed.", error_code="UPSTREAM")


async def protocol_error_job() -> str:
    """Fail as the protocol has it."""
    await trio.sleep_forever()
    return ""


class ProtocolError(Extension):
    """Makes an error of the protocol of one tool's call."""

    identifier = "test/protocol-error"

    async def intercept_tool_call(self, params, ctx, call_next):
        if params.name == "protocol_error_job":
            await trio.sleep(0.3)
            raise MCPError(-32603, "the job broke")
        return await call_next(ctx)


def make_server(**settings):
    tools = [
        tool(slow_compute, task="optional", timeout_seconds=120),
        tool(failing_job, task="required"),
        tool(protocol_error_job, task="required"),
    ]
    server = create_server(Settings(**settings), tools=tools, extensions=[ProtocolError()])
    server.add_tool(greet)
    return server
