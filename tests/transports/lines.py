"""A client that writes and reads lines, over streams in memory, against `serve_streams`."""

import json
from contextlib import asynccontextmanager
from functools import partial

import trio
import trio.testing
from mcp.server.mcpserver import Context, MCPServer

from trio_tools.transports.stdio import serve_streams
from trio_tools.transports.stdio.jsonrpc_lines import LineFramer


def make_server():
    """A plain SDK server whose tools take their time, talk, or make much."""
    server = MCPServer("plain")

    @server.tool()
    async def nap(seconds: float) -> str:
        """Sleep."""
        await trio.sleep(seconds)
        return f"slept {seconds:g}"

    @server.tool()
    async def talk(messages: int, ctx: Context) -> str:
        """Report progress."""
        for number in range(messages):
            await ctx.report_progress(number, messages, "x" * 1000)
        return "said"

    @server.tool()
    async def echo(text: str) -> str:
        """Give back."""
        return text

    return server


class LineClient:
    """Writes requests and reads answers, one JSON object a line."""

    def __init__(self, stream):
        self.stream = stream
        self.framer = LineFramer()
        self.lines = []

    async def write(self, *messages):
        """Write messages at once; bytes go as they are."""
        await self.stream.send_all(
            b"".join(
                m if isinstance(m, bytes) else json.dumps(m).encode() + b"\n" for m in messages
            )
        )

    async def read(self):
        """Read one message; None at the end of the server's output."""
        while not self.lines:
            data = await self.stream.receive_some()
            if not data:
                return None
            self.lines += [json.loads(line) for line in self.framer.feed(data)]
        return self.lines.pop(0)

    async def read_all(self):
        """Read until the end of the server's output."""
        messages = []
        while (message := await self.read()) is not None:
            messages.append(message)
        return messages

    async def initialize(self):
        await self.write(INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        return await self.read()


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": "init",
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "lines", "version": "1"},
    },
}


def request(request_id, method, **params):
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def call(request_id, tool, *, token=None, **arguments):
    meta = {} if token is None else {"_meta": {"progressToken": token}}
    return request(request_id, "tools/call", name=tool, arguments=arguments, **meta)


def cancel(request_id):
    params = {"requestId": request_id}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}


@asynccontextmanager
async def served(server=None, *, grace_seconds=1.0, opened=None):
    """Serve over streams in memory; give the client. Leaving the block cancels the server."""
    ours, theirs = opened or trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve(task_status):
            async with theirs:
                await serve_streams(
                    server or make_server(),
                    theirs,
                    theirs,
                    grace_seconds=grace_seconds,
                    task_status=task_status,
                )

        await nursery.start(serve)
        client = LineClient(ours)
        client.cancel_server = partial(nursery.cancel_scope.cancel)
        yield client
        nursery.cancel_scope.cancel()
