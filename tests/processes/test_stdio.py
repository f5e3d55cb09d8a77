"""stdio with a real process: what it survives, how it ends, what it leaves behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import trio

from tests.processes.running import descendants, environment, running, stdio_process
from tests.support.servers_in_memory import values_of
from tests.transports.lines import INITIALIZE, LineClient, call, request


async def close_input(server):
    await server.process.stdin.aclose()


async def close_output(server):
    await server.process.stdout.aclose()
    await server.client.write(request("unheard", "ping"))


async def terminate(server):
    server.kill(signal.SIGTERM)


async def interrupt(server):
    server.kill(signal.SIGINT)


WAYS_TO_STOP = [close_input, close_output, terminate, interrupt]
STATES = {
    "idle": [],
    "a call": [call(1, "nap", seconds=600)],
    "a worker, a stuck thread": [call(1, "worker"), call(2, "stuck_thread")],
    "answers unread": [call(n, "talk", token=n, messages=10_000) for n in range(3)],
    # Nobody notices the end of input while the loop is held; a signal has to do all the same.
    "a held loop": [call(1, "held_loop", seconds=600)],
}


@pytest.mark.parametrize("stop", WAYS_TO_STOP)
async def test_every_stop_ends_the_process_in_time_in_every_state(stop):
    async def ends(state):
        async with stdio_process() as server:
            await server.client.write(*STATES[state])
            await trio.sleep(0.4)
            await stop(server)
            await server.ended()

    async with trio.open_nursery() as nursery:
        for state in STATES:
            if state != "a held loop" or stop in {terminate, interrupt}:
                nursery.start_soon(ends, state)


async def test_a_worker_that_is_stopped_delays_no_stop_and_is_killed():
    async with stdio_process() as server:
        items = {"operation": "absolute", "items": [-1]}
        await server.client.write(call(1, "batch_process", **items))
        await server.client.read()
        [worker] = server.workers()
        os.kill(worker, signal.SIGSTOP)
        await terminate(server)
        await server.ended()


async def test_a_second_signal_ends_the_process_at_once():
    async with stdio_process(shutdown_grace_seconds=20) as server:
        await server.client.write(call(1, "nap", seconds=600))
        await trio.sleep(0.3)
        server.kill(signal.SIGTERM)
        await trio.sleep(0.3)
        server.kill(signal.SIGTERM)
        await server.ended(status=-signal.SIGTERM)


async def test_twenty_calls_through_a_shell_pipe_get_twenty_answers():
    calls = [INITIALIZE, *(call(number, "nap", seconds=0.1) for number in range(20))]
    client = LineClient(ByteCounter())
    await client.write(*calls)
    with trio.fail_after(30):
        result = await trio.run_process(
            [sys.executable, "-m", "tests.processes.server_under_test", "stdio"],
            stdin=bytes(client.stream.written),
            capture_stdout=True,
            env=environment(),
        )
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    texts = [answer["result"]["content"][0]["text"] for answer in answers[1:]]
    assert texts == ["slept 0.1"] * 20


class ByteCounter:
    def __init__(self):
        self.written = bytearray()

    async def send_all(self, data):
        self.written += data


async def test_input_and_output_may_be_files(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    client = LineClient(ByteCounter())
    await client.write(INITIALIZE, call(1, "echo", text="x" * 100_000))
    source.write_bytes(client.stream.written)
    with source.open("rb") as stdin, target.open("wb") as stdout, trio.fail_after(30):
        await trio.run_process(
            [sys.executable, "-m", "tests.processes.server_under_test", "stdio"],
            stdin=stdin,
            stdout=stdout,
            env=environment(),
        )
    assert target.read_text().count("\n") == 2
    assert "x" * 100_000 in target.read_text()


async def test_no_input_at_all_ends_quietly():
    with trio.fail_after(30):
        result = await trio.run_process(
            [sys.executable, "-m", "tests.processes.server_under_test", "stdio"],
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            env=environment(),
        )
    # A machine that does other things too may hold the event loop, which is logged.
    said = [line for line in result.stderr.splitlines() if b" held the event loop " not in line]
    assert (result.stdout, said) == (b"", [])


async def test_stray_output_does_not_reach_the_wire():
    async with stdio_process() as server:
        await server.client.write(call(1, "stray"), request(2, "ping"))
        with trio.fail_after(20):
            answers = [await server.client.read() for _ in range(2)]
        assert sorted(answer["id"] for answer in answers) == [1, 2]
        await close_input(server)
        await server.ended()
        for text in (b"printed", b"written", b"child ''"):
            assert text in server.stderr


async def test_pings_are_answered_while_every_thread_is_busy():
    async with stdio_process() as server:
        await server.client.write(
            *(call(f"busy {n}", "busy_threads", seconds=0.5) for n in range(4))
        )
        await server.client.write(*(call(f"nap {n}", "nap", seconds=1) for n in range(200)))
        await trio.sleep(0.1)
        took = []
        for number in range(10):
            started = time.perf_counter()
            await server.client.write(request(number, "ping"))
            with trio.fail_after(10):
                while (await server.client.read())["id"] != number:
                    pass
            took.append(time.perf_counter() - started)
        # The promise is 50 ms in the median on an idle machine.
        assert sorted(took)[5] < 0.5
        server.kill()
        await server.ended()


async def test_three_thousand_calls_to_a_stalled_reader_are_each_answered_once():
    async with stdio_process() as server, trio.open_nursery() as nursery:
        calls = [call(number, "echo", text="x") for number in range(3000)]
        nursery.start_soon(server.client.write, *calls)
        await trio.sleep(1)
        with trio.fail_after(30):
            ids = [(await server.client.read())["id"] for _ in range(3000)]
        assert sorted(ids) == list(range(3000))
        await close_input(server)
        await server.ended()


async def test_a_signal_at_any_moment_under_load_ends_cleanly():
    dice = random.Random(5)

    async def load(client, answered):
        with suppress(trio.BrokenResourceError):
            for number in range(100_000):
                await client.write(call(number, "nap", seconds=0.05))
                if (answer := await client.read()) is None:
                    return
                assert answer["id"] == number
                answered.append(number)

    async def ends(number, delay):
        answered = []
        async with stdio_process() as server, trio.open_nursery() as nursery:
            nursery.start_soon(load, server.client, answered)
            await trio.sleep(delay)
            server.kill(number)
            await server.ended()

    async with trio.open_nursery() as nursery:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            nursery.start_soon(ends, number, dice.uniform(0, 0.5))


async def test_a_batch_that_a_stop_cuts_answers_with_all_that_it_had_reported():
    dice = random.Random(11)
    asked = {"operation": "rest", "items": [0.02] * 1000, "max_concurrent": 5}

    async def ends(stop, delay):
        async with stdio_process() as server:
            await server.client.write(call(1, "batch_process", token="t", **asked))
            await trio.sleep(delay)
            await stop(server)
            with trio.fail_after(10):
                *reports, answer = await server.client.read_all()
            await server.ended()
        done = [report["params"]["progress"] for report in reports]
        data = answer["result"]["structuredContent"]["data"]
        assert done == sorted(done)
        assert 0 < max(done) <= data["counts"]["succeeded"] < 1000
        results = [each for each in values_of(data) if each is not None]
        assert len(results) == data["counts"]["succeeded"]

    async with trio.open_nursery() as nursery:
        for stop in (terminate, interrupt, close_input):
            nursery.start_soon(ends, stop, dice.uniform(0.5, 1))


async def test_a_second_server_on_the_same_descriptors_is_refused():
    code = (
        "import trio, sys\n"
        "from trio_tools.transports import serve_stdio\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        await nursery.start(serve_stdio)\n"
        "        try:\n"
        "            await serve_stdio()\n"
        "        except RuntimeError as error:\n"
        "            print(error, file=sys.stderr)\n"
        "        nursery.cancel_scope.cancel()\n"
        "    print('fd 1 is back')\n"
        "trio.run(main)\n"
    )
    process = await trio.run_process(
        [sys.executable, "-c", code],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=environment(),
    )
    assert b"already serve another server" in process.stderr
    assert process.stdout == b"fd 1 is back\n"


async def test_a_worker_that_hangs_does_not_keep_the_process():
    async with stdio_process() as server:
        await server.client.write(call(1, "batch_process", operation="absolute", items=[-1]))
        assert not (await server.client.read())["result"]["isError"]
        workers = server.workers()
        assert workers
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        server.kill()
        await server.ended()


@pytest.mark.parametrize(("word", "told"), [("nothing", True), ("thread", False)])
async def test_exit_handlers_run_and_nothing_after_the_server_delays_the_end(word, told):
    # Python waits for threads before it runs exit handlers.
    async with running(word, module="tests.processes.slow_to_leave") as server:
        client = LineClient(server.process.stdio)
        with trio.fail_after(60):
            await client.initialize()
        server.kill()
        await server.ended()
        with trio.fail_after(30):
            await server.stderr_ended.wait()
    assert (b"handled" in server.stderr) == told


async def test_the_resource_tracker_ends_also_if_it_was_stopped(tmp_path):
    database = tmp_path / "empty.db"
    database.touch()
    given = json.dumps({"main": {"url": f"sqlite:///{database}"}})
    module = "tests.processes.slow_to_leave"
    async with running("nothing", module=module, databases=given) as server:
        client = LineClient(server.process.stdio)
        with trio.fail_after(60):
            await client.initialize()
            await client.write(call(1, "query_database", sql="SELECT 1"))
            assert not (await client.read())["result"]["isError"]
        [tracker] = {*descendants(server.process.pid)} - {*server.workers()}
        os.kill(tracker, signal.SIGSTOP)
        server.kill()
        await server.ended()
