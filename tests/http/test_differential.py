"""The same bytes to our transport, to stock httpx and to curl: the same reply, or all refuse it.

Where one of the others makes something else of them, the case gives the reason.
"""

import functools
import gzip
import shutil
import string
import subprocess
from itertools import pairwise

import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nursery_patterns import run_batch
from tests.support.raw_http_servers import ANYWHERE, next_request, serving
from trio_tools.http.httpx_transport import TrioTransport

ZIPPED = gzip.compress(b"hello")

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
}
# Name -> (bytes, what we make of them, whether httpx and curl agree, and why one does not).
DIFFERENT = {
    "both framings": (
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n0\r\n\r\n"
        ),
        None,
        (False, False),
        "they take the chunks (RFC 9112, 6.3 allows it); it may be an attempt at smuggling",
    ),
    "two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        None,
        (True, False),
        "curl takes the last of them",
    ),
    "one length twice": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
        (True, True),
        "",
    ),
    "folded field": (
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
        (True, True),
        "",
    ),
    "control byte": (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\x01c\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
        (True, True),
        "",
    ),
    "space in a name": (
        b"HTTP/1.1 200 OK\r\nA b: c\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
        (False, True),
        "h11 refuses every name that is no token",
    ),
    "identity": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
        (False, True),
        "h11 knows no coding but chunked",
    ),
    "gzip as transfer coding": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(ZIPPED), ZIPPED),
        b"hello",
        (False, True),
        "h11 knows no coding but chunked",
    ),
    "gzip of two members": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
        % (2 * len(ZIPPED), 2 * ZIPPED),
        b"hellohello",
        (False, False),
        "httpx ends at the first member, and curl calls the second one an error",
    ),
    "coding that is none": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: none\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
        (True, True),
        "",
    ),
}


async def outcome(transport, url, method):
    async with httpx.AsyncClient(transport=transport, timeout=5) as client:
        return await outcome_of(client, url, method)


async def outcome_of(client, url, method="GET"):
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


async def both(pieces, method):
    async def handler(stream, server):
        await next_request(stream, server)
        for piece in pieces:
            await stream.send_all(piece)
            await trio.lowlevel.checkpoint()

    async with serving(handler) as server:
        ours = await outcome(TrioTransport(guard=ANYWHERE), server.url, method)
        theirs = await outcome(httpx.AsyncHTTPTransport(verify=False), server.url, method)
    return ours, theirs


@pytest.mark.parametrize("piece_size", [1, 7, 65536])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", SAME)
async def test_we_read_what_stock_httpx_reads(name, method, piece_size):
    raw = SAME[name]
    pieces = [raw[start : start + piece_size] for start in range(0, len(raw), piece_size)]
    ours, theirs = await both(pieces, method)
    assert ours == theirs


def curl(url):
    """Return what curl makes of a reply: its status and body, None if it refuses it."""
    command = [shutil.which("curl"), "-sS", "--compressed", "--max-time", "20", "-o", "-"]
    command += ["-w", "%{stderr}%{http_code}"]
    done = subprocess.run([*command, url], capture_output=True, check=False)
    return (int(done.stderr.split()[-1]), done.stdout) if done.returncode == 0 else None


async def curl_of(raw):
    async def handler(stream, server):
        await next_request(stream, server)
        await stream.send_all(raw)

    async with serving(handler) as server:
        return await trio.to_thread.run_sync(curl, server.url)


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
CURL_DIFFERS = {
    "half a head": "curl takes the end of the connection for the end of the head",
    "two lengths": "curl takes the last of them",
}


@needs_curl
@pytest.mark.parametrize("name", SAME)
async def test_we_read_what_curl_reads(name):
    ours, _ = await both([SAME[name]], "GET")
    seen = None if isinstance(ours, type) else (ours[0], ours[2])
    assert (await curl_of(SAME[name]) == seen) is (name not in CURL_DIFFERS)


@pytest.mark.parametrize("name", DIFFERENT)
async def test_each_difference_has_a_reason(name):
    raw, expected, (httpx_agrees, _), reason = DIFFERENT[name]
    ours, theirs = await both([raw], "GET")
    assert (ours[2] if expected is not None else ours) == (expected or httpx.RemoteProtocolError)
    same = (
        ours == theirs
        if isinstance(ours, type) or isinstance(theirs, type)
        else ours[2] == theirs[2]
    )
    assert same is httpx_agrees
    assert reason or httpx_agrees


@needs_curl
@pytest.mark.parametrize("name", DIFFERENT)
async def test_each_difference_from_curl_has_a_reason(name):
    raw, expected, (_, curl_agrees), reason = DIFFERENT[name]
    seen = await curl_of(raw)
    assert ((seen and seen[1]) == expected) is curl_agrees
    assert reason or curl_agrees


@pytest.mark.parametrize("name", SAME)
async def test_wherever_the_connection_ends_both_make_the_same_of_it(name):
    raw = SAME[name]

    async def handler(stream, server):
        request = await next_request(stream, server)
        await stream.send_all(raw[: int(request.split(b" ")[1][1:])])

    async with (
        serving(handler) as server,
        httpx.AsyncClient(transport=TrioTransport(guard=ANYWHERE), timeout=5) as ours,
        httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(verify=False), timeout=5) as stock,
    ):

        async def differs(end):
            url = f"{server.url}/{end}"
            mine, theirs = await outcome_of(ours, url), await outcome_of(stock, url)
            return None if mine == theirs else (raw[:end], mine, theirs)

        report = await run_batch(differs, range(len(raw) + 1), limit=10)
    report.raise_errors()
    assert [found for found in report.values() if found] == []


TOKEN = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
FIELD = st.tuples(
    TOKEN.filter(
        lambda name: (
            name.lower()
            not in {"content-length", "transfer-encoding", "connection", "content-encoding"}
        )
    ),
    st.text(string.ascii_letters + string.digits + ' ;,="/-', max_size=20),
)


@st.composite
def replies(draw):
    """A valid reply of any framing, as the pieces in which a server sends it."""
    status = draw(st.sampled_from([200, 201, 206, 404, 418, 503]))
    fields = draw(st.lists(FIELD, max_size=5))
    body = draw(st.binary(max_size=60))
    framing = draw(st.sampled_from(["sized", "chunked", "until the end"]))
    if framing == "sized":
        fields.append(("Content-Length", str(len(body))))
    elif framing == "chunked":
        fields.append(("Transfer-Encoding", "chunked"))
        ends = sorted(draw(st.sets(st.integers(1, max(1, len(body))))) | {0, len(body)})
        parts = [body[start:end] for start, end in pairwise(ends)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
        body += b"0\r\n\r\n"
    else:
        fields.append(("Connection", "close"))
    order = draw(st.permutations(fields))
    head = "".join(f"{name}: {value}\r\n" for name, value in order)
    raw = b"HTTP/1.1 %d Some Reason\r\n%b\r\n%b" % (status, head.encode(), body)
    cuts = sorted(draw(st.sets(st.integers(1, len(raw) - 1), max_size=8)) | {0, len(raw)})
    return [raw[start:end] for start, end in pairwise(cuts)]


@given(replies())
@settings(max_examples=200, deadline=None)
def test_any_reply_cut_anywhere_is_the_same_to_both(pieces):
    ours, theirs = trio.run(functools.partial(both, pieces, "GET"))
    assert ours == theirs
    assert ours[0] >= 200
