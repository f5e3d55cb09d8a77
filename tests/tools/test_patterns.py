"""The toolset of patterns does what each pattern promises."""

import trio

from tests.http.servers import OK, answering, serving
from tests.server.kit import connected, status_of
from tests.tools.kit import calling, server_with
from trio_tools.settings import FetchSettings


def patterns(**settings):
    return server_with(toolset="patterns", **settings)


async def test_a_rate_limit_lets_calls_pass_at_its_pace(autojump_clock):
    async with calling(patterns()) as call:
        started = trio.current_time()
        answer = await call("rate_limited_operation", calls=9, per_second=4.0, burst=1)
        assert trio.current_time() - started == 2.0
    assert answer["data"]["waited_seconds"] == [0.0] + [0.25] * 8


async def test_a_bounded_map_makes_failures_outcomes():
    settings = FetchSettings(allow_private=True, ports=None)
    async with serving(answering(*[OK] * 3)) as site, calling(patterns(fetch=settings)) as call:
        answer = await call("parallel_fetch", urls=[site.url, "nonsense"])
    good, bad = answer["data"]["pages"]
    assert (good["status"], good["failed"]) == (200, False)
    assert (bad["status"], bad["failed"]) == (None, True)


async def test_a_stream_hands_over_each_outcome(autojump_clock):
    async with calling(patterns()) as call:
        answer = await call("process_batch_streaming", items=["a", "b", "c"], max_concurrent=1)
    assert answer["data"]["as_completed"] == ["A", "B", "C"]


async def test_a_deadline_keeps_what_is_done(autojump_clock):
    async with calling(patterns()) as call:
        asked = {"items": list("abcdef"), "seconds": 1.0, "timeout": 2.5}
        data = (await call("process_with_timeout", **asked))["data"]
    assert data == {
        "results": ["A", "B", "C", "D"],
        "missing": ["e", "f"],
        "complete": False,
        "expired": True,
    }


async def test_a_blocking_call_is_stopped_by_its_time_limit():
    async with calling(patterns()) as call:
        slow = await call("query_with_timeout", seconds=10.0, timeout=0.05)
        quick = await call("query_with_timeout", seconds=0.0, timeout=10.0)
    assert slow["data"] == {"rows": None, "timed_out": True}
    assert quick["data"] == {"rows": "rows", "timed_out": False}


async def test_a_cancelled_operation_cleans_up_and_goes(autojump_clock, era):
    async with connected(patterns(), era) as client:
        started = trio.current_time()
        with trio.move_on_after(0.25):
            await client.call_tool("cancellable_operation", {"steps": 10})
        await trio.sleep(0.05)
        assert trio.current_time() - started < 0.32
        assert (await status_of(client))["calls"] == []
        whole = await client.call_tool("cancellable_operation", {"steps": 2})
    assert whole.structured_content["data"] == {"steps": 2, "cleaned_up": True}


async def test_two_batches_share_one_limit_and_one_deadline(autojump_clock):
    async with calling(patterns()) as call:
        data = (await call("main_operation", items=list("abc"), seconds=1.0))["data"]
        cut = (await call("main_operation", items=list("abc"), seconds=1.0, timeout=1.5))["data"]
    assert (data["first"], data["second"]) == (["A", "B", "C"], ["A", "B", "C"])
    assert data["peak"] == 3
    assert len(cut["first"]) + len(cut["second"]) == 3
    assert cut["expired"]


async def test_a_tool_without_a_time_argument_keeps_to_the_time_it_declares(autojump_clock):
    limits = {"rate_limited_operation": {"timeout_seconds": 2, "max_timeout_seconds": 5}}
    server = patterns(limits=limits)
    async with connected(server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    declared = tools["rate_limited_operation"].description
    assert declared.endswith("Timeout: 2 s by default, 2 s at most")
    async with calling(server) as call:
        started = trio.current_time()
        answer = await call("rate_limited_operation", calls=100, per_second=0.001)
        assert trio.current_time() - started == 2
        assert answer["data"]["error_code"] == "TIMEOUT"
        status = (await call("get_concurrency_status"))["data"]
    assert status["calls"] == []
