import sys
from pathlib import Path

import pytest
import trio

from tests.transports.lines import make_server
from trio_tools import transports as package
from trio_tools.transports.http import serve_http
from trio_tools.transports.memory import connect_in_process


async def test_a_client_in_the_same_process_calls_without_any_wire(autojump_clock):
    async with connect_in_process(make_server()) as client:
        result = await client.call_tool("nap", {"seconds": 3})
    assert result.content[0].text == "slept 3"


async def test_a_cancel_of_the_caller_cancels_the_call(autojump_clock):
    server, ended = make_server(), trio.Event()

    @server.tool()
    async def hang() -> str:
        """Wait for the cancel."""
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with connect_in_process(server) as client:
        with trio.move_on_after(1) as scope:
            await client.call_tool("hang", {})
        assert scope.cancelled_caught
        assert ended.is_set()


SERVED = """
import sys, trio, trio_tools
print([m for m in sys.modules if m.startswith("opentelemetry")])
import trio_tools.transports.stdio
from trio_tools.transports.memory import connect_in_process
async def main():
    server = trio_tools.create_server(trio_tools.Settings(state={"url": "memory"}))
    async with connect_in_process(server) as client:
        asked = {"operation": "hash", "items": [{"text": "a"}]}
        assert not (await client.call_tool("batch_process", asked)).is_error
trio.run(main)
# The SDK of MCP imports the bare API of OpenTelemetry.
unwanted = ("h11", "prometheus_client", "opentelemetry.sdk", "opentelemetry.exporter", "requests")
print([m for m in (*unwanted, "google.protobuf", "nursery_patterns.telemetry") if m in sys.modules])
"""


async def test_a_served_call_imports_no_http_server_and_no_telemetry():
    root = Path(__file__).parents[2]
    result = await trio.run_process([sys.executable, "-c", SERVED], capture_stdout=True, cwd=root)
    assert result.stdout.splitlines() == [b"[]", b"[]"]


def test_serve_http_is_found_in_the_package_when_asked_for():
    assert package.serve_http is serve_http
    with pytest.raises(AttributeError, match="has no attribute 'serve_ftp'"):
        _ = package.serve_ftp
