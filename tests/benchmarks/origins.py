"""10,000 URLs over 500 origins: do sockets and memory stay within the limits that are set?

The origins are 500 addresses of the loopback network, served by a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

import trio

from nursery_patterns import stream_batch
from tests.benchmarks._runner import measure
from tests.benchmarks.http_server import _answer, _free_port, _wait_for
from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.types import FetchConfig, FetchRequest

MAX_CONNECTIONS = 100
IN_FLIGHT = 200
MAX_MEGABYTES = 30


def run(argv: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks origins")
    parser.add_argument("--urls", type=int, default=10_000)
    parser.add_argument("--origins", type=int, default=500)
    options = parser.parse_args(argv)
    port = _free_port()
    command = [sys.executable, "-m", "tests.benchmarks.origins", "serve", str(port)]
    with subprocess.Popen(command) as server:
        try:
            _wait_for(port)
            hosts = [f"127.0.{n // 200}.{n % 200 + 1}" for n in range(options.origins)]
            urls = [f"http://{hosts[n % len(hosts)]}:{port}/{n}" for n in range(options.urls)]
            sockets: list[int] = []
            cost = measure(partial(trio.run, _fetch_all, urls, sockets))
        finally:
            server.terminate()
    megabytes = cost.peak_bytes / 2**20
    reached = max(sockets) <= MAX_CONNECTIONS and megabytes <= MAX_MEGABYTES
    print(f"{options.urls:,} URLs over {options.origins} origins, {IN_FLIGHT} in flight")
    print(f"CPU per request    {cost.cpu_seconds / options.urls * 1e6:8.0f} us")
    print(f"sockets at most    {max(sockets):8} <= {MAX_CONNECTIONS}")
    print(f"memory above idle  {megabytes:8.1f} <= {MAX_MEGABYTES} MB")
    return 0 if reached else 1


async def _fetch_all(urls: list[str], sockets: list[int]) -> None:
    config = FetchConfig(allow_private=True, ports=None, max_connections=MAX_CONNECTIONS)
    before = _open_files()
    async with Fetcher(config) as fetcher:

        async def fetch(url: str) -> bool:
            page = await fetcher.fetch(FetchRequest(url, body_as="json"))
            sockets.append(_open_files() - before)
            return page.status == 200 and page.json["ok"]

        async with stream_batch(fetch, urls, limit=IN_FLIGHT) as outcomes:
            good = [outcome.value async for outcome in outcomes]
    assert good == [True] * len(urls), json.dumps(good.count(True))


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - it is asked for 10,000 times


if __name__ == "__main__":
    trio.run(partial(trio.serve_tcp, _answer, int(sys.argv[2]), host="0.0.0.0"))
