"""`get_concurrency_status`: all of one's own, of others how many, and no more than can be read."""

import json
from types import SimpleNamespace

import trio

from nursery_patterns import request_context
from tests.support.followed_operations import calling, nap_server
from tests.support.servers_in_memory import call_as
from trio_tools.http.fetching.hosts.host import HostState
from trio_tools.http.fetching.hosts.host_throttle import HostLimits
from trio_tools.live.snapshot import host_view


def batch(name):
    return "batch_process", {"operation": "nap", "items": [10.0] * 2, "operation_id": name}


async def test_a_client_sees_its_own_calls_and_of_those_of_others_how_many(autojump_clock):
    server, _ = nap_server()
    async with server.state.serving(), trio.open_nursery() as nursery:
        for name in ("first-of-alice", "second-of-alice"):
            nursery.start_soon(call_as, server, "alice", *batch(name))
        nursery.start_soon(call_as, server, "bob", *batch("of-bob"))
        await trio.sleep(1)
        answer = await call_as(server, "bob", "get_concurrency_status")
        status = answer["data"]
        assert "alice" not in json.dumps(answer)
        assert [call["client_id"] for call in status["calls"]] == ["bob"]
        assert [each["operation_id"] for each in status["operations"]] == ["of-bob"]
        assert status["others"] == {
            "calls": {"batch_process": 2},
            "operations": {"batch_process": 2},
        }
        carol = (await call_as(server, "carol", "get_concurrency_status"))["data"]
        assert (carol["calls"], carol["operations"]) == ([], [])
        assert carol["others"]["calls"] == {"batch_process": 3}
        nursery.cancel_scope.cancel()


async def test_where_all_are_one_client_all_is_shown(autojump_clock):
    server, _ = nap_server()
    async with calling(server) as call, trio.open_nursery() as nursery:
        for name in ("first", "second"):
            nursery.start_soon(lambda name=name: call(batch(name)[0], **batch(name)[1]))
        await trio.sleep(1)
        status = (await call("get_concurrency_status"))["data"]
        assert {each["operation_id"] for each in status["operations"]} == {"first", "second"}
        assert len(status["calls"]) == 2
        assert status["others"] == {"calls": {}, "operations": {}}
        nursery.cancel_scope.cancel()


async def test_a_client_is_shown_the_hosts_that_it_asked_for_alone():
    limits = HostLimits(max_per_host=2, max_cooldown_seconds=10)
    for client, host in (("alice", "a.example"), ("bob", "b.example"), ("alice", "both.example")):
        with request_context(client_id=client):
            await limits.enter(host)
    with request_context(client_id="bob"):
        await limits.enter("both.example")
    server, _ = nap_server()
    services = server.state.services
    services._fetcher = SimpleNamespace(hosts=limits.snapshot)
    assert set(services.hosts("alice")) == {"a.example", "both.example"}
    assert set(services.hosts("bob")) == {"b.example", "both.example"}
    assert services.hosts("carol") == {}
    view = host_view(services.hosts("bob")["both.example"])
    assert view == {"limit": 2, "in_flight": 2, "waiting": 0, "cooling_seconds": 0.0}


async def test_the_busiest_hosts_are_shown_and_the_others_are_counted(monkeypatch):
    server, _ = nap_server()
    hosts = {
        f"host{n}": HostState(limit=10, in_flight=n % 100, waiting=n // 100, cooling_seconds=0.0)
        for n in range(10_000)
    }
    async with calling(server) as call:
        monkeypatch.setattr(server.state.services, "hosts", lambda _: hosts)
        status = (await call("get_concurrency_status"))["data"]
        assert len(status["hosts"]) == 50
        assert status["hosts_left_out"] == 9_950
        busy = [host["in_flight"] + host["waiting"] for host in status["hosts"].values()]
        assert busy[0] == 198
        assert busy == sorted(busy, reverse=True)
        assert len(json.dumps(status)) < 10_000
        monkeypatch.setattr(server.state.services, "hosts", lambda _: {"one": hosts["host7"]})
        status = (await call("get_concurrency_status"))["data"]
        assert (list(status["hosts"]), status["hosts_left_out"]) == (["one"], 0)
