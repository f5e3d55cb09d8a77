"""Where the server listens: a port, a unix socket, or sockets that a supervisor opened.

It is bound before anything else is opened, so that a taken address costs nothing.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import IO, Final, NamedTuple, Protocol
from urllib.parse import quote

import trio

from trio_tools.settings import HttpSettings
from trio_tools.transports.http.listening.unix_socket import bind_unix

# How long a worker with more connections than another one waits for that one to accept.
_YIELD_SECONDS: Final = 0.002
_LOAD: Final = struct.Struct("=i")


class Listener(Protocol):
    """Accepts connections. What raises `OSError` may be tried again."""

    @property
    def socket(self) -> trio.socket.SocketType:
        """The listening socket."""
        ...

    async def accept(self) -> trio.SocketStream:
        """Return the next connection."""
        ...


class Address(NamedTuple):
    """Where a server listens. Its text is its URL.

    Attributes:
        host: The address that is bound; the path of a unix socket.
        port: The port that is bound, also when port 0 was asked for; 0 for a unix socket.
        url: Where MCP is served. For a unix socket `http+unix://`, its path with each slash as
            `%2F`, and the path of MCP.
    """

    host: str
    port: int
    url: str

    def __str__(self) -> str:
        return self.url


async def listen(
    settings: HttpSettings, handed: Sequence[socket.socket], context: ExitStack
) -> list[trio.SocketListener]:
    """Listen for clients: on sockets that a supervisor opened, or else where the settings say.

    Args:
        settings: What the operator decided.
        handed: Sockets that listen already; empty for none.
        context: Closes what is opened here at its end, and removes a unix socket.

    Raises:
        OSError: The address cannot be bound; the message names it.
    """
    if handed:
        return [listener_over(each) for each in handed]
    if settings.socket is not None:
        bound, remove = bind_unix(settings.socket, int(settings.socket_mode, 8))
        context.callback(remove)
        context.callback(bound.close)
        return [listener_over(bound)]
    return await listen_on_port(settings.port, settings.host, context)


async def listen_for_metrics(
    settings: HttpSettings, handed: Sequence[socket.socket], context: ExitStack
) -> list[trio.SocketListener]:
    """Listen for those who read `/metrics`, if that has a port of its own. See `listen`."""
    if handed:
        return [listener_over(each) for each in handed]
    if settings.metrics_port is None:
        return []
    return await listen_on_port(settings.metrics_port, settings.metrics_host, context)


async def listen_on_port(port: int, host: str, context: ExitStack) -> list[trio.SocketListener]:
    """Listen on a port, until the context ends.

    Raises:
        OSError: It cannot be bound; the message names it.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        message = f"cannot listen on {host}, port {port}: {error.strerror}"
        raise OSError(error.errno, message) from error
    for listener in listeners:
        context.callback(listener.socket.close)
    return listeners


def listener_over(listening: socket.socket) -> trio.SocketListener:
    """Return a listener over a socket, which stays its owner's to close."""
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


class Loads:
    """How many connections each worker has open, in memory that all of them share.

    Args:
        descriptor: Of the file that is the memory, one integer for each worker.
        index: Of this worker.
        count: How many workers there are.
    """

    def __init__(self, descriptor: int, index: int, count: int) -> None:
        self._memory = mmap.mmap(descriptor, count * _LOAD.size)
        self._index = index
        self._count = count

    @staticmethod
    def make(count: int) -> IO[bytes]:
        """Return a file that is the memory for so many workers."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        file.truncate(count * _LOAD.size)
        return file

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()

    def tell(self, connections: int) -> None:
        """Let the others know how many connections this worker has."""
        _LOAD.pack_into(self._memory, self._index * _LOAD.size, connections)

    def is_ahead(self) -> bool:
        """Whether another worker has fewer connections than this one."""
        loads = [load for (load,) in _LOAD.iter_unpack(self._memory[: self._count * _LOAD.size])]
        return loads[self._index] > min(loads)


class SharedListener:
    """A listening socket of the parent process, from which several workers accept.

    A connection wakes all of them. One that has more connections than another lets that one go
    first, for a moment: so the connections that clients keep open are spread evenly.

    Args:
        descriptor: Of the listening socket.
        loads: How many connections each worker has.

    Attributes:
        listening: The listening socket.
        socket: The same, as trio's.
    """

    def __init__(self, descriptor: int, loads: Loads) -> None:
        self.listening = socket.socket(fileno=descriptor)
        self.listening.set_inheritable(False)
        self.listening.settimeout(0)
        self.socket = trio.socket.from_stdlib_socket(self.listening)
        self._loads = loads

    async def accept(self) -> trio.SocketStream:
        """Return the next connection that no other worker has taken.

        Raises:
            OSError: The system has no room for it, or the socket is broken.
        """
        while True:
            await trio.lowlevel.wait_readable(self.listening)
            if self._loads.is_ahead():
                await trio.sleep(_YIELD_SECONDS)
            with suppress(BlockingIOError, ConnectionAbortedError):
                accepted, _ = self.listening.accept()
                return trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def address_of(listener: Listener, settings: HttpSettings) -> Address:
    """Return where a listener listens."""
    name = listener.socket.getsockname()
    if listener.socket.family == socket.AF_UNIX:
        path = os.fsdecode(name)
        return Address(path, 0, f"http+unix://{quote(path, safe='')}{settings.path}")
    host, port = name[:2]
    scheme = "http" if settings.tls_cert_file is None else "https"
    name = f"[{host}]" if ":" in host else host
    return Address(host, port, f"{scheme}://{name}:{port}{settings.path}")


def metrics_url(listener: Listener, settings: HttpSettings) -> str:
    """Return where the metrics are served by a listener of theirs."""
    return address_of(listener, settings.model_copy(update={"path": "/metrics"})).url
