"""Small real servers on loopback, as hostile as a test needs them."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import trio

from trio_tools.http.fetching.types import FetchConfig
from trio_tools.http.wire.address_policy import Guard

Handler = Callable[[trio.abc.Stream], Awaitable[None]]

ANYWHERE = Guard(allow_private=True, ports=None)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Server:
    """What a test sees of a running server."""

    port: int
    scheme: str = "http"
    host: str = "127.0.0.1"
    accepted: int = 0
    open: int = 0
    most_open: int = 0
    requests: list[bytes] = field(default_factory=list)
    left: trio.Event = field(default_factory=trio.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def config(**changes) -> FetchConfig:
    return FetchConfig(**{"allow_private": True, "ports": None, **changes})


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[trio.abc.Stream, Server], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Server]:
    """Serve every connection with `handler(stream, server)` until the block is left."""
    listeners = await trio.open_tcp_listeners(0, host=host)
    server = Server(listeners[0].socket.getsockname()[1], "http" if tls is None else "https")
    if ":" in host:
        server.host = f"[{host}]"

    async def serve(stream: trio.abc.Stream) -> None:
        server.accepted += 1
        server.open += 1
        server.most_open = max(server.open, server.most_open)
        try:
            if tls is not None:
                stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
            async with stream:
                await handler(stream, server)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # what the client did to its end is the business of the test
        finally:
            server.open -= 1
            server.left.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def next_request(stream: trio.abc.Stream, server: Server) -> bytes:
    """Return one request with its body, b"" when the client has closed."""

    async def more() -> bytes:
        piece = await stream.receive_some(65536)
        if not piece:
            raise trio.BrokenResourceError("the client closed in the middle of a request")
        return piece

    data = await stream.receive_some(65536)
    while data and b"\r\n\r\n" not in data:
        data += await more()
    if not data:
        return b""
    head, _, body = data.partition(b"\r\n\r\n")
    lower = head.lower()
    if b"\r\ncontent-length: " in lower:
        length = int(lower.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += await more()
    elif b"transfer-encoding: chunked" in lower:
        while not body.endswith(b"0\r\n\r\n"):
            body += await more()
    request = head + b"\r\n\r\n" + body
    server.requests.append(request)
    return request


def answering(*replies: bytes | list[bytes], then_close: bool = False):
    """Answer the n-th request of a connection with the n-th reply, the last one for ever after.

    A reply that is a list is sent piece by piece.
    """

    async def handler(stream: trio.abc.Stream, server: Server) -> None:
        count = 0
        while await next_request(stream, server):
            reply = replies[min(count, len(replies) - 1)]
            for piece in [reply] if isinstance(reply, bytes) else reply:
                await stream.send_all(piece)
            count += 1
            if then_close and count == len(replies):
                return

    return handler


def reply(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def closed(server: Server, *, down_to: int = 0) -> None:
    """Wait until at most `down_to` connections are open, 5 s at most."""
    with trio.fail_after(5):
        while server.open > down_to:
            server.left = trio.Event()
            await server.left.wait()
