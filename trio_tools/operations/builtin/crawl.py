"""`crawl`: the pages of a site, found by following links.

The pages are a `Frontier`: a visited page adds the pages that it links to. A crawl ends when no
page waits and no running page can add one. The key of the frontier, which is the URL, ends loops;
`max_depth` and `max_pages` end sites without an end, such as a calendar.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import trio
from pydantic import Field

from nursery_patterns import Frontier, FrontierFull, Status, run_batch
from trio_tools.answers.error_mapping import outcome_failure
from trio_tools.answers.texts import one_line
from trio_tools.http.fetching.types import FetchedPage, FetchRequest
from trio_tools.http.wire.errors import FetchError
from trio_tools.http.wire.urls import DEFAULT_PORTS, Target, parse_url
from trio_tools.operations.item_types import Item
from trio_tools.operations.operation import Operation
from trio_tools.services import Services
from trio_tools.settings import Settings

Scope = Literal["host", "path"]
Fetch = Callable[[FetchRequest], Awaitable[FetchedPage]]
NamedSitemaps = Callable[[str], Awaitable[Sequence[str]]]

MAX_DEPTH = 20
MAX_PAGE_CHARS = 100_000
_SUCCESS = 200
_SITEMAP_BYTES = 2_000_000
_SITEMAP_SECONDS = 10.0
_MAX_SITEMAPS = 5
_MAX_LOCATIONS = 10_000
# Parsing this many URLs is a step of a few milliseconds.
_URLS_PER_STEP = 500
# A page from a sitemap comes after the pages that the start links to, before the pages after
# those.
_SITEMAP_RANK = 1.5
_LOCATION = re.compile(r"<loc>(?:\s{0,20}<!\[CDATA\[)?([^<\]]{1,2000})", re.IGNORECASE)


class CrawlItem(Item):
    """The start and the bounds of a crawl."""

    url: str = Field(description="Absolute http or https URL of the first page.")
    scope: Scope = Field("host", description="Pages of the same host, or below the path too.")
    max_depth: int = Field(2, ge=0, le=MAX_DEPTH, description="Links from the first page.")
    max_pages: int = Field(50, gt=0, description="Most pages.")
    max_chars: int = Field(
        2_000, gt=0, le=MAX_PAGE_CHARS, description="Most characters of the text of each page."
    )
    timeout_seconds: float = Field(40.0, gt=0, description="Then it ends with what it has.")


class Found(NamedTuple):
    """A URL, its distance from the start in links, and its priority: lowest first."""

    url: str
    depth: int
    rank: float


class CrawlStart(NamedTuple):
    """What there is of a crawl when it starts or goes on.

    Attributes:
        entries: The pages that were added, in their order, each with the index under which it
            started; None if it did not.
        answered: The URL that was asked for first, by the one that answered.
    """

    entries: Sequence[tuple[Found, int | None]] = ()
    answered: Mapping[str, str] = {}


def _url_of(found: Found) -> str:
    return found.url


def _rank_of(found: Found) -> float:
    return found.rank


class Crawl:
    """One crawl: `Batch(crawl.visit, crawl.frontier)`.

    Args:
        fetch: Fetches a page.
        sitemaps: Returns the URLs of sitemaps in the robots.txt of a site; without it,
            `/sitemap.xml` is tried.
        item: The start and the bounds.
        obey_robots: Whether it requests nothing that a robots.txt forbids.
        start: What an earlier process did of it.

    Attributes:
        frontier: The pages.
        note_answer: Called when another URL than the one that was asked for answers for the first
            time: `note_answer(final_url, url)`.

    Raises:
        InvalidRequest: The start is no URL.
    """

    def __init__(
        self,
        fetch: Fetch,
        item: CrawlItem,
        *,
        obey_robots: bool,
        sitemaps: NamedSitemaps | None = None,
        start: CrawlStart = CrawlStart(),  # noqa: B008 - it is not changed
    ) -> None:
        self._fetch = fetch
        self._named_sitemaps = sitemaps
        self._item = item
        self._obey_robots = obey_robots
        self._start = first = parse_url(item.url)
        self._prefix = _prefix_of(first) if item.scope == "path" else "/"
        self._answered = dict(start.answered)
        how: Any = {"key": _url_of, "max_items": item.max_pages, "priority": _rank_of}
        self.frontier: Frontier[Found] = (
            Frontier.restore(start.entries, **how)
            if start.entries
            else Frontier([Found(first.url, 0, 0.0)], **how)
        )
        self.note_answer: Callable[[str, str], None] = _note_nothing

    async def visit(self, found: Found) -> dict[str, Any]:
        """Fetch a page and add the pages it links to; it can be repeated after a cancel.

        Raises:
            FetchError: The page cannot be fetched, or its robots.txt does not allow it.
        """
        goes_on = found.depth < self._item.max_depth
        if found.depth == 0 and goes_on:
            await self._add_sitemap()
        page = await self._fetch(
            FetchRequest(
                found.url,
                body_as="markdown",
                max_chars=self._item.max_chars,
                obey_robots=self._obey_robots,
                with_links=True,
                within=self._covers,
            )
        )
        if goes_on:
            following = found.depth + 1
            location = page.headers.get("location")
            links = (*page.links, location) if location else page.links
            self._add(links, page.final_url, following, float(following))
        if page.final_url not in self._answered:
            self._answered[page.final_url] = found.url
            if page.final_url != found.url:
                self.note_answer(page.final_url, found.url)
        same_as = self._answered[page.final_url]
        return _page_data(page, found, None if same_as == found.url else same_as)

    def _covers(self, url: str) -> bool:
        try:
            target = parse_url(url)
        except FetchError:
            return False
        return self._is_same_host(target) and _is_below(target, self._prefix)

    def _is_same_host(self, target: Target) -> bool:
        """Whether it is the host of the start, with or without TLS."""
        here, there = self._start.origin, target.origin
        if here.host != there.host:
            return False
        usual = all(DEFAULT_PORTS[at.scheme] == at.port for at in (here, there))
        return usual or here.port == there.port

    def _add(self, urls: Iterable[str], base: str, depth: int, rank: float) -> bool:
        """Add the URLs in scope; return False if the crawl is full."""
        for url in urls:
            try:
                target = parse_url(url, base=base)
            except FetchError:  # an invalid link
                continue
            if self._is_same_host(target) and _is_below(target, self._prefix):
                try:
                    self.frontier.add(Found(target.url, depth, rank))
                except FrontierFull:
                    return False
        return True

    async def _add_sitemap(self) -> None:
        """Add the URLs in the sitemaps of the site. A missing or invalid sitemap has none."""
        with trio.move_on_after(_SITEMAP_SECONDS):
            waiting = await self._sitemaps_of_site()
            for _ in range(_MAX_SITEMAPS):
                if not waiting:
                    return
                url = waiting.pop(0)
                text = await self._sitemap(url)
                found = islice(_LOCATION.finditer(text), _MAX_LOCATIONS)
                urls = [html.unescape(match[1]).strip() for match in found]
                if "<sitemapindex" in text[: _URLS_PER_STEP * 4]:
                    waiting += urls[:_MAX_SITEMAPS]
                    continue
                for begin in range(0, len(urls), _URLS_PER_STEP):
                    step = urls[begin : begin + _URLS_PER_STEP]
                    if not self._add(step, url, 1, _SITEMAP_RANK):
                        return
                    await trio.lowlevel.checkpoint()

    async def _sitemaps_of_site(self) -> list[str]:
        """Return the sitemaps in robots.txt, or else the default one."""
        start = self._start
        if self._named_sitemaps is not None:
            named = await self._named_sitemaps(start.url)
            if named:
                return list(named)
        return [f"{start.origin.scheme}://{start.host_header.decode('ascii')}/sitemap.xml"]

    async def _sitemap(self, url: str) -> str:
        def is_of_host(other: str) -> bool:
            return self._is_same_host(parse_url(other))

        try:
            if not is_of_host(url):
                return ""
            page = await self._fetch(
                FetchRequest(
                    url,
                    usual_bytes=_SITEMAP_BYTES,
                    obey_robots=self._obey_robots,
                    within=is_of_host,
                    gunzip=True,
                )
            )
        except FetchError:
            return ""
        return (page.text or "") if page.status == _SUCCESS else ""


def _note_nothing(_final_url: str, _url: str) -> None:
    """Stand in for a crawl that is in memory alone."""


def _prefix_of(start: Target) -> str:
    """Return the common beginning of the paths in the scope "path"."""
    path = start.path.decode("ascii").partition("?")[0]
    folder, _, last = path.rpartition("/")
    return f"{folder}/" if "." in last or not last else path


def _is_below(target: Target, prefix: str) -> bool:
    path = target.path.decode("ascii").partition("?")[0]
    if prefix.endswith("/"):
        return path.startswith(prefix)
    return path == prefix or path.startswith(f"{prefix}/")


def _page_data(page: FetchedPage, found: Found, same_as: str | None) -> dict[str, Any]:
    """Return a page as JSON values; fields that do not apply are omitted."""
    data: dict[str, Any] = {
        "url": found.url,
        "status": page.status,
        "title": page.title,
        "depth": found.depth,
        "links": len(page.links),
        "content_type": page.content_type,
    }
    if page.final_url != found.url:
        data["final_url"] = page.final_url
    if "location" in page.headers:
        data["location"] = page.headers["location"]
    if same_as is not None:
        return {**data, "same_as": same_as}
    if page.warnings:
        data["warnings"] = list(page.warnings)
    if page.next_offset is not None:
        data |= {"text_chars": page.text_chars, "next_offset": page.next_offset}
    data["text"] = page.text if page.text is not None else f"({page.note or 'no text'})"
    return data


def crawled_text(value: dict[str, Any]) -> str:
    """Return the text of a crawled page: its status, and below it its text."""
    line = f"{value['status']}, depth {value['depth']}, {value['links']} links"
    told = ("title", "final_url", "location", "same_as")
    parts = [f"{name}: {one_line(str(value[name]))}" for name in told if value.get(name)]
    parts += [f"warning: {warning}" for warning in value.get("warnings", ())]
    if "next_offset" in value:
        parts.append(
            f"the text has {value['text_chars']} characters; fetch_urls as markdown with "
            f"offset={value['next_offset']} reads on"
        )
    if value.get("text"):
        parts += [""] * bool(parts) + [value["text"]]
    return "\n".join([line, *parts])


def pages_operation(crawl: Crawl, computes_in: Literal["process", "cluster"]) -> Operation:
    """Return the operation whose items are the pages of one crawl."""
    return Operation(
        name="crawl",
        fn=crawl.visit,
        description="A page of a crawl.",
        item_type=Any,
        label=_url_of,
        render=crawled_text,
        limit_name="crawl_site",
        computes_in=computes_in,
    )


def make_crawl(
    services: Services,
    settings: Settings,
    item: CrawlItem,
    start: CrawlStart = CrawlStart(),  # noqa: B008 - it is not changed
) -> Crawl:
    """Return a crawl through the HTTP client of the server.

    Raises:
        InvalidRequest: The start is no URL.
    """

    async def fetch(request: FetchRequest) -> FetchedPage:
        return await (await services.fetcher()).fetch(request)

    async def sitemaps(url: str) -> Sequence[str]:
        return await (await services.fetcher()).sitemaps(url)

    obey = settings.fetch.crawl_robots == "obey"
    named = sitemaps if obey else None
    return Crawl(fetch, item, obey_robots=obey, sitemaps=named, start=start)


def crawl_operations(services: Services, settings: Settings) -> list[Operation]:
    """Return `crawl` if the settings enable it: an item is a site, its result the pages."""
    if not settings.fetch.crawl:
        return []
    return [
        Operation(
            name="crawl",
            fn=functools.partial(_crawl, services, settings),
            description="Crawl a site: its pages as Markdown.",
            item_type=CrawlItem,
            label=lambda item: item.url,
            computes_in="process",
        )
    ]


async def _crawl(services: Services, settings: Settings, item: CrawlItem) -> dict[str, Any]:
    if item.max_pages > settings.max_items:
        item = item.model_copy(update={"max_pages": settings.max_items})
    crawl = make_crawl(services, settings, item)
    limits = settings.limits_of("crawl_site")
    report = await run_batch(
        crawl.visit,
        crawl.frontier,
        timeout=item.timeout_seconds,
        limit=limits.concurrency,
        item_timeout=limits.item_timeout_seconds,
    )
    errors: list[dict[str, Any]] = []
    for outcome in report.outcomes:
        if outcome.status is not Status.SUCCEEDED:
            failure = outcome_failure(outcome)
            errors.append(
                {
                    "url": outcome.item.url,
                    "status": str(outcome.status),
                    "error_code": str(failure.error_code),
                    "reason": failure.user_message,
                }
            )
    return {
        "url": item.url,
        "complete": report.complete,
        "pages": report.values(),
        "errors": errors or None,
    }
