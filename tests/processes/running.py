"""Start the server under test, watch it end, and see what it leaves behind."""

import os
import signal
import time
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import trio

from tests.processes.forking import open_fork
from tests.transports.lines import LineClient
from trio_tools.transports.http import Address

ROOT = Path(__file__).parents[2]
GRACE_SECONDS = 1.0
# The promise: the grace, and a second for the rest. The time in which a thread could have run and
# had no CPU does not count, as the machine does other things too.
MOST_SECONDS = GRACE_SECONDS + 1.0


class Server:
    """The process of a server, from outside."""

    def __init__(self, process):
        self.process = process
        self.stderr = bytearray()
        self.stderr_ended = trio.Event()
        self.client = None
        self.address = None

    async def collect_stderr(self):
        async for data in self.process.stderr:
            self.stderr += data
        self.stderr_ended.set()

    async def ended(self, *, status=0, quiet=True):
        """Wait for the end; check status, time, log, and that nothing is left of the process."""
        children = descendants(self.process.pid)
        started = time.monotonic()
        before = after = seconds_without_cpu(self.process.pid)
        ours = seconds_without_cpu("self")
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                async def watch():
                    nonlocal after
                    while True:
                        after = max(after, seconds_without_cpu(self.process.pid))
                        await trio.sleep(0.02)

                nursery.start_soon(watch)
                await self.process.wait()
                nursery.cancel_scope.cancel()
        took = time.monotonic() - started
        # Threads of this process that ended meanwhile took their figures with them.
        waited = after - before + max(0.0, seconds_without_cpu("self") - ours)
        assert self.process.returncode == status, self.stderr.decode()
        assert took - waited < MOST_SECONDS, f"it took {took:.1f} s, {waited:.1f} s without a CPU"
        if status == 0 and quiet:
            assert b"Traceback" not in self.stderr, self.stderr.decode()
        with trio.fail_after(30):  # some see only now that their parent is gone
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


def seconds_without_cpu(pid):
    """Return how long the threads of a process have waited for a CPU, together."""
    waited = 0
    for each in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError, IndexError):  # the thread has ended
            waited += int(each.read_text().split()[1])
    return waited / 1e9


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
    process = await open_fork(module, [word], environment(**settings))
    server = Server(process)
    async with aclosing(process), trio.open_nursery() as nursery:
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
