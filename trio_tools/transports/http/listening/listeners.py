"""The listening socket: a port, a unix socket, or sockets that a supervisor opened.

It is bound before anything else is opened, so that an address in use fails early.
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

# Seconds that a worker with more connections than another one lets that one accept first.
_YIELD_SECONDS: Final = 0.002
_LOAD: Final = struct.Struct("=i")


class Listener(Protocol):
    """Accepts connections. An `OSError` may be retried."""

    @property
    def socket(self) -> trio.socket.SocketType:
        """The listening socket."""
        ...

    async def accept(self) -> trio.SocketStream:
        """Return the next connection."""
        ...


class Address(NamedTuple):
    """The address of a server. Its text is its URL.

    Attributes:
        host: The bound address; the path of a unix socket.
        port: The bound port, also if port 0 was requested; 0 for a unix socket.
        url: The URL of MCP. For a unix socket `http+unix://`, its path with each slash as `%2F`,
            and the path of MCP.
    """

    host: str
    port: int
    url: str

    def __str__(self) -> str:
        return self.url


async def listen(
    settings: HttpSettings, handed: Sequence[socket.socket], context: ExitStack
) -> list[trio.SocketListener]:
    """Listen for clients: on sockets of a supervisor, or else at the address in the settings.

    Args:
        settings: The operator's settings.
        handed: Sockets that listen already; empty for none.
        context: Closes the sockets that are opened here at its end, and removes a unix socket.

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
    """Listen for readers of `/metrics`, if that has its own port. See `listen`."""
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
        message = (
            f"cannot listen on {host}, port {port}: {error.strerror}: choose another host or port "
            "(port 0 takes a free one)"
        )
        raise OSError(error.errno, message) from error
    for listener in listeners:
        context.callback(listener.socket.close)
    return listeners


def listener_over(listening: socket.socket) -> trio.SocketListener:
    """Return a listener over a socket. The caller closes the socket."""
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


class Loads:
    """The number of open connections of each worker, in memory that all of them share.

    Args:
        descriptor: Descriptor of the file that is the memory, one integer for each worker.
        index: Index of this worker.
        count: Number of workers.
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
        """Release the memory."""
        self._memory.close()

    def tell(self, connections: int) -> None:
        """Publish the number of connections of this worker."""
        _LOAD.pack_into(self._memory, self._index * _LOAD.size, connections)

    def is_ahead(self) -> bool:
        """Whether another worker has fewer connections than this one."""
        loads = [load for (load,) in _LOAD.iter_unpack(self._memory[: self._count * _LOAD.size])]
        return loads[self._index] > min(loads)


class SharedListener:
    """A listening socket of the parent process, from which several workers accept.

    A connection wakes all workers. One that has more connections than another lets that one
    accept first, for a moment. So kept-alive connections are spread evenly.

    Args:
        descriptor: Descriptor of the listening socket.
        loads: The number of connections of each worker.

    Attributes:
        listening: The listening socket.
        socket: The same as a trio socket.
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
            OSError: The system has no free descriptor, or the socket failed.
        """
        while True:
            await trio.lowlevel.wait_readable(self.listening)
            if self._loads.is_ahead():
                await trio.sleep(_YIELD_SECONDS)
            with suppress(BlockingIOError, ConnectionAbortedError):
                accepted, _ = self.listening.accept()
                return trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def address_of(listener: Listener, settings: HttpSettings) -> Address:
    """Return the address of a listener."""
    name = listener.socket.getsockname()
    if listener.socket.family == socket.AF_UNIX:
        path = os.fsdecode(name)
        return Address(path, 0, f"http+unix://{quote(path, safe='')}{settings.path}")
    host, port = name[:2]
    scheme = "http" if settings.tls_cert_file is None else "https"
    name = f"[{host}]" if ":" in host else host
    return Address(host, port, f"{scheme}://{name}:{port}{settings.path}")


def metrics_url(listener: Listener, settings: HttpSettings) -> str:
    """Return the URL of the metrics at their own listener."""
    return address_of(listener, settings.model_copy(update={"path": "/metrics"})).url
