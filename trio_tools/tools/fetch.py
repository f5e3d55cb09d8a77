"""`fetch_urls`: many URLs in one call."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from mcp.types import ToolAnnotations
from pydantic import Field

from trio_tools.answers.errors import InvalidArgument
from trio_tools.operations.builtin.web import MAX_CHARS, most_bytes
from trio_tools.operations.item_types import Texts
from trio_tools.tools.batches.calls import BatchRequest, go_on, run_batch_call
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import USUAL, BatchOptions, Retry
from trio_tools.tools.declaring.declaration import Tool

_DEFAULTS: dict[str, Any] = {
    "method": "GET",
    "headers": {},
    "body_as": "text",
    "max_bytes": None,
    "max_chars": None,
    "offset": 0,
}


async def fetch_urls(
    call: Call,
    *,
    urls: Annotated[list[str] | None, Field(description="http or https URLs.")] = None,
    method: Annotated[Literal["GET", "HEAD"], Field(description="HTTP method.")] = "GET",
    headers: Annotated[Texts | None, Field(description="Sent with each request.")] = None,
    body_as: Annotated[
        Literal["text", "json", "markdown", "none"],
        Field(description="What to make of a body; markdown is the main text."),
    ] = "text",
    max_bytes: Annotated[
        int | None,
        Field(gt=0, description="Most bytes read of a body: 20,000, 2,000,000 of markdown."),
    ] = None,
    max_chars: Annotated[
        int | None,
        Field(gt=0, le=MAX_CHARS, description="Most characters of a text."),
    ] = None,
    offset: Annotated[int, Field(ge=0, description="To read texts on: next_offset.")] = 0,
    retry: Retry = None,
    how: BatchOptions = USUAL,
) -> Answer:
    """Fetch many URLs at once: status and body. Answers in time with what finished."""
    if urls is None:
        return await go_on(call, "urls", how, retry=retry)
    most = most_bytes(call.state.settings.fetch.max_body_bytes, body_as)
    if max_bytes is not None and max_bytes > most:
        raise InvalidArgument(
            f"max_bytes must be at most {most} for {body_as}, got {max_bytes}: lower it",
            data={"argument": "max_bytes", "maximum": most},
        )
    given = {
        "method": method,
        "headers": headers or {},
        "body_as": body_as,
        "max_bytes": max_bytes,
        "max_chars": max_chars,
        "offset": offset,
    }
    # Each item is stored with the operation, so it has only fields with a value.
    common = {name: value for name, value in given.items() if value != _DEFAULTS[name]}
    return await run_batch_call(
        call,
        BatchRequest(
            operation=call.state.operations.find("fetch"),
            items=[{"url": url, **common} for url in urls] if common else urls,
            items_argument="urls",
            retry=retry,
            **asdict(how),
        ),
    )


FETCH_URLS = Tool(
    fn=fetch_urls,
    title="Fetch URLs",
    execution="async (I/O-bound)",
    operation="fetch",
    task="optional",
    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=True),
)
