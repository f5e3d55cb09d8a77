"""`call_external_api`: one call of an API that the operator configured, at its pace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from mcp.types import ToolAnnotations
from pydantic import Field

from trio_tools.http.urls import MAX_URL_LENGTH
from trio_tools.operations.base import TextLists
from trio_tools.operations.web import MAX_METHOD_LENGTH, reply_data
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaration import Tool

if TYPE_CHECKING:
    from trio_tools.http.api import ApiClient
    from trio_tools.http.apis import ApiReply


async def call_external_api(
    call: Call,
    *,
    api: Annotated[str, Field(description="Name of a configured API.")],
    path: Annotated[
        str,
        Field(
            max_length=MAX_URL_LENGTH, description='Path below its base URL, such as "/v1/items".'
        ),
    ],
    method: Annotated[
        str, Field(max_length=MAX_METHOD_LENGTH, description="One that the API allows.")
    ] = "GET",
    query: Annotated[TextLists | None, Field(description="Query parameters, escaped here.")] = None,
    body: Annotated[Any, Field(description="Sent as JSON.")] = None,
    timeout_seconds: Annotated[
        float | None, Field(gt=0, description="Time for this call, all waiting included.")
    ] = None,
) -> Answer:
    """Call a configured HTTP API by name. Its secret and its rate limit are taken care of.

    Any status is an answer. meta.rate_limit tells what is left and what was waited.
    """
    with call.time_limit(timeout_seconds):
        client = await call.state.services.api(api)
        call.waits_for("a token or a slot of the API, or its reply")
        reply = await client.call(method, path, query, body)
    return Answer(
        summary=f"{api} answered {reply.status} to {method} {path}, after {reply.elapsed:.3g} s.",
        data=reply_data(api, path, reply),
        warnings=_warnings(reply),
        rate_limit=_rate_limit(client, reply),
    )


def _rate_limit(client: ApiClient, reply: ApiReply) -> dict[str, Any]:
    """Tell what the API said about its limit; where it says nothing, what our own bucket holds."""
    bucket = client.rate_limit()
    return {
        "limit": bucket.capacity if reply.limit is None else reply.limit,
        "remaining": int(bucket.tokens) if reply.remaining is None else reply.remaining,
        "retry_after_seconds": reply.retry_after_seconds,
        "waited_seconds": round(reply.waited_seconds, 6),
    }


def _warnings(reply: ApiReply) -> list[str]:
    warnings: list[str] = []
    if reply.retry_after_seconds is not None:
        warnings.append(
            f"The API refuses for now: call again in {reply.retry_after_seconds:.3g} s."
        )
    if reply.truncated:
        warnings.append("The reply was longer than fits into an answer and was cut: ask for less.")
    return warnings


CALL_EXTERNAL_API = Tool(
    fn=call_external_api,
    title="Call an API",
    execution="async (I/O-bound), at the rate of the API",
    annotations=ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
    ),
)
