"""`call_external_api` and the operation `call_api`: limits of the API, and a secret nobody sees."""

import logging
import os

import pytest
import trio

from tests.support.followed_operations import calling, server_with, until
from tests.support.raw_http_servers import answering, next_request, reply, serving
from tests.support.servers_in_memory import connected, envelope_of, status_of
from trio_tools.settings import ApiSettings

SECRET = "hush-hush-123"
LIMITED = ("RateLimit-Limit: 60", "RateLimit-Remaining: 0", f"ETag: {SECRET}")
LEFT = ("RateLimit-Limit: 60", "RateLimit-Remaining: 58", f"StdioConnection: <{SECRET}>")


def busy(seconds):
    return reply(SECRET.encode(), f"Retry-After: {seconds}", *LIMITED, status="429 Slow Down")


GOOD = reply(b'{"you": "Bearer hush-hush-123"}', "Content-Type: application/json", *LEFT)


@pytest.fixture(autouse=True)
def _secret(monkeypatch, caplog):
    monkeypatch.setitem(os.environ, "SHOP_KEY", SECRET)
    caplog.set_level(logging.DEBUG)


def server_of(**sites):
    apis = {
        name: ApiSettings(base_url=site.url, auth_env="SHOP_KEY", **options)
        for name, (site, options) in sites.items()
    }
    return server_with(apis=apis, limits={"call_external_api": ONE_AT_ONCE})


ONE_AT_ONCE = {"concurrency": 1, "max_concurrency": 1}


async def test_a_refused_call_waits_as_it_was_asked_to_and_tells_how_long(era, caplog):
    async with (
        serving(answering(busy(1), GOOD)) as site,
        calling(server_of(shop=(site, {})), era) as call,
    ):
        answer = await call("call_external_api", api="shop", path="/items")
        status = await call("get_concurrency_status")
    assert len(site.requests) == 2
    assert answer["data"]["status"] == 200
    limit = answer["meta"]["rate_limit"]
    assert (limit["limit"], limit["remaining"]) == (60, 58)
    assert limit["retry_after_seconds"] is None
    assert 1 <= limit["waited_seconds"] < 5
    assert answer["data"]["body"] == {"you": "Bearer [redacted]"}
    for seen in (answer, status, caplog.text):
        assert SECRET not in str(seen)


async def test_a_pause_longer_than_the_call_is_told_and_the_next_call_refused(era, caplog):
    async with (
        serving(answering(busy(50))) as site,
        connected(server_of(shop=(site, {})), era) as client,
    ):
        asked = {"api": "shop", "path": "/items", "timeout_seconds": 5}
        answer = await envelope_of(client, "call_external_api", asked)
        refused = await envelope_of(client, "call_external_api", asked)
        items = [{"api": "shop", "path": "/items"}]
        batch = {"operation": "call_api", "items": items, "timeout_seconds": 5}
        many = await envelope_of(client, "batch_process", batch)
        status = await status_of(client)
    assert len(site.requests) == 1
    assert answer["data"]["status"] == 429
    limit = answer["meta"]["rate_limit"]
    assert (limit["limit"], limit["remaining"]) == (60, 0)
    assert limit["waited_seconds"] < 1
    assert 49 < limit["retry_after_seconds"] <= 50
    assert "call again in" in answer["meta"]["warnings"][0]
    assert refused["data"]["error_type"] == "rate_limited"
    assert 40 < refused["data"]["retry_after_seconds"] <= 50
    assert many["data"]["errors"][0]["error_code"] == "HOST_COOLING_DOWN"
    assert status["limits"]["call_external_api"]["in_use"] == 0
    for seen in (answer, refused, many, status, caplog.text):
        assert SECRET not in str(seen)


async def test_errors_do_not_tell_the_secret_either(era, caplog, monkeypatch):
    async def rude(stream, server):
        await next_request(stream, server)
        await stream.send_all(b"HTTP/1.1 " + SECRET.encode() + b"\r\n\r\n")

    async with serving(rude) as site, calling(server_of(shop=(site, {})), era) as call:
        broken = await call("call_external_api", api="shop", path="/items")
        bad_path = await call("call_external_api", api="shop", path="/../x")
        monkeypatch.setitem(os.environ, "SHOP_KEY", f"{SECRET}\r\nEvil: yes")
        bad_secret = await call("call_external_api", api="shop", path="/items")
    assert broken["data"]["error_type"] == "upstream"
    for seen in (broken, bad_path, bad_secret, caplog.text):
        assert SECRET not in str(seen)


@pytest.mark.parametrize("how", ["call_external_api", "batch_process"])
async def test_who_waits_for_a_token_holds_no_place_that_others_could_use(era, how):
    asked = {"api": "slow", "path": "/"}
    waiting = {
        "call_external_api": asked,
        "batch_process": {"operation": "call_api", "items": [asked]},
    }[how]
    async with serving(answering(GOOD)) as slow, serving(answering(GOOD)) as quick:
        pace = {"rate_per_second": 0.01, "burst": 1}
        server = server_of(slow=(slow, pace), quick=(quick, {}))
        async with connected(server, era) as client:
            await envelope_of(client, "call_external_api", asked)  # takes the only token
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call_tool, how, waiting)
                apis = server.state.services.apis
                await until(lambda: apis["slow"].rate_limit().waiting)
                assert (await status_of(client))["limits"]["call_external_api"]["in_use"] == 0
                with trio.fail_after(5):
                    other = {"api": "quick", "path": "/"}
                    answer = await envelope_of(client, "call_external_api", other)
                assert answer["data"]["status"] == 200
                nursery.cancel_scope.cancel()


async def test_requests_to_all_apis_together_keep_to_the_limit(era):
    async def slow(stream, server):
        while await next_request(stream, server):
            most.append(sum(site.open for site in sites))
            await trio.sleep(0.02)
            await stream.send_all(GOOD)
            await stream.aclose()
            return

    most = []
    async with serving(slow) as one, serving(slow) as two:
        sites = [one, two]
        server = server_of(one=(one, {}), two=(two, {}))
        async with calling(server, era) as call:
            items = [{"api": "one", "path": "/"}, {"api": "two", "path": "/"}] * 2
            async with trio.open_nursery() as nursery:
                for item in items:
                    nursery.start_soon(lambda item=item: call("call_external_api", **item))
                asked = {"operation": "call_api", "items": items}
                nursery.start_soon(lambda: call("batch_process", **asked))
            status = await call("get_concurrency_status")
    assert len(most) == 8
    assert status["data"]["limits"]["call_external_api"]["peak"] == 1
    assert status["data"]["limits"]["call_external_api"]["finished"] == 8


async def test_a_call_that_fails_tells_the_rate_limit_too(era):
    async with (
        serving(answering(busy(50))) as site,
        calling(server_of(shop=(site, {"burst": 3})), era) as call,
    ):
        asked = {"api": "shop", "path": "/items", "timeout_seconds": 5}
        await call("call_external_api", **asked)
        refused = await call("call_external_api", **asked)
        wrong = await call("call_external_api", **{**asked, "path": "/../x"})
        unknown = await call("call_external_api", **{**asked, "api": "none"})
    assert refused["data"]["error_code"] == "HOST_COOLING_DOWN"
    limit = refused["meta"]["rate_limit"]
    assert (limit["limit"], limit["remaining"] <= 3) == (3, True)
    assert limit["retry_after_seconds"] == refused["data"]["retry_after_seconds"]
    assert limit["waited_seconds"] < 1
    assert wrong["meta"]["rate_limit"]["retry_after_seconds"] is None
    assert wrong["meta"]["rate_limit"]["waited_seconds"] == 0.0
    assert unknown["meta"]["rate_limit"] is None


async def test_a_call_that_waits_in_vain_for_a_token_is_told_when_there_is_one(autojump_clock):
    api = ApiSettings(base_url="http://127.0.0.1:9", rate_per_second=0.01, burst=1)
    server = server_with(apis={"slow": api})
    async with calling(server) as call:
        asked = {"api": "slow", "path": "/", "timeout_seconds": 20}
        client = await server.state.services.api("slow")
        await client._pace.take()
        answer = await call("call_external_api", **asked)
    assert answer["data"]["error_code"] == "TIMEOUT"
    assert answer["data"]["retry_after_seconds"] == 80.0
    assert answer["meta"]["rate_limit"] == {
        "limit": 1,
        "remaining": 0,
        "retry_after_seconds": 80.0,
        "waited_seconds": 20.0,
    }
