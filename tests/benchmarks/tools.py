"""What the tools add to the engine, whether they hold the event loop, and whether they are on time.

`python -m tests.benchmarks.tools` prints all three. Times are CPU time of this process.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from pathlib import Path

import trio
from mcp.client import Client

from nursery_patterns import StepMonitor, run_batch
from tests.support.raw_http_servers import OK, Server, answering, next_request, serving
from trio_tools.server import create_server
from trio_tools.server.results import succeeded
from trio_tools.settings import FetchSettings, Settings
from trio_tools.tools.batches.pagination import Pages
from trio_tools.tools.call import Answer

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


async def measure_rendering() -> None:
    """Make both forms of an answer with 1,000 outcomes, by themselves."""
    server = create_server(Settings(max_output_chars=1_000_000), operations=[noop])
    async with Client(server) as client:
        call = {"operation": "noop", "items": list(range(_ITEMS)), "operation_id": "one"}
        await client.call_tool("batch_process", call)
        kept = server.state.store.find("one", "anonymous")
        report = kept.batch.report()
        pages = Pages(kept, server.state.cursors, 1_000_000)

        async def render() -> None:
            shown = await pages.that_fit(report)
            data = {"results": shown.results, "errors": shown.errors}
            assert len(shown.results) == _ITEMS
            succeeded(Answer(summary="", data=data, told=shown.told))

        took = await _cpu(render)
    print(f"rendering, per item          {took / _ITEMS * 1e6:8.2f} us (15)")


def _reply(kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


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
        page = (b"<html><p>" + b"some words \xc3\xa9 in a row. " * 250_000)[:5_000_000]
        records = [{"id": n, "name": f"name {n}", "tags": ["a", "b"]} for n in range(9_000)]
        fact = json.dumps(records).encode()
        assert len(page) == 5_000_000
        assert 450_000 < len(fact) < 500_000
        fetch = FetchSettings(allow_private=True, ports=None)
        server = create_server(
            Settings(file_roots=(folder,), fetch=fetch, max_kept_bytes=2**30), operations=[noop]
        )
        async with (
            serving(answering(_reply("text/html", page))) as site,
            serving(answering(_reply("application/json", fact))) as api,
            Client(server) as client,
        ):
            await client.call_tool("get_concurrency_status", {})  # the client loads its validator
            as_json = {"body_as": "json", "max_bytes": 500_000}
            url = {"urls": [site.url], "max_bytes": 5_000_000}
            for label, tool, arguments in (
                ("list_tools", None, {}),
                ("hash 1 GB of file", "compute_hash", {"path": "large"}),
                ("compress 50 MB", "compress_data", {"text": "some words " * 4_500_000}),
                ("fetch a 5 MB page", "fetch_urls", url),
                ("the same as Markdown", "fetch_urls", {**url, "body_as": "markdown"}),
                ("0.5 MB of JSON", "fetch_urls", {**url, **as_json, "urls": [api.url]}),
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


async def measure_deadline() -> None:
    """Fetch 200 URLs of which some hang, with three seconds for all of them."""
    fetch = FetchSettings(allow_private=True, ports=None, max_connections_per_host=100)
    async with serving(_dawdle) as site, Client(create_server(Settings(fetch=fetch))) as client:
        await client.call_tool("get_concurrency_status", {})
        urls = [f"{site.url}/{number}" for number in range(200)]
        started = time.perf_counter()
        asked = {"urls": urls, "timeout_seconds": 3, "max_concurrent": 50}
        answer = await client.call_tool("fetch_urls", asked)
        took = time.perf_counter() - started
    assert not answer.structured_content["data"]["complete"]
    print(f"200 URLs, 3 s for them   {took:6.3f} s (3.05)")


async def _dawdle(stream: trio.abc.Stream, server: Server) -> None:
    while request := await next_request(stream, server):
        if request.split(b" ")[1].endswith(b"3"):
            await trio.sleep_forever()
        await stream.send_all(OK)


def run(options: list[str]) -> int:
    """Measure all of it."""
    del options
    gc.collect()
    gc.freeze()  # what the imports made would be walked again by each full collection
    for measure in (measure_overhead, measure_rendering, measure_steps, measure_deadline):
        trio.run(measure)
    return 0


if __name__ == "__main__":
    run([])
