"""Where the server listens: bound before all else, so that a taken port costs nothing."""

from __future__ import annotations

import mmap
import socket
import struct
import tempfile
from contextlib import suppress
from typing import IO, Final, NamedTuple, Protocol

import trio

from trio_tools.settings import HttpSettings

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
        host: The address that is bound.
        port: The port that is bound, also when port 0 was asked for.
        url: Where MCP is served.
    """

    host: str
    port: int
    url: str

    def __str__(self) -> str:
        return self.url


async def listen(settings: HttpSettings) -> list[trio.SocketListener]:
    """Bind the address of the settings.

    Raises:
        OSError: It cannot be bound; the message names it.
    """
    try:
        return await trio.open_tcp_listeners(settings.port, host=settings.host)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot listen on {settings.host}, port {settings.port}: {error.strerror}",
        ) from error


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
        file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever asks for it closes it
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
        socket: The listening socket.
    """

    def __init__(self, descriptor: int, loads: Loads) -> None:
        self._listening = socket.socket(fileno=descriptor)
        self._listening.set_inheritable(False)
        self._listening.settimeout(0)
        self.socket = trio.socket.from_stdlib_socket(self._listening)
        self._loads = loads

    async def accept(self) -> trio.SocketStream:
        """Return the next connection that no other worker has taken.

        Raises:
            OSError: The system has no room for it, or the socket is broken.
        """
        while True:
            await trio.lowlevel.wait_readable(self._listening)
            if self._loads.is_ahead():
                await trio.sleep(_YIELD_SECONDS)
            with suppress(BlockingIOError, ConnectionAbortedError):
                accepted, _ = self._listening.accept()
                return trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def address_of(listener: Listener, settings: HttpSettings) -> Address:
    """Return where a listener listens."""
    host, port = listener.socket.getsockname()[:2]
    scheme = "http" if settings.tls_cert_file is None else "https"
    name = f"[{host}]" if ":" in host else host
    return Address(host, port, f"{scheme}://{name}:{port}{settings.path}")
