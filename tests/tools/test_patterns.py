"""The toolset of patterns does what each pattern promises."""

import pytest
import trio
import trio.testing

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


async def test_a_tool_without_a_time_argument_names_none_when_it_is_cut(autojump_clock):
    async with calling(patterns()) as call:
        answer = await call("rate_limited_operation", calls=100, per_second=0.001)
    assert answer["error"] == (
        "rate_limited_operation was not done within 30 s and was stopped: ask for less"
    )
    assert answer["data"]["timeout_seconds"] == 30.0
    assert "argument" not in answer["data"]


async def test_who_cannot_allow_more_time_is_not_told_to(autojump_clock):
    limits = {"rate_limited_operation": {"timeout_seconds": 2, "max_calls": 1}}
    answers = []
    async with calling(patterns(limits=limits)) as call, trio.open_nursery() as nursery:

        async def ask():
            asked = {"calls": 100, "per_second": 0.001}
            answers.append(await call("rate_limited_operation", **asked))

        nursery.start_soon(ask)
        nursery.start_soon(ask)
    in_line = {answer["data"]["error_code"]: answer["error"] for answer in answers}["OVERLOADED"]
    assert in_line == "This call did not get its turn within 2 s: call again later."


@pytest.mark.parametrize("tool", ["process_with_timeout", "main_operation", "query_with_timeout"])
async def test_a_timeout_that_the_tool_would_not_live_to_see_is_refused(tool):
    items = {"seconds": 0} | ({} if tool == "query_with_timeout" else {"items": ["a"]})
    async with calling(patterns(limits={tool: {"timeout_seconds": 20}})) as call:
        for timeout in (20, 60):
            answer = await call(tool, **items, timeout=timeout)
            assert answer["data"]["error_type"] == "validation"
            assert answer["error"] == (
                f"timeout must be below 20, the time that {tool} has, got {timeout}: lower it"
            )
        assert (await call(tool, **items, timeout=19.9))["success"]


async def test_the_longest_deadline_keeps_what_is_done_also_after_a_wait_in_line(autojump_clock):
    limits = {"process_with_timeout": {"max_calls": 1}}
    answers = []
    async with calling(patterns(limits=limits)) as call, trio.open_nursery() as nursery:

        async def ask(timeout):
            asked = {"items": list("abcdefgh"), "seconds": 10.0, "timeout": timeout}
            answers.append((await call("process_with_timeout", **asked))["data"])
            answers.append(trio.current_time() - started)

        started = trio.current_time()
        nursery.start_soon(ask, 15.0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, 29.0)
    assert answers[1::2] == [15.0, 29.0]
    assert answers[0]["results"] == ["A", "B"]
    assert answers[2]["results"] == ["A", "B"]
    assert answers[2]["expired"]
