"""What the tools add to the engine, and whether they ever hold the event loop.

`python -m tests.benchmarks.tools` prints both tables. Times are CPU time of this process.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import trio
from mcp.client import Client

from nursery_patterns import StepMonitor, run_batch
from tests.http.servers import answering, serving
from trio_tools.server import create_server
from trio_tools.settings import FetchSettings, Settings

_ITEMS = 1_000
_ROUNDS = 9
_MEGABYTE = 10**6


async def noop(item: int) -> int:
    """Do nothing."""
    await trio.lowlevel.checkpoint()
    return item


async def measure_overhead() -> None:
    """Compare a batch through the tool and the client with the engine alone."""
    server = create_server(Settings(), operations=[noop])
    items = list(range(_ITEMS))
    async with Client(server) as client:
        call = {"operation": "noop", "items": items}
        few = {"operation": "noop", "items": items[:1]}
        await client.call_tool("batch_process", call)

        async def tool() -> None:
            await client.call_tool("batch_process", call)

        async def tool_of_one() -> None:
            await client.call_tool("batch_process", few)

        async def engine() -> None:
            await run_batch(noop, items, limit=10)

        whole, one, alone = [await _cpu(fn) for fn in (tool, tool_of_one, engine)]
    print(f"batch_process of {_ITEMS} no-ops {whole * 1e3:8.2f} ms")
    print(f"the same of one item         {one * 1e3:8.2f} ms")
    print(f"the engine alone             {alone * 1e3:8.2f} ms")
    print(f"added per item               {(whole - one - alone) / _ITEMS * 1e6:8.2f} us (30)")
    print(f"the same, call included      {(whole - alone) / _ITEMS * 1e6:8.2f} us")


async def _cpu(fn) -> float:
    samples = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        await fn()
        samples.append(time.process_time() - started)
    return statistics.median(samples)


async def measure_steps() -> None:
    """Call the tools with inputs at their caps, and report the longest steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "large").open("wb") as file:
            file.truncate(2**30)
        page = b"<html><p>" + b"some words \xc3\xa9 in a row. " * 200_000
        reply = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b"
        fetch = FetchSettings(allow_private=True, ports=None)
        server = create_server(
            Settings(file_roots=(folder,), fetch=fetch, max_kept_bytes=2**30), operations=[noop]
        )
        handler = answering(reply % (len(page[:5_000_000]), page[:5_000_000]))
        async with serving(handler) as site, Client(server) as client:
            await client.call_tool("get_concurrency_status", {})  # the client loads its validator
            url = {"urls": [site.url], "max_bytes": 5_000_000}
            for label, tool, arguments in (
                ("list_tools", None, {}),
                ("hash 1 GB of file", "compute_hash", {"path": "large"}),
                ("compress 50 MB", "compress_data", {"text": "some words " * 4_500_000}),
                ("fetch a 5 MB page", "fetch_urls", url),
                ("the same as Markdown", "fetch_urls", {**url, "body_as": "markdown"}),
                ("1,000 items", "batch_process", {"operation": "noop", "items": list(range(1000))}),
                ("1,000 bad URLs", "fetch_urls", {"urls": ["http://127.0.0.1:1/"] * 1000}),
            ):
                monitor = StepMonitor(threshold=0.001, on_block=lambda _: None)
                started = time.perf_counter()
                with monitor.watching():
                    if tool is None:
                        await client.list_tools()
                    else:
                        answer = await client.call_tool(tool, arguments)
                        assert not answer.is_error, answer.content
                worst = monitor.worst
                told = f"{worst.seconds * 1e3:6.1f} ms  {worst.task_name}" if worst else "none"
                print(f"{label:24} {time.perf_counter() - started:6.2f} s, longest step {told}")


if __name__ == "__main__":
    trio.run(measure_overhead)
    trio.run(measure_steps)
