"""`fetch` and `call_api`: one request each."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import trio
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from trio_tools.answers.errors import ToolFailure
from trio_tools.http.fetching.types import FetchRequest
from trio_tools.http.wire.urls import MAX_URL_LENGTH, parse_url
from trio_tools.operations.operation import Item, Operation, TextLists, Texts
from trio_tools.services import Services
from trio_tools.settings import Settings

if TYPE_CHECKING:
    from trio_tools.http.apis.types import ApiReply

# Taking JSON apart holds the event loop: for some 25 ms with that many bytes, twice that where the
# machine is slow.
_MAX_JSON_BYTES = 500_000
MAX_METHOD_LENGTH = 20
# What is larger is read in one step of the event loop and written in another.
_LARGE_BYTES = 50_000


class FetchItem(Item):
    """One URL and what is wanted of it. A plain string is a URL with the defaults."""

    url: str = Field(description="Absolute http or https URL.")
    method: Literal["GET", "HEAD"] = "GET"
    headers: Texts = Field(default_factory=dict[str, str])
    body_as: Literal["text", "json", "markdown", "none"] = "text"
    max_bytes: int = Field(20_000, gt=0, description="Most bytes of body; the rest is not read.")

    @model_validator(mode="after")
    def _is_a_web_address(self) -> Self:
        try:
            parse_url(self.url)
        except ToolFailure as failure:
            raise ValueError(failure.message) from None
        return self


class CallApiItem(Item):
    """One call of a configured API."""

    api: str = Field(description="Name of the API.")
    path: str = Field(
        max_length=MAX_URL_LENGTH, description='Path below its base URL, such as "/v1/items".'
    )
    method: str = Field("GET", max_length=MAX_METHOD_LENGTH)
    query: TextLists = Field(default_factory=dict[str, str | list[str]])
    body: Any = Field(None, description="Sent as JSON.")


def web_operations(services: Services, settings: Settings) -> list[Operation]:
    """Return `fetch` and `call_api`."""
    within = functools.partial(_check_max_bytes, settings.fetch.max_body_bytes)
    return [
        Operation(
            name="fetch",
            fn=functools.partial(_fetch, services),
            description="Fetch a URL: status, headers, length, and the body as text or JSON.",
            item_type=Annotated[FetchItem, BeforeValidator(_plain_url), AfterValidator(within)],
            label=_url_of,
            limit_name="fetch_urls",
        ),
        Operation(
            name="call_api",
            fn=functools.partial(_call_api, services),
            description="Call a configured HTTP API: status, headers and body.",
            item_type=CallApiItem,
            label=_call_of,
            limit_name="call_external_api",
            takes_own_place=True,  # while a request is in flight, not while it waits for a token
        ),
    ]


def _plain_url(item: Any) -> Any:
    return {"url": item} if isinstance(item, str) else item


def _check_max_bytes(most: int, item: FetchItem) -> FetchItem:
    if item.body_as == "json":
        most = min(most, _MAX_JSON_BYTES)
    if item.max_bytes > most:
        raise ValueError(f"max_bytes is at most {most} for {item.body_as}, got {item.max_bytes}")
    return item


def _url_of(item: FetchItem) -> str:
    return item.url


def _call_of(item: CallApiItem) -> str:
    return f"{item.api} {item.method} {item.path}"


async def _fetch(services: Services, item: FetchItem) -> dict[str, Any]:
    fetcher = await services.fetcher()
    page = await fetcher.fetch(
        FetchRequest(
            url=item.url,
            method=item.method,
            headers=item.headers,
            body_as=item.body_as,
            max_bytes=item.max_bytes,
        )
    )
    if page.length > _LARGE_BYTES:
        # Decoded or parsed in this step; its text is made in the next one. Nothing is lost here.
        await trio.lowlevel.cancel_shielded_checkpoint()
    result: dict[str, Any] = {
        "url": page.url,
        "status": page.status,
        "content_type": page.content_type,
        "headers": page.headers,
        "length": page.length,
        "truncated": page.truncated,
        "elapsed_seconds": round(page.elapsed, 6),
    }
    if page.final_url != page.url:
        result["final_url"] = page.final_url
    if page.json is not None:
        result["json"] = page.json
    if page.text is not None:
        result["text"] = page.text
    return result


async def _call_api(services: Services, item: CallApiItem) -> dict[str, Any]:
    api = await services.api(item.api)
    reply = await api.call(item.method, item.path, item.query, item.body)
    await trio.lowlevel.cancel_shielded_checkpoint()  # parsed; its text is made in another step
    return reply_data(item.api, item.path, reply)


def reply_data(api: str, path: str, reply: ApiReply) -> dict[str, Any]:
    """Return the reply of an API as JSON values."""
    return {
        "api": api,
        "path": path,
        "status": reply.status,
        "headers": reply.headers,
        "body": reply.body,
        "truncated": reply.truncated,
        "waited_seconds": round(reply.waited_seconds, 6),
        "retry_after_seconds": reply.retry_after_seconds,
        "elapsed_seconds": round(reply.elapsed, 6),
    }
