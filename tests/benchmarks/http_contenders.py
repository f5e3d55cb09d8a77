"""The contenders, each run in a process of its own and each doing the same: the text of N URLs.

`python -m tests.benchmarks.http_contenders NAME URL REQUESTS IN_FLIGHT CA_FILE` prints the seconds
of CPU time from the first request to the last; imports and set-up come before.
"""
# ruff: noqa: PLC0415 - each contender imports its own and nothing of the others

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple


class Job(NamedTuple):
    url: str
    requests: int
    in_flight: int
    tls: ssl.SSLContext


def _cpu_of_trio_run(main: Callable[[], Awaitable[None]]) -> float:
    import trio

    trio.run(trio.lowlevel.checkpoint)  # what a first run imports and builds is start-up
    before = time.process_time()
    trio.run(main)
    return time.process_time() - before


def _cpu_of_asyncio_run(main: Callable[[], Awaitable[None]]) -> float:
    import asyncio  # noqa: TID251 - the competition

    before = time.process_time()
    asyncio.run(main())
    return time.process_time() - before


def aiohttp_session_per_request(job: Job) -> float:
    """What people write: a semaphore, a task and a session per URL."""
    import asyncio  # noqa: TID251

    import aiohttp

    async def main() -> None:
        semaphore = asyncio.Semaphore(job.in_flight)

        async def fetch() -> None:
            async with (
                semaphore,
                aiohttp.ClientSession() as session,
                session.get(job.url, ssl=job.tls) as response,
            ):
                _check(response.status, await response.text())

        await asyncio.gather(*(fetch() for _ in range(job.requests)))

    return _cpu_of_asyncio_run(main)


def aiohttp_shared_session(job: Job) -> float:
    import asyncio  # noqa: TID251

    import aiohttp

    async def main() -> None:
        semaphore = asyncio.Semaphore(job.in_flight)
        connector = aiohttp.TCPConnector(limit=job.in_flight)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def fetch() -> None:
                async with semaphore, session.get(job.url, ssl=job.tls) as response:
                    _check(response.status, await response.text())

            await asyncio.gather(*(fetch() for _ in range(job.requests)))

    return _cpu_of_asyncio_run(main)


def stock_httpx(job: Job) -> float:
    import httpx

    limits = httpx.Limits(max_connections=job.in_flight, max_keepalive_connections=job.in_flight)
    return _httpx(job, lambda: httpx.AsyncClient(verify=job.tls, limits=limits, timeout=60))


def ours_through_async_client(job: Job) -> float:
    import httpx

    from trio_tools.http.httpx_transport import TrioTransport
    from trio_tools.http.wire.address_policy import Guard
    from trio_tools.http.wire.pool import PoolLimits

    def client() -> httpx.AsyncClient:
        transport = TrioTransport(
            verify=job.tls,
            guard=Guard(allow_private=True, ports=None),
            limits=PoolLimits(max_connections=job.in_flight, max_per_origin=job.in_flight),
        )
        return httpx.AsyncClient(transport=transport, timeout=60)

    return _httpx(job, client)


def _httpx(job: Job, make_client: Callable) -> float:
    import trio

    async def main() -> None:
        limiter = trio.CapacityLimiter(job.in_flight)
        async with make_client() as client, trio.open_nursery() as nursery:

            async def fetch() -> None:
                async with limiter:
                    response = await client.get(job.url)
                    _check(response.status_code, response.text)

            for _ in range(job.requests):
                nursery.start_soon(fetch)

    return _cpu_of_trio_run(main)


def ours_as_fetch_urls(job: Job) -> float:
    from nursery_patterns import run_batch
    from trio_tools.http.fetching.fetcher import Fetcher
    from trio_tools.http.fetching.types import FetchConfig, FetchRequest

    config = FetchConfig(
        allow_private=True,
        ports=None,
        max_connections=job.in_flight,
        max_connections_per_host=job.in_flight,
        timeout_seconds=60,
    )

    async def main() -> None:
        async with Fetcher(config, ssl_context=lambda: job.tls) as fetcher:

            async def fetch(url: str) -> None:
                page = await fetcher.fetch(FetchRequest(url))
                _check(page.status, page.text)

            report = await run_batch(fetch, [job.url] * job.requests, limit=job.in_flight)
        report.raise_errors()

    return _cpu_of_trio_run(main)


def floor(job: Job) -> float:
    """Raw trio streams and httptools, one request per loop: no limits, errors, headers or text."""
    import httptools
    import trio

    class Reply:
        def on_body(self, body: bytes) -> None:
            self.body = body

        def on_message_complete(self) -> None:
            self.complete = True

    async def main() -> None:
        host, port = job.url.split("/")[2].split(":")
        request = f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()

        async def worker(requests: int) -> None:
            if job.url.startswith("https"):
                stream = await trio.open_ssl_over_tcp_stream(
                    host, int(port), ssl_context=job.tls, https_compatible=True
                )
            else:
                stream = await trio.open_tcp_stream(host, int(port))
            for _ in range(requests):
                await stream.send_all(request)
                reply = Reply()
                reply.complete = False
                parser = httptools.HttpResponseParser(reply)
                while not reply.complete:
                    parser.feed_data(await stream.receive_some(65536))
                _check(parser.get_status_code(), reply.body.decode())
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(job.in_flight):
                nursery.start_soon(worker, job.requests // job.in_flight)

    return _cpu_of_trio_run(main)


def _check(status: int, text: str | None) -> None:
    if status != 200 or not text or "a small reply" not in text:
        raise RuntimeError(f"wrong answer: {status} {text!r}")


CONTENDERS: dict[str, Callable[[Job], float]] = {
    "aiohttp, a session per request": aiohttp_session_per_request,
    "aiohttp, one shared session": aiohttp_shared_session,
    "httpx on trio, stock transport": stock_httpx,
    "httpx on trio, TrioTransport": ours_through_async_client,
    "Fetcher, as fetch_urls uses it": ours_as_fetch_urls,
    "floor: raw trio and httptools": floor,
}


def main() -> None:
    name, url, requests, in_flight, ca_file = sys.argv[1:]
    tls = ssl.create_default_context(cafile=ca_file)
    print(CONTENDERS[name](Job(url, int(requests), int(in_flight), tls)))


if __name__ == "__main__":
    main()
