"""The record of each call: what an operator wants to know, and nothing that a client sent."""

import logging

import pytest
import trio

from tests.support.servers_in_memory import connected, era, limits, nap_many, server_of, work  # noqa: F401
from trio_tools.answers.errors import NotFound


async def refuse(call, *, text: str) -> None:
    """Quote an argument in a failure."""
    raise NotFound(f"nothing is called {text!r}")


@pytest.fixture
def records(caplog):
    caplog.set_level(logging.INFO, "trio_tools")
    return lambda: [record for record in caplog.records if record.name == "trio_tools.access"]


async def test_each_call_has_a_record_with_its_figures(era, records, autojump_clock):  # noqa: F811
    async with connected(server_of(work, nap_many), era) as client:
        await client.call_tool("work", {"seconds": 2.0, "text": "ü" * 10})
        await client.call_tool("nap_many", {"items": [1, 5], "timeout_seconds": 3})
    _, done, cut = records()
    assert done.getMessage() == "work succeeded"
    assert done.fields.pop("bytes") >= 20
    assert done.fields == {
        "tool": "work",
        "outcome": "succeeded",
        "client": "anonymous",
        "peer": "-",
        "items": 0,
        "waited": 0.0,
        "elapsed": 2.0,
    }
    assert cut.getMessage() == "nap_many partly done"
    assert (cut.fields["items"], cut.fields["elapsed"]) == (2, 3.0)


async def test_what_a_call_waited_for_its_turn_is_told_apart(records, autojump_clock):
    server = server_of(work, **limits("work", max_calls=1))
    async with connected(server) as client, trio.open_nursery() as nursery:
        for seconds in (2.0, 1.0):
            nursery.start_soon(client.call_tool, "work", {"seconds": seconds})
            await trio.testing.wait_all_tasks_blocked()
    waited = [(r.fields["waited"], r.fields["elapsed"]) for r in records()[1:]]
    assert waited == [(0.0, 2.0), (2.0, 3.0)]


async def test_refusals_are_recorded_by_code_and_quote_no_argument(era, records, caplog):  # noqa: F811
    async with connected(server_of(refuse), era) as client:
        for name, arguments in [
            ("refuse", {"text": "PRIVATE"}),
            ("refuse", {"PRIVATE": "PRIVATE"}),
            ("PRIVATE", {"text": "PRIVATE\nforged"}),
        ]:
            await client.call_tool(name, arguments)
    assert [record.getMessage() for record in records()[1:]] == [
        "refuse failed: NOT_FOUND",
        "refuse failed: INVALID_ARGUMENT",
        "unknown tool failed: UNKNOWN_TOOL",
    ]
    assert "PRIVATE" not in caplog.text


async def test_a_cancelled_call_has_a_log_record_too(records, autojump_clock):
    async with connected(server_of(work)) as client:
        with trio.move_on_after(1):
            await client.call_tool("work", {"seconds": 60.0})
        await trio.sleep(1)
    assert records()[-1].getMessage() == "work cut short"
