"""Listening sockets that a supervisor opened for this process, as systemd does for socket units.

Their descriptors begin at 3. LISTEN_FDS is their number, LISTEN_PID the process they are for, and
LISTEN_FDNAMES their names.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any, Final

from trio_tools.settings import Settings

METRICS_NAME: Final = "metrics"
"""Name (FileDescriptorName=) of a socket that serves `/metrics` and no MCP."""

_FIRST_DESCRIPTOR: Final = 3


class Handed:
    """Sockets that replace the addresses of the settings; none by default.

    Attributes:
        clients: Sockets that serve MCP.
        metrics: Sockets that serve only `/metrics`.
    """

    def __init__(
        self, clients: Iterable[socket.socket] = (), metrics: Iterable[socket.socket] = ()
    ) -> None:
        self.clients = list(clients)
        self.metrics = list(metrics)

    @classmethod
    def of_environment(cls) -> Handed:
        """Return the sockets in the environment, and remove the variables for child processes.

        Raises:
            ValueError: One is not a listening stream socket, or none is for clients.
        """
        named = list(_named_sockets())
        handed = cls(
            [each for name, each in named if name != METRICS_NAME],
            [each for name, each in named if name == METRICS_NAME],
        )
        if handed.metrics and not handed.clients:
            handed.close()
            raise ValueError(
                f"the supervisor opened a socket named {METRICS_NAME!r} and none for clients: add "
                "a socket unit with another FileDescriptorName="
            )
        return handed

    def close(self) -> None:
        """Close them."""
        for each in (*self.clients, *self.metrics):
            each.close()

    def applied(self, settings: Settings) -> Settings:
        """Return settings with the addresses of the sockets, for the access checks."""
        update: dict[str, Any] = {}
        if self.clients:
            host, port = _reachable(self.clients)
            update |= {"host": host, "port": port, "socket": None}
        if self.metrics:
            host, port = _reachable(self.metrics)
            update |= {"metrics_host": host, "metrics_port": port}
        if not update:
            return settings
        return settings.model_copy(update={"http": settings.http.model_copy(update=update)})


def _named_sockets() -> Iterator[tuple[str, socket.socket]]:
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return
    for index in range(int(count)):
        descriptor = _FIRST_DESCRIPTOR + index
        name = names[index] if index < len(names) else ""
        each = _listening(descriptor)
        if each is None:
            raise ValueError(
                f"descriptor {descriptor} ({name}) of the supervisor is not a stream socket that "
                "listens: write ListenStream= in the socket unit"
            )
        yield name, each


def _listening(descriptor: int) -> socket.socket | None:
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:
        return None
    found.set_inheritable(False)
    if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return found
    found.detach()
    return None


def _reachable(sockets: Iterable[socket.socket]) -> tuple[str, int]:
    """Return the address that most machines can reach; a unix socket is only for this machine."""
    names = [each.getsockname()[:2] for each in sockets if each.family != socket.AF_UNIX]
    outside = [name for name in names if name[0] != "::1" and not name[0].startswith("127.")]
    return (outside or names or [("localhost", 0)])[0]
