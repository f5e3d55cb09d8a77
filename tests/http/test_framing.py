"""What goes out for a request is what stock httpx sends, or both refuse it.

A server that reads with h11 tells what arrived whole, so neither side is its own judge; and each
request is followed by another one, which shows whether the first one ended where it said.
"""

import contextlib

import h11
import httpx
import pytest
import trio

from tests.support.raw_http_servers import ANYWHERE, OK, answering, next_request, serving
from trio_tools.http.httpx_transport import TrioTransport
from trio_tools.http.wire.errors import Code, FetchError

CHUNKED = {"Transfer-Encoding": "chunked"}
BOTH = {**CHUNKED, "Content-Length": "5"}
REFUSED = "LocalProtocolError"


class pieces:  # noqa: N801 - reads as a function
    """A body that comes piece by piece, the same each time it is asked for."""

    def __init__(self, *parts):
        self._parts = parts

    def __aiter__(self):
        self._left = iter(self._parts)
        return self

    async def __anext__(self):
        for part in self._left:
            return part
        raise StopAsyncIteration


def length(value):
    return {"Content-Length": value}


ACCEPTED = {
    "bytes": {"content": b"hello"},
    "bytes in chunks": {"content": b"hello", "headers": CHUNKED},
    "bytes in chunks, in other letters": {
        "content": b"hello",
        "headers": {"transfer-ENCODING": "ChunkeD"},
    },
    "bytes and both": {"content": b"hello", "headers": BOTH},
    "bytes and both, with another length": {"content": b"hello and more", "headers": BOTH},
    "many bytes in chunks": {"content": b"x" * 100_000, "headers": CHUNKED},
    "no bytes in chunks": {"headers": CHUNKED},
    "no bytes": {},
    "no bytes and a length of none": {"headers": length("0")},
    "one length twice": {
        "content": b"hello",
        "headers": [("Content-Length", "5"), ("content-length", "5")],
    },
    "one length twice in a value": {"content": b"hello", "headers": length("5, 5")},
    "a form": {"data": {"a": "b"}},
    "a file": {
        "files": {"a": b"hello"},
        "headers": {"Content-Type": "multipart/form-data; boundary=x"},
    },
    "pieces": {"content": pieces(b"hel", b"lo")},
    "pieces of a length": {"content": pieces(b"hel", b"lo"), "headers": length("5")},
    "pieces and both": {"content": pieces(b"hel", b"lo"), "headers": BOTH},
    "pieces of nothing": {"content": pieces(b"", b"hel", b"", b"lo", b"")},
    "pieces of nothing of a length": {
        "content": pieces(b"", b"hel", b"", b"lo", b""),
        "headers": length("5"),
    },
    "no pieces": {"content": pieces()},
    "no pieces of a length of none": {"content": pieces(), "headers": length("0")},
    "an empty value": {"headers": {"A": ""}},
    "odd bytes in a value": {"headers": [(b"A", b"\x01 \xe4\x7f\t:b")]},
    "a host that comes late": {"headers": [("A", "b"), ("Host", "e.org")]},
}
WRONG = {
    "bytes longer than their length": {"content": b"hello", "headers": length("4")},
    "bytes shorter than their length": {"content": b"hello", "headers": length("6")},
    "a length without bytes": {"headers": length("5")},
    "pieces longer than their length": {
        "content": pieces(b"01234", b"GET /smuggled HTTP/1.1\r\n\r\n"),
        "headers": length("5"),
    },
    "a piece longer than the length": {"content": pieces(b"0123456789"), "headers": length("5")},
    "pieces shorter than their length": {"content": pieces(b"01"), "headers": length("5")},
    "pieces without the length of none": {"content": pieces(b"01"), "headers": length("0")},
    "no pieces of a length": {"content": pieces(), "headers": length("5")},
    "two lengths": {
        "content": b"hello",
        "headers": [("Content-Length", "5"), ("Content-Length", "6")],
    },
    "two lengths in a value": {"content": b"hello", "headers": length("5, 6")},
    "two lengths and chunks": {"content": b"hello", "headers": {**CHUNKED, **length("5, 6")}},
    **{
        f"the length {value!r}": {"content": pieces(b"hello"), "headers": length(value)}
        for value in ("", "x", "-5", "+5", "5.0", "0x5", "5;", "5 5", "5,", "1" * 21)
    },
    **{
        f"the encoding {value!r}": {
            "content": b"hello",
            "headers": {"Transfer-Encoding": value},
        }
        for value in ("", "gzip", "identity", "gzip, chunked", "chunked, chunked", "chunked;a=b")
    },
    "chunked twice": {"content": b"hello", "headers": [*CHUNKED.items(), *CHUNKED.items()]},
    **{
        f"the name {name!r}": {"headers": [(name, b"b")]}
        for name in (b"", b"A b", b"A:", b"A: b\r\nC", b"A\n", b"\0A", b" A", b"A ")
    },
    **{
        f"the value {value!r}": {"headers": [(b"A", value)]}
        for value in (b"b\r\nC: d", b"b\n", b"\rb", b"b\0", b"b\vc", b"\f", b" b", b"b\t", b" ")
    },
    "two hosts": {"headers": [("Host", "e.org"), ("Host", "e.org")]},
}


async def reading(stream, server):
    """Answer every request, and add to `server.requests` what h11 finds in those that are whole."""
    wire = h11.Connection(h11.SERVER)
    while True:
        try:
            event = wire.next_event()
        except h11.RemoteProtocolError:  # half a request
            return
        if event is h11.NEED_DATA:
            wire.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Request):
            request, body = event, b""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            headers = sorted(item for item in request.headers if item[0] != b"user-agent")
            server.requests.append((request.method, request.target, headers, body))
            reply = h11.Response(status_code=200, headers=[("Content-Length", "0")])
            for sent in (reply, h11.EndOfMessage()):
                await stream.send_all(wire.send(sent))
            if wire.our_state is h11.MUST_CLOSE:
                return
            wire.start_next_cycle()
        else:
            return


@contextlib.asynccontextmanager
async def both_clients():
    """Yield the clients of both transports, ours first."""
    transports = TrioTransport(guard=ANYWHERE), httpx.AsyncHTTPTransport(verify=False)
    async with contextlib.AsyncExitStack() as stack:
        clients = [httpx.AsyncClient(transport=transport, timeout=5) for transport in transports]
        yield [await stack.enter_async_context(client) for client in clients]


async def sent_by(client, server, request):
    """Send the request and one after it; return what came of the first, and what arrived whole."""
    server.requests.clear()
    try:
        outcome = (await client.send(request)).status_code
    except (httpx.LocalProtocolError, h11.LocalProtocolError) as exc:  # httpcore lets h11's pass
        outcome = type(exc).__name__
    assert (await client.get(f"{server.url}/second")).status_code == 200
    *first, second = server.requests
    assert second[:2] == (b"GET", b"/second")
    return outcome, first


async def compare(change=lambda request: request, method="POST", **options):
    async with serving(reading) as server, both_clients() as (ours, stock):
        mine, theirs = [
            await sent_by(
                client, server, change(client.build_request(method, server.url, **options))
            )
            for client in (ours, stock)
        ]
    return mine, theirs


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("name", ACCEPTED)
async def test_what_stock_httpx_sends_arrives_the_same_from_us(name, method):
    mine, theirs = await compare(method=method, **ACCEPTED[name])
    assert mine[0] == theirs[0] == 200
    ((*_, my_headers, _),), ((*_, their_headers, _),) = mine[1], theirs[1]
    if (b"transfer-encoding", b"chunked") in my_headers:  # stock httpx sends a length beside it
        assert b"content-length" not in dict(my_headers)
        their_headers[:] = [item for item in their_headers if item[0] != b"content-length"]
    assert mine == theirs


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpx's generators
@pytest.mark.parametrize("method", ["PUT", "GET"])
@pytest.mark.parametrize("name", WRONG)
async def test_what_stock_httpx_refuses_we_refuse_and_nothing_of_it_is_taken_for_a_request(
    name, method
):
    mine, theirs = await compare(method=method, **WRONG[name])
    assert mine == theirs
    outcome, arrived = mine
    assert outcome == REFUSED
    # At most the declared bytes of it, which may have gone out before there were too many.
    assert {(target, body) for _, target, _, body in arrived} <= {(b"/", b"01234"), (b"/", b"")}


def without(name):
    def change(request):
        del request.headers[name]
        return request

    return change


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpx's generators
async def test_a_body_that_nothing_delimits_and_a_request_without_a_host_are_refused():
    for body in (b"GET /smuggled HTTP/1.1\r\n\r\n", pieces(b"GET /smuggled HTTP/1.1\r\n\r\n")):

        def bare(request):
            for name in ("content-length", "transfer-encoding"):
                request.headers.pop(name, None)
            return request

        mine, theirs = await compare(bare, content=body)
        assert mine[0] == theirs[0] == REFUSED
        assert b"/smuggled" not in [target for _, target, _, _ in mine[1]]
    mine, theirs = await compare(without("host"))
    assert mine == theirs == (REFUSED, [])


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (pieces(b"01234", b"5"), b"01234"),
        (pieces(b"0123", b"45"), b"0123"),
        (pieces(b"0123"), b"0123"),
        (pieces(b"012345"), b""),
    ],
)
async def test_a_body_of_another_length_ends_its_connection(body, sent):
    received = []

    async def recording(stream, server):
        received.append(b"")
        async for data in stream:
            received[-1] += data

    transport = TrioTransport(guard=ANYWHERE)
    async with (
        serving(recording) as server,
        httpx.AsyncClient(transport=transport, timeout=5) as client,
    ):
        with pytest.raises(httpx.LocalProtocolError, match="Content-Length is 5") as caught:
            await client.post(server.url, content=body, headers=length("5"))
        assert caught.value.request.url == server.url
        assert isinstance(caught.value.__cause__, FetchError)
        assert caught.value.__cause__.error_code == Code.INVALID_REQUEST
        with trio.fail_after(5):
            await server.left.wait()
        assert (transport._pool.idle_count, transport._pool.busy_count) == (0, 0)
    (data,) = received
    head, _, arrived = data.partition(b"\r\n\r\n")
    assert head.endswith(b"\r\nContent-Length: 5")
    assert arrived == sent


@pytest.mark.parametrize("value", ["close", "Close", "keep-alive, close", "X-A ,close"])
async def test_a_connection_that_was_asked_to_close_is_not_used_again(value):
    async with serving(answering(OK)) as server, both_clients() as clients:
        for client in clients:
            before = server.accepted
            for _ in range(2):
                await client.get(server.url, headers={"Connection": value})
            assert server.accepted == before + 2
            for _ in range(2):
                await client.get(server.url, headers={"Connection": "X-close"})
            assert server.accepted == before + 3


async def test_only_a_body_that_can_be_sent_again_is_sent_again_on_a_stale_connection():
    async def one_each(stream, server):
        await next_request(stream, server)
        await stream.send_all(OK)
        await next_request(stream, server)  # and closes instead of an answer

    transport = TrioTransport(guard=ANYWHERE)
    async with (
        serving(one_each) as server,
        httpx.AsyncClient(transport=transport, timeout=5) as client,
    ):
        await client.get(server.url)
        answer = await client.put(server.url, content=b"again", headers=BOTH)
        assert answer.text == "ok"
        first, again = server.requests[1:]
        assert first == again
        assert first.endswith(b"Transfer-Encoding: chunked\r\n\r\n5\r\nagain\r\n0\r\n\r\n")
        for headers in ({}, length("4")):
            with pytest.raises(httpx.RemoteProtocolError, match="without a reply"):
                await client.put(server.url, content=pieces(b"once"), headers=headers)
            await client.get(server.url)
        assert [request.split()[0] for request in server.requests].count(b"PUT") == 4
