"""`Fetcher`: one HTTP client for the life of the server, and one call per URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import trio

from trio_tools.http.fetching.headers import RequestHeaders, within_origin, wrong_argument
from trio_tools.http.fetching.hosts.host_throttle import Places
from trio_tools.http.fetching.hosts.throttled_client import ThrottledClient
from trio_tools.http.fetching.kept_pages import KeptPages
from trio_tools.http.fetching.redirects import ChainCookies, location_of, redirected
from trio_tools.http.fetching.reply_cache import ReplyCache
from trio_tools.http.fetching.robots import MAX_ROBOTS_BYTES, Robots, RobotsReply
from trio_tools.http.fetching.text.content import media_of
from trio_tools.http.fetching.text.page_content import Content, content_of
from trio_tools.http.fetching.types import FetchConfig, FetchedPage, FetchRequest
from trio_tools.http.wire.client import Answer, Share, unshared
from trio_tools.http.wire.connector import Resolver, create_ssl_context
from trio_tools.http.wire.errors import Code, FetchError, FetchTimedOut, Phase
from trio_tools.http.wire.urls import Target, parse_url

_NOT_MODIFIED = 304


class _Found(NamedTuple):
    """The result of following a URL."""

    target: Target
    """The last URL, after redirects."""
    answer: Answer
    redirects: int
    from_cache: bool


class Fetcher(ThrottledClient):
    """One HTTP client: `async with Fetcher(config) as fetcher: await fetcher.fetch(...)`.

    Any number of tasks may call `fetch` at the same time; see `FetchConfig` for the bounds. It has
    no tasks of its own. Leaving the block closes every connection; a `fetch` that still runs then
    fails with `CONNECTION_LOST` or `CLIENT_CLOSED`.

    Args:
        config: What it may do.
        ssl_context: Returns the TLS settings, called once; by default strict ones.
        resolver: Resolves names to addresses; by default with the operating system.
        share: Makes concurrent look-ups of the same name, and concurrent requests for the same
            robots.txt, share one: `functools.partial(single_flight, nursery=nursery)`. By default
            each task makes its own.
        places: The limits of requests to each host, if several servers share them.
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
        self._cache = ReplyCache(config.cache_seconds) if config.cache_seconds else None
        self._robots = Robots(self._ask_for_robots, config.user_agent, share=share)
        self._most_bytes = config.max_body_bytes
        self._headers = RequestHeaders(config.user_agent, config.allow_headers)
        self._usual_reply_headers = _encoded_names(config.reply_headers)

    @property
    def timeout_seconds(self) -> float:
        """Cap and default of a request's timeout. May be changed at any time."""
        return self._config.timeout_seconds

    @timeout_seconds.setter
    def timeout_seconds(self, seconds: float) -> None:
        self._config = self._config.model_copy(update={"timeout_seconds": seconds})

    async def fetch(self, request: FetchRequest) -> FetchedPage:
        """Fetch one URL, following redirects. Each redirect is checked like the URL itself.

        A 429 or 503 is retried after the requested pause, if there is time; the connection and
        the host's slot are released meanwhile. A body is not read beyond its cap.

        Raises:
            InvalidRequest: `INVALID_URL`, `INVALID_REQUEST`; nothing was sent.
            FetchRefused: `BLOCKED_*`; the settings do not allow it.
            FetchTimedOut: The timeout expired.
            HostCoolingDown: The host requires a pause that is longer than the remaining time.
            FetchError: Any other failure of the server or the network.
        """
        started = self._now()
        deadline = started + self._check(request)
        kept = self._kept.find(request) if request.offset else None
        if kept is not None:
            return self._kept.part(request, kept._replace(elapsed=0.0))
        target = parse_url(request.url)
        with trio.CancelScope(deadline=deadline):
            found = await self._follow(request, target, deadline)
            content = await content_of(request, found.answer, found.target.url)
            return self._kept.part(request, self._page(request, found, content, started))
        raise FetchTimedOut(
            f"{target.url} was not fetched in the time it had.",
            code=Code.TIMEOUT,
            remediation="Try again later, allow more time, or fetch less of it with max_bytes.",
            phase=Phase.TOTAL,
        )

    async def sitemaps(self, url: str) -> tuple[str, ...]:
        """Return the URLs of the sitemaps in the robots.txt of a URL's origin.

        Raises:
            InvalidRequest: It is not a URL.
            FetchRefused: The settings do not allow its origin.
        """
        target = parse_url(url)
        self._guard.check_origin(target.origin)
        return await self._robots.sitemaps(target)

    async def _follow(self, request: FetchRequest, target: Target, deadline: float) -> _Found:
        """Fetch `target` and follow its redirects.

        Headers that may contain credentials are sent only to the first origin.
        """
        headers = request.headers
        cookies: ChainCookies | None = None
        cookie: str | None = None
        lines = self._headers.lines(headers)
        obey_robots = request.obey_robots or self._config.robots == "obey"
        for redirects in range(self._config.max_redirects + 1):
            self._guard.check_origin(target.origin)
            if obey_robots:
                await self._robots.check(target)
            cache = self._cache_for(request.method, headers)
            if cache is None or cookie is not None:
                answer = await self._ask_until_heard(request, target, lines, deadline)
                from_cache = False
            else:
                answer, from_cache = await self._ask_or_remember(
                    cache, request, target, lines, deadline
                )
            location = location_of(answer.reply)
            if location is None:
                return _Found(target, answer, redirects, from_cache)
            following = redirected(target, location)
            if request.within is not None and not request.within(following.url):
                return _Found(target, answer, redirects, from_cache)
            cookies = cookies or ChainCookies()
            cookies.keep(target, answer)
            previous, target = target, following
            if target.origin != previous.origin:
                headers = within_origin(headers)
            cookie = cookies.value_for(target)
            lines = self._headers.lines(headers, cookie)
        raise FetchError(
            f"{request.url} was redirected more than {self._config.max_redirects} times, last to "
            f"{target.url}.",
            code=Code.TOO_MANY_REDIRECTS,
            remediation="It may be a loop; ask for a later URL of the chain directly.",
        )

    def _cache_for(self, method: str, headers: Mapping[str, str]) -> ReplyCache | None:
        """Return the cache, if there is one and the reply to such a request may be in it."""
        cache = self._cache
        return cache if cache is not None and cache.takes(method, headers) else None

    async def _ask_or_remember(
        self,
        cache: ReplyCache,
        request: FetchRequest,
        target: Target,
        lines: bytes,
        deadline: float,
    ) -> tuple[Answer, bool]:
        """Send a request, or reuse a cached reply; return whether it was cached."""
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
            pass  # the request for the page reports the error
        return RobotsReply(None)

    def _check(self, request: FetchRequest) -> float:
        """Check the arguments of a request, and return its timeout in seconds."""
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

    def _page(
        self, request: FetchRequest, found: _Found, content: Content, started: float
    ) -> FetchedPage:
        """Return the page of a URL. It is made once: a page has too many fields to copy it."""
        names, answer = self._usual_reply_headers, found.answer
        if request.reply_headers is not None:
            names = _encoded_names(request.reply_headers)
        fields = answer.fields
        return FetchedPage(
            url=request.url,
            final_url=found.target.url,
            status=answer.reply.status,
            headers={
                name: fields[field].decode("latin-1") for name, field in names if field in fields
            },
            content_type=media_of(fields).name,
            length=len(answer.body),
            truncated=answer.truncated,
            elapsed=self._now() - started,
            redirects=found.redirects,
            from_cache=found.from_cache,
            **content._asdict(),
        )


def _encoded_names(names: Sequence[str]) -> list[tuple[str, bytes]]:
    return [(name.lower(), name.lower().encode("latin-1", "replace")) for name in names]
