"""`TrioTransport` behind `httpx.AsyncClient`, against small real servers."""

import contextlib
import datetime as dt
import gzip
import socket
import ssl
from ipaddress import ip_network

import httpx
import pytest
import trio
import trustme

from tests.support.raw_http_servers import (
    ANYWHERE,
    OK,
    answering,
    closed,
    next_request,
    reply,
    serving,
)
from trio_tools.http.httpx_transport import Caps, TrioTransport
from trio_tools.http.wire.address_policy import Guard
from trio_tools.http.wire.errors import Code, FetchError
from trio_tools.http.wire.pool import PoolLimits


@contextlib.asynccontextmanager
async def a_client(timeout=5, **options):
    transport = TrioTransport(**{"guard": ANYWHERE, **options})
    async with httpx.AsyncClient(transport=transport, timeout=timeout) as client:
        client.pool = transport._pool
        yield client


def failing_with(code, exception):
    @contextlib.contextmanager
    def check():
        with pytest.raises(exception) as caught:
            yield
        assert type(caught.value) is exception
        assert isinstance(caught.value.request, httpx.Request)
        assert isinstance(caught.value.__cause__, FetchError)
        assert caught.value.__cause__.error_code == code

    return check()


async def test_connections_are_kept_alive_and_used_last_in_first_out():
    async with serving(answering(OK)) as server, a_client() as client:
        for _ in range(5):
            response = await client.get(server.url)
            assert (response.status_code, response.text) == (200, "ok")
            assert response.http_version == "HTTP/1.1"
            assert response.reason_phrase == "OK"
        assert (server.accepted, client.pool.idle_count, client.pool.busy_count) == (1, 1, 0)
    assert server.open == 0


async def test_the_request_on_the_wire_is_what_httpx_made_of_it():
    async with serving(answering(OK)) as server, a_client() as client:
        await client.get(server.url + "/a?b=c", headers={"X-Y": "z"})
        head = server.requests[0].split(b"\r\n")
        assert head[0] == b"GET /a?b=c HTTP/1.1"
        assert f"Host: 127.0.0.1:{server.port}".encode() in head
        assert b"X-Y: z" in head


@pytest.mark.parametrize("size", [0, 1, 10_000, 300_000])
async def test_sized_and_chunked_bodies_arrive_whole(size):
    body = bytes(i % 251 for i in range(size))

    async def pieces():
        for start in range(0, size, 1000):
            yield body[start : start + 1000]
            yield b""

    async with serving(answering(OK)) as server, a_client() as client:
        await client.post(server.url, content=body)
        await client.post(server.url, content=pieces())
        await client.post(server.url, content=pieces(), headers={"Content-Length": str(size)})
    sized, chunked, streamed = (request.partition(b"\r\n\r\n")[2] for request in server.requests)
    assert sized == streamed == body
    joined = b""
    while not chunked.startswith(b"0\r\n"):
        length, _, rest = chunked.partition(b"\r\n")
        joined += rest[: int(length, 16)]
        chunked = rest[int(length, 16) + 2 :]
    assert joined == body


async def test_head_204_304_and_interim_replies_have_no_body_and_keep_the_connection():
    replies = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
    ]
    async with serving(answering(*replies)) as server, a_client() as client:
        assert (await client.head(server.url)).headers["content-length"] == "500"
        assert (await client.get(server.url)).status_code == 204
        assert (await client.get(server.url)).status_code == 304
        response = await client.get(server.url)
        assert (response.status_code, response.text) == (200, "ok")
        assert "link" not in response.headers
        assert server.accepted == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpx's generators
async def test_a_body_can_be_streamed_and_left_early_without_being_drained():
    async def endless(stream, server):
        await next_request(stream, server)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 65536)

    async with serving(endless) as server, a_client() as client:
        async with client.stream("GET", server.url) as response:
            async for piece in response.aiter_raw():
                assert set(piece) == {ord("x")}
                break
        await closed(server)
        assert (client.pool.busy_count, client.pool.idle_count) == (0, 0)


async def test_a_stale_connection_is_replaced_in_silence_for_idempotent_requests():
    async def one_each(stream, server):
        await next_request(stream, server)
        await stream.send_all(OK)
        await next_request(stream, server)  # and closes instead of an answer

    async with serving(one_each) as server, a_client() as client:
        await client.get(server.url)
        assert (await client.get(server.url)).text == "ok"
        assert (await client.put(server.url, content=b"again")).text == "ok"
        assert server.accepted == 3
        with failing_with(Code.CONNECTION_LOST, httpx.RemoteProtocolError):
            await client.post(server.url, content=b"once")
        assert [r.split()[0] for r in server.requests].count(b"POST") == 1


async def test_a_request_whose_reply_had_begun_is_not_sent_again():
    async def half(stream, server):
        await next_request(stream, server)
        await stream.send_all(OK)
        await next_request(stream, server)
        await stream.send_all(b"HTTP/1.1 200")

    async with serving(half) as server, a_client() as client:
        await client.get(server.url)
        with failing_with(Code.PROTOCOL_ERROR, httpx.RemoteProtocolError):
            await client.get(server.url)
        assert len(server.requests) == 2


async def test_a_connection_the_peer_closed_while_idle_is_noticed_before_a_post():
    async def once(stream, server):
        await next_request(stream, server)
        await stream.send_all(OK)

    async with serving(once) as server, a_client() as client:
        await client.post(server.url, content=b"1")
        await closed(server)
        assert (await client.post(server.url, content=b"2")).text == "ok"
        assert server.accepted == 2


async def test_bytes_that_come_unasked_are_not_the_reply_to_the_next_request():
    async def eager(stream, server):
        await next_request(stream, server)
        await stream.send_all(OK)
        await trio.testing.wait_all_tasks_blocked()
        if server.accepted == 1:
            await stream.send_all(OK.replace(b"ok", b"no"))
        await stream.receive_some()

    async with serving(eager) as server, a_client() as client:
        assert (await client.get(server.url)).text == "ok"
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await client.get(server.url)).text == "ok"
        assert server.accepted == 2


async def test_a_reply_that_comes_before_the_body_was_sent_is_read():
    async def refusing(stream, server):
        await stream.receive_some(100)
        await stream.send_all(
            b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
        )
        with trio.move_on_after(0.2):  # a real server lingers, or the reset would eat its reply
            while await stream.receive_some(65536):
                pass

    async def body():
        for _ in range(50):
            yield b"x" * 1000

    async with serving(refusing) as server, a_client() as client:
        assert (await client.post(server.url, content=body())).status_code == 413
        assert client.pool.idle_count == 0


async def reset(stream, linger=b""):
    """Close with a TCP reset instead of a farewell."""
    if linger:
        await stream.send_all(linger)
        await trio.sleep(0.01)  # let it arrive: a reset may overtake what was sent
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await stream.aclose()


@pytest.mark.parametrize(
    ("sent", "code", "exception"),
    [
        (b"", Code.CONNECTION_LOST, httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\nA:", Code.CONNECTION_LOST, httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", Code.CONNECTION_LOST, httpx.ReadError),
    ],
)
async def test_a_reset_is_a_read_error(sent, code, exception):
    async def handler(stream, server):
        await next_request(stream, server)
        await reset(stream, sent)

    async with serving(handler) as server, a_client() as client:
        with failing_with(code, exception):
            await client.get(server.url)
        assert client.pool.busy_count == 0


@pytest.mark.parametrize(
    ("raw", "exception"),
    [
        (b"", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", httpx.RemoteProtocolError),
        (b"SSH-2.0-OpenSSH\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000, httpx.RemoteProtocolError),
    ],
)
async def test_a_broken_reply_is_a_remote_protocol_error(raw, exception):
    async with serving(answering(raw, then_close=True)) as server, a_client() as client:
        with pytest.raises(exception) as caught:
            await client.get(server.url)
        assert caught.value.request.url == server.url
        assert client.pool.busy_count == 0


async def test_nothing_listens_and_unknown_names_are_connect_errors():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

    async def unknown(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with a_client(resolver=unknown) as client:
        with failing_with(Code.CONNECT_FAILED, httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}")
        with failing_with(Code.DNS_FAILED, httpx.ConnectError):
            await client.get("http://nowhere.example")
        assert client.pool._sites == {}


async def test_each_timeout_of_httpx_has_its_exception():
    async def silent(stream, server):
        await next_request(stream, server)
        await trio.sleep_forever()

    async def stuck(host, port):
        await trio.sleep_forever()

    class Endless:
        def __aiter__(self):
            return self

        async def __anext__(self):
            return b"x" * 65536

    async def deaf(stream, server):
        await trio.sleep_forever()

    limits = PoolLimits(max_connections=1)
    async with serving(silent) as server, a_client(resolver=stuck, limits=limits) as client:
        with failing_with(Code.TIMEOUT, httpx.ConnectTimeout):
            await client.get("http://e.org", timeout=httpx.Timeout(5, connect=0.01))
        with failing_with(Code.TIMEOUT, httpx.ReadTimeout):
            await client.get(server.url, timeout=httpx.Timeout(5, read=0.01))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, server.url)
            await trio.testing.wait_all_tasks_blocked()
            with failing_with(Code.TIMEOUT, httpx.PoolTimeout):
                await client.get(server.url, timeout=httpx.Timeout(5, pool=0.01))
            nursery.cancel_scope.cancel()
    async with serving(deaf) as server, a_client() as client:
        with failing_with(Code.TIMEOUT, httpx.WriteTimeout):
            await client.post(server.url, content=Endless(), timeout=httpx.Timeout(5, write=0.01))
        assert client.pool.busy_count == 0


async def test_private_addresses_ports_and_schemes_are_refused_by_default():
    async with serving(answering(OK)) as server, a_client(guard=Guard(ports=None)) as client:
        with failing_with(Code.BLOCKED_ADDRESS, httpx.ConnectError):
            await client.get(server.url)
        with failing_with(Code.BLOCKED_ADDRESS, httpx.ConnectError):
            await client.get(server.url.replace("127.0.0.1", "2130706433"))  # the same, as a number
        with failing_with(Code.BLOCKED_SCHEME, httpx.UnsupportedProtocol):
            await client.get("ftp://e.org/")
        assert server.accepted == 0


async def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to():
    asked = []

    async def rebinding(host, port):
        asked.append(host)
        good, bad = ("127.0.0.2", server.port), ("127.0.0.1", server.port)
        return [[good], [bad], [good, bad]][len(asked) - 1]

    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    guard = Guard(ports=None, allow_networks=(ip_network("127.0.0.2/32"),))
    async with (
        serving(answering(last, then_close=True), host="0.0.0.0") as server,
        a_client(guard=guard, resolver=rebinding) as client,
    ):
        url = f"http://e.org:{server.port}"
        assert (await client.get(url)).text == "ok"
        for _ in range(2):  # not allowed, or allowed and not: refused before any connection
            with failing_with(Code.BLOCKED_ADDRESS, httpx.ConnectError):
                await client.get(url)
        assert asked == ["e.org"] * 3
        assert server.accepted == 1


async def test_a_later_address_is_tried_when_the_first_does_not_answer():
    async with serving(answering(OK)) as server:
        with socket.create_server(("127.0.0.2", 0)) as sock:
            dead = sock.getsockname()[1]

        async def two(host, port):
            return [("127.0.0.2", dead), ("127.0.0.1", server.port)]

        async with a_client(resolver=two) as client:
            assert (await client.get(f"http://two.example:{server.port}")).text == "ok"
        await closed(server)


async def test_ipv6_alone_is_enough():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 on loopback")
    async with serving(answering(OK), host="::1") as server, a_client() as client:
        assert (await client.get(server.url)).text == "ok"


async def test_limits_bind_and_waiting_is_first_come_first_served():
    order = []

    async def slow(stream, server):
        while request := await next_request(stream, server):
            await trio.sleep(0.001)
            await stream.send_all(OK)
            order.append(int(request.split()[1][1:]))

    limits = PoolLimits(max_connections=3, max_per_origin=1)
    async with serving(slow) as server, a_client(limits=limits) as client:
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(client.get, f"{server.url}/{number}")
                await trio.testing.wait_all_tasks_blocked()
        assert order == sorted(order)
        assert (server.accepted, server.most_open) == (1, 1)


async def test_many_origins_share_the_total_and_the_oldest_idle_connection_makes_room():
    async with serving(answering(OK), host="0.0.0.0") as server:
        async with a_client(limits=PoolLimits(max_connections=5)) as client:
            for _ in range(2):
                for number in range(1, 9):
                    url = f"http://127.0.0.{number}:{server.port}"
                    assert (await client.get(url)).text == "ok"
                    assert client.pool.idle_count <= 5
            assert client.pool.idle_count == len(client.pool._sites) == 5
            await closed(server, down_to=5)
        await closed(server)


async def test_idle_connections_expire(autojump_clock):
    limits = PoolLimits(keepalive_seconds=10)
    async with serving(answering(OK)) as server, a_client(limits=limits, timeout=None) as client:
        await client.get(server.url)
        await trio.sleep(9.5)
        await client.get(server.url)
        assert server.accepted == 1
        await trio.sleep(10)
        await client.get(server.url)
        assert server.accepted == 2


@pytest.mark.parametrize(
    ("earlier", "code", "exception"),
    [
        (0, Code.CONNECTION_LOST, httpx.ReadError),
        (1, Code.CLIENT_CLOSED, httpx.ConnectError),  # a connection used again: it may try another
    ],
)
async def test_closing_the_client_fails_what_still_runs(earlier, code, exception):
    async def silent_in_the_end(stream, server):
        for _ in range(earlier):
            await next_request(stream, server)
            await stream.send_all(OK)
        await next_request(stream, server)
        await stream.receive_some(1)

    async with serving(silent_in_the_end) as server:
        transport = TrioTransport(guard=ANYWHERE)
        client = httpx.AsyncClient(transport=transport, timeout=None)
        for _ in range(earlier):
            await client.get(server.url)

        async def hanging():
            with failing_with(code, exception):
                await client.get(server.url)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hanging)
            await trio.testing.wait_all_tasks_blocked(0.02)
            await transport.aclose()
        with failing_with(Code.CLIENT_CLOSED, httpx.ConnectError):
            await transport.handle_async_request(httpx.Request("GET", server.url))
        assert server.accepted == 1
        await closed(server)


async def test_closing_the_client_fails_who_waits_for_a_connection_or_opens_one():
    async def silent(stream, server):
        await next_request(stream, server)
        await stream.receive_some(1)

    async def resolve(host, port):
        resolving.set()
        await resolved.wait()
        return [("127.0.0.1", server.port)]

    resolving, resolved = trio.Event(), trio.Event()
    async with serving(silent) as server:
        limits = PoolLimits(max_per_origin=1)
        transport = TrioTransport(guard=ANYWHERE, limits=limits, resolver=resolve)
        client = httpx.AsyncClient(transport=transport, timeout=None)

        async def failing(url, code, exception):
            with failing_with(code, exception):
                await client.get(url)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing, server.url, Code.CONNECTION_LOST, httpx.ReadError)
            await trio.testing.wait_all_tasks_blocked(0.02)
            for url in [server.url, f"http://name.example:{server.port}"]:
                nursery.start_soon(failing, url, Code.CLIENT_CLOSED, httpx.ConnectError)
            await resolving.wait()
            await transport.aclose()
            resolved.set()
        await closed(server)
        assert len(server.requests) == 1
        assert transport._pool.busy_count == 0


async def test_a_body_that_is_read_on_after_the_client_was_closed_is_a_read_error(authority):
    async def unfinished(stream, server):
        await next_request(stream, server)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        await stream.receive_some(1)

    for tls in (None, server_context(authority, "127.0.0.1")):
        async with (
            serving(unfinished, tls=tls) as server,
            a_client(verify=client_context(authority)) as client,
            client.stream("GET", server.url) as response,
        ):
            body = response.aiter_raw()
            assert await anext(body) == b"ok"
            await client.aclose()
            with failing_with(Code.CONNECTION_LOST, httpx.ReadError):
                await anext(body)


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"A": "b\r\nEvil: yes"}},
        {"headers": [(b"A b", b"c")]},
        {"headers": [(b"A\n", b"c")]},
    ],
)
async def test_a_request_that_is_no_http_is_refused_before_it_is_sent(options):
    async with serving(answering(OK)) as server, a_client() as client:
        with failing_with(Code.INVALID_REQUEST, httpx.LocalProtocolError):
            await client.get(server.url, **options)
        assert server.accepted == 0


async def test_caps_bind_bodies_and_bombs():
    bomb = reply(gzip.compress(b"\0" * 10_000_000), "Content-Encoding: gzip")
    large = reply(b"x" * 100_000)
    caps = Caps(body_bytes=50_000, decoded_bytes=1_000_000)
    async with serving(answering(bomb)) as server, a_client(caps=caps) as client:
        with failing_with(Code.TOO_LARGE, httpx.RemoteProtocolError):
            await client.get(server.url)
    async with serving(answering(large)) as server, a_client(caps=caps) as client:
        with failing_with(Code.TOO_LARGE, httpx.RemoteProtocolError):
            await client.get(server.url)
        assert client.pool.busy_count == client.pool.idle_count == 0


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def server_context(authority, *names, **options):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


def client_context(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls_verifies_the_name_of_the_url_and_keeps_connections(authority):
    seen = []
    tls = server_context(authority, "good.example")
    tls.sni_callback = lambda _sock, name, _context: seen.append(name)

    async def resolve(host, port):
        return [("127.0.0.1", server.port)]

    async with (
        serving(answering(OK), tls=tls) as server,
        a_client(resolver=resolve, verify=client_context(authority)) as client,
    ):
        for _ in range(3):
            assert (await client.get("https://good.example/")).text == "ok"
        assert (server.accepted, seen) == (1, ["good.example"])
        assert b"Host: good.example\r\n" in server.requests[0]
        with failing_with(Code.TLS_FAILED, httpx.ConnectError):
            await client.get("https://other.example/")


async def test_a_record_that_comes_unasked_is_not_the_reply_to_the_next_request(authority):
    async def eager(stream, server):
        await next_request(stream, server)
        # Both records go out in one segment, so that they are received together.
        tcp = stream.transport_stream
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        await stream.send_all(OK)
        await stream.send_all(OK.replace(b"ok", b"no"))
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        await stream.receive_some()

    tls = server_context(authority, "127.0.0.1")
    async with (
        serving(eager, tls=tls) as server,
        a_client(verify=client_context(authority)) as client,
    ):
        assert [(await client.get(server.url)).text for _ in range(3)] == ["ok"] * 3
        assert server.accepted == 3


async def test_tls_with_an_expired_certificate_or_unknown_authority_fails(authority):
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    expired = server_context(authority, "127.0.0.1", not_after=yesterday)
    async with (
        serving(answering(OK), tls=expired) as server,
        a_client(verify=client_context(authority)) as client,
    ):
        with failing_with(Code.TLS_FAILED, httpx.ConnectError):
            await client.get(server.url)
    stranger = server_context(trustme.CA(), "127.0.0.1")
    async with serving(answering(OK), tls=stranger) as server:
        async with a_client(verify=client_context(authority)) as client:
            with failing_with(Code.TLS_FAILED, httpx.ConnectError):
                await client.get(server.url)
            assert client.pool.busy_count == 0
        async with a_client(verify=False) as client:
            assert (await client.get(server.url)).text == "ok"


async def test_plain_http_where_tls_is_expected_is_a_tls_failure(authority):
    async def hasty(stream, server):
        await stream.send_all(OK)
        await stream.receive_some()

    async with (
        serving(hasty) as server,
        a_client(verify=client_context(authority)) as client,
    ):
        with failing_with(Code.TLS_FAILED, httpx.ConnectError):
            await client.get(f"https://127.0.0.1:{server.port}")
