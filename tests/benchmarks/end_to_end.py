"""`fetch_urls` of 1,000 URLs through stdio, beside the asyncio form of the guideline.

Both servers are processes of their own and ask one nginx, ten requests at once. Theirs is the
guideline's `fetch_urls`: a tool of the SDK's server on asyncio, a semaphore, `gather`, and a
session of aiohttp for each request. As the guideline prints it, it returns the status and the
declared length of each URL and never reads a body, so a model gets no page. Here it is completed
to do the same job as ours, in the way that the guideline's own `good_async_tool` reads a body: it
returns the text of each page, in the guideline's envelope. Ours is `trio-tools serve` as it
comes, with its state on the disk. Wall time is that of a call, as the client sees it; CPU time
that of the server's process meanwhile. `python -m tests.benchmarks end_to_end headers` measures
the printed form.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - the other side
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

import aiohttp
from mcp.server.mcpserver import MCPServer

from tests.benchmarks._runner import Verdict
from tests.benchmarks.calls_clients import LineTalk, Server
from tests.benchmarks.http_server import running_servers
from tests.transports.lines import call

_URLS = 1_000
_ROUNDS = 5
_AT_ONCE = 10


def serve_the_guideline(*, with_bodies: bool) -> None:
    """Serve the guideline's form over stdio."""
    server = MCPServer("guideline")
    semaphore = asyncio.Semaphore(_AT_ONCE)

    async def fetch_one(url: str) -> dict[str, object]:
        try:
            async with (
                semaphore,
                aiohttp.ClientSession() as session,
                session.get(url, timeout=aiohttp.ClientTimeout(30)) as response,
            ):
                page = {
                    "url": url,
                    "status": response.status,
                    "content_length": response.headers.get("content-length"),
                }
                return {**page, "text": await response.text()} if with_bodies else page
        except Exception as error:  # noqa: BLE001 - as the guideline does
            return {"url": url, "error": str(error)}

    @server.tool()
    async def fetch_urls(urls: list[str]) -> dict[str, object]:
        """Fetch many URLs."""
        results = await asyncio.gather(*map(fetch_one, urls))
        return {"success": True, "data": {"results": results}, "error": None, "meta": {}}

    server.run()


def our_settings(folder: str) -> dict[str, str]:
    """Return the environment of a server that may ask loopback, with its state in a folder."""
    return {
        **os.environ,
        "XDG_STATE_HOME": folder,
        "TRIO_TOOLS_FETCH__ALLOW_PRIVATE": "true",
        "TRIO_TOOLS_FETCH__PORTS": "null",
    }


@contextmanager
def _started(module: str, *arguments: str):
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=our_settings(folder),
        )
        try:
            yield Server("stdio", process)
        finally:
            process.kill()
            process.communicate()


def _one(server: Server, talk: LineTalk, urls: list[str], number: int) -> tuple[float, float]:
    """Return the wall time and the CPU time of one call."""
    began, cpu = time.perf_counter(), server.cpu_seconds()
    result = talk.exchange(call(number, "fetch_urls", urls=urls))["result"]
    took = time.perf_counter() - began
    assert not result.get("isError"), result["content"][0]["text"][:500]
    return took, server.cpu_seconds() - cpu


def run(options: list[str]) -> int:
    """Measure both in turn, and print the medians and their ratios."""
    if options[:1] == ["guideline"]:
        serve_the_guideline(with_bodies=options[1:] != ["headers"])
        return 0
    contenders = {
        "the guideline's form": ("tests.benchmarks", "end_to_end", "guideline", *options),
        "ours": ("trio_tools", "serve"),
    }
    with running_servers() as web:
        urls = [f"{web.plain_url}?{number}" for number in range(_URLS)]
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        with (
            _started(*contenders["ours"]) as ours,
            _started(*contenders["the guideline's form"]) as theirs,
        ):
            talks = {"ours": (ours, LineTalk(ours.process))}
            talks["the guideline's form"] = (theirs, LineTalk(theirs.process))
            for number in range(_ROUNDS + 1):
                for name, (server, talk) in talks.items():
                    cost = _one(server, talk, urls, number)
                    if number:  # the first one loads and connects
                        seen[name].append(cost)
    walls, cpus = (
        {name: statistics.median(cost[part] for cost in costs) for name, costs in seen.items()}
        for part in (0, 1)
    )
    for name in contenders:
        print(f"{name:24} {walls[name]:7.3f} s of wall time {cpus[name]:7.3f} s of CPU")
    verdicts = [
        Verdict(f"{_URLS:,} URLs through stdio, wall time", _ratio(walls), 0.35),
        Verdict(f"{_URLS:,} URLs through stdio, CPU time", _ratio(cpus), 0.4),
    ]
    print(*verdicts, sep="\n")
    return 0 if all(verdict.reached for verdict in verdicts) else 1


def _ratio(costs: dict[str, float]) -> float:
    return costs["ours"] / costs["the guideline's form"]
