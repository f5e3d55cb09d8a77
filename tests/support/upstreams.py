"""Small upstream MCP servers for tests, and a server of ours over them."""

import sys
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from mcp.client import Client

from tests.support.servers_in_memory import envelope_of
from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports.memory import connect_in_process

SERVER = Path(__file__).with_name("upstream_server.py")


def small(*ways, env=None, **settings):
    """Return the settings of the small server that behaves in these ways."""
    args = ("-I", "-S", str(SERVER), *ways)
    return {"command": sys.executable, "args": args, "env": env or {}, **settings}


@asynccontextmanager
async def server_over(operations=(), answers=None, **upstreams):
    """Serve over these upstreams; give a function that runs one of their tools over items.

    Args:
        operations: Further ones of the server.
        answers: Callbacks of a client that answers requests, which only the older protocol has.
        upstreams: Their settings, by name.
    """
    server = create_server(Settings(upstreams=upstreams), operations=operations)
    connection = (
        connect_in_process(server) if answers is None else Client(server, mode="legacy", **answers)
    )
    async with connection as client:

        async def run(operation, *items, **arguments):
            asked = {"operation": operation, "items": list(items), **arguments}
            return await envelope_of(client, "batch_process", asked)

        run.server = server
        run.client = client
        run.status = lambda name: server.state.services.upstreams[name].status()
        yield run


async def gone(pid):
    """Wait until a process has ended."""
    await until(lambda: not is_alive(pid))


async def until(true):
    """Wait until something outside of this process is true."""
    with trio.fail_after(20):
        while not true():  # noqa: ASYNC110 - nothing tells
            await trio.sleep(0.01)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def traced(path, word):
    """Return what follows the word in the lines of a trace that begin with it."""
    if not path.exists():
        return []
    lines = [line.partition(" ") for line in path.read_text().splitlines()]
    return [rest for first, _, rest in lines if first == word]


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))
