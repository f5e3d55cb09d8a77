"""The dashboard: what its paths answer, to whom, and what they refuse."""

import csv
import io
import json
import resource
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import httpx
import pytest
import trio
import trio.lowlevel

from trio_tools import Settings, create_server
from trio_tools.live.pages import page
from trio_tools.operations.timeline import MAX_SPANS, Timeline
from trio_tools.transports import serve_http
from trio_tools.transports.http import dashboard
from trio_tools.transports.memory import connect_in_process

EVIL = "<img src=x onerror=alert(1)>"
TOKENS = {"alice": "a" * 20, "bob": "b" * 20}


async def work(item: str) -> str:
    """Return the item, or fail, or wait."""
    await trio.lowlevel.checkpoint()
    if item == "hang":
        await trio.sleep_forever()
    if item.startswith("fail"):
        raise ValueError(item)
    return item


@asynccontextmanager
async def site(**http):
    server = create_server(Settings(http={"port": 0, **http}), operations=[work])
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve_http, server=server))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{address.port}") as client:
            yield client, server
        nursery.cancel_scope.cancel()


async def run(server, operation_id, items, **more):
    async with connect_in_process(server) as client:
        arguments = {"operation": "work", "items": items, "operation_id": operation_id, **more}
        return await client.call_tool("batch_process", arguments)


async def first_event(client, headers=None):
    """Read one event, over a connection of its own that is closed then."""
    lines = {"host": "127.0.0.1", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    request = f"GET /dashboard/events HTTP/1.1\r\n{head}\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", client.base_url.port) as stream:
        await stream.send_all(request.encode())
        answer = b""
        while b"\n\n" not in answer:
            more = await stream.receive_some()
            assert more, answer
            answer += more
        assert b"content-type: text/event-stream" in answer
        return json.loads(answer[answer.index(b"data: ") + 6 : answer.rindex(b"\n\n")])


async def test_the_page_lets_only_its_own_script_run_and_holds_no_data():
    async with site() as (client, server):
        await run(server, "secret-id", ["a"])
        answer = await client.get("/")
        assert answer.status_code == 200
        assert "secret-id" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy
        assert (await client.head("/")).content == b""


def test_the_page_never_reads_text_as_html():
    for name in ("dashboard", "operation"):
        html, _ = page(name)
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in html


async def test_an_event_tells_of_operations_limits_and_failed_items():
    async with site() as (client, server):
        await run(server, f"id {EVIL}", ["a", f"fail {EVIL}", "b"])
        data = await first_event(client)
        (operation,) = data["operations"]
        assert operation["operation_id"] == f"id {EVIL}"
        assert operation["counts"] == {
            "total": 3,
            "succeeded": 2,
            "failed": 1,
            "timed_out": 0,
            "cancelled": 0,
            "not_started": 0,
            "in_flight": 0,
        }
        assert [failed["index"] for failed in operation["failed"]] == [1]
        assert operation["failed"][0]["item"] == f"fail {EVIL}"
        assert {span[3] for span in operation["timeline"]} == {"succeeded", "failed"}
        assert not operation["running"]
        assert "work" in {limit["name"] for limit in data["limits"]}


async def test_outcomes_are_downloaded_as_json_lines_and_csv():
    async with site() as (client, server):
        await run(server, "one/two", ["a", "fail", "=1+1"])
        lines = await client.get("/dashboard/operations/one%2Ftwo.jsonl")
        rows = [json.loads(line) for line in lines.text.splitlines()]
        assert [row["status"] for row in rows] == ["succeeded", "failed", "succeeded"]
        assert rows[0] == {"index": 0, "item": "a", "status": "succeeded", "value": "a"}
        assert rows[1]["error_code"] == "INTERNAL"
        text = await client.get("/dashboard/operations/one%2Ftwo.csv")
        table = list(csv.DictReader(io.StringIO(text.text)))
        assert [row["value"] for row in table] == ["a", "", "'=1+1"]
        assert 'filename="one_two.csv"' in text.headers["content-disposition"]


async def test_a_running_operation_is_stopped_and_keeps_what_is_done():
    async with site() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(run, server, "long", ["a", "hang"])
        while not any(o["running"] for o in (await first_event(client))["operations"]):
            await trio.lowlevel.checkpoint()
        stopped = await client.post("/dashboard/operations/long/cancel")
        assert stopped.json() == {"stopped": True}
        with trio.fail_after(10):
            while any(o["running"] for o in (await first_event(client))["operations"]):
                await trio.lowlevel.checkpoint()
        data = await first_event(client)
        assert data["operations"][0]["counts"]["succeeded"] == 1


async def test_a_client_sees_its_own_operations_alone():
    async with site(tokens=TOKENS) as (client, server):
        await run(server, "of nobody", ["a"])
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer wrong"}, 401),
            ({"authorization": f"Bearer {TOKENS['alice']}"}, 404),
        ):
            answer = await client.get("/dashboard/operations/of%20nobody.csv", headers=headers)
            assert answer.status_code == status
        headers = {"authorization": f"Bearer {TOKENS['alice']}"}
        data = await first_event(client, headers)
        assert data["operations"] == []
        assert data["server"]["client"] == "alice"
        assert (await client.get("/")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {"host": "evil.example"}, 421),
        ("GET", "/dashboard/events", {"host": "evil.example"}, 421),
        ("POST", "/dashboard/operations/x/cancel", {"origin": "https://evil.example"}, 403),
        ("GET", "/dashboard/operations/x/cancel", {}, 405),
        ("POST", "/dashboard/events", {}, 405),
        ("GET", "/dashboard/operations/x.csv", {}, 404),
        ("GET", "/dashboard/else", {}, 404),
        ("GET", "/dashboard/operations/..%2f..%2fetc.csv", {}, 404),
    ],
)
async def test_what_may_not_be_asked_is_refused(method, path, headers, status):
    async with site() as (client, _):
        assert (await client.request(method, path, headers=headers)).status_code == status


async def test_streams_have_a_bound_and_give_their_places_back(monkeypatch):
    monkeypatch.setattr(dashboard, "MAX_STREAMS", 2)
    async with site() as (client, _):
        async with (
            client.stream("GET", "/dashboard/events"),
            client.stream("GET", "/dashboard/events"),
        ):
            refused = await client.get("/dashboard/events")
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
        with trio.fail_after(10):
            while (await _status_of_stream(client)) != 200:
                await trio.lowlevel.checkpoint()


@pytest.fixture
def many_descriptors():
    """Let this process have both ends of a thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, 2_500)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may have {hard} open files here, and this needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
async def test_a_thousand_streams_that_never_read_leave_the_server_to_the_others(monkeypatch):
    request = b"GET /dashboard/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    monkeypatch.setattr(dashboard, "_SEND_SECONDS", 0.5)
    answers = Counter()

    async with site(max_connections=1_100, max_connections_per_peer=1_050) as (client, server):
        port = client.base_url.port
        before = trio.lowlevel.current_statistics().tasks_living
        async with AsyncExitStack() as connections, trio.open_nursery() as nursery:

            async def ask():
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                connections.push_async_callback(stream.aclose)
                await stream.send_all(request)
                with trio.fail_after(60):
                    first = await stream.receive_some(12)  # and no more is ever read
                answers[first.partition(b" ")[2]] += 1

            for _ in range(1_000):
                nursery.start_soon(ask)
            with trio.fail_after(60):
                while answers.total() < 1_000:
                    assert (await client.get("/healthz")).status_code == 200
            assert answers == {b"200": dashboard.MAX_STREAMS, b"503": 1_000 - dashboard.MAX_STREAMS}
            assert (await run(server, "meanwhile", ["a"])).is_error is False
        with trio.fail_after(60):
            while trio.lowlevel.current_statistics().tasks_living > before + 3:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert (await first_event(client))["operations"][0]["operation_id"] == "meanwhile"


async def _status_of_stream(client):
    async with client.stream("GET", "/dashboard/events") as answer:
        return answer.status_code


async def test_without_the_setting_there_is_no_page():
    async with site(dashboard=False) as (client, _):
        assert (await client.get("/")).status_code == 404
        assert (await client.get("/dashboard/events")).status_code == 404


async def test_a_timeline_keeps_the_latest_items_alone(autojump_clock):
    timeline = Timeline()
    server = create_server(operations=[])
    assert server
    for index in range(MAX_SPANS + 5):
        timeline.started(index, None)
        await trio.sleep(0.01)
        timeline.cut(index, None)
    timeline.started(9_999, None)
    spans = timeline.spans()
    assert len(spans) == MAX_SPANS + 1
    assert [span[0] for span in spans[:2]] == [5, 6]
    assert spans[-1][2:] == (None, "running")
    assert timeline.rate(trio.current_time(), 1.0) == pytest.approx(100, rel=0.05)
    for index in range(10_000, 10_000 + 2 * MAX_SPANS):
        timeline.started(index, None)
    running = [span[0] for span in timeline.spans() if span[3] == "running"]
    assert running == [9_999, *range(10_000, 10_000 + MAX_SPANS - 1)]  # those that run for longest
