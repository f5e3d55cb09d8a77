"""Signals while a command starts, at moments that the process itself tells: no time is guessed."""

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.processes.running import ROOT, environment, running
from tests.transports.lines import LineClient, call

# Sends itself the signal when the interpreter raises an audit event: a module is about to be
# imported, a socket bound, a descriptor duplicated.
STRUCK = """
import os, sys

number, event, subject, *words = sys.argv[1:]

def strike(seen, details):
    global event
    if seen == event and subject in ("", details[0]):
        event = None
        os.kill(os.getpid(), int(number))

from trio_tools.__main__ import main

sys.argv[1:] = words
sys.addaudithook(strike)
status = main()
sys.exit(status if event is None else f"there was no {event} {subject}")
"""
HTTP = ("serve", "--transport=http", "--port=0")
STDIO = ("serve",)
SIGNALS = [signal.SIGINT, signal.SIGTERM]


async def struck(number, event, subject, *words):
    """Run a command that is hit by a signal at an event; return its status and standard error."""
    with trio.fail_after(30):
        process = await trio.run_process(
            [sys.executable, "-c", STRUCK, str(int(number)), event, subject, *words],
            stdin=b"",
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(),
            cwd=ROOT,
        )
    return process.returncode, process.stderr.decode()


# At each moment both signals, or one of them where the next moment has the same handlers.
MOMENTS = [
    ("import", "trio_tools.command_line.main", STDIO, SIGNALS),
    ("import", "trio", STDIO, [signal.SIGINT]),
    ("import", "pydantic_settings", STDIO, [signal.SIGTERM]),
    ("import", "trio_tools.transports.stdio", STDIO, SIGNALS),  # in `trio.run` from here on
    ("import", "mcp.server.mcpserver", STDIO, [signal.SIGINT]),
    ("fcntl.fcntl", "", STDIO, SIGNALS),  # for standard input: soon the server takes over
    ("import", "h11", HTTP, [signal.SIGTERM]),
    ("socket.bind", "", HTTP, SIGNALS),
]


@pytest.mark.parametrize(
    ("event", "subject", "words", "number"),
    [(*moment, number) for *moment, numbers in MOMENTS for number in numbers],
)
async def test_a_server_that_is_stopped_while_it_starts_ends_with_status_0_and_no_word(
    event, subject, words, number
):
    assert await struck(number, event, subject, *words) == (0, "")


@pytest.mark.parametrize("subject", ["trio_tools.command_line.main", "trio", "rich.console"])
async def test_another_command_that_is_interrupted_while_it_starts_ends_with_status_130(subject):
    assert await struck(signal.SIGINT, "import", subject, "tools") == (130, "")


async def test_another_command_that_is_terminated_ends_by_the_signal():
    assert await struck(signal.SIGTERM, "import", "trio", "tools") == (-signal.SIGTERM, "")


async def without(closed, *words):
    """Run a command with standard descriptors closed; return its status and standard error."""
    script = f'exec "$0" -m trio_tools "$@" {closed}'
    with trio.fail_after(30):
        process = await trio.run_process(
            ["sh", "-c", script, sys.executable, *words],
            stdin=b"",
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(),
            cwd=ROOT,
        )
    return process.returncode, process.stderr.decode()


@pytest.mark.parametrize(("closed", "what"), [("<&-", "input"), (">&-", "output")])
async def test_stdio_is_not_served_without_it(closed, what):
    # Its number is that of the event loop's own descriptor by then.
    status, told = await without(closed, "serve")
    assert status == 2
    assert f"standard {what} (descriptor" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
async def test_another_command_needs_neither_input_nor_output(closed):
    assert await without(closed, "settings") == (0, "")


async def test_what_is_printed_without_an_output_reaches_no_other_file():
    script = f'exec "$0" -m trio_tools {" ".join(HTTP)} <&- >&-'
    process = await trio.lowlevel.open_process(
        ["sh", "-c", script, sys.executable], stderr=subprocess.PIPE, env=environment(), cwd=ROOT
    )
    async with process.stderr:
        with trio.fail_after(30):
            told = bytearray()
            while b"serving MCP" not in told:
                told += await process.stderr.receive_some()
        opened = Path(f"/proc/{process.pid}/fd")
        standard = [str((opened / number).readlink()) for number in "01"]
        process.terminate()
        with trio.fail_after(30):
            assert await process.wait() == 0
    assert standard == [os.devnull] * 2


@asynccontextmanager
async def busy(**settings):
    """The command as people start it, on stdio, with one call that waits for a silent page."""
    arrived = trio.Event()

    async def silent(stream):
        async with stream:
            arrived.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, silent, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        settings |= {"fetch__allow_private": "true", "fetch__ports": "null"}
        async with running("serve", module="trio_tools", **settings) as server:
            server.client = LineClient(server.process.stdio)
            with trio.fail_after(30):
                await server.client.initialize()
                await server.client.write(call("page", "fetch_urls", urls=[url]))
                await arrived.wait()
                yield server
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", SIGNALS)
async def test_once_it_serves_a_signal_lets_calls_answer(number):
    async with busy() as server:
        server.kill(number)
        [answer] = await server.client.read_all()
        counts = answer["result"]["structuredContent"]["data"]["counts"]
        assert (answer["id"], counts["cancelled"]) == ("page", 1)
        await server.ended()


@pytest.mark.parametrize("number", SIGNALS)
async def test_once_it_stops_a_second_signal_ends_it_at_once(number):
    async with busy(shutdown_grace_seconds=20) as server:
        server.kill(number)
        answer = {}
        while "error" not in answer:  # new calls are refused once it stops
            await server.client.write(call("status", "get_concurrency_status"))
            answer = await server.client.read()
        server.kill(number)
        await server.ended(status=-number)
