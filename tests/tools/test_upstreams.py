"""Any tool of any MCP server, in bulk: what callers of our server see of upstreams."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import trio
from mcp.types import CreateMessageResult, ElicitResult, ListRootsResult

from tests.support.servers_in_memory import status_of
from tests.support.upstreams import gone, server_over, small, traced, until


def errors_of(envelope):
    return [error["reason"] for error in envelope["data"]["errors"] or ()]


async def test_the_read_only_tools_of_an_upstream_are_operations():
    async with server_over(small=small()) as run:
        await run.client.list_tools()
        names = list(run.server.state.operations)
        assert "small.echo" in names
        assert "small.write" not in names
        done = await run("small.echo", {"text": "a"}, {"text": "b"})
        assert done["data"]["complete"]


async def test_a_tool_can_be_called_without_listing_first():
    async with server_over(small=small()) as run:
        done = await run("small.add", {"a": 1, "b": 2})
        assert done["data"]["counts"]["succeeded"] == 1
        assert run.status("small").state == "connected"


async def test_all_bad_items_are_named_and_never_sent(tmp_path):
    trace = tmp_path / "trace"
    async with server_over(small=small(env={"UPSTREAM_TRACE": str(trace)})) as run:
        done = await run("small.add", {"a": 1, "b": 2}, {"a": "x"}, {}, 5)
        wrong = done["data"]["errors"]
        assert [each["index"] for each in wrong] == [1, 2, 3]
        assert [each["item"] for each in wrong] == [{"a": "x"}, {}, 5]
        assert {each["error_code"] for each in wrong} == {"INVALID_ITEM"}
        assert "'a' is a required property" in wrong[1]["reason"]
        assert len(traced(trace, "call")) == 1


async def test_the_progress_of_a_tool_is_shown_within_ours(tmp_path):
    async with server_over(small=small()) as run:
        told = []

        async def tell(progress, total, message):
            told.append(progress)
            for line in message.splitlines()[1:]:
                lines.append(json.loads(line))
                if "progress" in lines[-1] and not go_on.exists():
                    (running,) = (await status_of(run.client))["operations"]
                    shown.extend(running["in_progress"])
                    go_on.touch()

        told, lines, shown, go_on = [], [], [], tmp_path / "go on"
        item = {"count": 3, "path": str(go_on)}
        asked = {"operation": "small.steps", "items": [item]}
        await run.client.call_tool("batch_process", asked, progress_callback=tell)
        step = {"index": 0, "item": item, "progress": 1, "total": 3, "message": "step 1"}
        assert lines[0] == step
        assert 1 / 3 in told
        assert told[-1] == 1
        assert [(each["index"], each["message"]) for each in shown] == [(0, "step 1")]


async def test_a_tool_that_fails_is_a_failed_item_with_its_text():
    async with server_over(small=small()) as run:
        done = await run("small.fail", {"text": "x"})
        assert errors_of(done) == ["no such thing: x"]


async def test_what_is_no_result_is_a_failed_item_and_the_others_are_done():
    async with server_over(small=small()) as run:
        broken = await run("small.broken", {"text": "x"})
        assert errors_of(broken) == ["its answer is not a valid result of a tool call"]
        assert (await run("small.echo", {"text": "x"}))["data"]["complete"]


async def test_a_tool_that_is_not_allowed_is_refused_with_the_setting():
    async with server_over(small=small()) as run:
        refused = await run("small.write", {"text": "x"})
        assert refused["data"]["error_code"] == "TOOL_NOT_ALLOWED"
        assert "upstreams.small.tools" in refused["error"]


async def test_the_setting_tools_allows_by_name_and_pattern():
    async with server_over(small=small(tools=["wri?e", "add"])) as run:
        await run.client.list_tools()
        names = {name for name in run.server.state.operations if name.startswith("small.")}
        assert names == {"small.write", "small.add"}


async def test_an_upstream_gets_its_own_environment_and_no_other(monkeypatch):
    monkeypatch.setenv("SECRET_OF_OURS", "do not tell")
    monkeypatch.setenv("TOKEN_FOR_IT", "a token for it")
    env = {"TOKEN": "${TOKEN_FOR_IT}", "MODE": "${NOT_SET:-plain}"}
    async with server_over(small=small(env=env)) as run:
        done = await run("small.environment", {})
        found = run.server.state.store.find(done["data"]["operation_id"], "anonymous")
        seen = found.batch.report().outcomes[0].value.value()
        assert seen["cwd"] == "/"
        assert seen["env"]["TOKEN"] == "a token for it"
        assert seen["env"]["MODE"] == "plain"
        allowed = {"HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER"}
        assert set(seen["env"]) <= allowed | {"TOKEN", "MODE", "LC_CTYPE"}


async def test_a_dataset_is_mapped_into_the_arguments_of_a_tool(tmp_path):
    (tmp_path / "words.jsonl").write_text('{"word": "one"}\n{"word": "two"}\n{"no": 1}\n')
    from trio_tools.server import create_server  # noqa: PLC0415
    from trio_tools.settings import Settings  # noqa: PLC0415
    from trio_tools.transports.memory import connect_in_process  # noqa: PLC0415

    settings = Settings(upstreams={"small": small()}, file_roots=(tmp_path,))
    async with connect_in_process(create_server(settings)) as client:
        arguments = {
            "dataset": str(tmp_path / "words.jsonl"),
            "operation": "small.echo",
            "fields": {"text": "word"},
        }
        answer = await client.call_tool("process_large_dataset", arguments)
        counts = answer.structured_content["data"]["counts"]
        assert (counts["succeeded"], counts["failed"]) == (2, 1)


async def test_an_upstream_that_does_not_start_names_its_last_lines_without_its_secrets():
    env = {"PASSWORD": "hunter-in-the-dark"}
    async with server_over(small=small("no-start", env=env), other=small()) as run:
        refused = await run("small.echo", {"text": "x"})
        assert refused["data"]["error_code"] == "UPSTREAM_NOT_READY"
        assert "cannot open the database with ***" in refused["error"]
        assert run.status("small").state == "failed"
        assert "hunter" not in str(run.status("small"))
        assert (await run("other.echo", {"text": "x"}))["data"]["complete"]


async def test_a_command_that_is_not_there_is_named():
    async with server_over(small={"command": "no-such-program-anywhere"}) as run:
        refused = await run("small.echo", {"text": "x"})
        assert "'no-such-program-anywhere' is not found" in refused["error"]


async def test_an_upstream_that_never_answers_is_given_up():
    upstream = small("silent", start_timeout_seconds=0.5)
    async with server_over(small=upstream) as run:
        refused = await run("small.echo", {"text": "x"})
        assert "not ready within 0.5 s" in refused["error"]


async def test_an_upstream_that_takes_nothing_before_initialize_is_started_in_the_older_way():
    async with server_over(small=small("strict")) as run:
        assert (await run("small.echo", {"text": "x"}))["data"]["complete"]
        assert run.status("small").state == "connected"


async def test_an_upstream_that_bears_our_name_is_refused_as_a_loop():
    async with server_over(small=small(env={"UPSTREAM_NAME": "trio-tools"})) as run:
        refused = await run("small.echo", {"text": "x"})
        assert refused["data"]["error_code"] == "UPSTREAM_LOOP"


async def test_rubbish_on_stdout_is_named_and_stops_nothing():
    async with server_over(small=small("rubbish")) as run:
        assert (await run("small.echo", {"text": "x"}))["data"]["complete"]
        assert "printed a line to stdout that is not a message" in run.status("small").last_error


async def test_a_tool_without_a_schema_is_left_out_and_named():
    async with server_over(small=small("bad-schemas")) as run:
        assert (await run("small.echo", {"text": "x"}))["data"]["complete"]
        left_out = run.status("small").tools_left_out
        assert set(left_out) == {"bad1", "bad2", "bad3", "bad 4", "?"}
        refused = await run("small.bad1", {"text": "x"})
        assert refused["error"].startswith("small.bad1 is left out of its tools: inputSchema")


async def test_of_a_thousand_tools_the_first_are_taken_and_the_rest_named():
    async with server_over(small=small("thousand")) as run:
        await run.client.list_tools()
        assert run.status("small").tools == 200
        assert len(run.status("small").tools_left_out) == 1_300


async def test_an_answer_that_is_too_large_is_one_failed_item():
    async with server_over(small=small(max_reply_bytes=100_000)) as run:
        done = await run("small.large", {"size": 5_000_000}, {"size": 10}, {"size": 200_000})
        assert done["data"]["counts"]["succeeded"] == 1
        assert (
            errors_of(done)
            == ["its answer is larger than max_reply_bytes (100,000): ask for less"] * 2
        )


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell peaks of memory")
async def test_an_answer_of_100_mb_takes_little_memory_and_the_next_call_works():
    async with server_over(small=small()) as run:
        assert (await run("small.large", {"size": 10}))["data"]["complete"]
        before = resident("VmRSS", forget_peak=True)
        done = await run("small.large", {"size": 100_000_000})
        assert "is larger than max_reply_bytes (10,000,000)" in errors_of(done)[0]
        assert resident("VmHWM") - before < 50_000_000
        assert (await run("small.large", {"size": 10}))["data"]["complete"]
        assert run.status("small").restarts == 0


def resident(field, *, forget_peak=False):
    if forget_peak:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@pytest.mark.parametrize("way", ["flood", "late"])
async def test_an_upstream_that_says_too_much_is_listened_to_no_longer_than_it_deserves(way):
    async with server_over(small=small(way)) as run:
        cut = await run("small.nap", {"seconds": 0.5}, item_timeout_seconds=0.05)
        assert cut["data"]["counts"]["timed_out"] == 1
        await trio.sleep(0.1)
        done = await run("small.twice", *[{"text": str(n)} for n in range(20)])
        assert done["data"]["counts"]["succeeded"] == 20


async def test_an_input_that_is_asked_for_is_a_named_failure():
    async with server_over(small=small()) as run:
        done = await run("small.want", {"text": "x"})
        (failed,) = done["data"]["errors"]
        assert failed["error_code"] == "INPUT_REQUIRED"
        assert "asks for input before it goes on (Which account?)" in failed["reason"]


async def test_an_input_that_is_asked_for_in_the_new_era_is_the_same_failure():
    async with server_over(small=small("modern")) as run:
        assert (await run("small.echo", {"text": "x"}))["data"]["complete"]
        done = await run("small.want", {"text": "x"})
        (failed,) = done["data"]["errors"]
        assert failed["error_code"] == "INPUT_REQUIRED"
        assert "asks for input before it goes on (Which account?)" in failed["reason"]


ASK = {"messages": [], "maxTokens": 5}
WHICH = {"message": "Which?", "requestedSchema": {"type": "object", "properties": {}}}
REQUESTS = [
    {"method": "sampling/createMessage", "params": ASK},
    {"method": "elicitation/create", "params": WHICH},
    {"method": "roots/list", "params": {}},
]


async def sample(_, params):
    return CreateMessageResult(
        role="assistant", content={"type": "text", "text": f"{params.max_tokens} words"}, model="m"
    )


async def elicit(_, params):
    return ElicitResult(action="accept", content={"told": params.message})


async def list_roots(_):
    return ListRootsResult(roots=[{"uri": "file:///here"}])


ANSWERS = {
    "sampling_callback": sample,
    "elicitation_callback": elicit,
    "list_roots_callback": list_roots,
}


def values_of(done):
    return [result["value"] for result in done["data"]["results"]]


async def test_requests_of_an_upstream_are_answered_by_the_client_of_the_call():
    async with server_over(small=small(), answers=ANSWERS) as run:
        sampled, elicited, roots = values_of(await run("small.consult", *REQUESTS))
        assert "5 words" in sampled
        assert "The server 'small' asks: Which?" in elicited
        assert "file:///here" in roots


async def test_requests_of_an_upstream_are_refused_with_words():
    async with server_over(small=small(), answers={}) as run:
        told = values_of(await run("small.consult", *REQUESTS))
        assert [words.partition(":")[2][1:-1] for words in told] == [
            f"the client of this call does not declare that it can: {what}"
            for what in ("sampling", "elicitation", "roots")
        ]
    async with server_over(small=small()) as run:
        (told,) = values_of(await run("small.consult", REQUESTS[0]))
        assert "does not declare" in told


async def test_a_request_is_refused_while_calls_of_several_clients_are_in_flight(tmp_path):
    async with server_over(small=small(), answers=ANSWERS) as run, trio.open_nursery() as nursery:
        nursery.start_soon(run, "small.nap", {"seconds": 60})
        await until(lambda: run.status("small").in_flight)
        (told,) = values_of(await run("small.consult", REQUESTS[0]))
        assert "calls of several clients are in flight" in told
        nursery.cancel_scope.cancel()


async def test_a_client_is_asked_no_longer_than_its_call_lasts():
    asked, left = trio.Event(), trio.Event()

    async def never(_, params):
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            left.set()

    async with server_over(small=small(), answers={"elicitation_callback": never}) as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "small.consult", REQUESTS[1])
            with trio.fail_after(20):
                await asked.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(20):
            await left.wait()
        await until(lambda: not run.status("small").in_flight)


async def test_an_upstream_that_asks_without_end_is_stopped_and_named(tmp_path):
    trace = tmp_path / "trace"
    upstream = small(env={"UPSTREAM_TRACE": str(trace)})
    async with server_over(small=upstream, answers=ANSWERS) as run:
        enough = await run("small.insist", {"times": 10})
        assert enough["data"]["complete"]
        done = await run("small.insist", {"times": 10_000})
        (failed,) = done["data"]["errors"]
        assert failed["error_code"] == "INPUT_REQUIRED"
        assert "asked its client more than 10 times" in failed["reason"]
        await until(lambda: traced(trace, "insisted"))
        assert (await run("small.echo", {"text": "x"}))["data"]["complete"]


async def test_a_cancelled_item_sends_the_upstream_a_cancel(tmp_path):
    trace = tmp_path / "trace"
    async with server_over(small=small(env={"UPSTREAM_TRACE": str(trace)})) as run:
        await run("small.echo", {"text": "x"})  # so that it has started
        cut = await run("small.nap", {"seconds": 60}, {"seconds": 60}, timeout_seconds=1)
        assert cut["data"]["counts"]["cancelled"] == 2
        await until(lambda: len(traced(trace, "cancelled")) == 2)
        assert run.status("small").in_flight == 0


async def test_an_upstream_that_does_not_react_to_a_cancel_is_let_go_and_counted():
    async with server_over(small=small("inline")) as run:
        await run("small.echo", {"text": "x"})
        await run("small.nap", {"seconds": 1.6}, timeout_seconds=0.1)
        await until(lambda: run.status("small").let_go)
        assert (await run("small.echo", {"text": "x"}))["data"]["complete"]


async def test_an_exclusive_upstream_gets_one_call_at_a_time(tmp_path):
    trace = tmp_path / "trace"
    upstream = small(env={"UPSTREAM_TRACE": str(trace)}, exclusive=True)
    async with server_over(small=upstream) as run:
        peak = 0

        async def look():
            nonlocal peak
            while True:
                peak = max(peak, run.status("small").in_flight)
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            done = await run("small.nap", *[{"seconds": 0.01}] * 10)
            nursery.cancel_scope.cancel()
        assert done["data"]["counts"]["concurrency_limit"] == 1
        assert peak == 1


async def test_items_that_were_not_sent_wait_for_the_new_connection(tmp_path):
    mark = tmp_path / "mark"
    async with server_over(small=small(max_concurrent=1)) as run:
        done = await run("small.die_once", *[{"path": str(mark)}] * 5)
        assert done["data"]["counts"]["succeeded"] == 5
        assert run.status("small").restarts == 1


async def test_an_item_that_was_sent_and_may_have_been_done_is_not_sent_again(tmp_path):
    trace = tmp_path / "trace"
    upstream = small(env={"UPSTREAM_TRACE": str(trace)}, tools=["*"])
    async with server_over(small=upstream) as run:
        done = await run("small.write_and_die", {"text": "x"})
        assert "was lost while write_and_die was at work" in errors_of(done)[0]
        assert len(traced(trace, "call")) == 1
        assert (await run("small.echo", {"text": "x"}))["data"]["complete"]


async def test_an_upstream_that_dies_at_every_call_fails_its_callers_soon():
    async with server_over(small=small()) as run:
        with trio.fail_after(30):
            done = await run("small.die", *[{"code": 3}] * 200)
        assert done["data"]["counts"]["failed"] == 200
        assert run.status("small").state == "failed"
        assert "exit status 3" in run.status("small").last_error


async def test_an_upstream_that_is_killed_when_idle_is_there_for_the_next_call():
    async with server_over(small=small()) as run:
        await run("small.echo", {"text": "x"})
        for _ in range(3):
            pid = run.status("small").pid
            os.kill(pid, signal.SIGKILL)
            await gone(pid)
            assert (await run("small.echo", {"text": "x"}))["data"]["complete"]


async def test_an_idle_upstream_is_given_back_and_started_again():
    async with server_over(small=small(idle_seconds=0.2)) as run:
        await run("small.echo", {"text": "x"})
        await gone(run.status("small").pid)
        await until(lambda: run.status("small").state == "not_started")
        assert (await run("small.echo", {"text": "x"}))["data"]["complete"]
        assert run.status("small").restarts == 0


async def test_an_eager_upstream_is_started_with_the_server():
    async with server_over(small=small(start="eager")) as run:
        await until(lambda: run.status("small").state == "connected")


async def test_new_tools_of_an_upstream_become_operations():
    async with server_over(small=small()) as run:
        await run("small.grow", {})
        await until(lambda: "small.new" in run.server.state.operations)


@pytest.mark.parametrize("way", ["stays", "child"])
async def test_no_process_and_no_descriptor_outlives_the_server(way, tmp_path):
    trace = tmp_path / "trace"
    async with server_over(small=small(way, env={"UPSTREAM_TRACE": str(trace)})) as run:
        await run("small.echo", {"text": "x"})
    for pid in traced(trace, "start") + traced(trace, "child"):
        await gone(int(pid))


async def test_the_status_tells_of_each_upstream():
    async with server_over(small=small(), broken=small("no-start")) as run:
        await run("small.echo", {"text": "x"})
        await run("broken.echo", {"text": "x"})
        answer = await run.client.call_tool("get_concurrency_status", {})
        told = answer.structured_content["data"]["upstreams"]
        assert told["small"]["state"] == "connected"
        assert told["small"]["calls"] == 1
        assert told["small"]["p50_seconds"] > 0
        assert told["broken"]["state"] == "failed"
        assert "cannot open the database" in told["broken"]["last_error"]
