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

# Taking JSON apart holds the event loop: for some 25 ms with that many bytes, twice that where the
# machine is slow.
_MAX_JSON_BYTES = 500_000
MAX_METHOD_LENGTH = 20
MAX_CHARS = 1_000_000
_TEXT_BYTES = 20_000
_PAGE_BYTES = 2_000_000
_MARKDOWN_CHARS = 20_000
# What is larger is read in one step of the event loop and written in another.
_LARGE_BYTES = 50_000
_MAX_TYPE_CHARS = 60
_SLOW_SECONDS = 3.0  # what took less time says nothing about it
_NO_MEDIA_TYPE = re.compile(r"[^\w/+.-]")


class FetchItem(Item):
    """One URL and what is wanted of it. A plain string is a URL with the defaults."""

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
    """Return the most bytes of a body that may be asked for."""
    return min(max_body_bytes, _MAX_JSON_BYTES) if body_as == "json" else max_body_bytes


def _check_max_bytes(max_body_bytes: int, item: FetchItem) -> FetchItem:
    most = most_bytes(max_body_bytes, item.body_as)
    if item.max_bytes is not None and item.max_bytes > most:
        raise ValueError(f"max_bytes is at most {most} for {item.body_as}, got {item.max_bytes}")
    return item


def _request(item: FetchItem) -> FetchRequest:
    """Return what is asked of the fetcher.

    Who reads on, or wants a number of characters, has the text that is read on downloaded.
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
    """Return how a fetched page reads: what it is, and below it what it says."""
    # It stands outside of the markers, so it is no more than a media type.
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
    """Return a fetched page without what its item or its text tells, or what is as usual."""
    usual = {"url"} | {name for name in ("headers", "truncated") if not value.get(name)}
    if _opens_with(value, "title"):
        usual.add("title")
    return {name: field for name, field in value.items() if name not in usual}


def _opens_with(value: dict[str, Any], name: str) -> bool:
    """Whether the text of a page opens with its title, which so costs no line of its own."""
    return name == "title" and str(value.get("text")).startswith(f"# {value.get(name)}\n")


def reply_text(value: dict[str, Any]) -> str:
    """Return how the reply of an API reads: its status, and below it what it says."""
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
        # Decoded or parsed in this step; its text is made in the next one. Nothing is lost here.
        await trio.lowlevel.cancel_shielded_checkpoint()
    return page_data(page)


def page_data(page: FetchedPage) -> dict[str, Any]:
    """Return a page as JSON values; what does not apply to it is left out."""
    # Of a body that nobody asked for nothing is cut; its length is among the headers.
    asked_for = not (page.text is None and page.json is None and page.note is None)
    result: dict[str, Any] = {
        "url": page.url,
        "status": page.status,
        "content_type": page.content_type,
        "headers": _other_headers(page),
        "length": page.length,
        "truncated": page.truncated and asked_for,
    }
    if page.elapsed >= _SLOW_SECONDS:
        result["elapsed_seconds"] = round(page.elapsed, 3)
    if page.final_url not in {page.url, f"{page.url}/"}:
        result["final_url"] = page.final_url
    result |= _declared(page)
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


def _declared(page: FetchedPage) -> dict[str, Any]:
    """Return what a page says of itself, and its charset, unless it is declared to be UTF-8."""
    names = ["title", "canonical_url", "language", "pages"]
    if not (page.charset == "utf-8" and page.charset_declared):
        names += ["charset", "charset_declared"]
    return {name: value for name in names if (value := getattr(page, name)) is not None}


def _other_headers(page: FetchedPage) -> dict[str, str]:
    """Return the headers that tell what the rest of the result does not."""
    told = {"content-type"} if page.truncated else {"content-type", "content-length"}
    return {name: value for name, value in page.headers.items() if name not in told}


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
        "waited_seconds": round(reply.waited_seconds, 3),
        "retry_after_seconds": reply.retry_after_seconds,
        "elapsed_seconds": round(reply.elapsed, 3),
    }
