"""Requests through a proxy: a small one of our own, and tinyproxy where it is installed."""

import base64
import contextlib
import shutil
import socket
import ssl
from functools import partial

import httpx
import pytest
import trio
import trustme

from tests.support.raw_http_servers import (
    ANYWHERE,
    OK,
    answering,
    config,
    next_request,
    reply,
    serving,
)
from trio_tools.http.apis.client import ApiClient
from trio_tools.http.apis.types import ApiConfig
from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.types import FetchConfig, FetchRequest
from trio_tools.http.httpx_transport import TrioTransport
from trio_tools.http.wire.errors import Code, FetchError
from trio_tools.http.wire.proxies import Proxies, parse_proxy
from trio_tools.http.wire.urls import Origin

AUTHORITY = trustme.CA()


def server_tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1", "e.test").configure_cert(context)
    return context


def client_tls():
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


@contextlib.asynccontextmanager
async def a_proxy(*, password=None, to=None):
    """Give a proxy that tunnels, to `to` whatever it is asked for, and answers other requests."""

    async def handler(stream, server):
        while request := await next_request(stream, server):
            wanted = password is None or f"Basic {password}".encode() in request
            if not wanted:
                await stream.send_all(reply(b"", status="407 Proxy Authentication Required"))
            elif request.startswith(b"CONNECT "):
                await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                far = await trio.open_tcp_stream("127.0.0.1", to)
                async with far, trio.open_nursery() as nursery:

                    async def copy(source, sink):
                        async for piece in source:
                            await sink.send_all(piece)
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(copy, stream, far)
                    await copy(far, stream)
                return
            else:
                await stream.send_all(reply(b"from the proxy"))

    async with serving(handler) as server:
        yield server


async def names(host, port):
    """Resolve e.test to this machine, and nothing else."""
    await trio.lowlevel.checkpoint()
    if host != "e.test":
        raise socket.gaierror(f"no {host}")
    return [("127.0.0.1", port)]


async def test_a_plain_request_goes_to_the_proxy_with_its_whole_url():
    async with a_proxy() as proxy:
        settings = config(proxy=f"http://us%40er:pass@127.0.0.1:{proxy.port}")
        async with Fetcher(settings, resolver=names) as fetcher:
            page = await fetcher.fetch(FetchRequest("http://e.test:81/a?b"))
            await fetcher.fetch(FetchRequest("http://e.test:81/c"))
    assert page.text == "from the proxy"
    assert proxy.accepted == 1
    head = proxy.requests[0]
    assert head.startswith(b"GET http://e.test:81/a?b HTTP/1.1\r\n")
    assert b"\r\nHost: e.test:81\r\n" in head
    credentials = base64.b64encode(b"us@er:pass")
    assert b"\r\nProxy-Authorization: Basic " + credentials + b"\r\n" in head
    assert "pass" not in repr(settings)


@pytest.mark.parametrize(("resolves", "asked"), [(False, b"127.0.0.1"), (True, b"e.test")])
async def test_https_goes_through_a_tunnel_to_the_address_that_was_judged(resolves, asked):
    async with serving(answering(OK), tls=server_tls()) as origin, a_proxy(to=origin.port) as proxy:
        settings = config(proxy=proxy.url, proxy_resolves=resolves)
        async with Fetcher(settings, ssl_context=client_tls, resolver=names) as fetcher:
            page = await fetcher.fetch(FetchRequest(f"https://e.test:{origin.port}/x"))
        assert page.text == "ok"
        assert proxy.requests[0].split(b" ")[1] == b"%b:%d" % (asked, origin.port)
        assert origin.requests[0].startswith(b"GET /x HTTP/1.1\r\nHost: e.test:")
        assert b"Proxy-" not in origin.requests[0]


async def test_names_are_judged_before_the_proxy_is_asked():
    async with a_proxy() as proxy:
        settings = FetchConfig(proxy=proxy.url)
        async with Fetcher(settings, resolver=names) as fetcher:
            for url in ("http://e.test/", "https://e.test/", "http://127.0.0.1/"):
                with pytest.raises(FetchError) as caught:
                    await fetcher.fetch(FetchRequest(url))
                assert caught.value.error_code == Code.BLOCKED_ADDRESS
        resolving = FetchConfig(proxy=proxy.url, proxy_resolves=True)
        async with Fetcher(resolving, resolver=names) as fetcher:
            with pytest.raises(FetchError) as caught:
                await fetcher.fetch(FetchRequest("http://169.254.169.254/latest"))
            assert caught.value.error_code == Code.BLOCKED_ADDRESS
            assert proxy.requests == []
            assert (await fetcher.fetch(FetchRequest("http://e.test/"))).status == 200


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_is_named_as_the_one_that_does(scheme):
    async with a_proxy(password="x") as proxy, Fetcher(config(proxy=proxy.url)) as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.fetch(FetchRequest(f"{scheme}://127.0.0.1/"))
    assert caught.value.error_code == Code.PROXY_FAILED
    assert "fetch.proxy" in caught.value.remediation


async def test_an_api_and_a_transport_go_through_it_too():
    async with a_proxy() as proxy:
        api = ApiConfig(name="x", base_url="http://e.test/v1", proxy=proxy.url)
        async with ApiClient(api, resolver=names) as client:
            assert (await client.call("GET", "/a")).body == "from the proxy"
        transport = TrioTransport(guard=ANYWHERE, proxy=proxy.url, resolver=names)
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://e.test/b")).text == "from the proxy"
    lines = [request.split(b" ")[1] for request in proxy.requests]
    assert lines == [b"http://e.test/v1/a", b"http://e.test/b"]


def test_the_environment_says_which_proxy_and_for_whom_none(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert Proxies("environment").for_origin(Origin("http", "e.org", 80)) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://secure.example:3128")
    monkeypatch.setenv("ALL_PROXY", "other.example")
    monkeypatch.setenv("NO_PROXY", "inside.example,10.0.0.1")
    proxies = Proxies("environment")
    assert proxies.for_origin(Origin("https", "e.org", 443)).origin.host == "secure.example"
    assert proxies.for_origin(Origin("http", "e.org", 80)).origin == ("http", "other.example", 8080)
    for host in ("inside.example", "a.inside.example", "10.0.0.1"):
        assert proxies.for_origin(Origin("https", host, 443)) is None


@pytest.mark.parametrize(
    "url", ["socks5://e.org:1", "https://e.org", "http://", "http://e.org:0", "http://e.org/path"]
)
def test_what_is_no_proxy_is_refused(url):
    with pytest.raises(ValueError, match="write http://host:port"):
        parse_proxy(url)


@pytest.mark.skipif(shutil.which("tinyproxy") is None, reason="tinyproxy is not installed")
async def test_a_real_proxy_takes_all_of_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    settings = f"Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nBasicAuth us pw\n"
    (tmp_path / "conf").write_text(settings)
    command = ["tinyproxy", "-d", "-c", str(tmp_path / "conf")]
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, capture_stdout=True, check=False)
        process = await nursery.start(run)
        with trio.fail_after(20):
            while True:
                with contextlib.suppress(OSError):
                    async with await trio.open_tcp_stream("127.0.0.1", port):
                        break
                await trio.sleep(0.02)
        async with (
            serving(answering(OK)) as plain,
            serving(answering(OK), tls=server_tls()) as tls,
            Fetcher(
                config(proxy=f"http://us:pw@127.0.0.1:{port}"),
                ssl_context=client_tls,
                resolver=names,
            ) as fetcher,
        ):
            for origin in (plain, tls):
                for number in range(3):
                    url = f"{origin.scheme}://127.0.0.1:{origin.port}/{number}"
                    assert (await fetcher.fetch(FetchRequest(url))).text == "ok"
                assert origin.requests[0].startswith(b"GET /0 HTTP/1.")
                assert b"us:pw" not in b"".join(origin.requests)
            page = await fetcher.fetch(FetchRequest(f"https://e.test:{tls.port}/named"))
            assert page.text == "ok"
        async with Fetcher(config(proxy=f"http://127.0.0.1:{port}")) as fetcher:
            with pytest.raises(FetchError) as caught:
                await fetcher.fetch(FetchRequest("https://127.0.0.1/"))
            assert caught.value.error_code == Code.PROXY_FAILED
        process.terminate()
