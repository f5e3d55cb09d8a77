"""The same bytes to our transport and to stock httpx: the same reply, or both refuse it.

Where we refuse what h11 lets pass (duplicate lengths, both framings), the case says so.
"""

import httpx
import pytest
import trio

from tests.http.servers import ANYWHERE, next_request, serving
from trio_tools.http.transport import TrioTransport

SAME = {
    "sized": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: 1\r\nx: 2\r\n\r\nhello",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "odd status": b"HTTP/1.1 599 What\r\nContent-Length: 0\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunk extension": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n"
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n"
    ),
    "until the end": b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello",
    "1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "1.0 sized": b"HTTP/1.0 404 Not Found\r\nContent-Length: 5\r\n\r\nhello",
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    "early hints": (
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    ),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\nETag: a\r\nContent-Length: 9\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
    "spaces": b"HTTP/1.1 200 OK\r\nA:   b  \r\nContent-Length: 0\r\n\r\n",
    "empty value": b"HTTP/1.1 200 OK\r\nA:\r\nContent-Length: 0\r\n\r\n",
    "latin": b"HTTP/1.1 200 OK\r\nA: \xe4\r\nContent-Length: 0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "surplus": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloGARBAGE",
    "short body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
    "short chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    "no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nA: b",
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "bad field": b"HTTP/1.1 200 OK\r\nA b: c\r\nContent-Length: 0\r\n\r\n",
}
STRICTER = {
    "both framings": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "one length twice": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    "folded field": b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
}


async def outcome(transport, url, method):
    async with httpx.AsyncClient(transport=transport, timeout=5) as client:
        try:
            response = await client.request(method, url)
        except httpx.TransportError as exc:
            return type(exc)
    return (
        response.status_code,
        response.headers.raw,
        response.content,
        response.extensions["http_version"],
        response.reason_phrase,
    )


async def both(raw, method, piece_size):
    async def handler(stream, server):
        await next_request(stream, server)
        for start in range(0, len(raw), piece_size):
            await stream.send_all(raw[start : start + piece_size])
            await trio.lowlevel.checkpoint()

    async with serving(handler) as server:
        ours = await outcome(TrioTransport(guard=ANYWHERE), server.url, method)
        theirs = await outcome(httpx.AsyncHTTPTransport(), server.url, method)
    return ours, theirs


@pytest.mark.parametrize("piece_size", [1, 7, 65536])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", SAME)
async def test_we_read_what_stock_httpx_reads(name, method, piece_size):
    ours, theirs = await both(SAME[name], method, piece_size)
    assert ours == theirs


@pytest.mark.parametrize("name", STRICTER)
async def test_where_we_are_stricter_it_is_a_protocol_error(name):
    ours, theirs = await both(STRICTER[name], "GET", 65536)
    assert ours is httpx.RemoteProtocolError
    assert theirs[0] == 200
