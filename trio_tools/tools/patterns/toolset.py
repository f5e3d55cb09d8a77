"""A request context; and all seven patterns as tools."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

import trio
from mcp.types import ToolAnnotations
from pydantic import Field

from nursery_patterns import current_request, run_in_thread
from trio_tools.answers.texts import json_line
from trio_tools.tools.application.context import ToolContext
from trio_tools.tools.application.tool import ApplicationTool, tool
from trio_tools.tools.patterns.deadlines import (
    cancellable_operation,
    process_with_timeout,
    query_with_timeout,
)
from trio_tools.tools.patterns.hashing import hashed
from trio_tools.tools.patterns.limits import parallel_fetch, process_batch_streaming, rate_limited

PATTERN_NAMES: Final = (
    "rate_limited_operation",
    "parallel_fetch",
    "process_batch_streaming",
    "process_with_timeout",
    "query_with_timeout",
    "cancellable_operation",
    "main_operation",
)

_LONGEST = 300.0


async def main_operation(
    context: ToolContext, data: Annotated[dict[str, Any], Field(description="Any object.")]
) -> dict[str, Any]:
    """Pattern: a request context. Tasks and threads of a call see it, without being given it."""
    seen: dict[str, dict[str, Any]] = {}

    async def nested_operation() -> None:
        seen["task"] = _request()

    async def nested_thread() -> None:
        seen["thread"] = await run_in_thread(_request)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(nested_operation)
        nursery.start_soon(nested_thread)
    return {
        **_request(),
        "nested": {where: seen[where] for where in sorted(seen)},
        "result": await hashed(context, json_line(data)),
    }


def _request() -> dict[str, Any]:
    """Return the request context, as code of any depth sees it."""
    request = current_request()
    assert request is not None
    return {
        "request_id": request.request_id,
        "client_id": request.client_id,
        "elapsed_ms": round(request.elapsed * 1000, 3),
    }


def pattern_tools() -> tuple[ApplicationTool, ...]:
    """Return the tools of one server, made as in an application."""
    reading = partial(tool, read_only=True)
    timed = partial(reading, max_timeout_seconds=_LONGEST)
    at_large = ToolAnnotations(read_only_hint=True, open_world_hint=True)
    return (
        reading(rate_limited()),
        tool(parallel_fetch, annotations=at_large),
        reading(process_batch_streaming),
        timed(process_with_timeout, time_argument="timeout", timeout_seconds=60),
        timed(query_with_timeout, time_argument="timeout_seconds"),
        timed(cancellable_operation, time_argument="timeout_seconds"),
        reading(main_operation),
    )
