"""A server takes other settings while its calls run, and names what it cannot take."""

import pytest
import trio
import trio.testing

from tests.support.followed_operations import calling, nap_server, server_with, until
from tests.support.raw_http_servers import answering, next_request, reply, serving
from tests.support.servers_in_memory import call_as, limits, nap_many, server_of, status_of
from tests.support.upstreams import gone, server_over, small
from trio_tools.settings import ApiSettings, Settings
from trio_tools.settings.changes import changes_between

TWO = {"concurrency": 2, "max_concurrency": 2}
JSON = "Content-Type: application/json"


def changed(before, after):
    return changes_between(Settings(**before), Settings(**after))


def test_what_differs_is_named_and_what_needs_a_restart_apart():
    before = {"apis": {"a": {"base_url": "http://a"}, "b": {"base_url": "http://b"}}}
    after = {
        "apis": {"b": {"base_url": "http://b"}, "c": {"base_url": "http://c"}},
        "log_level": "error",
        "max_items": 5,
        "http": {"port": 1, "tokens": {"me": "x" * 16}, "max_calls_per_client": 3},
        "fetch": {"user_agent": "other"},
    }
    taken, needs_restart = changed(before, after)
    assert set(taken) == {
        "apis.a",
        "apis.c",
        "log_level",
        "http.tokens",
        "http.max_calls_per_client",
    }
    assert set(needs_restart) == {"max_items", "http.port", "fetch.user_agent"}


def test_a_certificate_is_taken_only_where_https_is_served():
    one, other = ({"http": {"tls_cert_file": f"/{name}.pem"}} for name in "ab")
    assert changed(one, other) == (("http.tls_cert_file",), ())
    assert changed({}, one) == ((), ("http.tls_cert_file",))


def test_what_needs_a_restart_stays_as_it_was():
    server = server_with()
    server.reload(Settings(max_items=5, limits={"fetch_urls": TWO}))
    assert server.state.settings.max_items == Settings().max_items
    assert server.state.settings.limits_of("fetch_urls").concurrency == 2


async def test_limits_are_taken_while_calls_run(autojump_clock):
    server, trace = nap_server(**limits("nap", **TWO))
    asked = {"operation": "nap", "items": [4] * 4}
    answers = []

    async def call():
        answers.append(await call_as(server, "me", "batch_process", asked))

    async with server.state.serving():
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            nursery.start_soon(call)
            await trio.sleep(1)
            assert len(trace.begun) == 2
            server.reload(Settings(**limits("nap", concurrency=9, max_concurrency=9)))
            await trio.testing.wait_all_tasks_blocked()
            assert len(trace.begun) == 4  # each call keeps to the two at once it began with
        assert trio.current_time() - began == 9
    assert [answer["data"]["counts"]["succeeded"] for answer in answers] == [4, 4]
    assert server.state.limits_of("nap").max_concurrency == 9


async def test_a_waiting_line_is_opened_while_calls_wait_in_it(autojump_clock):
    server = server_of(nap_many, **limits("nap_many", max_calls=1))
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(call_as, server, "me", "nap_many", {"items": [10]})
        await trio.sleep(1)
        assert server.state.admission_of("nap_many").waiting == 3
        server.reload(Settings(**limits("nap_many", max_calls=4, max_waiting=7)))
        await trio.testing.wait_all_tasks_blocked()
        assert server.state.admission_of("nap_many").waiting == 0
        assert server.state.admission_of("nap_many").max_waiting == 7
    assert trio.current_time() == 11


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"limits": {"fetch_url": {}}}, "limits.fetch_url: no tool"),
        ({"apis": {"x": {"base_url": "http://x", "auth_env": "NOT_SET"}}}, "NOT_SET, which is not"),
    ],
)
def test_wrong_settings_change_nothing(wrong, told):
    server = server_with()
    before = server.state.settings
    with pytest.raises(ValueError, match=told):
        server.reload(Settings(log_level="error", **wrong))
    assert server.state.settings is before


async def test_an_api_is_added_changed_and_removed_while_a_call_of_it_runs():
    release = trio.Event()

    async def slow(stream, server):
        await next_request(stream, server)
        await release.wait()
        await stream.send_all(reply(b'"old"', JSON))
        await next_request(stream, server)

    old, new = serving(slow), serving(answering(reply(b'"new"', JSON)))
    async with old as first, new as second:
        server = server_with(apis={"shop": ApiSettings(base_url=first.url)})
        async with calling(server) as call, trio.open_nursery() as nursery:
            answers = []

            async def ask():
                answers.append(await call("call_external_api", api="shop", path="/"))

            nursery.start_soon(ask)
            await until(lambda: first.requests)
            server.reload(Settings(apis={"shop": ApiSettings(base_url=second.url)}))
            assert (await call("call_external_api", api="shop", path="/"))["data"]["body"] == "new"
            assert first.open == 1
            release.set()
            await until(lambda: answers)
            assert answers[0]["data"]["body"] == "old"
            await until(lambda: first.open == 0)  # nobody will use that connection again
            server.reload(Settings())
            gone_now = await call("call_external_api", api="shop", path="/")
            assert gone_now["data"]["error_code"] == "UNKNOWN_API"
            await until(lambda: second.open == 0)


async def test_an_upstream_that_is_removed_ends_with_its_last_call():
    async with server_over(small=small()) as run, trio.open_nursery() as nursery:
        answers = []

        async def call():
            answers.append(await run("small.nap", {"seconds": 0.5}))

        nursery.start_soon(call)
        await until(lambda: run.status("small").in_flight)
        upstream = run.server.state.services.upstreams["small"]
        pid = upstream.status().pid
        run.server.reload(Settings())
        assert (await run("small.echo", {"text": "x"}))["data"]["error_code"] == "UNKNOWN_OPERATION"
        assert answers == []
        await until(lambda: answers)
        await gone(pid)
        assert answers[0]["data"]["counts"]["succeeded"] == 1


async def test_the_first_upstream_can_come_while_the_server_runs():
    async with server_over() as run:
        assert (await status_of(run.client))["upstreams"] == {}
        run.server.reload(Settings(upstreams={"small": small()}))
        found = await run("small.echo", {"text": "x"})
        assert found["success"], found
        pid = run.status("small").pid
    await gone(pid)


async def test_an_upstream_that_stays_as_it_was_is_left_alone():
    async with server_over(small=small()) as run:
        await run("small.echo", {"text": "x"})
        pid = run.status("small").pid
        run.server.reload(Settings(upstreams={"small": small(), "more": small()}))
        await run("more.echo", {"text": "x"})
        assert run.status("small").pid == pid
        run.server.reload(Settings(upstreams={"small": small(max_concurrent=1)}))
        await gone(pid)
        await run("small.echo", {"text": "x"})
        assert run.status("small").pid != pid
