"""A call of an upstream's tool through our server beside the official client calling it directly.

Both talk to the same small server over stdio, with as many calls in flight. What counts is the CPU
of this process per item; the upstream's own is in a process of its own.
"""

import gc
import statistics
import sys
import time
from tempfile import TemporaryDirectory

import trio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from tests.benchmarks._runner import Verdict
from tests.support.upstreams import small
from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports.memory import connect_in_process

_ITEMS = 1_000
_AT_ONCE = 10
_ROUNDS = 7
_BOUND = 1.3


async def direct(client: Client) -> None:
    """Call the tool with a bounded number of workers, as one would by hand."""
    numbers = iter(range(_ITEMS))
    values: list[object] = [None] * _ITEMS

    async def work() -> None:
        for number in numbers:
            result = await client.call_tool("echo", {"text": str(number)})
            values[number] = result.content

    async with trio.open_nursery() as nursery:
        for _ in range(_AT_ONCE):
            nursery.start_soon(work)
    assert None not in values


async def ours(client: Client) -> None:
    items = [{"text": str(number)} for number in range(_ITEMS)]
    arguments = {"operation": "small.echo", "items": items, "max_concurrent": _AT_ONCE}
    answer = await client.call_tool("batch_process", arguments)
    assert answer.structured_content["data"]["counts"]["succeeded"] == _ITEMS


async def measure(state: str) -> tuple[float, float]:
    """Return the CPU seconds per item of both, medians of rounds that take turns."""
    program = small("inline")
    parameters = StdioServerParameters(command=program["command"], args=list(program["args"]))
    server = create_server(Settings(upstreams={"small": program}, state={"url": state}))
    seconds: dict[str, list[float]] = {"direct": [], "ours": []}
    async with Client(parameters) as peer, connect_in_process(server) as client:
        await direct(peer)
        await ours(client)
        for _ in range(_ROUNDS):
            for name, work in (("direct", lambda: direct(peer)), ("ours", lambda: ours(client))):
                gc.collect()
                started = time.process_time()
                await work()
                seconds[name].append((time.process_time() - started) / _ITEMS)
    return statistics.median(seconds["direct"]), statistics.median(seconds["ours"])


def run(_options: list[str]) -> int:
    # The file of a fresh folder: the usual one is shared with other servers of this machine.
    with TemporaryDirectory(prefix="trio-tools-bench-") as folder:
        alone, through_us = trio.run(measure, f"sqlite:///{folder}/state.db")
    print(f"official client, directly  {alone * 1e6:8.1f} us of CPU per item")
    print(f"through batch_process      {through_us * 1e6:8.1f} us of CPU per item")
    verdict = Verdict("upstream: through us / official client", through_us / alone, _BOUND)
    print(verdict)
    return not verdict.reached


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
