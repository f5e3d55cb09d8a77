"""Start the server under test, watch it end, and see what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.transports.lines import LineClient
from trio_tools.transports.http import Address

ROOT = Path(__file__).parents[2]
GRACE_SECONDS = 1.0
# The promise is the grace and one second. A machine that does other things too needs longer.
MOST_SECONDS = GRACE_SECONDS + 3.0


class Server:
    """The process of a server, from outside."""

    def __init__(self, process):
        self.process = process
        self.stderr = bytearray()
        self.client = None
        self.address = None

    async def collect_stderr(self):
        async for data in self.process.stderr:
            self.stderr += data

    async def ended(self, *, status=0, quiet=True):
        """Wait for the end; check status, time, log, and that nothing is left of the process."""
        children = descendants(self.process.pid)
        started = time.monotonic()
        with trio.fail_after(30):
            await self.process.wait()
        took = time.monotonic() - started
        assert self.process.returncode == status, self.stderr.decode()
        assert took < MOST_SECONDS, f"it took {took:.1f} s to end"
        if status == 0 and quiet:
            assert b"Traceback" not in self.stderr, self.stderr.decode()
        with trio.fail_after(5):  # some see only now that their parent is gone
            while any(map(lives, children)):  # noqa: ASYNC110 - no process tells
                await trio.sleep(0.02)

    def workers(self):
        """Return the ids of the worker processes."""
        children = {c: Path(f"/proc/{c}/cmdline") for c in descendants(self.process.pid)}
        return [child for child, line in children.items() if b"spawn_main" in line.read_bytes()]

    def kill(self, number=signal.SIGTERM):
        self.process.send_signal(number)


def descendants(pid):
    # A child belongs to the thread that started it.
    children = Path(f"/proc/{pid}/task").glob("*/children")
    direct = [int(child) for each in children for child in each.read_text().split()]
    return direct + [below for child in direct for below in descendants(child)]


def lives(pid):
    status = Path(f"/proc/{pid}/stat")
    # A zombie is dead: only nobody has asked for its status yet.
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def environment(**settings):
    given = {"TRIO_TOOLS_SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS)}
    given["PYTHONPATH"] = str(ROOT)
    given |= {f"TRIO_TOOLS_{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, **given}


@asynccontextmanager
async def running(word, *, module="tests.processes.server_under_test", **settings):
    """Start the server; kill it at the end of the block if it still runs."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", module, word],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**settings),
        cwd=ROOT,
    )
    server = Server(process)
    async with process.stdin, process.stdout, process.stderr, trio.open_nursery() as nursery:
        nursery.start_soon(server.collect_stderr)
        try:
            yield server
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await process.wait()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stdio_process(**settings):
    """A server on stdio, with a line client that has shaken hands."""
    async with running("stdio", **settings) as server:
        server.client = LineClient(server.process.stdio)
        with trio.fail_after(60):
            await server.client.initialize()
        yield server


@asynccontextmanager
async def http_process(**settings):
    """A server on HTTP, with its address."""
    async with running("http", http__port=0, **settings) as server:
        with trio.fail_after(60):
            port = int(await server.process.stdout.receive_some())
        server.address = Address("127.0.0.1", port, f"http://127.0.0.1:{port}/mcp")
        yield server
