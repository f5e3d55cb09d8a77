"""What one client takes, however long, leaves something for the next."""

import math
import threading
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nursery_patterns import request_context
from tests.support.servers_in_memory import call_as, limits, server_of, work
from trio_tools.live import clients as clients_module
from trio_tools.live.clients import ACTIVE_SECONDS, Clients
from trio_tools.settings.threads import LimiterOfEachClient, worker_limiter


@pytest.mark.parametrize("both_are_there", [True, False])
async def test_nobody_takes_the_last_place_while_another_is_there(both_are_there, autojump_clock):
    server = server_of(work, **limits("work", max_calls=3, timeout_seconds=9))
    clients = server.state.clients
    clients.seen("alice")
    if both_are_there:
        clients.seen("bob")
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(call_as, server, "alice", "work", {"seconds": 4})
        await wait_all_tasks_blocked()
        line = server.state.admission_of("work").statistics()
        assert line.holding == (2 if both_are_there else 3)
        started = trio.current_time()
        answer = await call_as(server, "bob", "work", {"seconds": 1})
        assert answer["success"] is True
        assert trio.current_time() - started == (1 if both_are_there else 4 + 1)
        nursery.cancel_scope.cancel()


async def test_more_calls_than_may_wait_are_refused_in_ones_own_share_too(autojump_clock):
    server = server_of(work, **limits("work", max_calls=2, max_waiting=1))
    server.state.clients.seen("bob")
    server.state.clients.seen("alice")
    answers = []

    async def call():
        answers.append(await call_as(server, "alice", "work", {"seconds": 1}))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(call)
            await wait_all_tasks_blocked()
    assert [answer["success"] for answer in answers] == [False, True, True]
    assert answers[0]["data"]["error_code"] == "OVERLOADED"
    assert answers[0]["data"]["retry_after_seconds"] == 1


async def test_shares_follow_who_is_there_and_the_size_of_the_limit(autojump_clock):
    clients, whole = Clients(), trio.CapacityLimiter(4)
    clients.seen("alice")
    with request_context(client_id="alice"):
        share = clients.share_of("x", whole)
        assert share.total_tokens == math.inf
        assert clients.limiter("x", whole) is clients.limiter("x", whole)
        clients.seen("bob")
        assert share.total_tokens == 3
        whole.total_tokens = 1
        assert clients.share_of("x", whole).total_tokens == 1
        await trio.sleep(ACTIVE_SECONDS)
        clients.seen("alice")
        assert share.total_tokens == math.inf
    with request_context(client_id="bob"):
        assert clients.share_of("x", whole) is not share


async def test_idle_shares_beyond_the_bound_are_forgotten_and_those_in_use_are_kept(monkeypatch):
    monkeypatch.setattr(clients_module, "MAX_SHARES", 3)
    clients, whole = Clients(), trio.CapacityLimiter(4)

    def share_of(client_id):
        with request_context(client_id=client_id):
            return clients.share_of("x", whole)

    held, idle = share_of("alice"), share_of("bob")
    async with held:
        for number in range(20):
            clients.seen(f"client-{number}")
            share_of(f"client-{number}")
        assert share_of("alice") is held
        assert share_of("bob") is not idle
        assert len(clients._shares) == 3
        assert len(clients._last_seen) == 2


async def test_threads_that_one_client_left_behind_are_in_no_others_way():
    limiters, end = LimiterOfEachClient(2), threading.Event()

    async def look_up(client_id):
        with request_context(client_id=client_id), trio.move_on_after(0.01):
            await trio.to_thread.run_sync(
                partial(end.wait, 30), abandon_on_cancel=True, limiter=limiters.current()
            )

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(look_up, "alice")
        with request_context(client_id="alice"):
            assert limiters.current().available_tokens == 0
        with request_context(client_id="bob"):
            assert limiters.current().available_tokens == 2
    finally:
        end.set()


async def test_a_client_with_all_its_workers_busy_leaves_some_to_another(monkeypatch):
    monkeypatch.setattr("trio_tools.settings.threads.usable_cpus", lambda: 2)
    with request_context(client_id="alice"):
        alice = worker_limiter()
        for number in range(2):
            alice.acquire_on_behalf_of_nowait(number)
        with pytest.raises(trio.WouldBlock):
            worker_limiter().acquire_nowait()
    with request_context(client_id="bob"):
        async with worker_limiter():
            assert alice.borrowed_tokens == 3
