"""`crawl_site`: the pages of a site in one call, each an outcome like those of a batch."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any

from mcp.types import ToolAnnotations
from pydantic import Field

from trio_tools.answers.errors import Forbidden, InvalidArgument
from trio_tools.live.crawls import crawl_operation
from trio_tools.live.state import ServerState
from trio_tools.operations.builtin.crawl import (
    MAX_DEPTH,
    MAX_PAGE_CHARS,
    CrawlItem,
    Scope,
    make_crawl,
)
from trio_tools.tools.batches.background import find_operation
from trio_tools.tools.batches.calls import BatchRequest, run_batch_call
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import USUAL, BatchOptions
from trio_tools.tools.declaring.declaration import Tool


def _is_on(state: ServerState) -> bool:
    return state.settings.fetch.crawl


async def crawl_site(
    call: Call,
    *,
    url: Annotated[str | None, Field(description="First page, http or https.")] = None,
    scope: Annotated[Scope, Field(description="Its host, or what is below its path.")] = "host",
    max_depth: Annotated[int, Field(ge=0, le=MAX_DEPTH, description="Links from there.")] = 2,
    max_pages: Annotated[int, Field(gt=0, description="Most pages.")] = 50,
    max_chars: Annotated[
        int, Field(gt=0, le=MAX_PAGE_CHARS, description="Most characters of a page.")
    ] = 2_000,
    how: BatchOptions = USUAL,
) -> Answer:
    """Crawl a site: follow links and its sitemap, each page as Markdown. Obeys robots.txt."""
    most = call.state.settings.max_items
    if max_pages > most:
        raise InvalidArgument(
            f"max_pages must be at most {most}, got {max_pages}: lower it",
            data={"argument": "max_pages", "maximum": most},
        )
    asked = await _asked(call, url, how.operation_id, scope, max_depth, max_pages, max_chars)
    crawl = make_crawl(call.state.services, call.state.settings, CrawlItem.model_validate(asked))
    answer = await run_batch_call(
        call,
        BatchRequest(
            operation=crawl_operation(call.state, crawl),
            items=[asked],
            items_argument="url",
            checked=True,
            source=crawl,
            **asdict(how),
        ),
    )
    if answer.data["counts"]["total"] < asked["max_pages"]:
        return answer
    told = f"The crawl found max_pages ({asked['max_pages']}) pages: there may be more."
    return replace(answer, warnings=[*answer.warnings, told])


async def _asked(
    call: Call,
    url: str | None,
    operation_id: str | None,
    scope: Scope,
    max_depth: int,
    max_pages: int,
    max_chars: int,
) -> dict[str, Any]:
    """Return the crawl to make; without a URL, that of the operation with that id."""
    if url is not None:
        return {
            "url": url,
            "scope": scope,
            "max_depth": max_depth,
            "max_pages": max_pages,
            "max_chars": max_chars,
        }
    if operation_id is None:
        raise InvalidArgument(
            "url is missing: give it, or an operation_id alone to go on with what is missing of an "
            "earlier crawl"
        )
    kept = await find_operation(call, operation_id)
    if kept.tool != call.tool:
        raise InvalidArgument(
            f"operation_id {operation_id!r} belongs to a call of {kept.tool}: go on with that tool",
            error_code="OPERATION_MISMATCH",
        )
    return kept.request[1][0]


CRAWL_SITE = Tool(
    fn=crawl_site,
    title="Crawl a site",
    execution="async (I/O-bound)",
    operation="crawl",
    task="optional",
    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=True),
    listed=_is_on,
    needs="fetch.crawl",
    refusal=Forbidden,
)
