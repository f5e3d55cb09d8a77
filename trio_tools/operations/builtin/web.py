"""`fetch` and `call_api`: one request each."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import trio
from pydantic import AfterValidator, BeforeValidator, Field

from trio_tools.answers.texts import json_line, one_line
from trio_tools.http.fetching.types import FetchedPage, FetchRequest
from trio_tools.http.wire.urls import MAX_URL_LENGTH
from trio_tools.operations.item_types import Item, TextLists, Texts
from trio_tools.operations.operation import Operation
from trio_tools.services import Services
from trio_tools.settings import Settings

if TYPE_CHECKING:
    from trio_tools.http.apis.types import ApiReply

# Parsing JSON blocks the event loop: for some 25 ms with this many bytes, twice that on a slow
# machine.
_MAX_JSON_BYTES = 500_000
MAX_METHOD_LENGTH = 20
MAX_CHARS = 1_000_000
_TEXT_BYTES = 20_000
_PAGE_BYTES = 2_000_000
_MARKDOWN_CHARS = 20_000
# Above this size it is parsed in one step of the event loop and serialised in another.
_LARGE_BYTES = 50_000
_MAX_TYPE_CHARS = 60
_SLOW_SECONDS = 3.0  # a lean answer omits a shorter time
_NO_MEDIA_TYPE = re.compile(r"[^\w/+.-]")


class FetchItem(Item):
    """One URL and how it is fetched. A plain string is a URL with the defaults."""

    url: str = Field(description="Absolute http or https URL.")
    method: Literal["GET", "HEAD"] = "GET"
    headers: Texts = Field(default_factory=dict[str, str])
    body_as: Literal["text", "json", "markdown", "none"] = "text"
    max_bytes: int | None = Field(
        None,
        gt=0,
        description="Most bytes downloaded; by default 20,000, and 2,000,000 for markdown.",
    )
    max_chars: int | None = Field(
        None,
        gt=0,
        le=MAX_CHARS,
        description="Most characters of text in the result; by default 20,000 for markdown.",
    )
    offset: int = Field(
        0, ge=0, description="Where to begin in the text: next_offset of a result before."
    )


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
            description="Fetch a URL.",
            item_type=Annotated[FetchItem, BeforeValidator(_plain_url), AfterValidator(within)],
            label=_url_of,
            render=page_text,
            lean=lean_page,
            limit_name="fetch_urls",
            computes_in="process",
        ),
        Operation(
            name="call_api",
            fn=functools.partial(_call_api, services),
            description="Call a configured HTTP API: status, headers and body.",
            item_type=CallApiItem,
            label=_call_of,
            render=reply_text,
            limit_name="call_external_api",
            takes_own_place=True,  # while a request is in flight, not while it waits for a token
        ),
    ]


def _plain_url(item: Any) -> Any:
    return {"url": item} if isinstance(item, str) else item


def most_bytes(max_body_bytes: int, body_as: str) -> int:
    """Return the largest allowed limit of bytes of a body."""
    return min(max_body_bytes, _MAX_JSON_BYTES) if body_as == "json" else max_body_bytes


def _check_max_bytes(max_body_bytes: int, item: FetchItem) -> FetchItem:
    most = most_bytes(max_body_bytes, item.body_as)
    if item.max_bytes is not None and item.max_bytes > most:
        raise ValueError(f"max_bytes is at most {most} for {item.body_as}, got {item.max_bytes}")
    return item


def _request(item: FetchItem) -> FetchRequest:
    """Return the request for the fetcher.

    If the item continues reading, or wants a number of characters, the whole text is downloaded.
    """
    of_markdown = item.body_as == "markdown"
    reads_on = item.body_as == "text" and (item.offset or item.max_chars)
    return FetchRequest(
        url=item.url,
        method=item.method,
        headers=item.headers,
        body_as=item.body_as,
        max_bytes=item.max_bytes,
        usual_bytes=_PAGE_BYTES if reads_on else _TEXT_BYTES,
        max_chars=item.max_chars or (_MARKDOWN_CHARS if of_markdown else None),
        offset=item.offset,
    )


def _url_of(item: FetchItem) -> str:
    return item.url


def _call_of(item: CallApiItem) -> str:
    return f"{item.api} {item.method} {item.path}"


def page_text(value: dict[str, Any]) -> str:
    """Return the text of a fetched page: status and type, and below it its text."""
    # It is outside of the markers, so it must not be more than a media type.
    kind = _NO_MEDIA_TYPE.sub("?", value["content_type"] or "untyped")[:_MAX_TYPE_CHARS]
    told = f"{value['status']} {kind}, {value['length']:,} bytes"
    if value["truncated"]:
        told += f", cut at {value['length']:,}"
    if charset := value.get("charset"):
        told += f", {charset}"
    if seconds := value.get("elapsed_seconds"):
        told += f", {seconds} s"
    parts: list[str] = []
    if value["headers"]:
        parts.append(f"headers: {json_line(value['headers'])}")
    told_of = ("final_url", "title", "canonical_url", "language", "pages")
    parts += [
        f"{name}: {one_line(str(value[name]))}"
        for name in told_of
        if name in value and not _opens_with(value, name)
    ]
    if value.get("charset_declared") is False and value["charset"] != "utf-8":
        parts.append("the charset is detected: nothing declares it")
    parts += [f"warning: {warning}" for warning in value.get("warnings", [])]
    if "next_offset" in value:
        parts.append(
            f"the text has {value['text_chars']} characters; offset={value['next_offset']} reads on"
        )
    if "json" in value:
        parts.append(json_line(value["json"]))
    if "text" in value:
        parts += [""] * bool(parts) + [value["text"]]
    return "\n".join([told, *parts])


def lean_page(value: dict[str, Any]) -> dict[str, Any]:
    """Return a fetched page without fields that repeat its item or text, or have default values."""
    usual = {"url"} | {name for name in ("headers", "truncated") if not value.get(name)}
    if _opens_with(value, "title"):
        usual.add("title")
    if value.get("elapsed_seconds", 0) < _SLOW_SECONDS:
        usual.add("elapsed_seconds")
    if value.get("charset") == "utf-8" and value.get("charset_declared"):
        usual |= {"charset", "charset_declared"}
    return {name: field for name, field in value.items() if name not in usual}


def _opens_with(value: dict[str, Any], name: str) -> bool:
    """Whether the text of a page begins with its title, which then needs no line of its own."""
    return name == "title" and str(value.get("text")).startswith(f"# {value.get(name)}\n")


def reply_text(value: dict[str, Any]) -> str:
    """Return the text of an API's reply: its status, and below it its body."""
    told = f"status {value['status']}, {value['elapsed_seconds']} s"
    if value["waited_seconds"]:
        told += f", {value['waited_seconds']} s of it waited"
    if value["retry_after_seconds"] is not None:
        told += f", call again in {value['retry_after_seconds']} s"
    if value["truncated"]:
        told += ", cut"
    body = value["body"]
    return "\n".join(
        [
            told,
            f"headers: {json_line(value['headers'])}",
            "",
            body if isinstance(body, str) else json_line(body),
        ]
    )


async def _fetch(services: Services, item: FetchItem) -> dict[str, Any]:
    fetcher = await services.fetcher()
    page = await fetcher.fetch(_request(item))
    if page.length > _LARGE_BYTES:
        # Decoded or parsed in this step; the text is made in the next one. The result is not lost
        # here.
        await trio.lowlevel.cancel_shielded_checkpoint()
    return page_data(page)


def page_data(page: FetchedPage) -> dict[str, Any]:
    """Return a page as JSON values; fields that do not apply are omitted."""
    # A body that was not requested is not truncated; its length is among the headers.
    asked_for = not (page.text is None and page.json is None and page.note is None)
    result: dict[str, Any] = {
        "url": page.url,
        "status": page.status,
        "content_type": page.content_type,
        "headers": _other_headers(page),
        "length": page.length,
        "truncated": page.truncated and asked_for,
        "elapsed_seconds": round(page.elapsed, 3),
    }
    if page.final_url not in {page.url, f"{page.url}/"}:
        result["final_url"] = page.final_url
    for name in ("title", "canonical_url", "language", "pages", "charset", "charset_declared"):
        if (value := getattr(page, name)) is not None:
            result[name] = value
    if page.from_cache:
        result["from_cache"] = True
    if page.warnings:
        result["warnings"] = list(page.warnings)
    if page.json is not None:
        result["json"] = page.json
    if page.next_offset is not None:
        result |= {"text_chars": page.text_chars, "next_offset": page.next_offset}
    if page.text is not None:
        result["text"] = page.text
    elif page.note is not None:
        result["text"] = f"({page.note})"
    return result


def _other_headers(page: FetchedPage) -> dict[str, str]:
    """Return the headers that add something to the rest of the result."""
    told = {"content-type"} if page.truncated else {"content-type", "content-length"}
    return {name: value for name, value in page.headers.items() if name not in told}


async def _call_api(services: Services, item: CallApiItem) -> dict[str, Any]:
    api = await services.api(item.api)
    reply = await api.call(item.method, item.path, item.query, item.body)
    # After parsing; the text is made in another step.
    await trio.lowlevel.cancel_shielded_checkpoint()
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
        "waited_seconds": round(reply.waited_seconds, 3),
        "retry_after_seconds": reply.retry_after_seconds,
        "elapsed_seconds": round(reply.elapsed, 3),
    }
