"""`call_external_api`: one call of an API that the operator configured, at its pace."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from mcp.types import ToolAnnotations
from pydantic import Field

from trio_tools.answers.errors import NotFound, ToolFailure
from trio_tools.answers.texts import Told
from trio_tools.http.apis.types import Waiting
from trio_tools.http.wire.urls import MAX_URL_LENGTH
from trio_tools.operations.builtin.web import MAX_METHOD_LENGTH, reply_data, reply_text
from trio_tools.operations.item_types import TextLists
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import TimeoutSeconds
from trio_tools.tools.declaring.declaration import Tool
from trio_tools.tools.declaring.naming import api_lines, api_names, has_apis

if TYPE_CHECKING:
    from nursery_patterns import TokenBucketStatistics
    from trio_tools.http.apis.types import ApiReply


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
    timeout_seconds: TimeoutSeconds = None,
) -> Answer:
    """Call a configured HTTP API by name. Its secret and its rate limit are taken care of.

    Any status is an answer. meta.rate_limit tells what is left and what was waited.
    """
    client, waiting = await call.state.services.api(api), Waiting()
    call.waits_for("a token or a slot of the API, or its reply")
    try:
        with call.time_limit(timeout_seconds):
            reply = await client.call(method, path, query, body, waiting=waiting)
    except ToolFailure as failure:
        _tell_rate_limit(failure, client.rate_limit(), waiting.seconds)
        raise
    data = reply_data(api, path, reply)
    line, _, body = reply_text(data).partition("\n")
    return Answer(
        summary=f"{api} answered {reply.status} to {method} {path}, after {reply.elapsed:.3g} s.",
        data=data,
        told=[Told(line, body)],
        warnings=[*_of_shared_limits(call), *_warnings(reply)],
        rate_limit=_rate_limit(client.rate_limit(), reply),
    )


def _of_shared_limits(call: Call) -> list[str]:
    shared = call.state.services.shared_limits
    return [shared.warning()] if shared is not None and shared.trouble else []


def _tell_rate_limit(failure: ToolFailure, bucket: TokenBucketStatistics, waited: float) -> None:
    """Add to a failure when the API may be called again, if the API or our rate limit knows."""
    token_seconds = (bucket.waiting + 1 - bucket.tokens) / bucket.rate
    if token_seconds > 0:
        failure.data.setdefault("retry_after_seconds", token_seconds)
    failure.rate_limit = {
        "limit": bucket.capacity,
        "remaining": int(bucket.tokens),
        "retry_after_seconds": failure.data.get("retry_after_seconds"),
        "waited_seconds": round(waited, 6),
    }


def _rate_limit(bucket: TokenBucketStatistics, reply: ApiReply) -> dict[str, Any]:
    """Return the rate limit that the API reported, or else the state of our own bucket."""
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
    names={"api": api_names},
    more=api_lines,
    listed=has_apis,
    needs="apis",
    refusal=partial(NotFound, error_code="UNKNOWN_API"),
)
