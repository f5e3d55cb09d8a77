"""A cancel at every checkpoint of an exchange leaves no socket open and a pool that still works."""

import ssl

import httpx
import pytest
import trio
import trustme

from tests.support.raw_http_servers import ANYWHERE, OK, answering, closed, config, reply, serving
from trio_tools.http.apis.client import ApiClient
from trio_tools.http.apis.types import ApiConfig
from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.types import FetchRequest
from trio_tools.http.httpx_transport import TrioTransport


class CancelAtStep(trio.abc.Instrument):
    """Cancels `scope` once its task has been stepped `step` times."""

    def __init__(self, step):
        self.step = step
        self.taken = 0
        self.task = None
        self.scope = trio.CancelScope()

    def after_task_step(self, task):
        if task is self.task:
            self.taken += 1
            if self.taken == self.step:
                self.scope.cancel()


def cancelled_everywhere(scenario):
    """Run `scenario(cancellable)` until the cancel comes too late; return how often it did not."""
    for step in range(1, 500):
        at = CancelAtStep(step)

        async def main(at=at):
            async def cancellable(fn, *args):
                at.task = trio.lowlevel.current_task()
                with at.scope:
                    await fn(*args)
                at.task = None

            with trio.fail_after(20):
                await scenario(cancellable)

        trio.run(main, instruments=[at])
        if not at.scope.cancel_called:
            return step - 1
    raise AssertionError("the scenario has no end")


async def two_addresses(host, port):
    return [("127.0.0.1", port), ("127.0.0.2", port)]


@pytest.mark.parametrize("host", ["127.0.0.1", "two.example"])
@pytest.mark.parametrize("tls", [False, True])
def test_a_cancel_anywhere_in_a_request_through_httpx(tls, host):
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n", b"\r\n", b"bo", b"dy"]

    class Body:  # a generator inside httpx's would be left to the garbage collector
        def __init__(self):
            self.left = [b"thing", b"some"]

        def __aiter__(self):
            return self

        async def __anext__(self):
            await trio.lowlevel.checkpoint()
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop()

    async def scenario(cancellable):
        async with serving(answering(pieces), tls=server_context if tls else None) as server:
            transport = TrioTransport(guard=ANYWHERE, verify=client_context, resolver=two_addresses)
            url = f"{server.scheme}://{host}:{server.port}/"
            async with httpx.AsyncClient(transport=transport, timeout=10) as client:

                async def request():
                    assert (await client.put(url, content=b"body")).text == "body"
                    assert (await client.put(url, content=Body())).text == "body"

                await cancellable(request)
                assert transport._pool.busy_count == 0
                assert len(transport._pool._open) == transport._pool.idle_count
                assert (await client.get(url)).text == "body"
                assert transport._pool.idle_count == 1
            await closed(server)
            assert not transport._pool._sites

    assert cancelled_everywhere(scenario) >= 4


def test_a_cancel_anywhere_in_a_fetch():
    throttled = reply(b"", "Retry-After: 0", status="429 Slow Down")
    moved = reply(b"", "Location: /there", status="302 Found")
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"x" * 1000

    async def scenario(cancellable):
        handler = answering(throttled, moved, OK, [long, b"x" * 2000], OK)
        async with serving(handler) as server:
            async with Fetcher(config()) as fetcher:

                async def fetch():
                    assert (await fetcher.fetch(FetchRequest(server.url))).text == "ok"
                    page = await fetcher.fetch(FetchRequest(server.url, max_bytes=2500))
                    assert page.truncated

                await cancellable(fetch)
                assert fetcher._pool.busy_count == 0
                assert all(h.in_flight == h.waiting == 0 for h in fetcher.hosts().values())
                assert (await fetcher.fetch(FetchRequest(server.url))).status
            await closed(server)

    assert cancelled_everywhere(scenario) >= 4


def test_a_cancel_anywhere_in_a_call_of_an_api():
    throttled = reply(b"", "Retry-After: 0", status="429 Slow Down")

    async def scenario(cancellable):
        async with serving(answering(throttled, OK)) as server:
            shop = ApiConfig(
                name="shop", base_url=server.url, rate_per_second=500, burst=1, max_concurrent=1
            )
            limiter = trio.CapacityLimiter(1)
            async with ApiClient(shop, limiter=limiter, environ={}) as api:
                async with trio.open_nursery() as rest:
                    rest.start_soon(api.call, "GET", "/")
                    rest.start_soon(api.call, "GET", "/")
                    await trio.lowlevel.checkpoint()
                    await cancellable(api.call, "GET", "/")
                assert (limiter.borrowed_tokens, api.rate_limit().waiting) == (0, 0)
                assert all(h.in_flight == 0 for h in api._slots.snapshot().values())
                assert api._pool.busy_count == 0
                assert (await api.call("GET", "/")).body == "ok"
            await closed(server)

    assert cancelled_everywhere(scenario) >= 4


def test_a_cancel_anywhere_in_the_queue_delays_no_other_waiter():
    async def scenario(cancellable):
        async def slow(stream, server):
            await trio.sleep(0.001)
            await answering(OK)(stream, server)

        async with serving(slow) as server:
            async with Fetcher(config(max_connections=1)) as fetcher, trio.open_nursery() as rest:
                for _ in range(3):
                    rest.start_soon(fetcher.fetch, FetchRequest(server.url))
                await cancellable(fetcher.fetch, FetchRequest(server.url))
            assert fetcher._pool.busy_count == 0
            await closed(server)

    assert cancelled_everywhere(scenario) >= 2
