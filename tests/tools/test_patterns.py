"""The tools of the patterns have the signatures and fields of the guideline, over real work."""

import hashlib

import pytest
import trio
import trio.testing

from tests.support.followed_operations import ENDLESS, calling, server_with
from tests.support.raw_http_servers import OK, answering, serving
from tests.support.servers_in_memory import connected, envelope_of, status_of
from trio_tools.settings import FetchSettings


def patterns(**settings):
    return server_with(toolset="patterns", **settings)


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def digests(results):
    return [result["hexdigest"] for result in results]


async def test_the_arguments_are_those_of_the_guideline():
    asked = {
        "rate_limited_operation": (["data"], []),
        "parallel_fetch": (["items"], []),
        "process_batch_streaming": (["items"], []),
        "process_with_timeout": (["items"], ["timeout"]),
        "query_with_timeout": (["query"], ["timeout_seconds"]),
        "cancellable_operation": (["items"], ["max_items"]),
        "main_operation": (["data"], []),
    }
    async with connected(patterns()) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    for name, (required, optional) in asked.items():
        schema = tools[name].input_schema
        assert {*required, *optional} <= set(schema["properties"])
        if name != "parallel_fetch":  # whose items may still be called urls
            assert schema["required"] == required


async def test_a_rate_limit_holds_for_all_calls_of_a_server(autojump_clock):
    async with calling(patterns()) as call:
        first = [await call("rate_limited_operation", data="a") for _ in range(20)]
        late = await call("rate_limited_operation", data="a")
    async with calling(patterns()) as call:
        other = await call("rate_limited_operation", data="a")
    assert {answer["data"]["waited_seconds"] for answer in (*first, other)} == {0.0}
    assert late["data"]["waited_seconds"] == pytest.approx(0.1)
    assert late["data"]["result"]["hexdigest"] == digest("a")
    assert late["meta"]["rate_limit"]["limit"] == 20


async def test_a_rate_limit_lets_calls_pass_at_its_pace(autojump_clock):
    async with calling(patterns()) as call:
        started = trio.current_time()
        asked = {"data": "a", "calls": 9, "per_second": 4.0, "burst": 1}
        answer = await call("rate_limited_operation", **asked)
        assert trio.current_time() - started == 2.0
    assert answer["data"]["waited_seconds"] == 2.0


@pytest.mark.parametrize("argument", ["items", "urls"])
async def test_a_bounded_map_makes_failures_outcomes(argument):
    settings = FetchSettings(allow_private=True, ports=None)
    async with serving(answering(*[OK] * 3)) as site, calling(patterns(fetch=settings)) as call:
        answer = await call("parallel_fetch", **{argument: [site.url, "nonsense"]})
        whole = await call("parallel_fetch", **{argument: [site.url]})
    data = answer["data"]
    assert (data["total"], data["succeeded"]) == (2, 1)
    (good,), (bad,) = data["results"], data["errors"]
    assert (good["id"], good["status"], good["data"]["status"]) == (site.url, "success", 200)
    assert (bad["id"], bad["status"], bad["error_code"]) == ("nonsense", "error", "INVALID_URL")
    assert bad["error"]
    assert answer["meta"]["warnings"] == ["1 items failed"]
    assert (whole["data"]["errors"], whole["meta"]["warnings"]) == ([], [])


async def test_a_map_over_nothing_or_over_both_names_is_refused():
    async with calling(patterns()) as call:
        for arguments in ({}, {"items": ["http://a/"], "urls": ["http://a/"]}):
            answer = await call("parallel_fetch", **arguments)
            assert answer["error"].startswith("give exactly one of items and urls")


async def test_a_stream_hands_over_each_outcome(autojump_clock):
    async with calling(patterns()) as call:
        asked = {"items": ["a", "\ud800", "c"], "max_concurrent": 1}
        answer = await call("process_batch_streaming", **asked)
    good, bad, last = answer["data"]["results"]
    assert (good["status"], good["result"]["hexdigest"]) == ("success", digest("a"))
    assert (bad["status"], bad["error_code"]) == ("error", "NOT_TEXT")
    assert (last["status"], last["result"]["hexdigest"]) == ("success", digest("c"))


async def test_a_long_text_is_hashed_in_a_thread():
    text = "long" * 10_000
    async with calling(patterns()) as call:
        answer = await call("process_batch_streaming", items=[text])
        limits = (await call("get_concurrency_status"))["data"]["limits"]
    assert answer["data"]["results"][0]["result"]["hexdigest"] == digest(text)
    assert limits["compute_hash"]["finished"] == 1


async def test_a_deadline_keeps_what_is_done(autojump_clock):
    async with calling(patterns()) as call:
        asked = {"items": list("abcdef"), "seconds": 1.0}
        cut = await call("process_with_timeout", **asked, timeout=2.5)
        whole = await call("process_with_timeout", **asked)
    assert digests(cut["data"]["results"]) == [digest(text) for text in "abcd"]
    assert (cut["data"]["complete"], cut["data"]["missing"]) == (False, ["e", "f"])
    told = "Operation timed out after 2.5s, returning partial results"
    assert cut["meta"]["warnings"] == [told]
    assert (whole["data"]["complete"], whole["meta"]["warnings"]) == (True, [])


async def test_a_timeout_above_the_cap_is_refused_with_the_cap():
    limits = {"process_with_timeout": {"max_timeout_seconds": 20}}
    async with calling(patterns(limits=limits)) as call:
        answer = await call("process_with_timeout", items=["a"], timeout=21)
        assert (await call("process_with_timeout", items=["a"], timeout=20))["success"]
    assert answer["error"] == (
        "timeout must be at most 20, got 21: lower it, or split the work over several calls"
    )


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
    assert [digests(answer["results"]) for answer in answers[::2]] == [
        [digest("a"), digest("b")]
    ] * 2
    assert not answers[2]["complete"]


async def test_a_query_tells_how_its_time_was_used(shop):
    async with calling(patterns(**shop)) as call:
        answer = await call("query_with_timeout", query="SELECT name FROM items WHERE id = 3")
    timing = answer["data"]["timing"]
    assert answer["data"]["result"]["rows"] == [["n3"]]
    assert timing["timeout_seconds"] == 30.0
    assert timing["elapsed_seconds"] + timing["headroom_seconds"] == pytest.approx(30.0, abs=0.02)
    assert answer["meta"]["warnings"] == []


async def test_a_query_past_four_fifths_of_its_time_is_told_so(shop, monkeypatch):
    monkeypatch.setattr("trio_tools.tools.patterns.deadlines._TIGHT", 0.0)
    async with calling(patterns(**shop)) as call:
        answer = await call("query_with_timeout", query="SELECT 1")
    assert answer["meta"]["warnings"] == ["Query used >80% of timeout budget"]


async def test_a_query_needs_no_configured_database():
    async with calling(patterns()) as call:
        answer = await call("query_with_timeout", query="SELECT 1 + 1 AS two")
        named = await call("query_with_timeout", query="SELECT 1", database="shop")
    assert answer["data"]["result"]["rows"] == [[2]]
    assert named["data"]["error_code"] == "UNKNOWN_DATABASE"


async def test_a_query_is_stopped_by_its_time_limit(shop):
    async with calling(patterns(**shop)) as call:
        answer = await call("query_with_timeout", query=ENDLESS, timeout_seconds=0.2)
    assert not answer["success"]
    assert answer["error"] == (
        "Query timed out after 0.2s. Retry with timeout_seconds=0.4 or break into smaller queries"
    )
    data = answer["data"]
    assert (data["error_code"], data["error_type"]) == ("TIMEOUT", "timeout")
    assert data["timeout_seconds"] == 0.2
    assert data["suggestion"] == "Consider increasing timeout or simplifying query"
    assert data["remediation"] == "Retry with timeout_seconds=0.4 or break into smaller queries"


async def test_an_operation_that_is_not_cancelled_says_so(era):
    async with connected(patterns(), era) as client:
        asked = {"items": ["a", "b", "c"], "max_items": 2}
        data = (await envelope_of(client, "cancellable_operation", asked))["data"]
    assert data["cancellation"] == {
        "was_cancelled": False,
        "processed": 2,
        "total_requested": 2,
    }
    assert digests(each["value"] for each in data["results"]) == [digest("a"), digest("b")]


async def test_a_stopped_operation_answers_with_what_it_has_and_goes_on(era):
    server = patterns()
    server.state.limits.resize("compute_hash", 0)  # a pause, in which no item starts
    asked = {"items": ["a", "b"], "operation_id": "op_of_mine"}
    answers = []
    async with connected(server, era) as client:

        async def ask():
            answers.append(await envelope_of(client, "cancellable_operation", asked))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            with trio.fail_after(20):
                while not server.state.store.running():  # noqa: ASYNC110 - at the other end
                    await trio.sleep(0.001)
            await client.call_tool("cancel_operation", {"operation_id": "op_of_mine"})
        server.state.limits.resize("compute_hash", 2)
        whole = (await envelope_of(client, "cancellable_operation", asked))["data"]
    (stopped,) = answers
    assert stopped["success"]
    assert stopped["data"]["cancellation"] == {
        "was_cancelled": True,
        "processed_before_cancel": 0,
        "total_requested": 2,
        "remaining": 2,
    }
    told = "Operation was cancelled - returning partial results"
    assert stopped["meta"]["warnings"][0] == told
    assert whole["cancellation"]["processed"] == 2


async def test_what_a_cancelled_call_did_is_kept(era):
    server = patterns()
    server.state.limits.resize("compute_hash", 0)
    asked = {"items": ["a", "b"], "operation_id": "op_of_mine"}
    async with connected(server, era) as client:
        with trio.move_on_after(0.2):
            await client.call_tool("cancellable_operation", asked)
        with trio.fail_after(20):
            while (await status_of(client))["calls"]:  # noqa: ASYNC110 - at the other end
                await trio.sleep(0.001)
        kept = await envelope_of(client, "get_operation", {"operation_id": "op_of_mine"})
    assert kept["data"]["counts"]["total"] == 2


async def test_tasks_and_threads_see_the_context_of_their_call():
    async with calling(patterns()) as call:
        answer = await call("main_operation", data={"a": 1})
    data = answer["data"]
    assert data["request_id"] == answer["meta"]["request_id"]
    for seen in data["nested"].values():
        assert (seen["request_id"], seen["client_id"]) == (data["request_id"], data["client_id"])
        assert 0 <= seen["elapsed_ms"] <= data["elapsed_ms"] + 0.001
    assert set(data["nested"]) == {"task", "thread"}
    assert data["result"]["hexdigest"] == digest('{"a":1}')


async def test_a_tool_without_a_time_argument_keeps_to_the_time_it_declares(autojump_clock):
    limits = {"rate_limited_operation": {"timeout_seconds": 2, "max_timeout_seconds": 5}}
    server = patterns(limits=limits)
    async with connected(server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    declared = tools["rate_limited_operation"].description
    assert declared.endswith("Timeout: 2 s by default, 2 s at most")
    async with calling(server) as call:
        started = trio.current_time()
        answer = await call("rate_limited_operation", data="a", calls=100, per_second=0.001)
        assert trio.current_time() - started == 2
        assert answer["data"]["error_code"] == "TIMEOUT"
        status = (await call("get_concurrency_status"))["data"]
    assert status["calls"] == []


async def test_a_tool_without_a_time_argument_names_none_when_it_is_cut(autojump_clock):
    async with calling(patterns()) as call:
        answer = await call("rate_limited_operation", data="a", calls=100, per_second=0.001)
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
            asked = {"data": "a", "calls": 100, "per_second": 0.001}
            answers.append(await call("rate_limited_operation", **asked))

        nursery.start_soon(ask)
        nursery.start_soon(ask)
    in_line = {answer["data"]["error_code"]: answer["error"] for answer in answers}["OVERLOADED"]
    assert in_line == "This call did not get its turn within 2 s: call again later."
