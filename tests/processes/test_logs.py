"""The log of `trio-tools serve` at its most talkative."""

import json
import subprocess
import sys

import trio

from tests.processes.running import environment
from tests.transports.lines import LineClient, call
from tests.transports.requests import exchange, modern_call, open_session, post
from trio_tools.transports.http import Address
from trio_tools.transports.stdio.jsonrpc_lines import LineFramer

COMMAND = [sys.executable, "-m", "trio_tools", "serve", "--transport", "http", "--port", "0"]
TALKATIVE = ["--log-format", "json", "--log-level", "debug"]
SECRET = "hush" * 4


async def records_of(process):
    framer = LineFramer()
    async for data in process.stderr:
        for line in framer.feed(bytes(data)):
            yield json.loads(line)


async def ask_for_all(address, token):
    """Say what nobody should read, in both eras, in ways that are answered and refused."""
    session = await open_session(address, **token)
    # The answer to the second one quotes it.
    for arguments in ({"text": "hush"}, {"text": "hush", "algorithm": ["hush"]}):
        for raw in (
            post(call(1, "compute_hash", **arguments), **session),
            modern_call(1, "compute_hash", headers=token, **arguments),
        ):
            answer = await exchange(address, raw)
            assert (b"hush" in answer.body) is ("algorithm" in arguments)
    assert (await exchange(address, post(b"hush", **session))).status == 400
    assert (await exchange(address, post(b"{}", authorization="Bearer hush"))).status == 401


async def test_no_record_tells_a_secret_or_what_a_client_sent():
    env = environment(http__tokens=json.dumps({"me": SECRET}))
    process = await trio.lowlevel.open_process(
        [*COMMAND, *TALKATIVE], stderr=subprocess.PIPE, env=env
    )
    try:
        with trio.fail_after(30):
            log = records_of(process)
            first = await anext(log)
            url = first["message"].removeprefix("serving MCP at ")
            address = Address("127.0.0.1", int(url.split(":")[2].partition("/")[0]), url)
            await ask_for_all(address, {"authorization": f"Bearer {SECRET}"})
            process.terminate()
            records = [first, *[record async for record in log]]
            assert await process.wait() == 0
    finally:
        process.kill()
    failed = [each for each in records if each["message"].endswith("failed: INVALID_ARGUMENT")]
    assert [each["client_id"] for each in failed] == ["me", "me"]
    assert "hush" not in json.dumps(records)


async def test_a_log_that_nobody_reads_keeps_no_call_waiting_and_its_loss_is_told():
    # The pipe of standard error holds about 64 KiB; each refused call logs a line.
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "trio_tools", "serve", "--log-format", "json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    client = LineClient(process.stdio)
    try:
        with trio.fail_after(60):
            await client.initialize()
            for number in range(2_000):
                await client.write(call(number, "get_operation", operation_id="nope"))
                await client.read()
            await client.write({"jsonrpc": "2.0", "id": "ping", "method": "ping"})
            assert (await client.read())["result"] == {}
            framer = LineFramer()
            lost = None
            while lost is None:
                data = await process.stderr.receive_some()
                records = [json.loads(line) for line in framer.feed(bytes(data))]
                lost = next((r for r in records if "records were dropped" in r["message"]), None)
            assert int(lost["message"].split()[0]) > 100
            process.terminate()
            assert await process.wait() == 0
    finally:
        process.kill()
