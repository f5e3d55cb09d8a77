"""Ends other processes when this one ends, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import final

# The program of the guard. Its input ends when the process that started it closes it or ends. The
# descriptors name the processes exactly, while a number could belong to a later one by then.
_GUARD = """
import signal, sys
sys.stdin.buffer.read()
for process in map(int, sys.argv[1:]):
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


@final
class ProcessGuard:
    """Kills processes when it is closed, or when this process ends, also by `kill -9`.

    A small process waits for that end. Only Linux can do this; elsewhere there is no guard.

    Args:
        pids: Of the processes. Those that have ended already are left out.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if not hasattr(os, "pidfd_open"):
            return
        with ExitStack() as descriptors:
            opened: list[int] = []
            for pid in pids:
                with suppress(ProcessLookupError):
                    opened.append(os.pidfd_open(pid))
                    descriptors.callback(os.close, opened[-1])
            if opened:
                # A session of its own, so that Ctrl-C in a terminal does not end it.
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    [sys.executable, "-I", "-S", "-c", _GUARD, *map(str, opened)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=opened,
                    start_new_session=True,
                )

    def close(self) -> None:
        """Kill the processes now, and wait for the guard's end."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def children_of(parent: int) -> Iterator[tuple[int, str]]:
    """Yield the process ids and names of the children of a process; none where /proc is not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = stat.read_text(errors="replace").partition(" (")
            name, _, fields = rest.rpartition(") ")
            if int(fields.split()[1]) == parent:
                yield int(pid), name
