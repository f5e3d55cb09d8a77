"""Raw HTTP requests over sockets, for what no well-behaved client sends."""

import json
from contextlib import asynccontextmanager
from functools import partial

import h11
import trio

from tests.transports.lines import INITIALIZE, call, make_server, request
from trio_tools.settings import Settings
from trio_tools.transports import serve_http

ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
JSON_HEADERS = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
}


@asynccontextmanager
async def http_server(server=None, *, grace_seconds=1.0, **http):
    """Serve in this process on a free port; give the address. Leaving the block stops it."""
    settings = Settings(shutdown_grace_seconds=grace_seconds, http={"port": 0, **http})
    async with trio.open_nursery() as nursery:
        serve = partial(serve_http, settings, server=server or make_server())
        address = await nursery.start(serve)
        yield address
        nursery.cancel_scope.cancel()


async def connect(address):
    if address.port == 0:
        return await trio.open_unix_socket(address.host)
    return await trio.open_tcp_stream(address.host, address.port)


def post(message, *, path="/mcp", **headers):
    """A POST of one JSON-RPC message as bytes."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    given = {"host": "localhost", **JSON_HEADERS, "content-length": str(len(body)), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{k}: {v}" for k, v in given.items() if v is not None)]
    return "\r\n".join([*lines, "", ""]).encode() + body


def modern(message, **headers):
    """A POST in the 2026 era."""
    params = message["params"]
    params = {**params, "_meta": {**ENVELOPE, **params.get("_meta", {})}}
    given = {"mcp-protocol-version": "2026-07-28", "mcp-method": message["method"], **headers}
    if "name" in params:
        given["mcp-name"] = params["name"]
    return post({**message, "params": params}, **given)


def modern_call(request_id, tool, *, token=None, headers=None, **arguments):
    return modern(call(request_id, tool, token=token, **arguments), **(headers or {}))


def get(path, **headers):
    given = {"host": "localhost", **headers}
    lines = [f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in given.items() if v is not None)]
    return "\r\n".join([*lines, "", ""]).encode()


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        """The one message of the body, in an event stream the last."""
        text = self.body.decode()
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            text = [x[6:] for x in text.splitlines() if x.startswith("data: ")][-1]
        return json.loads(text)


class Reader:
    """Reads answers from a connection, pipelined ones one after the other."""

    def __init__(self, stream):
        self.stream = stream
        self.rest = b""

    async def read(self):
        """Read the next answer; None if the server closed the connection before it began one."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        status, headers, body = None, {}, bytearray()
        if self.rest:
            parser.receive_data(self.rest)
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = bytes(await self.stream.receive_some())
                if not data and status is None:
                    return None
                parser.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {k.decode(): v.decode() for k, v in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.rest = parser.trailing_data[0]
                return Answer(status, headers, bytes(body))


async def exchange(address, raw):
    """Send bytes on a connection of their own; return the answer."""
    async with await connect(address) as stream:
        await stream.send_all(raw)
        with trio.fail_after(10):
            return await Reader(stream).read()


async def open_session(address, **headers):
    """Open a session of the older era; return the headers that belong to it."""
    answer = await exchange(address, post(INITIALIZE, **headers))
    session = {"mcp-session-id": answer.headers["mcp-session-id"], **headers}
    initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await exchange(address, post(initialized, **session))).status == 202
    return session


PING = request(1, "ping")
