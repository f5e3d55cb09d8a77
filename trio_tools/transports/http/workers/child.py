"""One of several worker processes: what it receives from its parent, and when it stops."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress

import trio

from trio_tools.transports.http.listening.handed import Handed
from trio_tools.transports.http.listening.listeners import Loads, SharedListener, listener_over
from trio_tools.transports.http.workers.siblings import Siblings, WorkerPlace
from trio_tools.transports.shutdown import Stop


class Worker:
    """What a worker process receives from its parent.

    Args:
        place: The index of the worker, and its descriptors.

    Attributes:
        siblings: The other workers.
        loads: The number of connections of each worker.
        listeners: The listening sockets, which all workers share.
        metrics_listeners: Sockets that serve only `/metrics`.
        handed: The same, if a supervisor opened them; they are closed as `listeners` are.
    """

    def __init__(self, place: WorkerPlace) -> None:
        self.siblings = Siblings(place)
        self.loads = Loads(place.loads, place.index, place.count)
        self.listeners = [SharedListener(number, self.loads) for number in place.listeners]
        metrics = [_socket(number) for number in place.metrics_listeners]
        self.metrics_listeners = [listener_over(each) for each in metrics]
        clients = [each.listening for each in self.listeners]
        self.handed = Handed(clients, metrics) if place.handed else Handed()
        self._parent = os.getppid()
        self._link = trio.SocketStream(trio.socket.from_stdlib_socket(_socket(place.link)))

    def close(self) -> None:
        """Close everything from the parent, except the listening sockets."""
        self.siblings.close()
        self.loads.close()
        self._link.socket.close()

    def hand_on_hangup(self) -> None:
        """Request the parent to make all workers reload, including this one."""
        if os.getppid() == self._parent:  # otherwise it has ended, and this process is about to
            os.kill(self._parent, signal.SIGHUP)

    async def follow(self, stop: Stop) -> None:
        """Report to the parent that calls are accepted, and answer it; stop when it has ended."""
        with suppress(trio.BrokenResourceError):
            await self._link.send_all(b"+")
            while await self._link.receive_some():
                await self._link.send_all(b"+")  # the event loop runs
        stop("the parent process is gone")


def _socket(descriptor: int) -> socket.socket:
    found = socket.socket(fileno=descriptor)
    found.set_inheritable(False)
    return found
