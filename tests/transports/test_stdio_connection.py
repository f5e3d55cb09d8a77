"""stdio's behaviour, over streams in memory and on the virtual clock."""

import pytest
import trio
import trio.testing

from tests.support.servers_in_memory import nap_many, server_of
from tests.transports.lines import (
    INITIALIZE,
    LineClient,
    call,
    cancel,
    make_server,
    request,
    served,
)
from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports.stdio import connection as link_module
from trio_tools.transports.stdio import serve_streams
from trio_tools.transports.stdio.connection import StdioConnection
from trio_tools.transports.stdio.jsonrpc_lines import LineFramer


def ids(messages):
    return [message.get("id") for message in messages]


async def test_both_eras_are_served(autojump_clock):
    async with served() as client:
        assert (await client.initialize())["result"]["protocolVersion"] == "2025-11-25"
    envelope = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "x", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    async with served() as client:
        await client.write(request(1, "server/discover", _meta=envelope))
        assert "2026-07-28" in (await client.read())["result"]["supportedVersions"]


async def test_every_call_received_before_the_end_of_input_is_answered(autojump_clock):
    async with served() as client:
        await client.initialize()
        await client.write(*(call(number, "nap", seconds=0.4) for number in range(20)))
        await client.stream.send_eof()
        started = trio.current_time()
        answers = await client.read_all()
    assert sorted(ids(answers)) == list(range(20))
    assert all(answer["result"]["content"][0]["text"] == "slept 0.4" for answer in answers)
    assert trio.current_time() - started == pytest.approx(0.4)


async def test_a_call_that_takes_longer_than_the_grace_is_answered_with_an_error(autojump_clock):
    async with served(grace_seconds=2) as client:
        await client.initialize()
        await client.write(call("long", "nap", seconds=100), call("short", "nap", seconds=1.5))
        await client.stream.send_eof()
        started = trio.current_time()
        short, long = await client.read_all()
    assert (short["id"], long["id"]) == ("short", "long")
    assert long["error"]["code"] == -32000
    assert trio.current_time() - started == pytest.approx(2)


async def test_with_no_call_running_the_end_of_input_ends_at_once(autojump_clock):
    async with served() as client:
        await client.initialize()
        await client.stream.send_eof()
        started = trio.current_time()
        assert await client.read_all() == []
        assert trio.current_time() == started


async def test_a_cancel_of_the_server_gives_calls_their_grace_and_refuses_new_ones(
    autojump_clock,
):
    async with served(grace_seconds=1) as client:
        await client.initialize()
        await client.write(call(1, "nap", seconds=0.5), call(2, "nap", seconds=50))
        await trio.testing.wait_all_tasks_blocked()
        client.cancel_server()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await client.write(call(3, "nap", seconds=0))
            answers = {answer["id"]: answer for answer in await client.read_all()}
    assert list(answers) == [3, 1, 2]
    assert answers[3]["error"]["message"] == "The server is shutting down."
    assert answers[1]["result"]["content"][0]["text"] == "slept 0.5"
    assert answers[2]["error"]["code"] == -32000


async def test_a_server_that_is_served_again_takes_batches_again(autojump_clock):
    server = server_of(nap_many)
    async with served(server) as client:
        await client.initialize()
        await client.write(call(1, "nap_many", items=[100]))
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.send_eof()
        [cut] = await client.read_all()
    async with served(server) as client:
        await client.initialize()
        await client.write(call(1, "nap_many", items=[100], timeout_seconds=200))
        whole = await client.read()
    ends = [answer["result"]["structuredContent"]["data"]["complete"] for answer in (cut, whole)]
    assert ends == [False, True]


async def test_a_server_that_is_being_served_is_not_served_a_second_time(autojump_clock):
    server = make_server()
    stages = len(server.middleware)
    async with served(server) as client:
        with pytest.RaisesGroup(
            pytest.RaisesExc(RuntimeError, match="is being served already"),
            flatten_subgroups=True,
        ):
            async with served(server):
                pass
        await client.initialize()
        await client.write(call(1, "nap", seconds=3))
        assert (await client.read())["result"]["content"][0]["text"] == "slept 3"
    assert len(server.middleware) == stages


async def test_a_bad_line_is_answered_and_the_next_one_is_served(autojump_clock, caplog):
    async with served() as client:
        await client.initialize()
        await client.write(b"{bad\n", request(1, "ping") | {"params": [1]}, request(2, "ping"))
        parse_error, invalid_params, pong = [await client.read() for _ in range(3)]
    assert (parse_error["id"], parse_error["error"]["code"]) == (None, -32700)
    assert (invalid_params["id"], invalid_params["error"]["code"]) == (1, -32602)
    assert pong == {"jsonrpc": "2.0", "id": 2, "result": {}}
    refusals = [record for record in caplog.records if record.msg.startswith("refused")]
    assert len(refusals) == 2
    assert "bad" not in caplog.text


async def test_an_id_that_is_in_flight_is_refused_until_it_is_answered(autojump_clock):
    async with served() as client:
        await client.initialize()
        await client.write(call(7, "nap", seconds=1), call("7", "nap", seconds=1))
        refused, answered = await client.read(), await client.read()
        assert (refused["id"], refused["error"]["code"]) == ("7", -32600)
        assert answered["id"] == 7
        await client.write(call(7, "nap", seconds=1))
        assert (await client.read())["result"]


async def test_a_cancelled_call_is_not_answered_and_its_id_is_free_again(autojump_clock):
    async with served() as client:
        await client.initialize()
        await client.write(call(1, "nap", seconds=100))
        await trio.testing.wait_all_tasks_blocked()
        await client.write(cancel(1))
        await trio.testing.wait_all_tasks_blocked()
        await client.write(call(1, "nap", seconds=1))
        assert (await client.read())["result"]["content"][0]["text"] == "slept 1"


async def test_twenty_calls_cancelled_in_the_same_write_do_not_hold_up_the_end(autojump_clock):
    async with served() as client:
        await client.initialize()
        calls = [call(number, "nap", seconds=100) for number in range(20)]
        await client.write(*calls, *(cancel(number) for number in range(20)))
        await client.stream.send_eof()
        started = trio.current_time()
        assert await client.read_all() == []
        assert trio.current_time() == started


async def test_a_message_of_several_megabytes_goes_both_ways(autojump_clock):
    text = "ü" * 2_000_000
    async with served() as client:
        await client.initialize()
        await client.write(call(1, "echo", text=text))
        assert (await client.read())["result"]["content"][0]["text"] == text


async def test_a_line_over_the_bound_is_refused_and_the_next_one_is_served(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(link_module, "LineFramer", lambda: LineFramer(1000))
    async with served() as client:
        await client.initialize()
        await client.write(call(1, "echo", text="x" * 5000), request(2, "ping"))
        refused = await client.read()
        assert (refused["id"], refused["error"]["code"]) == (1, -32600)
        assert (await client.read())["id"] == 2


async def test_a_message_of_too_many_parts_is_refused_under_its_id(autojump_clock):
    async with served() as client:
        await client.initialize()
        await client.write(call("heavy", "echo", text=[{}] * 100_001), request(2, "ping"))
        refused = await client.read()
        assert (refused["id"], refused["error"]["code"]) == ("heavy", -32600)
        assert (await client.read())["id"] == 2


async def test_a_client_that_closes_our_output_ends_the_server(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    async with served(opened=(ours, theirs)) as client:
        await client.initialize()
        started = trio.current_time()
        await ours.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await client.read()
    assert trio.current_time() == started


class Narrow:
    """A stream whose other end reads nothing until told: a full pipe."""

    def __init__(self):
        self.open = trio.Event()
        self.written = bytearray()

    async def send_all(self, data):
        await self.open.wait()
        self.written += data


async def serve_over(reading, writing, *, grace_seconds=1.0):
    await serve_streams(make_server(), reading, writing, grace_seconds=grace_seconds)


async def test_a_client_that_does_not_read_is_still_heard(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    pipe, client = Narrow(), LineClient(ours)
    cancelled = trio.Event()
    server = make_server()

    @server.tool()
    async def wait() -> str:
        """Wait for the cancel."""
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_streams(server, theirs, pipe, grace_seconds=1))
        await client.write(INITIALIZE)
        await client.write(call("waits", "wait"))
        # More answers than the outbox holds, and progress without end.
        await client.write(*(request(number, "ping") for number in range(500)))
        await client.write(call("talks", "talk", token="t", messages=1000))
        # What is refused at once must not wait for the client either.
        await client.write(*[b"no message\n"] * 100, call("waits", "wait"))
        await client.write(cancel("waits"))
        with trio.fail_after(5):
            await cancelled.wait()
        pipe.open.set()
        await client.write(request("last", "ping"))
        await trio.testing.wait_all_tasks_blocked()
        assert b'"last"' in pipe.written
        assert pipe.written.count(b'"result":{}') == 501
        assert pipe.written.count(b'"code":-32700') == 100
        assert pipe.written.count(b"still waits for its answer") == 1
        await ours.send_eof()


async def test_a_client_that_never_reads_does_not_keep_the_server(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    client = LineClient(ours)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_over, theirs, Narrow())
        await client.write(INITIALIZE)
        await client.write(*(call(number, "echo", text="x") for number in range(300)))
        await ours.send_eof()
    assert trio.current_time() - started <= 1 + 0.3


async def test_refusals_that_nobody_reads_are_bounded(autojump_clock, monkeypatch):
    monkeypatch.setattr(link_module, "MAX_UNANSWERED_BYTES", 10 * link_module.REFUSAL_BYTES)
    ours, theirs = trio.testing.memory_stream_pair()
    pipe = Narrow()
    link = StdioConnection(theirs, pipe, lambda _: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.read)
        nursery.start_soon(link.write)
        await ours.send_all(b"no message\n" * 5_000)
        await trio.testing.wait_all_tasks_blocked()
        assert link._load == 10 * link_module.REFUSAL_BYTES
        pipe.open.set()
        await trio.testing.wait_all_tasks_blocked()
        assert pipe.written.count(b'"code":-32700') == 5_000
        assert link._load == 0
        nursery.cancel_scope.cancel()


async def test_unanswered_requests_are_bounded_by_weight_and_reading_goes_on_after(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(link_module, "MAX_UNANSWERED_BYTES", 10 * link_module.REQUEST_BYTES)
    async with served() as client:
        await client.initialize()
        for number in range(20):
            await client.write(call(number, "nap", seconds=1))
        started = trio.current_time()
        answered = [(await client.read())["id"] for _ in range(20)]
        assert sorted(answered) == list(range(20))
        assert set(answered[:10]) == set(range(10))
        assert trio.current_time() - started == pytest.approx(2)


async def test_the_weight_of_answered_requests_is_given_back(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    link = StdioConnection(theirs, theirs, lambda _: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.read)
        await LineClient(ours).write(request(1, "ping"), request(2, "ping"))
        first, second = await link.inlet.receive(), await link.inlet.receive()
        assert link._load > 2 * link_module.REQUEST_BYTES
        await first.metadata.on_request_unanswered()
        await second.metadata.on_request_unanswered()
        assert (link._load, link._unanswered) == (0, {})
        await link.answered()
        nursery.cancel_scope.cancel()


async def test_a_call_that_fails_and_is_cancelled_right_behind_logs_no_traceback(caplog):
    async with served(create_server(Settings())) as client:
        await client.initialize()
        for number in range(50):
            await client.write(call(number, "compute_hash"), cancel(number))
        await client.write(request("last", "ping"))
        while (await client.read())["id"] != "last":
            pass
    assert [record for record in caplog.records if record.exc_info] == []
