from types import SimpleNamespace

import pytest
import trio
import trio.testing

from nursery_patterns import request_context
from trio_tools.transports.requests import ClientShare


def call_named(name):
    return SimpleNamespace(method="tools/call", request_id=1, params={"name": name})


CALL = call_named("work")


def call_of(seconds):
    async def handle(ctx):
        await trio.sleep(seconds)
        return {"isError": False}

    return handle


async def retry_after(share, seconds=0.0):
    """Make a call; return the seconds that a refusal names, or None if it was taken."""
    result = await share(CALL, call_of(seconds))
    if not result["isError"]:
        return None
    told = result["structuredContent"]["data"]["retry_after_seconds"]
    assert f"Call again in {told:g} s." in result["content"][0]["text"]
    return told


async def test_a_refusal_for_the_rate_names_the_instant_of_the_next_token(autojump_clock):
    share = ClientShare(control=("status",), max_calls=10, calls_per_second=2)
    assert [await retry_after(share) for _ in range(3)] == [None, None, 0.5]
    await trio.sleep(0.2)
    told = await retry_after(share)
    assert 0.3 <= told <= 0.301
    await trio.sleep(told)
    assert await retry_after(share) is None
    assert await retry_after(share) is not None


@pytest.mark.parametrize("rate", [0.1, 0.7, 3, 7.7, 99.9])
async def test_who_waits_as_long_as_told_is_never_too_early(rate, autojump_clock):
    share = ClientShare(control=("status",), max_calls=10, calls_per_second=rate)
    while (told := await retry_after(share)) is None:
        pass
    for _ in range(20):
        await trio.sleep(told)
        assert await retry_after(share) is None
        told = await retry_after(share)


async def test_a_refusal_for_calls_in_flight_goes_by_how_long_calls_took(autojump_clock):
    share = ClientShare(control=("status",), max_calls=4, calls_per_second=1000)
    for _ in range(3):
        await share(CALL, call_of(8))
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(share, CALL, call_of(8))
        await trio.testing.wait_all_tasks_blocked()
        assert await retry_after(share) == 2  # four calls of 8 s: one ends every 2 s
        await trio.sleep(7.9)
        assert await retry_after(share) == 2


async def test_calls_that_take_longer_than_ever_are_taken_into_account(autojump_clock):
    share = ClientShare(control=("status",), max_calls=2, calls_per_second=1000)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(share, CALL, call_of(600))
        await trio.testing.wait_all_tasks_blocked()
        assert await retry_after(share) == 0.5  # nothing was measured yet: a second each
        await trio.sleep(60)
        assert await retry_after(share) == 30
        nursery.cancel_scope.cancel()


async def test_a_cancelled_call_gives_its_place_back_and_each_client_has_its_own(autojump_clock):
    share = ClientShare(control=("status",), max_calls=1, calls_per_second=1000)
    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(share, CALL, call_of(600))
            await trio.testing.wait_all_tasks_blocked()
            assert await retry_after(share) is not None
            with request_context(client_id="another"):
                assert await retry_after(share) is None
    assert await retry_after(share) is None


async def test_tools_that_steer_are_not_held_up_by_what_they_steer(autojump_clock):
    share = ClientShare(control=("status",), max_calls=1, calls_per_second=2)
    handle = call_of(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(share, CALL, call_of(600))
        await trio.testing.wait_all_tasks_blocked()
        assert (await share(CALL, handle))["isError"]
        assert not (await share(call_named("status"), handle))["isError"]
        assert not (await share(call_named("status"), handle))["isError"]
        assert (await share(call_named("status"), handle))["isError"]  # its own rate is up
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", [None, 1, ["status"], {"status": 1}])
async def test_a_name_that_is_none_counts_as_a_call(name, autojump_clock):
    share = ClientShare(control=("status",), max_calls=1, calls_per_second=1)
    assert not (await share(call_named(name), call_of(0)))["isError"]
    assert (await share(call_named(name), call_of(0)))["isError"]
    no_params = SimpleNamespace(method="tools/call", request_id=1, params=None)
    assert (await share(no_params, call_of(0)))["isError"]


def reading(method="tools/list"):
    return SimpleNamespace(method=method, request_id=1, params={})


async def test_readings_are_paced_for_each_client_and_delay_no_ping(autojump_clock):
    seen = set()
    share = ClientShare(control=(), max_calls=4, calls_per_second=10, seen=seen.add)
    answered = {}

    async def ask(client_id, method):
        with request_context(client_id=client_id):
            await share(reading(method), call_of(0))
        answered.setdefault((client_id, method), []).append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(ask, "alice", "tools/list")
        await trio.testing.wait_all_tasks_blocked()
        for client_id, method in (
            ("alice", "ping"),
            ("alice", "initialize"),
            ("bob", "tools/list"),
        ):
            await ask(client_id, method)
            assert answered[client_id, method] == [0]
    assert answered["alice", "tools/list"] == pytest.approx(
        [0] * 10 + [n / 10 for n in range(1, 21)]
    )
    assert seen == {"alice", "bob"}
