"""The operations that every server has, bound to its services."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from trio_tools.errors import ToolFailure
from trio_tools.files.hashing import hash_file, hash_text
from trio_tools.files.roots import FileRoots
from trio_tools.http.fetcher import Fetcher
from trio_tools.http.pages import FetchRequest
from trio_tools.http.urls import parse_url
from trio_tools.operations.base import Operation
from trio_tools.services import Services


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FetchItem(_Item):
    """One URL and what is wanted of it. A plain string is a URL with the defaults."""

    url: str = Field(description="Absolute http or https URL.")
    method: Literal["GET", "HEAD"] = "GET"
    headers: dict[str, str] = Field(default_factory=dict[str, str])
    body_as: Literal["text", "json", "markdown", "none"] = "text"
    max_bytes: int = Field(20_000, gt=0, description="Most bytes of body; the rest is not read.")

    @model_validator(mode="after")
    def _is_a_web_address(self) -> Self:
        try:
            parse_url(self.url)
        except ToolFailure as failure:
            raise ValueError(failure.message) from None
        return self


class HashItem(_Item):
    """A text or a file, exactly one of them."""

    text: str | None = None
    path: str | None = Field(None, description="A file under the allowed roots.")
    algorithm: str = "sha256"

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.text is None) == (self.path is None):
            raise ValueError("give either text or path")
        return self


def builtin_operations(services: Services) -> list[Operation]:
    """Return the built-in operations, bound to the services of a server."""
    return [
        Operation(
            name="fetch",
            fn=functools.partial(_fetch, services.fetcher),
            description="Fetch a URL: status, headers, length, and the body as text or JSON.",
            item_type=Annotated[FetchItem, BeforeValidator(_plain_url)],
            label=_url_of,
            limit_name="fetch_urls",
        ),
        Operation(
            name="hash",
            fn=functools.partial(_hash, services.files),
            description="Hash a text or a file under the allowed roots.",
            item_type=HashItem,
            runs="thread",
            limit_name="compute_hash",
        ),
    ]


def _plain_url(item: Any) -> Any:
    return {"url": item} if isinstance(item, str) else item


def _url_of(item: FetchItem) -> str:
    return item.url


async def _fetch(fetcher: Fetcher, item: FetchItem) -> dict[str, Any]:
    page = await fetcher.fetch(
        FetchRequest(
            url=item.url,
            method=item.method,
            headers=item.headers,
            body_as=item.body_as,
            max_bytes=item.max_bytes,
        )
    )
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


def _hash(files: FileRoots, item: HashItem) -> dict[str, Any]:
    if item.text is not None:
        return asdict(hash_text(item.text, algorithm=item.algorithm))
    assert item.path is not None
    return {"path": item.path, **asdict(hash_file(files, item.path, algorithm=item.algorithm))}
