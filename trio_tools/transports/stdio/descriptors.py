"""The process's standard input and output, made unreachable for other code.

While claimed, file descriptor 0 is the null device and 1 is standard error: a stray `print`, a C
library or a child process reads nothing from the wire and writes nothing into it. The wire itself
is on private descriptors that children do not inherit. Both are restored afterwards.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, TextIO

import trio

CHUNK_BYTES: Final = 2**16

# A process has one standard input and one standard output, so this is the only global state of
# the package.
_claimed: Final = threading.Lock()


@contextmanager
def claim_stdio() -> Generator[tuple[int, int]]:
    """Claim descriptors 0 and 1; yield private duplicates, for reading and for writing.

    The duplicates are valid within the block. Wrap them with `open_wire`.

    Raises:
        RuntimeError: They are claimed already.
        OSError: One of them was closed when the process began.
    """
    _check_open(0, "input", sys.__stdin__)
    _check_open(1, "output", sys.__stdout__)
    if not _claimed.acquire(blocking=False):
        raise RuntimeError(
            "standard input and output already serve another server in this process; "
            "serve the second one over HTTP or in memory"
        )
    with ExitStack() as restore:
        restore.callback(_claimed.release)
        wire_in = restore.enter_context(_diverted(0, os.open(os.devnull, os.O_RDONLY)))
        wire_out = restore.enter_context(_diverted(1, _open_stray_output()))
        # Printed text leaves Python's buffer while 1 is still diverted.
        restore.callback(_flush_stray_output)
        yield wire_in, wire_out


def _check_open(fd: int, what: str, stream: TextIO | None) -> None:
    # A file that was opened since has its number, possibly one of the event loop.
    if stream is None:
        raise OSError(
            errno.EBADF,
            f"standard {what} (descriptor {fd}) was closed when this process began: "
            "start it with a pipe there, or serve over HTTP",
        )


def open_wire(fd: int) -> trio.lowlevel.FdStream | _ThreadStream:
    """Open a stream over a duplicate of `fd` that can be cancelled for every kind of `fd`.

    Pipes and sockets are polled. Other kinds use a thread that a cancel abandons: files and the
    null device cannot be polled, and a terminal shares its blocking mode with standard error,
    which must not lose log lines.
    """
    mode = os.fstat(fd).st_mode
    if sys.platform != "win32" and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return trio.lowlevel.FdStream(_private_duplicate(fd))
    return _ThreadStream(fd)


class _ThreadStream(trio.abc.Stream):
    """Reads and writes a descriptor that cannot be polled, with one thread per direction.

    It never closes the descriptor: an abandoned thread may still wait on it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # A separate limiter: threads of tools must not keep a message from being read.
        self._limiter = trio.CapacityLimiter(2)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = max_bytes or CHUNK_BYTES
        try:
            return await trio.to_thread.run_sync(
                os.read, self._fd, size, abandon_on_cancel=True, limiter=self._limiter
            )
        except OSError as error:  # a terminal that was hung up
            raise trio.BrokenResourceError(str(error)) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            try:
                written = await trio.to_thread.run_sync(
                    os.write, self._fd, rest, abandon_on_cancel=True, limiter=self._limiter
                )
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            rest = rest[written:]

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Do nothing: the descriptor is never closed. `FdStream` has this method too."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@contextmanager
def _diverted(fd: int, target: int) -> Generator[int]:
    """Point `fd` at `target`, which is closed; yield the old `fd`; restore it."""
    wire = _private_duplicate(fd)
    try:
        os.dup2(target, fd)
        os.close(target)
        try:
            yield wire
        finally:
            os.dup2(wire, fd)
    finally:
        os.close(wire)


def _private_duplicate(fd: int) -> int:
    """Duplicate `fd` above the standard range, closed in child processes."""
    if sys.platform == "win32":
        return os.dup(fd)
    import fcntl  # noqa: PLC0415 - POSIX only

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _open_stray_output() -> int:
    try:
        return os.dup(2)
    except OSError:  # a process without standard error
        return os.open(os.devnull, os.O_WRONLY)


def _flush_stray_output() -> None:
    with suppress(AttributeError, ValueError, OSError):  # it may be None, closed or full
        sys.stdout.flush()
