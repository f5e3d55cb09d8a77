import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from trio_tools.transports.stdio.jsonrpc_lines import LineFramer, Refusal, encode
from trio_tools.transports.stdio.jsonrpc_lines import decode as decode_in_steps


def decode(line):
    """Read a line that is short enough to be read in one step, without an event loop."""
    with pytest.raises(StopIteration) as end:
        decode_in_steps(line).send(None)
    return end.value.value


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line)), st.data())
def test_lines_come_out_whole_however_the_stream_is_cut(lines, data):
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    framer = LineFramer()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [line for piece in pieces for line in framer.feed(piece)] == lines
    assert list(framer.close()) == []


def test_a_last_line_without_a_newline_counts():
    framer = LineFramer()
    assert list(framer.feed(b"one\ntwo")) == [b"one"]
    assert list(framer.close()) == [b"two"]


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_line_over_the_bound_is_told_once_and_skipped_to_its_end(length, chunk):
    stream = b"x" * length + b"\nnext\n"
    framer = LineFramer(max_line_bytes=10)
    lines = [
        line
        for start in range(0, len(stream), chunk)
        for line in framer.feed(stream[start : start + chunk])
    ]
    assert lines == [b"x" * length if length <= 10 else None, b"next"]


def test_the_framer_holds_no_more_than_the_bound_of_an_endless_line():
    framer = LineFramer(max_line_bytes=1000)
    assert [line for _ in range(100) for line in framer.feed(b"x" * 100)] == [None]
    assert len(framer._begun) == 0


def line(**fields):
    return json.dumps({"jsonrpc": "2.0", **fields}).encode()


def test_valid_messages_are_read_as_the_sdk_reads_them():
    request = decode(line(id=1, method="ping", params={"a": [1, {"b": None}]}))
    assert request == JSONRPCRequest(
        jsonrpc="2.0", id=1, method="ping", params={"a": [1, {"b": None}]}
    )
    assert isinstance(decode(line(id="", method="ping")), JSONRPCRequest)
    assert isinstance(decode(line(id=-(2**70), method="ping")), JSONRPCRequest)
    assert isinstance(decode(line(method="notifications/x")), JSONRPCNotification)
    assert isinstance(decode(line(id=1, result={})), JSONRPCResponse)
    assert isinstance(decode(line(id=1, error={"code": 1, "message": "m"})), JSONRPCError)
    assert decode(b" \r") is None
    assert decode(line(id=1, method="ping") + b"\r") is not None


NULL_ID = {
    "not JSON": (b"{bad", -32700),
    "not UTF-8": (b'{"method":"\xff"}', -32700),
    "a byte order mark": (b"\xef\xbb\xbf{}", -32700),
    "a lone surrogate": (b'{"a":"\\ud800"}', -32700),
    "not a number of JSON": (b'{"a":NaN}', -32700),
    "a number of 5,000 digits": (b'{"a":1' + b"0" * 5000 + b"}", -32700),
    "100,000 levels deep": (b"[" * 100_000 + b"]" * 100_000, -32700),
    "two objects": (b"{}{}", -32700),
    "a batch": (b"[]", -32600),
    "a string": (b'"x"', -32600),
    "an empty object": (b"{}", -32600),
    "a number with a point as id": (line(id=1.5, method="ping"), -32600),
    "true as id": (line(id=True, method="ping"), -32600),
    "null as id": (line(id=None, method="ping"), -32600),
    "an object as id": (line(id={}, method="ping"), -32600),
}


@pytest.mark.parametrize("case", NULL_ID)
def test_what_has_no_id_to_answer_is_refused_with_a_null_id(case):
    text, code = NULL_ID[case]
    refusal = decode(text)
    assert isinstance(refusal, Refusal)
    assert refusal.reply_owed
    reply = json.loads(encode(refusal.reply()))
    assert reply["id"] is None
    assert reply["error"]["code"] == code
    assert len(encode(refusal.reply())) < 300


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"method": "tools/call", "params": [1]}, -32602),
        ({"method": "tools/call", "params": "x"}, -32602),
        ({"method": "tools/call", "params": 0}, -32602),
        ({"method": 5}, -32600),
        ({"method": None}, -32600),
        ({"method": "ping", "jsonrpc": "1.0"}, -32600),
    ],
)
def test_a_request_that_cannot_be_taken_is_refused_under_its_own_id(fields, code):
    refusal = decode(line(id="seven", **fields))
    assert isinstance(refusal, Refusal)
    assert (refusal.request_id, refusal.code, refusal.reply_owed) == ("seven", code, True)


@pytest.mark.parametrize("value", [b'"\\ud800"', b"NaN", b"1" * 5_000, b"-" + b"1" * 5_000])
def test_a_request_that_only_a_lax_parser_can_read_is_refused_under_its_own_id(value):
    refusal = decode(b'{"jsonrpc":"2.0","id":16,"method":"x","params":{"a":%b}}' % value)
    assert isinstance(refusal, Refusal)
    assert (refusal.request_id, refusal.code, refusal.reply_owed) == (16, -32700, True)
    broken = decode(b'{"jsonrpc":"2.0","method":"x","params":{"a":%b}}' % value)
    assert isinstance(broken, Refusal)
    assert not broken.reply_owed


@pytest.mark.parametrize(
    "text",
    [
        line(method="notifications/cancelled", params=[1]),
        line(method=5),
        line(id=1, result=5),
        line(id=1.5, result={}),
        line(id=1, error="x"),
    ],
)
def test_a_broken_notification_or_response_is_owed_no_reply(text):
    refusal = decode(text)
    assert isinstance(refusal, Refusal)
    assert not refusal.reply_owed


@given(st.binary(max_size=200))
def test_no_bytes_make_decoding_raise(text):
    decode(text)


def test_what_is_encoded_is_one_line_of_utf_8():
    response = JSONRPCResponse(jsonrpc="2.0", id=1, result={"text": "a\nb\u2028ü"})
    encoded = encode(response)
    assert encoded.count(b"\n") == 1
    assert json.loads(encoded)["result"] == {"text": "a\nb\u2028ü"}


def test_text_that_utf_8_cannot_hold_is_escaped_rather_than_lost():
    response = JSONRPCResponse(jsonrpc="2.0", id=1, result={"name": "\udcff"})
    encoded = encode(response)
    assert encoded.isascii()
    assert json.loads(encoded)["result"] == {"name": "\udcff"}
