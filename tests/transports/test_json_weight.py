"""What a message weighs is told before it is parsed, and bounded."""

import json
import time

import pytest
import trio

from nursery_patterns import StepMonitor
from tests.transports.lines import call, served
from tests.transports.requests import exchange, http_server, modern_call, post
from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports import memory_trim as memory_trim_module
from trio_tools.transports.json_weight import (
    MAX_BARE_BYTES,
    MAX_CONTAINERS,
    MAX_TEXTS,
    MAX_VALUES,
    parsed_weight,
    weigh,
)
from trio_tools.transports.memory_trim import MemoryTrim

HEAVY = {
    "objects": b"{}," * (MAX_CONTAINERS + 1),
    "lists": b"[" * (MAX_CONTAINERS + 1),
    "texts": b'"",' * (MAX_TEXTS + 1),
    "numbers": b"1," * (MAX_VALUES + 1),
    "fields": b"".join(b'"%x":1,' % number for number in range(MAX_TEXTS + 1)),
    "long numbers": b"[" + b",".join([b"1" * 4_000] * (MAX_BARE_BYTES // 4_000 + 1)) + b"]",
    "spaces": b'["a"' + b" " * MAX_BARE_BYTES + b"]",
}
LIGHT = {
    "one text": json.dumps("x" * 4_000_000).encode(),
    "JSON in a text": json.dumps(json.dumps([{"a": [1, ""]}] * 200_000)).encode(),
    "backslashes": json.dumps("\\\\" * 500_000 + "{" * 1_000_000).encode(),
    "many numbers": json.dumps([0.5] * MAX_VALUES).encode(),
    "much in texts": json.dumps(["x" * 1_000_000] * 10).encode(),
}


@pytest.mark.parametrize("body", HEAVY.values(), ids=HEAVY)
def test_what_has_too_many_parts_is_told(body):
    assert parsed_weight(body) is None


@pytest.mark.parametrize("body", LIGHT.values(), ids=LIGHT)
def test_what_stands_in_texts_is_no_part(body):
    assert parsed_weight(body) is not None


def test_the_texts_of_a_message_weigh_what_they_hold():
    # They are in memory as long as their call, beside the bytes of the message.
    assert parsed_weight(json.dumps({"text": "x" * 1_000_000}).encode()) > 1_000_000
    assert parsed_weight(b"x" * 1_000_000) == 0


TEXTS_OF_A_LONG_TEXT = {
    "brackets": b"[{," * 1_200_000,
    "escapes": b'\\"[\\\\' * 700_000,
}


@pytest.mark.parametrize("text", TEXTS_OF_A_LONG_TEXT.values(), ids=TEXTS_OF_A_LONG_TEXT)
async def test_a_long_text_is_weighed_in_short_steps_and_what_is_behind_it_counts(text):
    heavy = b"[" * (MAX_CONTAINERS + 1)
    monitor = StepMonitor(0.1, timer=time.thread_time, on_block=lambda _: None)
    with monitor.watching():
        for end, too_many in (
            (b'"]', False),
            (b'",' + heavy, True),
            (b'\\"', False),
            (b"\\", False),
        ):
            weight = await weigh(b'["a", "' + text + end)
            assert (weight is None) is too_many
    assert monitor.latest == ()


async def test_such_a_message_is_refused_over_http_and_the_next_one_served():
    items = b"[" + b",".join([b"{}"] * (MAX_CONTAINERS + 1)) + b"]"
    raw = modern_call(1, "echo", text="PUT")
    body = raw.partition(b"\r\n\r\n")[2].replace(b'"PUT"', items)
    async with http_server() as address:
        answer = await exchange(address, post(body, **{"mcp-protocol-version": "2026-07-28"}))
        assert (answer.status, answer.body[:11]) == (413, b"The message")
        assert (await exchange(address, raw)).status == 200


async def test_such_a_message_is_refused_over_stdio_and_the_next_one_served(autojump_clock):
    async with served() as client:
        await client.initialize()
        await client.write([{}] * (MAX_CONTAINERS + 1))
        assert "send it in parts" in (await client.read())["error"]["message"]
        await client.write(call(1, "echo", text="x"))
        assert (await client.read())["id"] == 1


async def test_a_mark_of_the_byte_order_is_skipped(autojump_clock):
    mark = "\ufeff".encode()
    async with served(create_server(Settings())) as client:
        first = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        await client.write(mark + json.dumps(first).encode() + b"\n")
        assert (await client.read())["id"] == 1
    head, _, body = modern_call(1, "echo", text="x").partition(b"\r\n\r\n")
    marked = mark + body
    head = head.replace(b"content-length: %d" % len(body), b"content-length: %d" % len(marked))
    async with http_server() as address:
        assert (await exchange(address, head + b"\r\n\r\n" + marked)).status == 200


async def test_memory_is_given_back_after_much_and_not_after_little(monkeypatch, nursery):
    given_back = trio.Event()
    monkeypatch.setattr(memory_trim_module, "TRIM_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(
        memory_trim_module, "_trim", lambda: trio.from_thread.run_sync(given_back.set)
    )
    trim = MemoryTrim()
    nursery.start_soon(trim.run)
    for _ in range(100):
        trim.add(1_000)
    await trio.sleep(0.1)
    assert not given_back.is_set()
    for _ in range(30):
        trim.add(2**20)
    with trio.fail_after(10):
        await given_back.wait()
