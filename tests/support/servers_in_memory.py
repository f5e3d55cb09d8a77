"""Servers with tools made for a test, and clients of both protocol eras to call them."""

import gc
import os
import sys
import time
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from mcp.client import Client
from mcp.types import ToolAnnotations

from nursery_patterns import StepMonitor, request_context
from trio_tools.live.state import ServerState
from trio_tools.live.telemetry.telemetry import Telemetry
from trio_tools.operations.operation import Operation
from trio_tools.server import ToolServer
from trio_tools.settings import Settings
from trio_tools.tools.batches.calls import BatchRequest, run_batch_call
from trio_tools.tools.call import Answer
from trio_tools.tools.declaring.declaration import Tool
from trio_tools.tools.status import GET_CONCURRENCY_STATUS

LONG_STEP_SECONDS = 0.5

ERAS = ["auto", "legacy"]


@pytest.fixture(params=ERAS)
def era(request):
    """Each era of the protocol, as the client's mode."""
    return request.param


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """Keep settings in the environment of the tests away from the servers."""
    for name in [name for name in os.environ if name.startswith("TRIO_TOOLS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRIO_TOOLS_STATE__URL", "memory")  # see tests/conftest.py
    # The command line is the top of a process of its own; here it is a guest.
    if "trio_tools.command_line.main" in sys.modules:
        monkeypatch.setattr("trio_tools.command_line.main.configure_logging", lambda *_: None)


def tool(fn, **options):
    return Tool(
        fn=fn, title=fn.__name__, execution="async", annotations=ToolAnnotations(), **options
    )


def server_of(*fns, **settings):
    """Make a server with the status tool and one tool for each function."""
    state = ServerState(Settings(**settings))
    telemetry = Telemetry(state.settings, list)
    return ToolServer(state, (GET_CONCURRENCY_STATUS, *map(tool, fns)), telemetry=telemetry)


def limits(name, **values):
    """Return settings with limits for one tool."""
    return {"limits": {name: values}}


@asynccontextmanager
async def connected(server, era="auto"):
    async with Client(server, mode=era) as client:
        # The first answer makes the client import its schema validator, off the virtual clock.
        await client.call_tool("get_concurrency_status", {})
        with no_long_steps():
            yield client


@contextmanager
def no_long_steps():
    """Fail if a task computes for very long at a stretch.

    Time of the processor is what counts, so that a busy machine fails no test; and what the tests
    before it left for the garbage collector is not this test's. A host that runs other machines
    too can make any step five times as long, so this is five times the limit for default tools;
    the limit itself is what `tests/tools/test_caps.py` holds them to.
    """
    monitor = StepMonitor(LONG_STEP_SECONDS, timer=time.thread_time, on_block=lambda _: None)
    gc.freeze()
    try:
        with monitor.watching():
            yield
    finally:
        gc.unfreeze()
    assert monitor.latest == (), monitor.latest


async def envelope_of(client, name, arguments=None, **options):
    result = await client.call_tool(name, arguments or {}, **options)
    assert result.is_error is not result.structured_content["success"]
    return result.structured_content


def values_of(data):
    """Return what the items of a batch that succeeded gave, in input order."""
    indexes = [result["index"] for result in data["results"]]
    assert indexes == sorted(indexes)
    assert all(list(result) == ["index", "item", "value"] for result in data["results"])
    return [result["value"] for result in data["results"]]


async def status_of(client):
    return (await envelope_of(client, "get_concurrency_status"))["data"]


async def call_as(server, client_id, name, arguments=None):
    """Call a tool as a transport does for the client of that name; return the envelope."""
    with request_context(client_id=client_id):
        result = await server.call_tool(name, arguments or {})
    return result.structured_content


async def nap(seconds: float) -> float:
    """Wait that long; a negative time fails."""
    await trio.sleep(abs(seconds))
    if seconds < 0:
        raise ZeroDivisionError("the text of a defect")
    return seconds


NAP = Operation(name="nap", fn=nap)


async def nap_many(
    call,
    *,
    items: list[float],
    max_concurrent: int | None = None,
    timeout_seconds: float | None = None,
    item_timeout_seconds: float | None = None,
    operation_id: str | None = None,
) -> Answer:
    """Wait many times."""
    asked = BatchRequest(
        operation=NAP,
        items=items,
        max_concurrent=max_concurrent,
        timeout_seconds=timeout_seconds,
        item_timeout_seconds=item_timeout_seconds,
        operation_id=operation_id,
    )
    return await run_batch_call(call, asked)


async def work(call, *, seconds: float = 0.0, text: str = "done") -> Answer:
    """Wait, then say something."""
    await trio.sleep(seconds)
    return Answer(summary=text, data={"text": text})
