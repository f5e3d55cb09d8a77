"""Two workers of one address in one process: connections that move, with TLS and without."""

import os
import socket
import ssl
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio
import trustme

from tests.transports.lines import INITIALIZE, make_server
from tests.transports.requests import PING, Reader, get, post
from trio_tools.settings import Settings
from trio_tools.settings.shares import share_of
from trio_tools.transports.http.listening.listeners import Loads
from trio_tools.transports.http.metrics import merged
from trio_tools.transports.http.serve import _serve
from trio_tools.transports.http.workers.child import Worker
from trio_tools.transports.http.workers.siblings import WorkerPlace

COUNT = 2


@asynccontextmanager
async def two_workers(**http):
    """Serve by two workers on addresses of their own, so that a test can choose; give the links."""
    settings = Settings(shutdown_grace_seconds=0.2, http=http)
    with ExitStack() as context:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(COUNT)]
        links = [socket.socketpair() for _ in range(COUNT)]
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(COUNT)]
        loads = context.enter_context(Loads.make(COUNT))
        for each in (*sum(pairs, ()), *sum(links, ()), *listeners):
            context.callback(each.close)
        async with trio.open_nursery() as nursery:
            for index in range(COUNT):
                place = WorkerPlace(
                    index=index,
                    count=COUNT,
                    restarts=0,
                    listeners=(os.dup(listeners[index].fileno()),),
                    loads=loads.fileno(),
                    link=os.dup(links[index][1].fileno()),
                    inbox=os.dup(pairs[index][0].fileno()),
                    outboxes=tuple(os.dup(outbox.fileno()) for _, outbox in pairs),
                )

                async def serve(place, *, task_status):
                    worker = Worker(place)
                    await _serve(
                        settings,
                        make_server(),
                        worker,
                        handle_signals=False,
                        read_settings=None,
                        task_status=task_status,
                    )

                await nursery.start(serve, place)
            yield [listener.getsockname() for listener in listeners], links
            for ours, theirs in links:  # as when the parent is gone
                theirs.close()
                ours.close()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_connection_moves_to_the_worker_that_has_the_session_and_stays(encrypted, tmp_path):
    authority, http = trustme.CA(), {}
    if encrypted:
        cert = tmp_path / "cert.pem"
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(cert)
        http = {"tls_cert_file": cert}

    async def open_to(address):
        stream = await trio.open_tcp_stream(*address)
        if encrypted:
            context = ssl.create_default_context()
            authority.configure_trust(context)
            stream = trio.SSLStream(stream, context, server_hostname="localhost")
        return stream, Reader(stream)

    with trio.fail_after(60):
        async with two_workers(**http) as (addresses, _):
            first, read_first = await open_to(addresses[0])
            await first.send_all(post(INITIALIZE))
            session = {"mcp-session-id": (await read_first.read()).headers["mcp-session-id"]}
            assert session["mcp-session-id"].startswith("w0-")
            second, read_second = await open_to(addresses[1])
            # In one piece: what was read behind the first request moves along.
            await second.send_all(post(PING, **session) + post(PING, **session) + get("/healthz"))
            for _ in range(2):
                assert (await read_second.read()).json()["result"] == {}
            assert (await read_second.read()).body == b"alive\n"
            await second.send_all(get("/metrics?own"))
            own = (await read_second.read()).body.decode()
            assert "trio_tools_connections 2.0" in own
            for stream in (first, second):
                await stream.aclose()


async def test_a_session_of_a_worker_that_there_is_not_is_not_found():
    with trio.fail_after(60):
        async with two_workers() as (addresses, _):
            for name in ("w7-abc", "w1-abc", "wx-abc", "w-", "abc", "w²-abc", "w0-w1-abc"):
                async with await trio.open_tcp_stream(*addresses[0]) as stream:
                    await stream.send_all(post(PING, **{"mcp-session-id": name}))
                    assert (await Reader(stream).read()).status in {400, 404}, name


def test_the_figures_of_workers_are_merged_by_family():
    one = b'# HELP a_total Of a.\n# TYPE a_total counter\na_total{tool="x y"} 1.0\n'
    two = (
        b'# HELP a_total Of a.\n# TYPE a_total counter\na_total{tool="{"} 2.0\n# HELP b B.\nb 3.0\n'
    )
    assert merged({1: two, 0: one, 2: None}).decode().splitlines() == [
        "# HELP a_total Of a.",
        "# TYPE a_total counter",
        'a_total{worker="0",tool="x y"} 1.0',
        'a_total{worker="1",tool="{"} 2.0',
        "# HELP trio_tools_worker_up Whether the worker answers.",
        "# TYPE trio_tools_worker_up gauge",
        'trio_tools_worker_up{worker="0"} 1.0',
        'trio_tools_worker_up{worker="1"} 1.0',
        'trio_tools_worker_up{worker="2"} 0.0',
        "# HELP b B.",
        'b{worker="1"} 3.0',
    ]


def test_a_worker_gets_its_share_of_what_protects_others():
    settings = Settings(
        apis={"a": {"base_url": "https://a.example", "rate_per_second": 5, "burst": 5}},
        upstreams={"u": {"command": "u", "rate_per_second": 10}, "v": {"command": "v"}},
    )
    share = share_of(settings, 4)
    assert (share.apis["a"].rate_per_second, share.apis["a"].burst) == (1.25, 1)
    assert share.apis["a"].max_concurrent == 1
    assert share.upstreams["u"].rate_per_second == 2.5
    assert share.upstreams["v"].rate_per_second is None
    assert share.fetch.max_connections_per_host == 2
