"""Sessions of the older era: whose makes room for whose, and what none of it ends."""

import gc
import json
import tracemalloc
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import pytest
import trio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.transport_security import TransportSecuritySettings

from nursery_patterns import request_context
from tests.transports.lines import INITIALIZE, call, make_server
from tests.transports.requests import (
    JSON_HEADERS,
    PING,
    connect,
    exchange,
    get,
    http_server,
    modern_call,
    open_session,
    post,
)
from trio_tools.transports.http.access.authentication import Denied
from trio_tools.transports.http.sessions import IDLE_SECONDS, Sessions

SECRETS = {name: name * 20 for name in ("alice", "bob", "carol")}


def token(name):
    return {"authorization": f"Bearer {SECRETS[name]}"}


async def opened(address, name, count=1):
    return [await open_session(address, **token(name)) for _ in range(count)]


async def statuses(address, sessions):
    return [(await exchange(address, post(PING, **session))).status for session in sessions]


async def status_of_newcomer(address, name):
    return (await exchange(address, post(INITIALIZE, **token(name)))).status


async def test_a_client_that_left_all_sessions_makes_room_for_another_one():
    async with http_server(tokens=SECRETS, max_sessions=4) as address:
        left = await opened(address, "alice", 4)
        bobs = await opened(address, "bob")
        # The one that was left longest ago, and no other.
        assert await statuses(address, left + bobs) == [404, 200, 200, 200, 200]


async def test_the_session_that_was_left_longest_makes_room_for_its_own_client_too():
    async with http_server(max_sessions=2) as address:
        first, second = [await open_session(address) for _ in range(2)]
        third = await open_session(address)
        assert await statuses(address, [first, second, third]) == [404, 200, 200]


async def test_handshakes_that_are_refused_leave_no_session():
    refused = {**INITIALIZE, "params": {"protocolVersion": "2025-06-18", "capabilities": {}}}
    async with http_server(max_sessions=2) as address:
        kept = await open_session(address)
        for _ in range(5):
            answer = await exchange(address, post(refused))
            assert "error" in answer.json()
            session = {"mcp-session-id": answer.headers["mcp-session-id"]}
            assert (await exchange(address, post(PING, **session))).status == 404
        assert await statuses(address, [kept]) == [200]


async def test_a_handshake_that_the_sdk_would_keep_for_the_session_has_a_bound():
    params = {**INITIALIZE["params"], "capabilities": {"experimental": {"x": {"y": "z" * 140_000}}}}
    async with http_server() as address:
        answer = await exchange(address, post({**INITIALIZE, "params": params}))
        assert (answer.status, answer.body[:9]) == (413, b"A request")


async def test_a_session_that_is_left_keeps_no_request():
    async with http_server() as address:

        async def visit():
            session = await open_session(address)
            for arguments in ({"text": "x" * 10**6}, {"text": ["x" * 10**6]}):
                raw = post(call(1, "echo", **arguments), **session)
                assert (await exchange(address, raw)).status == 200

        await visit()
        tracemalloc.start()
        try:
            for _ in range(10):
                await visit()
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < 5 * 10**6
        finally:
            tracemalloc.stop()


async def test_who_has_most_makes_room():
    async with http_server(tokens=SECRETS, max_sessions=7) as address:
        alices, bobs = await opened(address, "alice", 3), await opened(address, "bob", 4)
        await opened(address, "carol")
        assert await statuses(address, alices + bobs) == [200] * 3 + [404] + [200] * 3


async def test_nobody_makes_room_for_a_client_that_has_more():
    async with http_server(tokens=SECRETS, max_sessions=6) as address:
        alices = await opened(address, "alice", 6)
        bobs = await opened(address, "bob", 3)
        carols = await opened(address, "carol", 2)
        assert await statuses(address, alices) == [404] * 4 + [200] * 2
        bobs += await opened(address, "bob", 3)  # in the places of his own
        found = [await statuses(address, each) for each in (alices, bobs, carols)]
        assert [statuses.count(200) for statuses in found] == [2, 2, 2]


async def test_a_session_that_is_used_again_is_not_the_one_left_longest_ago():
    async with http_server(tokens=SECRETS, max_sessions=3) as address:
        alices = await opened(address, "alice", 3)
        assert await statuses(address, alices[:1]) == [200]
        await opened(address, "bob")
        assert await statuses(address, alices) == [200, 404, 200]


async def test_a_stranger_who_asks_for_a_session_does_not_use_it():
    async with http_server(tokens=SECRETS, max_sessions=3) as address:
        alices = await opened(address, "alice", 3)
        stolen = {**alices[0], **token("carol")}
        assert await statuses(address, [stolen]) == [404]
        await opened(address, "bob")
        assert await statuses(address, alices) == [404, 200, 200]


@pytest.mark.parametrize("use", ["call", "stream"])
async def test_a_session_in_use_is_never_ended(use):
    async with (
        http_server(tokens=SECRETS, max_sessions=2) as address,
        AsyncExitStack() as streams,
    ):
        alices = await opened(address, "alice", 2)
        for session in alices:
            stream = await connect(address)
            streams.push_async_callback(stream.aclose)
            if use == "call":
                await stream.send_all(post(call(1, "nap", seconds=60), **session))
            else:
                await stream.send_all(get("/mcp", accept="text/event-stream", **session))
        await trio.sleep(0.3)
        assert await status_of_newcomer(address, "bob") == 503
        await streams.aclose()
        await trio.sleep(0.3)
        assert await status_of_newcomer(address, "bob") == 200


async def test_what_a_client_ends_itself_is_counted_no_more():
    async with http_server(tokens=SECRETS, max_sessions=3) as address:
        kept = await opened(address, "alice")
        for _ in range(5):
            (ended,) = await opened(address, "alice")
            raw = get("/mcp", **ended).replace(b"GET", b"DELETE", 1)
            assert (await exchange(address, raw)).status == 200
        await opened(address, "bob")
        assert await statuses(address, kept) == [200]


async def test_a_session_has_two_tasks_which_end_with_it():
    def tasks():
        return trio.lowlevel.current_statistics().tasks_living

    async with http_server() as address:
        await exchange(address, get("/readyz"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        before = tasks()
        sessions = [await open_session(address) for _ in range(10)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert tasks() <= before + 2 * 10
        for session in sessions:
            ended = get("/mcp", **session).replace(b"GET", b"DELETE", 1)
            assert (await exchange(address, ended)).status == 200
        with trio.fail_after(10):
            while tasks() > before:  # noqa: ASYNC110 - no task tells that it has ended
                await trio.sleep(0.01)


async def test_requests_of_the_newer_era_and_openings_that_fail_keep_nothing():
    async with http_server(tokens=SECRETS, max_sessions=2) as address:
        alices = await opened(address, "alice", 2)
        for number in range(3):
            answer = await exchange(
                address, modern_call(number, "echo", headers=token("bob"), text="x")
            )
            assert answer.status == 200
        assert await statuses(address, alices) == [200, 200]
        for _ in range(3):
            # It may have been one: the first of these makes room, which the others find.
            assert (await exchange(address, post(b"{}", **token("bob")))).status == 400
        assert await statuses(address, alices) == [404, 200]
        assert await status_of_newcomer(address, "alice") == 200


async def test_of_two_version_fields_the_first_counts():
    async with http_server(tokens=SECRETS, max_sessions=2) as address:
        for _ in range(2):
            raw = post(INITIALIZE, **token("alice"), **{"mcp-protocol-version": "2025-11-25"})
            raw = raw.replace(b"\r\n\r\n", b"\r\nmcp-protocol-version: 2026-07-28\r\n\r\n", 1)
            assert (await exchange(address, raw)).status == 200
        assert await status_of_newcomer(address, "bob") == 200


async def test_many_newcomers_at_once_never_exceed_the_bound():
    async with http_server(tokens=SECRETS, max_sessions=10) as address:
        alices = await opened(address, "alice", 10)
        came = []

        async def come():
            came.append(await status_of_newcomer(address, "bob"))

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(come)
        assert {200} <= set(came) <= {200, 503}  # his own are in use while they are opened
        assert (await statuses(address, alices)).count(200) == 5


class Clients:
    """Clients of the SDK's session manager behind `Sessions`, without a wire."""

    def __init__(self, app):
        self.app = app

    async def ask(self, name, message, **headers):
        """Send a message; return the status and the session's id."""
        user = AuthenticatedUser(AccessToken(token=name, client_id=name, scopes=[]))
        given = {**JSON_HEADERS, **headers}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/mcp",
            "query_string": b"",
            "headers": [(key.encode(), value.encode()) for key, value in given.items()],
            "user": user,
        }
        body = [{"type": "http.request", "body": json.dumps(message).encode(), "more_body": False}]
        begun = []

        async def receive():
            if not body:
                await trio.sleep_forever()
            await trio.lowlevel.checkpoint()
            return body.pop()

        async def send(sent):
            await trio.lowlevel.checkpoint()
            begun.append(sent)

        with request_context(client_id=name):
            try:
                await self.app(scope, receive, send)
            except Denied as denied:
                return int(denied.status), {}
        session_id = dict(begun[0]["headers"]).get(b"mcp-session-id", b"").decode()
        return begun[0]["status"], {"mcp-session-id": session_id}


@asynccontextmanager
async def without_a_wire(max_sessions):
    server = make_server()
    server.streamable_http_app(
        max_sessions=max_sessions,
        session_idle_timeout=IDLE_SECONDS,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    manager = server.session_manager
    async with manager.run():
        yield Clients(Sessions(manager.handle_request, max_sessions=max_sessions))


async def test_what_the_sdk_ended_by_itself_is_counted_no_more(autojump_clock):
    async with without_a_wire(max_sessions=5) as clients:
        for _ in range(2):
            await clients.ask("alice", INITIALIZE)
        await trio.sleep(IDLE_SECONDS - 10)
        bobs = [(await clients.ask("bob", INITIALIZE))[1] for _ in range(3)]
        await trio.sleep(11)
        # Both of alice's are gone. So there is room, and none of bob's has to make it.
        for _ in range(2):
            assert (await clients.ask("carol", INITIALIZE))[0] == 200
        assert [(await clients.ask("bob", PING, **each))[0] for each in bobs] == [200] * 3


async def test_what_is_asked_for_in_vain_is_counted_no_more(autojump_clock):
    async with without_a_wire(max_sessions=3) as clients:
        _, ended = await clients.ask("alice", INITIALIZE)
        await trio.sleep(IDLE_SECONDS - 10)
        alices = [(await clients.ask("alice", INITIALIZE))[1] for _ in range(2)]
        await trio.sleep(11)
        assert (await clients.ask("alice", PING, **ended))[0] == 404
        assert (await clients.ask("bob", INITIALIZE))[0] == 200
        assert [(await clients.ask("alice", PING, **each))[0] for each in alices] == [200] * 2


@pytest.mark.parametrize(
    ("order", "bobs"), [(["carol"] + ["bob"] * 100, 4), (["bob"] * 100 + ["carol"], 5)]
)
async def test_a_crowd_takes_no_room_made_for_another_nor_makes_it_cost_more(order, bobs):
    async with without_a_wire(max_sessions=10) as clients:
        alices = [(await clients.ask("alice", INITIALIZE))[1] for _ in range(10)]
        came = Counter()

        async def come(name):
            status, _ = await clients.ask(name, INITIALIZE)
            came[name, status] += 1

        async with trio.open_nursery() as nursery:
            for name in order:
                nursery.start_soon(come, name)
                await trio.lowlevel.checkpoint()
        assert came["carol", 200] == 1
        # What is left is alice's: nobody's was ended in vain.
        found = [(await clients.ask("alice", PING, **each))[0] for each in alices]
        assert found.count(200) >= 9 - bobs - 1


class Cut(trio.abc.Instrument):
    """Cancels the scope before a task's step of that number."""

    def __init__(self, step, scope):
        self.task, self.step, self.scope = trio.lowlevel.current_task(), step, scope

    def before_task_step(self, task):
        if task is self.task:
            self.step -= 1
            if not self.step:
                self.scope.cancel()


async def test_a_newcomer_that_is_cancelled_anywhere_takes_no_place_with_it():
    for step in count(1):
        async with without_a_wire(max_sessions=4) as clients:
            alices = [(await clients.ask("alice", INITIALIZE))[1] for _ in range(4)]
            with trio.CancelScope() as scope:
                cut = Cut(step, scope)
                trio.lowlevel.add_instrument(cut)
                try:
                    await clients.ask("bob", INITIALIZE)
                finally:
                    trio.lowlevel.remove_instrument(cut)
            if not scope.cancelled_caught:
                break
            came = [(await clients.ask("bob", INITIALIZE))[0] for _ in range(2)]
            assert came == [200, 200], f"cancelled at step {step}"
            found = [(await clients.ask("alice", PING, **each))[0] for each in alices]
            assert found == [404, 404, 200, 200], f"cancelled at step {step}"
    assert step > 5
