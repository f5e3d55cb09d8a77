"""The program of an upstream: its pipes, the last lines it wrote to stderr, and its end.

It cannot outlive this process. Where the system has the parent-death signal (Linux), it is killed
when this process ends for any reason. That signal is sent when the *thread* that started the
child ends, so the thread of the event loop starts it, and not a worker thread of trio. A short
Python program requests the signal and then becomes the program, since running code between fork
and exec is not safe here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from typing import Final

import trio

from trio_tools.answers.errors import UpstreamFailed
from trio_tools.upstream.launch import Program

_TAIL_LINES: Final = 20
_TAIL_LINE_CHARS: Final = 400
# Seconds for each step of the end: stdin is closed, then SIGTERM, then SIGKILL.
_PATIENCE: Final = (0.3, 0.3, 0.3)
_LAST_WORDS_SECONDS: Final = 0.1

# Python ignores two signals, and exec would pass that on. If this process ended before the signal
# was requested, the child has another parent already.
_BECOME: Final = """\
import os, signal, sys
parent, path = int(sys.argv[1]), sys.argv[2]
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
except (ImportError, OSError, AttributeError):
    pass
if os.getppid() != parent:
    os._exit(1)
for name in ("SIGPIPE", "SIGXFSZ"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
try:
    os.execv(path, sys.argv[2:])
except OSError as error:
    sys.exit(f"{path} cannot be started: {error.strerror}")
"""


class Child:
    """A running program, made by `start_child`.

    Attributes:
        stdin: Its standard input.
        stdout: Its standard output.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        assert popen.stdin is not None
        assert popen.stdout is not None
        assert popen.stderr is not None
        self._popen = popen
        self.stdin = trio.lowlevel.FdStream(os.dup(popen.stdin.fileno()))
        self.stdout = trio.lowlevel.FdStream(os.dup(popen.stdout.fileno()))
        self._stderr = trio.lowlevel.FdStream(os.dup(popen.stderr.fileno()))
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            pipe.close()
        self._tail = deque[str](maxlen=_TAIL_LINES)
        self._all_read = trio.Event()

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs or was not waited for."""
        return self._popen.returncode

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._popen.poll() is not None

    def last_words(self) -> str:
        """Return the last lines that it wrote to stderr; empty without any."""
        return "\n".join(self._tail)

    async def read_stderr(self) -> None:
        """Keep the last lines of stderr until it is closed, and drop the others."""
        rest = ""
        try:
            async for chunk in self._stderr:
                *lines, rest = (rest + bytes(chunk).decode(errors="replace")).split("\n")
                self._tail.extend(line[:_TAIL_LINE_CHARS] for line in lines[-_TAIL_LINES:] if line)
                rest = rest[:_TAIL_LINE_CHARS]
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            if rest:
                self._tail.append(rest)
            self._all_read.set()

    async def wait(self) -> int:
        """Wait for its end and return its exit status."""
        if self._popen.returncode is None:
            await _wait_for(self._popen)
        return self._popen.wait()

    async def stop(self) -> None:
        """End it and its whole group within a second: close stdin, SIGTERM, SIGKILL."""
        with trio.move_on_after(sum(_PATIENCE) + 0.2, shield=True):
            with trio.move_on_after(_PATIENCE[0]):
                await self.stdin.aclose()
                await self.wait()
            for number, seconds in zip(
                (signal.SIGTERM, signal.SIGKILL), _PATIENCE[1:], strict=True
            ):
                if self._popen.returncode is None:
                    self._signal(number)
                    with trio.move_on_after(seconds):
                        await self.wait()
            # Processes that it started and left behind are in its group, which has its number.
            self._signal(signal.SIGKILL)
            with trio.move_on_after(_LAST_WORDS_SECONDS):
                await self._all_read.wait()
            for stream in (self.stdin, self.stdout, self._stderr):
                await stream.aclose()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


async def start_child(program: Program) -> Child:
    """Start a program.

    Raises:
        UpstreamFailed: The system refuses to start it, or its folder does not exist.
    """
    command = [program.path, *program.args]
    if sys.platform == "linux" and sys.executable:
        command = [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *command]
    await trio.lowlevel.checkpoint()
    try:
        # In this thread, for the reason above. It takes a few milliseconds.
        popen = subprocess.Popen(  # noqa: ASYNC220, S603 - the operator's own command, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=program.env,
            cwd=program.cwd,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise UpstreamFailed(
            f"it cannot be started: {error}", error_code="UPSTREAM_NOT_CONFIGURED"
        ) from None
    return Child(popen)


async def _wait_for(popen: subprocess.Popen[bytes]) -> None:
    if sys.platform == "linux":
        descriptor = os.pidfd_open(popen.pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
    else:
        await trio.to_thread.run_sync(popen.wait, abandon_on_cancel=True)
