"""Cooperation of the worker processes of one address.

All accept from the same listening sockets, so a connection may reach any of them, but a session
of the older era lives in one. Its id contains the worker: `w1-…`. A worker that reads the headers
of a request for a session of another one passes the connection to it, with the bytes that it has
read, and the other one serves it from then on. So a session costs nothing more once its
connections have moved. The keys of a TLS connection cannot be passed, so the other worker
receives its plain text through a pair of sockets.

The parent owns the sockets between the workers, so they outlive each worker.
"""

from __future__ import annotations

import array
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SESSION_ID: Final = b"mcp-session-id"
_HAND_OVER_SECONDS: Final = 0.5
_ASK_SECONDS: Final = 1.0

SIBLING: Final = ("worker", 0)
"""The client of a request from another worker. No outside connection has it."""

# Headers, and bytes read after them. A socket pair of Linux accepts 208 KiB in one piece.
_MOST_BYTES: Final = 200_000
_CHUNK_BYTES: Final = 2**16
_FD = array.array("i", [0])

_log = logging.getLogger("trio_tools")

Elsewhere = Callable[[bytes], Awaitable[bool]]


@dataclass(frozen=True)
class WorkerPlace:
    """The index of a worker process, and the descriptors from its parent.

    Attributes:
        index: Index of this worker, from 0.
        count: Number of workers.
        restarts: Number of its restarts.
        listeners: The listening sockets, which all workers share.
        loads: The shared memory with the number of connections of each worker.
        link: A stream to the parent: a byte reports that calls are accepted, and one more answers
            each of its bytes; its end is the end of the parent.
        inbox: Receives connections from other workers.
        outboxes: The inboxes of all workers, by index.
        metrics_listeners: Listening sockets that serve only `/metrics`; empty for none.
        handed: Whether a supervisor, and not the parent, opened the listening sockets.
    """

    index: int
    count: int
    restarts: int
    listeners: tuple[int, ...]
    loads: int
    link: int
    inbox: int
    outboxes: tuple[int, ...]
    metrics_listeners: tuple[int, ...] = ()
    handed: bool = False

    def as_json(self) -> str:
        """Return it as an argument of the command line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of_json(cls, text: str) -> WorkerPlace:
        """Return the value that `as_json` encoded."""
        fields: dict[str, Any] = json.loads(text)
        fields |= {
            name: tuple(fields[name]) for name in ("listeners", "metrics_listeners", "outboxes")
        }
        return cls(**fields)


@dataclass(frozen=True)
class HandedOver:
    """A connection that another worker accepted.

    Attributes:
        peer: Address and port of its client.
        received: Bytes that were read from it, starting with a request.
    """

    peer: tuple[str, int]
    received: bytes


Serve = Callable[[trio.SocketStream, HandedOver], Awaitable[None]]


class Siblings:
    """The other workers.

    Args:
        place: The index and the descriptors of this worker.
    """

    def __init__(self, place: WorkerPlace) -> None:
        self.place = place
        self._own = b"w%d-" % place.index
        self._inbox = _socket_of(place.inbox)
        self._outboxes = [_socket_of(number) for number in place.outboxes]

    def close(self) -> None:
        """Close this worker's ends of the sockets."""
        for each in (self._inbox, *self._outboxes):
            each.close()

    async def receive(self, serve: Serve, nursery: trio.Nursery) -> None:
        """Serve the connections from other workers, until cancelled."""
        room = socket.CMSG_SPACE(_FD.itemsize)
        while True:
            data, ancillary, _, _ = await self._inbox.recvmsg(
                _MOST_BYTES, room, socket.MSG_CMSG_CLOEXEC
            )
            for _, _, number in ancillary:
                (descriptor,) = array.array("i", number[: _FD.itemsize])
                head, _, received = data.partition(b"\n")
                peer = cast("tuple[str, int]", tuple(json.loads(head)))
                stream = trio.SocketStream(_socket_of(descriptor))
                nursery.start_soon(serve, stream, HandedOver(peer, received))

    def mover(self, stream: trio.SocketStream, secured: Any, peer: tuple[str, int]) -> Move:
        """Return an object that moves a connection to the worker with its next request's session.

        Args:
            stream: The connection.
            secured: The same with TLS; None without.
            peer: Its client.
        """
        return Move(self, stream, peer, encrypted=secured is not stream)

    def owner_of(self, headers: list[tuple[bytes, bytes]]) -> int | None:
        """Return which other worker has the session of a request; None if none has it."""
        session = next((value for name, value in headers if name == _SESSION_ID), b"")
        head, dash, _ = session.partition(b"-")
        if not dash or session.startswith(self._own) or not head[1:].isdigit():
            return None
        index = int(head[1:4])
        return index if head == b"w%d" % index and index < self.place.count else None

    def named(self, app: ASGIApp) -> ASGIApp:
        """Return an application whose session ids contain the worker."""

        async def served(scope: Scope, receive: Receive, send: Send) -> None:
            def sent(message: Message) -> Awaitable[None]:
                if message["type"] == "http.response.start":
                    headers = [
                        (name, self._own + value if name.lower() == _SESSION_ID else value)
                        for name, value in message.get("headers", ())
                    ]
                    message = {**message, "headers": headers}
                return send(message)

            headers = [
                (name, value.removeprefix(self._own) if name == _SESSION_ID else value)
                for name, value in scope["headers"]
            ]
            await app({**scope, "headers": headers}, receive, sent)

        return served

    async def hand_over(
        self, index: int, descriptor: int, peer: tuple[str, int], received: bytes
    ) -> bool:
        """Pass a connection to another worker. False if it does not accept it in time."""
        data = json.dumps(peer).encode() + b"\n" + received
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            with trio.move_on_after(_HAND_OVER_SECONDS):
                await self._outboxes[index].sendmsg([data], ancillary)
                return True
        except OSError as error:
            _log.warning("a connection cannot be handed over to worker %d: %s", index, error)
        return False

    async def ask_others(self, request: bytes) -> Mapping[int, bytes | None]:
        """Send a request to each other worker, and return the bodies of their answers.

        None is a worker that did not answer correctly within a second.
        """
        answers: dict[int, bytes | None] = {}

        async def ask(index: int) -> None:
            answers[index] = None
            with trio.move_on_after(_ASK_SECONDS):
                answers[index] = await self._ask(index, request)

        async with trio.open_nursery() as nursery:
            for index in range(self.place.count):
                if index != self.place.index:
                    nursery.start_soon(ask, index)
        return answers

    async def _ask(self, index: int, request: bytes) -> bytes | None:
        ours, theirs = trio.socket.socketpair()
        async with trio.SocketStream(ours) as stream:
            with theirs:
                taken = await self.hand_over(index, theirs.fileno(), SIBLING, request)
            answer = bytearray()
            with suppress(trio.BrokenResourceError):
                while taken and (data := await stream.receive_some(_CHUNK_BYTES)):
                    answer += data
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        return body if head.startswith(b"HTTP/1.1 200 ") else None


class Move:
    """Moves one connection to another worker. See `Siblings.mover`.

    Attributes:
        plain: The streams to connect for a TLS connection that moved; None without TLS.
    """

    def __init__(
        self,
        siblings: Siblings,
        stream: trio.SocketStream,
        peer: tuple[str, int],
        *,
        encrypted: bool,
    ) -> None:
        self._siblings = siblings
        self._stream = stream
        self._peer = peer
        self._encrypted = encrypted
        self.plain: trio.SocketStream | None = None

    def route(self, headers: list[tuple[bytes, bytes]]) -> Elsewhere | None:
        """Return a function that passes the connection on, if another worker has the session."""
        owner = self._siblings.owner_of(headers)
        if owner is None:
            return None

        async def elsewhere(received: bytes) -> bool:
            if not self._encrypted:
                descriptor = self._stream.socket.fileno()
                return await self._siblings.hand_over(owner, descriptor, self._peer, received)
            ours, theirs = trio.socket.socketpair()
            with theirs:
                taken = await self._siblings.hand_over(owner, theirs.fileno(), self._peer, received)
            if taken:
                self.plain = trio.SocketStream(ours)
            else:
                ours.close()
            return taken

        return elsewhere


async def pump(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
    """Forward bytes between two streams until one of them ends."""
    async with other, trio.open_nursery() as nursery:

        async def pass_on(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await source.receive_some(_CHUNK_BYTES):
                    await sink.send_all(data)
            nursery.cancel_scope.cancel(reason="one side has ended")

        nursery.start_soon(pass_on, one, other)
        await pass_on(other, one)


def _socket_of(descriptor: int) -> trio.socket.SocketType:
    found = socket.socket(fileno=descriptor)
    found.set_inheritable(False)
    return trio.socket.from_stdlib_socket(found)
