import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tools.http.wire.errors import Code, FetchError
from trio_tools.http.wire.response_parser import _NEXT, Event, ReplyParser, State

REPLIES = {
    "sized": (b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", True),
    "chunked": (
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"
        ),
        b"hello",
        True,
    ),
    "interim": (
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        ),
        b"hello",
        True,
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", True),
    "close": (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
        False,
    ),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    "until the end": (b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello", False),
    "surplus": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP", b"hello", False),
}


def parse(pieces, *, head_only=False, max_head_bytes=65536):
    parser = ReplyParser(max_head_bytes)
    reply = parser.expect(head_only=head_only)
    for piece in pieces:
        parser.feed(piece)
    if parser.state < State.DONE:
        parser.feed(b"")
    return parser, reply


def cut(data, places):
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@pytest.mark.parametrize("name", REPLIES)
@given(st.data())
def test_a_reply_means_the_same_wherever_its_bytes_are_cut(name, data):
    raw, body, reusable = REPLIES[name]
    places = data.draw(st.sets(st.integers(1, len(raw) - 1)))
    parser, reply = parse(cut(raw, places))
    whole, expected = parse([raw])
    assert (reply.status, reply.headers) == (expected.status, expected.headers)
    assert (reply.take(), parser.reusable) == (body, reusable)
    assert parser.state is whole.state


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_may_come_byte_by_byte(name):
    raw, body, reusable = REPLIES[name]
    parser, reply = parse([raw[i : i + 1] for i in range(len(raw))])
    assert (reply.take(), parser.reusable) == (body, reusable)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
    ],
)
def test_a_reply_to_head_ends_with_its_head_and_the_next_one_is_parsed(head):
    parser, reply = parse([head], head_only=True)
    assert (reply.take(), parser.reusable) == (b"", True)
    reply = parser.expect(head_only=False)
    parser.feed(REPLIES["sized"][0])
    assert (reply.take(), parser.reusable) == (b"hello", True)


def test_a_body_after_a_reply_to_head_makes_the_connection_useless():
    parser, reply = parse([REPLIES["sized"][0]], head_only=True)
    assert (reply.take(), reply.status, parser.reusable) == (b"", 200, False)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nA: b\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 099 Low\r\nContent-Length: 1\r\n\r\nx",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x03\x01\x02\x00",
    ],
)
@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_what_is_no_reply_is_a_protocol_error_however_it_is_cut(raw, byte_by_byte):
    pieces = [raw[i : i + 1] for i in range(len(raw))] if byte_by_byte else [raw]
    with pytest.raises(FetchError) as caught:
        parse(pieces)
    assert caught.value.error_code == Code.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 " + b"x" * 2000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 2000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 400 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
    ],
)
@pytest.mark.parametrize("size", [1, 100, 65536])
def test_header_bytes_are_capped_however_they_come(raw, size):
    with pytest.raises(FetchError) as caught:
        parse([raw[i : i + size] for i in range(0, len(raw), size)], max_head_bytes=1024)
    assert caught.value.error_code == Code.TOO_LARGE


@pytest.mark.parametrize(
    "endless", [b"5;" + b"x" * 100, b"0\r\nTrailer: " + b"x" * 100, b"0\r\n" + b"T: x\r\n" * 20]
)
def test_framing_cannot_go_on_for_ever(endless):
    parser = ReplyParser(1024)
    parser.expect(head_only=False)
    parser.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    parser.feed(endless)
    rest = b"T: x\r\n" * 20 if endless.endswith(b"\n") else b"x" * 100
    with pytest.raises(FetchError) as caught:
        for _ in range(1000):
            parser.feed(rest)
    assert caught.value.error_code == Code.PROTOCOL_ERROR


def test_a_long_body_in_one_byte_chunks_is_no_attack():
    parser = ReplyParser(1024)
    reply = parser.expect(head_only=False)
    parser.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(1000):
        parser.feed(b"1\r\nx\r\n" * 20)
    assert reply.body_bytes == 20_000


def test_the_table_names_every_state_and_leads_only_forward_but_for_interim_replies():
    assert set(_NEXT) == set(State)
    for state, row in _NEXT.items():
        assert set(row) <= set(Event)
        for after in row.values():
            assert after >= state or (state, after) == (State.INTERIM, State.WAITING)
