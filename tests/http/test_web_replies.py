"""Replies of real servers, reduced: what browsers and curl read, we read, and never half of it."""

import gzip
import zlib

import brotli
import httpx
import pytest
from backports import zstd

from tests.http.test_fetcher import failure, fetch
from tests.support.raw_http_servers import ANYWHERE, answering, config, reply, serving
from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.types import FetchRequest
from trio_tools.http.httpx_transport import Caps, TrioTransport
from trio_tools.http.wire.content_encoding import BodyDecoder
from trio_tools.http.wire.errors import Code, FetchError
from trio_tools.http.wire.response_parser import ReplyParser, State

SIZED = b"Content-Length: 5"
SKIPPABLE = bytes.fromhex("502a4d18") + (3).to_bytes(4, "little") + b"abc"


def raw(*lines, body=b"hello"):
    head = b"".join(line + b"\r\n" for line in (b"HTTP/1.1 200 OK", *lines))
    return head + b"\r\n" + body


def chunks(body):
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


READ = {
    "a control byte in a cookie": raw(b"Set-Cookie: a=b\x01c", SIZED),
    "a folded field": raw(b"X-A: b", b"  c", SIZED),
    "a folded field at the start": raw(b" X-A: b", SIZED),
    "DEL in a value": raw(b"X-A: b\x7fc", SIZED),
    "NUL in a value": raw(b"X-A: b\0c", SIZED),
    "a bare CR in a value": raw(b"X-A: b\rContent-Length: 0", SIZED),
    "one length twice": raw(SIZED, SIZED),
    "a list of one length": raw(b"Content-Length: 5, 5"),
    "a space before the colon": raw(b"X-Echo : b", SIZED),
    "a space before the colon of the length": raw(b"Content-Length : 5"),
    "a folded length": raw(b"Content-Length:", b" 5"),
    "a space in a name": raw(b"Cache Control: b", SIZED),
    "an empty name": raw(b": b", SIZED),
    "a line without a name": raw(b"No colon", SIZED),
    "identity with a length": raw(b"Transfer-Encoding: identity", SIZED),
    "identity alone": raw(b"Transfer-Encoding: identity", b"Connection: close"),
    "chunked, then identity": raw(b"Transfer-Encoding: chunked, identity", body=chunks(b"hello")),
    "gzip as transfer coding": raw(
        b"Transfer-Encoding: gzip, chunked", body=chunks(gzip.compress(b"hello"))
    ),
    "gzip in a field of its own": raw(
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: chunked",
        body=chunks(gzip.compress(b"hello")),
    ),
    "gzip until the end": raw(b"Transfer-Encoding: gzip", body=gzip.compress(b"hello")),
    "deflate, gzip, chunked": raw(
        b"Transfer-Encoding: deflate, x-gzip, chunked",
        body=chunks(gzip.compress(zlib.compress(b"hello"))),
    ),
    "both kinds of coding": raw(
        b"Content-Encoding: gzip",
        b"Transfer-Encoding: gzip, chunked",
        body=chunks(gzip.compress(gzip.compress(b"hello"))),
    ),
    "an odd head behind an interim one": (
        b"HTTP/1.1 103 Early Hints\r\nLink: \x01\r\n\r\n" + raw(b"X: \x01", SIZED)
    ),
    "bare line feeds and a control byte": b"HTTP/1.1 200 OK\nA: \x01\nContent-Length: 5\n\nhello",
}
REFUSED = {
    "lengths that differ": raw(SIZED, b"Content-Length: 6"),
    "a list of lengths that differ": raw(b"Content-Length: 5, 6"),
    "a length with a sign": raw(b"Content-Length: +5"),
    "a length with a control byte": raw(b"Content-Length: 5\x01"),
    "an odd field beside lengths that differ": raw(b"A: \x01", SIZED, b"Content-Length: 6"),
    "chunks with a length": raw(SIZED, b"Transfer-Encoding: chunked", body=chunks(b"hello")),
    "identity and chunks with a length": raw(
        SIZED, b"Transfer-Encoding: identity, chunked", body=chunks(b"hello")
    ),
    "chunks in chunks": raw(b"Transfer-Encoding: chunked, chunked", body=chunks(b"hello")),
    "chunks within gzip": raw(b"Transfer-Encoding: chunked, gzip", body=chunks(b"hello")),
    "a transfer coding that is none": raw(b"Transfer-Encoding: xchunked", body=chunks(b"hello")),
    "NUL in the status line": b"HTTP/1.1 200 O\0K\r\nA: \x01\r\nContent-Length: 5\r\n\r\nhello",
    "a broken chunk": raw(b"A: \x01", b"Transfer-Encoding: chunked", body=b"zz\r\nhello\r\n"),
    "a negative chunk": raw(b"Transfer-Encoding: chunked", body=b"-5\r\nhello\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("size", [1, 7, 65536])
@pytest.mark.parametrize("name", READ)
async def test_what_decides_nothing_may_be_broken(name, size):
    pieces = [READ[name][start : start + size] for start in range(0, len(READ[name]), size)]
    page = await fetch(answering(pieces, then_close=True))
    assert (page.status, page.text, page.truncated) == (200, "hello", False)
    async with (
        serving(answering(pieces, then_close=True)) as server,
        httpx.AsyncClient(transport=TrioTransport(guard=ANYWHERE)) as client,
    ):
        assert (await client.get(server.url)).content == b"hello"


@pytest.mark.parametrize("size", [1, 7, 65536])
@pytest.mark.parametrize("name", REFUSED)
async def test_what_decides_where_a_body_ends_is_not_guessed_at(name, size):
    pieces = [REFUSED[name][start : start + size] for start in range(0, len(REFUSED[name]), size)]
    exc = await failure(answering(pieces, then_close=True))
    assert exc.error_code == Code.PROTOCOL_ERROR


@pytest.mark.parametrize("name", READ)
def test_the_connection_of_a_repaired_reply_is_not_used_again(name):
    parser = ReplyParser(65536)
    reply = parser.expect(head_only=False)
    parser.feed(READ[name] + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert (reply.status, parser.reusable) == (200, False)
    parser.expect(head_only=False)
    parser.feed(raw(SIZED))
    assert (parser.state, parser.reusable) == (State.DONE, True)


async def test_repaired_fields_are_shown_and_broken_ones_are_not():
    lines = (b"Cache Control: x", b"ETag : a\x01b", b"Content-Language: de,", b"\t en", SIZED)
    page = await fetch(answering(raw(*lines)))
    assert page.headers == {"etag": "a b", "content-language": "de, en", "content-length": "5"}


def test_a_head_that_is_repaired_is_bounded_like_any_other():
    parser = ReplyParser(1024)
    parser.expect(head_only=False)
    with pytest.raises(FetchError) as caught:
        for _ in range(5000):
            parser.feed(b"HTTP/1.1 200 OK\r\n" + b"A: \x01\r\n" * 10)
    assert caught.value.error_code == Code.TOO_LARGE


CODED = {
    "members": ("gzip", gzip.compress(b"one ") + gzip.compress(b"two"), "one two"),
    "an empty member": ("gzip", gzip.compress(b"") + gzip.compress(b"two"), "two"),
    "zeros behind": ("gzip", gzip.compress(b"one") + b"\0" * 20, "one"),
    "junk behind": ("gzip", gzip.compress(b"one") + b"junk", "one"),
    "frames": ("zstd", zstd.compress(b"one ") + zstd.compress(b"two"), "one two"),
    "a skippable frame": ("zstd", SKIPPABLE + zstd.compress(b"one"), "one"),
    "none": ("none", b"hello", "hello"),
    "utf-8": ("utf-8", b"hello", "hello"),
    "aws-chunked": ("aws-chunked, gzip", gzip.compress(b"hello"), "hello"),
    "labelled twice": ("gzip, gzip", gzip.compress(b"hello, dear world"), "hello, dear world"),
    "gzip that is none": ("gzip", b"hello, dear world", "hello, dear world"),
    "short gzip that is none": ("gzip", b"ok", "ok"),
    "zstd that is none": ("zstd", "größer, höher".encode(), "größer, höher"),
    "br that is none": ("br", b"hello, dear world" * 9, "hello, dear world" * 9),
    "deflate that is none": (
        "deflate",
        b'{"a": "hello, dear world"}',
        '{"a": "hello, dear world"}',
    ),
    "compress that is none": ("compress", b"hello, dear world", "hello, dear world"),
}


@pytest.mark.parametrize("size", [1, 7, 65536])
@pytest.mark.parametrize("name", CODED)
async def test_a_coded_body_is_whole_and_what_is_not_coded_is_shown(name, size):
    coding, body, text = CODED[name]
    data = reply(body, f"Content-Encoding: {coding}", "Content-Type: text/plain; charset=utf-8")
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    page = await fetch(answering(pieces))
    assert (page.text, page.truncated) == (text, False)
    async with (
        serving(answering(pieces)) as server,
        httpx.AsyncClient(transport=TrioTransport(guard=ANYWHERE)) as client,
    ):
        response = await client.get(server.url)
        assert response.text == text
        assert response.headers["content-encoding"] == coding
        async with client.stream("GET", server.url) as response:
            assert b"".join([piece async for piece in response.aiter_bytes(3)]).decode() == text


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(b"one") + gzip.compress(b"two")[:-1]),
        ("gzip", gzip.compress(b"one") + gzip.compress(b"two")[:2]),
        ("zstd", zstd.compress(b"one") + zstd.compress(b"two")[:-1]),
        ("zstd", zstd.compress(b"one") + zstd.compress(b"two")[:3]),
        ("zstd", SKIPPABLE[:-1]),
        ("gzip", b"\x89PNG\0\0\0\0" * 20),
    ],
    ids=[
        "cut",
        "cut in its magic",
        "frame cut",
        "frame cut in its magic",
        "skippable cut",
        "no gzip",
    ],
)
async def test_half_a_body_is_never_taken_for_a_whole_one(coding, body):
    data = reply(body, f"Content-Encoding: {coding}")
    assert (await failure(answering(data))).error_code == Code.INVALID_ENCODING
    async with (
        serving(answering(data)) as server,
        httpx.AsyncClient(transport=TrioTransport(guard=ANYWHERE)) as client,
    ):
        with pytest.raises(httpx.DecodingError):
            await client.get(server.url)


LARGE = b"x" * 5_000_000
BOMBS = {
    "gzip": gzip.compress(LARGE),
    "gzip, x-a": gzip.compress(LARGE),
    "utf-8, gzip": gzip.compress(LARGE),
    "identity, gzip": gzip.compress(LARGE),
    "gzip, gzip": gzip.compress(gzip.compress(LARGE)),
    "br": brotli.compress(LARGE, quality=1),
    "deflate": zlib.compress(LARGE),
    "zstd": zstd.compress(b"a") + zstd.compress(LARGE),
    "zstd, none": SKIPPABLE + zstd.compress(LARGE),
    "none": LARGE,
}


@pytest.mark.parametrize("coding", BOMBS)
async def test_what_leaves_the_transport_is_within_the_cap(coding):
    caps = Caps(decoded_bytes=10_000)
    given = 0
    async with (
        serving(answering(reply(BOMBS[coding], f"Content-Encoding: {coding}"))) as server,
        httpx.AsyncClient(transport=TrioTransport(guard=ANYWHERE, caps=caps)) as client,
        client.stream("GET", server.url) as response,
    ):
        with pytest.raises(httpx.RemoteProtocolError, match="longer than 10000 bytes"):
            async for piece in response.aiter_bytes():
                given += len(piece)
    assert given <= 10_000


async def test_transfer_codings_expand_under_the_same_cap():
    body = raw(b"Transfer-Encoding: gzip, chunked", body=chunks(gzip.compress(LARGE)))
    async with serving(answering(body)) as server, Fetcher(config()) as fetcher:
        page = await fetcher.fetch(FetchRequest(server.url, max_bytes=1000))
    assert (page.length, page.truncated) == (1000, True)


def test_without_a_cap_a_body_expands_piece_by_piece():
    pieces = list(BodyDecoder(["gzip"], None).pieces(gzip.compress(LARGE)))
    assert b"".join(pieces) == LARGE
    assert max(map(len, pieces)) <= 65_536


def test_members_cannot_be_without_number():
    decoder = BodyDecoder(["gzip"], 1000)
    with pytest.raises(FetchError, match="more than 10000 members"):
        decoder.decode(gzip.compress(b"") * 10_001)
