"""`Fetcher`: one HTTP client for the life of the server, and one call per URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace

import trio

from trio_tools.http.fetching.content import media_of
from trio_tools.http.fetching.headers import RequestHeaders, within_origin, wrong_argument
from trio_tools.http.fetching.host_throttle import Places
from trio_tools.http.fetching.kept_pages import KeptPages
from trio_tools.http.fetching.pages import filled
from trio_tools.http.fetching.redirects import ChainCookies, location_of, redirected
from trio_tools.http.fetching.reply_cache import ReplyCache
from trio_tools.http.fetching.robots import MAX_ROBOTS_BYTES, Robots, RobotsReply
from trio_tools.http.fetching.throttled_client import ThrottledClient, out_of_time
from trio_tools.http.fetching.types import FetchConfig, FetchedPage, FetchRequest
from trio_tools.http.wire.client import Answer, Share, unshared
from trio_tools.http.wire.connector import Resolver, create_ssl_context
from trio_tools.http.wire.errors import Code, FetchError
from trio_tools.http.wire.urls import Target, parse_url

_NOT_MODIFIED = 304


class Fetcher(ThrottledClient):
    """One HTTP client: `async with Fetcher(config) as fetcher: await fetcher.fetch(...)`.

    Any number of tasks may call `fetch` at the same time; see `FetchConfig` for the bounds. It has
    no tasks of its own. Leaving the block closes every connection; a `fetch` that still runs then
    fails with `CONNECTION_LOST` or `CLIENT_CLOSED`.

    Args:
        config: What it may do.
        ssl_context: Gives the TLS settings, called once; by default strict ones.
        resolver: How names become addresses; by default the operating system's way.
        share: Makes concurrent look-ups of the same name, and concurrent requests for the same
            robots.txt, one: `functools.partial(single_flight, nursery=nursery)`. By default each
            task makes its own.
        places: Of the requests to each host, where several servers share them.
    """

    def __init__(
        self,
        config: FetchConfig | None = None,
        *,
        ssl_context: Callable[[], ssl.SSLContext] = create_ssl_context,
        resolver: Resolver | None = None,
        share: Share = unshared,
        places: Places | None = None,
    ) -> None:
        config = config or FetchConfig()
        super().__init__(
            config, ssl_context=ssl_context, resolver=resolver, share=share, places=places
        )
        self._kept = KeptPages()
        self._cache = ReplyCache(config.cache_seconds)
        self._robots = Robots(self._ask_for_robots, config.user_agent, share=share)
        self._most_bytes = config.max_body_bytes
        self._headers = RequestHeaders(config.user_agent, config.allow_headers)
        self._usual_reply_headers = _encoded_names(config.reply_headers)

    @property
    def timeout_seconds(self) -> float:
        """The most time that a request may ask for, and its default. May change at any time."""
        return self._config.timeout_seconds

    @timeout_seconds.setter
    def timeout_seconds(self, seconds: float) -> None:
        self._config = replace(self._config, timeout_seconds=seconds)

    async def fetch(self, request: FetchRequest) -> FetchedPage:
        """Fetch one URL, following redirects, each of them checked like the URL itself.

        A 429 or 503 is asked again after the pause it wants, if there is time for that; the
        connection and the host's slot are given back meanwhile. A body is not read beyond its cap.

        Raises:
            InvalidRequest: `INVALID_URL`, `INVALID_REQUEST`; nothing was sent.
            FetchRefused: `BLOCKED_*`; the settings do not allow it.
            FetchTimedOut: Time was up.
            HostCoolingDown: The host wants a longer pause than there is time for.
            FetchError: Any other failure at the other end.
        """
        started = trio.current_time()
        deadline = started + self._check(request)
        kept = self._kept.find(request) if request.offset else None
        if kept is not None:
            return self._kept.part(request, kept._replace(elapsed=0.0))
        target = parse_url(request.url)
        target, answer, redirects, from_cache = await self._follow(request, target, deadline)
        with trio.CancelScope(deadline=deadline):
            page = await self._page(request, target, answer)
            if from_cache:
                page = page._replace(from_cache=True)
            elapsed = trio.current_time() - started
            return self._kept.part(request, page._replace(elapsed=elapsed, redirects=redirects))
        raise out_of_time(target.url)

    async def sitemaps(self, url: str) -> tuple[str, ...]:
        """Return the URLs of the sitemaps that the robots.txt of a URL's origin names.

        Raises:
            InvalidRequest: It is no URL.
            FetchRefused: The settings do not allow its origin.
        """
        target = parse_url(url)
        self._guard.check_origin(target.origin)
        return await self._robots.sitemaps(target)

    async def _follow(
        self, request: FetchRequest, target: Target, deadline: float
    ) -> tuple[Target, Answer, int, bool]:
        """Ask for `target` and for what it leads to.

        Headers that may be credentials go to the first origin only, and no further.

        Returns:
            The last URL, its reply, how many redirects led there, and whether the reply was stored.
        """
        headers = request.headers
        lines = self._headers.lines(headers)
        cookies = ChainCookies()
        for redirects in range(self._config.max_redirects + 1):
            self._guard.check_origin(target.origin)
            if request.obey_robots or self._config.robots == "obey":
                await self._check_robots(target, deadline)
            cached = (
                self._cache.takes(request.method, headers) and cookies.value_for(target) is None
            )
            ask = self._ask_or_remember if cached else self._ask_afresh
            answer, from_cache = await ask(request, target, lines, deadline)
            location = location_of(answer.reply)
            if location is None:
                return target, answer, redirects, from_cache
            following = redirected(target, location)
            if request.within is not None and not request.within(following.url):
                return target, answer, redirects, from_cache
            cookies.keep(target, answer)
            previous, target = target, following
            if target.origin != previous.origin:
                headers = within_origin(headers)
            lines = self._headers.lines(headers, cookies.value_for(target))
        raise FetchError(
            f"{request.url} was redirected more than {self._config.max_redirects} times, last to "
            f"{target.url}.",
            code=Code.TOO_MANY_REDIRECTS,
            remediation="It may be a loop; ask for a later URL of the chain directly.",
        )

    async def _ask_afresh(
        self, request: FetchRequest, target: Target, lines: bytes, deadline: float
    ) -> tuple[Answer, bool]:
        return await self._ask_until_heard(request, target, lines, deadline), False

    async def _ask_or_remember(
        self, request: FetchRequest, target: Target, lines: bytes, deadline: float
    ) -> tuple[Answer, bool]:
        """Ask, unless there is a reply that may be used again; tell whether it was."""
        cache = self._cache
        wanted = (request.body_as, request.max_bytes, request.usual_bytes)
        key = (target.url, lines, wanted)
        known = cache.fresh(key)
        if known is not None:
            await trio.lowlevel.checkpoint()
            return known, True
        conditions = cache.conditions(key)
        answer = await self._ask_until_heard(request, target, conditions + lines, deadline)
        if conditions and answer.reply.status == _NOT_MODIFIED:
            same = cache.same(key, answer)
            if same is not None:
                return same, True
        cache.store(key, answer)
        return answer, False

    async def _check_robots(self, target: Target, deadline: float) -> None:
        with trio.CancelScope(deadline=deadline):
            await self._robots.check(target)
            return
        raise out_of_time(target.url)

    async def _ask_for_robots(self, target: Target) -> RobotsReply:
        """Return the robots.txt of an origin, fetched like any page."""
        request = FetchRequest(target.url, max_bytes=min(MAX_ROBOTS_BYTES, self._most_bytes))
        lines = self._headers.lines({})
        try:
            for _ in range(self._config.max_redirects + 1):
                self._guard.check_origin(target.origin)
                answer = await self._ask_once(request, target, lines)
                location = location_of(answer.reply)
                if location is None:
                    text = answer.body.decode("utf-8", "replace")
                    return RobotsReply(answer.reply.status, text)
                target = redirected(target, location)
        except FetchError:
            pass  # the page itself tells what is wrong
        return RobotsReply(None)

    def _check(self, request: FetchRequest) -> float:
        """Return the seconds that the request has, after a look at its arguments."""
        config = self._config
        if request.method not in {"GET", "HEAD"}:
            raise wrong_argument("method", request.method, '"GET" or "HEAD"')
        if request.body_as not in {"text", "json", "markdown", "none"}:
            raise wrong_argument("body_as", request.body_as, '"text", "json", "markdown" or "none"')
        if request.max_bytes is not None and not 0 < request.max_bytes <= config.max_body_bytes:
            raise wrong_argument(
                "max_bytes", request.max_bytes, f"from 1 to {config.max_body_bytes} bytes"
            )
        if request.max_chars is not None and request.max_chars < 1:
            raise wrong_argument("max_chars", request.max_chars, "at least 1 character")
        if request.offset < 0:
            raise wrong_argument("offset", request.offset, "0 or the next_offset of a page")
        seconds = request.timeout_seconds
        if seconds is None:
            return config.timeout_seconds
        if not 0 < seconds <= config.timeout_seconds:
            raise wrong_argument(
                "timeout_seconds", seconds, f"above 0 to {config.timeout_seconds:g} s"
            )
        return seconds

    async def _page(self, request: FetchRequest, target: Target, answer: Answer) -> FetchedPage:
        """Return what came of a URL; how long it took, and the redirects, are not in it yet."""
        names = self._usual_reply_headers
        if request.reply_headers is not None:
            names = _encoded_names(request.reply_headers)
        page = FetchedPage(
            url=request.url,
            final_url=target.url,
            status=answer.reply.status,
            headers={
                name: answer.fields[field].decode("latin-1")
                for name, field in names
                if field in answer.fields
            },
            content_type=media_of(answer.fields).name,
            charset=None,
            length=len(answer.body),
            truncated=answer.truncated,
            elapsed=0.0,
        )
        return await filled(page, request, answer)


def _encoded_names(names: Sequence[str]) -> list[tuple[str, bytes]]:
    return [(name.lower(), name.lower().encode("latin-1", "replace")) for name in names]
