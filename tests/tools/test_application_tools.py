"""Tools of an application have what the built-in ones have."""

import logging
import re
import threading
from typing import Annotated

import pytest
import trio
from pydantic import Field

from tests.support.servers_in_memory import connected, envelope_of, status_of
from trio_tools import Answer, Operation, ToolContext, create_server, tool
from trio_tools.answers.errors import NotFound
from trio_tools.settings import Settings


async def nap(seconds: Annotated[float, Field(ge=0, description="How long.")] = 1.0) -> dict:
    """Wait for a while."""
    await trio.sleep(seconds)
    return {"slept": seconds}


def square(number: int) -> int:
    """Square a number."""
    return number * number


def server_of(*tools, **settings):
    return create_server(Settings(**settings), tools=list(tools))


async def listed(server):
    async with connected(server) as client:
        return {each.name: each for each in (await client.list_tools()).tools}


async def test_a_function_is_listed_with_its_arguments_and_bounds():
    nap_listing = (await listed(server_of(tool(nap, limit=5, timeout_seconds=7))))["nap"]
    assert nap_listing.description == (
        "Wait for a while.\n\nExecution: async (I/O-bound)\n"
        "Concurrency: up to 5 in parallel, 1000 waiting\nTimeout: 7 s by default, 7 s at most"
    )
    assert nap_listing.input_schema["properties"] == {
        "seconds": {"type": "number", "description": "How long. Default 1.0.", "minimum": 0}
    }
    assert nap_listing.output_schema is not None


async def test_it_answers_in_the_envelope_and_in_both_forms(era):
    async with connected(server_of(nap, tool(square, runs="thread")), era) as client:
        answer = await client.call_tool("nap", {"seconds": 0})
        assert answer.structured_content["data"] == {"slept": 0.0}
        assert '{"slept":0.0}' in answer.content[0].text
        assert answer.structured_content["meta"]["version"] == "response-v2"
        number = await client.call_tool("square", {"number": 7})
        assert number.structured_content["data"] == {"result": 49}
        assert "49" in number.content[0].text


async def test_a_worker_process_may_run_it():
    async with connected(server_of(tool(square, runs="process"))) as client:
        assert (await envelope_of(client, "square", {"number": 3}))["data"] == {"result": 9}


async def test_its_limit_and_its_line_hold(autojump_clock):
    at_work = []

    async def work() -> int:
        """Count who is at work."""
        at_work.append(1)
        most = len(at_work)
        await trio.sleep(1)
        at_work.pop()
        return most

    answers = []
    async with connected(server_of(tool(work, limit=2, max_waiting=2))) as client:

        async def ask():
            answers.append(await envelope_of(client, "work", {}))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        status = await status_of(client)
    done = [answer["data"]["result"] for answer in answers if answer["success"]]
    refused = [answer["data"]["error_code"] for answer in answers if not answer["success"]]
    assert (len(done), max(done), refused) == (4, 2, ["OVERLOADED"])
    assert (status["limits"]["work"]["capacity"], status["limits"]["work"]["finished"]) == (2, 4)
    assert status["durations"]["work"]["calls"] == 4


async def test_its_time_is_kept_and_callers_may_choose_it_up_to_the_cap(autojump_clock):
    fixed, asked = tool(nap, timeout_seconds=3), tool(nap, name="doze", max_timeout_seconds=60)
    async with connected(server_of(fixed, asked)) as client:
        started = trio.current_time()
        late = await envelope_of(client, "nap", {"seconds": 10})
        assert trio.current_time() - started == 3
        assert late["error"] == "nap was not done within 3 s and was stopped: ask for less"
        arguments = {"seconds": 40, "timeout_seconds": 50}
        assert (await envelope_of(client, "doze", arguments))["data"] == {"slept": 40.0}
        arguments = {"seconds": 40, "timeout_seconds": 5}
        assert (await envelope_of(client, "doze", arguments))["data"]["maximum"] == 60
        above = await envelope_of(client, "doze", {"timeout_seconds": 61})
        assert above["error"].startswith("timeout_seconds must be at most 60, got 61")


async def test_a_cancel_ends_it(autojump_clock, era):
    async with connected(server_of(nap), era) as client:
        with trio.move_on_after(1):
            await client.call_tool("nap", {"seconds": 1000})
        await trio.sleep(0.1)
        status = await status_of(client)
    assert (status["calls"], status["limits"]["nap"]["in_use"]) == ([], 0)


@pytest.mark.parametrize("runs", ["async", "thread"])
async def test_it_tells_progress_through_its_context(era, runs):
    seen = []

    def count(context: ToolContext, upto: int) -> str:
        """Count."""
        for done in range(1, upto + 1):
            context.progress(done, upto, f"{done} done")
        seen.append(threading.current_thread() is threading.main_thread())
        assert context.elapsed >= 0
        return context.request_id

    async def count_here(context: ToolContext, upto: int) -> str:
        """Count."""
        await trio.lowlevel.checkpoint()
        return count(context, upto)

    made = tool(count_here if runs == "async" else count, name="count", runs=runs)
    told = []

    async def tell(*message):
        told.append(message)

    async with connected(server_of(made), era) as client:
        (schema,) = [t.input_schema for t in (await client.list_tools()).tools if t.name == "count"]
        assert set(schema["properties"]) == {"upto"}
        answer = await client.call_tool("count", {"upto": 30}, progress_callback=tell)
        await trio.testing.wait_all_tasks_blocked(0.05)
    envelope = answer.structured_content
    assert envelope["data"]["result"] == envelope["meta"]["request_id"]
    assert told[-1] == (30, 30, "30 done")
    assert seen == [runs == "async"]


async def test_its_failures_go_through_the_table(caplog):
    async def look_up(word: str) -> str:
        """Look up a word."""
        await trio.lowlevel.checkpoint()
        if word == "unknown":
            raise NotFound("no such word: look in another book")
        raise ZeroDivisionError("a secret")

    async with connected(server_of(look_up)) as client:
        unknown = await envelope_of(client, "look_up", {"word": "unknown"})
        with caplog.at_level(logging.CRITICAL, "trio_tools"):
            broken = await client.call_tool("look_up", {"word": "a"})
        wrong = await envelope_of(client, "look_up", {"wort": "a"})
    assert (unknown["error"], unknown["data"]["error_type"]) == (
        "no such word: look in another book",
        "not_found",
    )
    assert broken.structured_content["data"]["error_code"] == "INTERNAL"
    assert "secret" not in broken.content[0].text
    assert wrong["data"]["error_code"] == "INVALID_ARGUMENT"


async def test_what_does_not_fit_or_is_no_json_is_told():
    async def much(count: int) -> str:
        """Return much."""
        await trio.lowlevel.checkpoint()
        return "a" * count

    async def strange() -> object:
        """Return what is none."""
        await trio.lowlevel.checkpoint()
        return object()

    async with connected(server_of(much, strange, max_output_chars=10_000)) as client:
        large = await envelope_of(client, "much", {"count": 10_001})
        assert (await envelope_of(client, "much", {"count": 9_000}))["success"]
        none = await envelope_of(client, "strange", {})
    assert large["data"]["error_code"] == "RESULT_TOO_LARGE"
    assert none["data"]["error_code"] == "NOT_JSON"


async def page(number: int) -> dict:
    """Give a page."""
    await trio.lowlevel.checkpoint()
    return {"title": f"Page {number}", "text": "a line\nanother one" * number, "tags": ("a",)}


def as_text(value):
    assert value["tags"] == ["a"]
    return f"{value['title']}\n{value['text']}"


async def test_how_a_result_reads_is_up_to_its_function():
    async with connected(server_of(tool(page, render=as_text))) as client:
        answer = await client.call_tool("page", {"number": 1})
    mark = re.search("<data-(.*?)>", answer.content[0].text)[1]
    assert answer.content[0].text.splitlines()[2:] == [
        "Page 1",
        f"<data-{mark}>",
        "a line",
        "another one",
        f"</data-{mark}>",
    ]
    assert answer.structured_content["data"]["title"] == "Page 1"


async def test_a_single_line_stands_between_the_markers():
    own = tool(page, render=lambda value: value["title"])
    async with connected(server_of(own)) as client:
        text = (await client.call_tool("page", {"number": 1})).content[0].text
    assert re.search(r"<data-(\w+)>\nPage 1\n</data-\1>$", text)


@pytest.mark.parametrize(
    "render",
    [lambda value: value["no such"], lambda value: 1, lambda value: f"a\n{'b' * 20_000}"],
)
async def test_a_result_that_cannot_be_rendered_is_shown_as_json(render, caplog):
    own = tool(page, render=render)
    async with connected(server_of(own, max_output_chars=20_000)) as client:
        answer = await client.call_tool("page", {"number": 2})
    assert '"title":"Page 2"' in answer.content[0].text
    assert not answer.is_error
    assert len(answer.content[0].text) <= 20_000


async def test_the_settings_of_the_operator_come_first():
    limits = {"nap": {"max_concurrency": 1, "timeout_seconds": 9}}
    description = (await listed(server_of(tool(nap, limit=5), limits=limits)))["nap"].description
    assert "up to 1 in parallel" in description
    assert description.endswith("Timeout: 9 s by default, 9 s at most")
    assert "nap" not in await listed(server_of(nap, tools=["get_concurrency_status"]))
    assert set(await listed(server_of(nap, tools=["get_concurrency_status", "nap"]))) == {
        "get_concurrency_status",
        "nap",
    }


async def no_hint(a) -> None:
    """Do."""


async def any_number(*a: int) -> None:
    """Do."""


async def own_time(timeout_seconds: float) -> None:
    """Do."""


async def silent(a: int) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: tool(square), TypeError, "runs='async', but its fn is a plain function"),
        (lambda: tool(nap, runs="thread"), TypeError, "its fn is an async function: leave out"),
        (
            lambda: tool(nap, runs="gpu"),
            ValueError,
            "say 'async', 'thread', 'process' or 'cluster'",
        ),
        (lambda: tool(nap, name="a b"), ValueError, "a tool cannot be named 'a b'"),
        (lambda: tool(nap, limit=0), ValueError, "limit must be above 0, got 0"),
        (lambda: tool(nap, timeout_seconds=9, max_timeout_seconds=8), ValueError, "lower it"),
        (lambda: tool(no_hint), TypeError, "parameter 'a' needs an annotation"),
        (lambda: tool(any_number), TypeError, "cannot be given by name"),
        (lambda: tool(own_time), ValueError, "timeout_seconds is an argument of the server"),
        (
            lambda: tool(nap, time_argument="timeout"),
            ValueError,
            "names no parameter of the function; there are: seconds",
        ),
        (
            lambda: tool(nap, time_argument="seconds"),
            ValueError,
            "say tool(fn, timeout_seconds=1)",
        ),
        (lambda: tool(silent), ValueError, "has no description"),
        (lambda: tool(nap, render="{title}"), TypeError, "render='{title}': give a function"),
        (lambda: server_of(tool(nap, name="fetch_urls")), ValueError, "built-in tool is named"),
        (lambda: server_of(tool(nap, name="parallel_fetch")), ValueError, "built-in tool is"),
        (lambda: server_of(nap, nap), ValueError, "two tools are named 'nap'"),
        (lambda: create_server(tools=nap), TypeError, "tools must be a list of tools"),
        (lambda: server_of("nap"), TypeError, "'nap' is not a tool"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_the_fix(make, kind, message):
    with pytest.raises(kind) as caught:
        make()
    assert message in str(caught.value)


async def paced(context: ToolContext, items: list[float], timeout_seconds: float = 20) -> Answer:
    """Nap for each item; say what was done in time."""
    answer = await context.run_batch("nap_item", items, timeout_seconds=timeout_seconds)
    done = [each["value"] for each in answer.data["results"]]
    return Answer(summary="as far as it got", data={"done": done, "gave": timeout_seconds})


async def nap_item(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


def with_operation(*tools, **settings):
    return create_server(Settings(**settings), operations=[nap_item], tools=list(tools))


async def test_a_tool_that_keeps_its_time_answers_with_what_is_done(autojump_clock):
    made = tool(paced, time_argument="timeout_seconds", timeout_seconds=20, max_timeout_seconds=60)
    assert (await listed(with_operation(made)))["paced"].input_schema["properties"][
        "timeout_seconds"
    ]["maximum"] == 60
    async with connected(with_operation(made)) as client:
        started = trio.current_time()
        cut = await envelope_of(client, "paced", {"items": [1, 30], "timeout_seconds": 5})
        assert trio.current_time() - started == 5
        usual = await envelope_of(client, "paced", {"items": [1, 30]})
        assert trio.current_time() - started == 25
        past = await envelope_of(client, "paced", {"items": [1], "timeout_seconds": 61})
    assert cut["data"] == {"done": [1.0], "gave": 5.0}
    assert usual["data"] == {"done": [1.0], "gave": 20.0}
    assert past["error"].startswith("timeout_seconds must be at most 60, got 61")


async def test_the_operator_decides_the_time_that_a_call_has_by_default(autojump_clock):
    made = tool(paced, time_argument="timeout_seconds", timeout_seconds=20, max_timeout_seconds=60)
    limits = {"paced": {"timeout_seconds": 2, "max_timeout_seconds": 3}}
    async with connected(with_operation(made, limits=limits)) as client:
        answer = await envelope_of(client, "paced", {"items": [1, 30]})
    assert answer["data"] == {"done": [1.0], "gave": 2.0}


async def test_a_batch_of_a_tool_that_the_server_cuts_ends_before_it(autojump_clock):
    async def cut(context: ToolContext) -> Answer:
        """Nap."""
        assert (context.timeout_seconds, context.remaining) == (20, 20)
        return await context.run_batch("nap_item", [1, 30], operation_id="mine")

    async with connected(with_operation(tool(cut, timeout_seconds=20))) as client:
        started = trio.current_time()
        answer = await envelope_of(client, "cut")
        assert trio.current_time() - started == 19
        kept = await envelope_of(client, "get_operation", {"operation_id": "mine"})
    assert answer["data"]["counts"]["succeeded"] == 1
    assert kept["data"]["counts"]["cancelled"] == 1


async def test_a_tool_runs_an_operation_on_one_item_within_its_limit(autojump_clock):
    async def several(context: ToolContext) -> list[float]:
        """Nap twice, one after the other."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(context.run, "nap_item", 1)
            nursery.start_soon(context.run, "nap_item", 1)
        return [context.elapsed, context.limiter("nap_item").total_tokens]

    limits = {"nap_item": {"max_concurrency": 1}}
    async with connected(with_operation(tool(several), limits=limits)) as client:
        assert (await envelope_of(client, "several"))["data"] == {"result": [2.0, 1]}


@pytest.mark.parametrize(
    ("operation", "item", "code"),
    [
        ("nap_item", "soon", "INVALID_ITEM"),
        ("missing", 1, "UNKNOWN_OPERATION"),
        ("fetch", "nonsense", "INVALID_URL"),
        ("hash", "\ud800", "NOT_TEXT"),
    ],
)
async def test_an_operation_that_cannot_be_run_fails_as_an_item_would(operation, item, code):
    async def one(context: ToolContext) -> str:
        """Run one."""
        return await context.run(operation, item)

    async with connected(with_operation(tool(one))) as client:
        answer = await envelope_of(client, "one")
    assert answer["data"]["error_code"] == code


async def test_an_item_has_the_time_of_its_operation(autojump_clock):
    async def one(context: ToolContext) -> float:
        """Run one."""
        return await context.run("slow", 60)

    slow = Operation(name="slow", fn=nap_item, item_timeout_seconds=2)
    async with connected(create_server(Settings(), operations=[slow], tools=[one])) as client:
        answer = await envelope_of(client, "one")
    assert answer["error"] == "operation 'slow' was not done within 2 s"


async def test_a_tool_reaches_the_services_of_the_server(shop):
    async def names(context: ToolContext) -> dict:
        """Ask the database."""
        found = await context.services.databases.query("shop", "SELECT name FROM items LIMIT 1")
        return {"rows": [list(row) for row in found.rows], "most": context.max_output_chars}

    async with connected(server_of(names, **shop)) as client:
        answer = await envelope_of(client, "names")
    assert answer["data"] == {"rows": [["n0"]], "most": 40_000}


async def test_an_answer_of_its_own_that_does_not_fit_is_refused():
    async def large() -> Answer:
        """Return too much."""
        await trio.lowlevel.checkpoint()
        return Answer(summary="much", data={"text": "a" * 50_000})

    async with connected(server_of(large)) as client:
        answer = await envelope_of(client, "large")
    assert answer["data"]["error_code"] == "RESULT_TOO_LARGE"
