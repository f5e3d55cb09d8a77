"""`Fetcher`: one HTTP client for the life of the server, and one call per URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from functools import partial

import trio

from trio_tools.http.fetching.content import (
    MediaType,
    decode_text,
    media_type,
    parse_json,
    to_markdown,
)
from trio_tools.http.fetching.headers import RequestHeaders, without_credentials, wrong_argument
from trio_tools.http.fetching.host_throttle import HostLimits, HostState, parse_retry_after
from trio_tools.http.fetching.types import FetchConfig, FetchedPage, FetchRequest
from trio_tools.http.wire.client import Answer, Fields, PooledClient
from trio_tools.http.wire.connector import Resolver, create_ssl_context
from trio_tools.http.wire.errors import Code, FetchError, FetchTimedOut, InvalidRequest, Phase
from trio_tools.http.wire.exchange import Timeouts, WireRequest
from trio_tools.http.wire.pool import PoolLimits
from trio_tools.http.wire.response_parser import Reply
from trio_tools.http.wire.urls import Target, parse_url

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_THROTTLED = frozenset({429, 503})


class Fetcher(PooledClient):
    """One HTTP client: `async with Fetcher(config) as fetcher: await fetcher.fetch(...)`.

    Any number of tasks may call `fetch` at the same time; see `FetchConfig` for the bounds. It has
    no tasks of its own. Leaving the block closes every connection; a `fetch` that still runs then
    fails with `CONNECTION_LOST` or `CLIENT_CLOSED`.

    Args:
        config: What it may do.
        ssl_context: Gives the TLS settings, called once; by default strict ones.
        resolver: How names become addresses; by default the operating system's way.
    """

    def __init__(
        self,
        config: FetchConfig | None = None,
        *,
        ssl_context: Callable[[], ssl.SSLContext] = create_ssl_context,
        resolver: Resolver | None = None,
    ) -> None:
        self._config = config = config or FetchConfig()
        super().__init__(
            config.guard(),
            PoolLimits(
                max_connections=config.max_connections,
                max_per_origin=config.max_connections_per_host,
                keepalive_seconds=config.keepalive_seconds,
            ),
            timeouts=Timeouts(connect=config.connect_timeout_seconds),
            max_head_bytes=config.max_head_bytes,
            ssl_context=ssl_context,
            resolver=resolver,
        )
        self._hosts = HostLimits(
            max_per_host=config.max_connections_per_host,
            max_cooldown_seconds=config.max_cooldown_seconds,
        )
        self._headers = RequestHeaders(config.user_agent, config.allow_headers)
        self._usual_reply_headers = _encoded_names(config.reply_headers)

    def hosts(self) -> dict[str, HostState]:
        """Return the hosts in use or in trouble, by name."""
        return self._hosts.snapshot()

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
        target = parse_url(request.url)
        lines = self._headers.lines(request.headers)
        for redirects in range(self._config.max_redirects + 1):
            self._guard.check_origin(target.origin)
            answer = await self._ask_until_heard(request, target, lines, deadline)
            location = _location(answer)
            if location is None:
                return await self._page(request, target, answer, started, redirects)
            previous, target = target, _redirected(target, location)
            if target.origin != previous.origin:
                lines = self._headers.lines(without_credentials(request.headers))
        raise FetchError(
            f"{request.url} was redirected more than {self._config.max_redirects} times, last to "
            f"{target.url}.",
            code=Code.TOO_MANY_REDIRECTS,
            remediation="It may be a loop; ask for a later URL of the chain directly.",
        )

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
        seconds = request.timeout_seconds
        if seconds is None:
            return config.timeout_seconds
        if not 0 < seconds <= config.timeout_seconds:
            raise wrong_argument(
                "timeout_seconds", seconds, f"above 0 to {config.timeout_seconds:g} s"
            )
        return seconds

    async def _ask_until_heard(
        self, request: FetchRequest, target: Target, lines: bytes, deadline: float
    ) -> Answer:
        """Ask, and ask again after the pause that a 429 or 503 wants, if there is time for it."""
        retries = self._config.throttle_retries
        while True:
            with trio.CancelScope(deadline=deadline):
                answer, pause = await self._ask_in_turn(request, target, lines, deadline)
                if pause is None or not retries:
                    return answer
                if trio.current_time() + pause >= trio.current_effective_deadline():
                    return answer
                retries -= 1
                continue
            raise _out_of_time(target.url)

    async def _ask_in_turn(
        self, request: FetchRequest, target: Target, lines: bytes, deadline: float
    ) -> tuple[Answer, float | None]:
        """Ask when the host may be asked; tell it off if it refuses or is slow.

        Returns:
            The answer, and the seconds that the host wants to be left alone if it refused.
        """
        head = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (
            request.method.encode("ascii"),
            target.path,
            target.host_header,
            lines,
        )
        wire_request = WireRequest(target.origin, request.method, head)
        hosts, host = self._hosts, target.origin.host
        if not hosts.enter_at_once(host):
            await hosts.enter(host)
        started = trio.current_time()
        answer = None
        try:
            answer = await self._ask(wire_request, partial(self._wanted_bytes, request))
            if answer.reply.status not in _THROTTLED:
                hosts.answered_well(host)
                return answer, None
            wanted = parse_retry_after(answer.fields.get(b"retry-after", b""))
            return answer, hosts.refused(host, started=started, retry_after=wanted)
        except FetchTimedOut:
            hosts.timed_out(host, started=started)
            raise
        finally:
            if answer is None and trio.current_time() >= deadline:
                hosts.timed_out(host, started=started)
            hosts.leave(host)

    def _wanted_bytes(self, request: FetchRequest, reply: Reply, fields: Fields) -> int:
        if reply.status in _REDIRECTS or request.body_as == "none":
            return 0
        if request.body_as != "json" and not _media_of(fields).is_text:
            return 0
        return self._config.max_body_bytes if request.max_bytes is None else request.max_bytes

    async def _page(
        self,
        request: FetchRequest,
        target: Target,
        answer: Answer,
        started: float,
        redirects: int,
    ) -> FetchedPage:
        text = charset = value = None
        status, media, body = answer.reply.status, _media_of(answer.fields), answer.body
        if request.body_as == "json" and request.method == "GET" and body:
            if answer.truncated:
                raise _json_too_large(target.url, len(body))
            try:
                value = parse_json(body)
            except FetchError:
                if status < 400:  # noqa: PLR2004 - an error page may be anything
                    raise
                text, charset = decode_text(body, media, final=True)
        elif request.body_as in {"text", "markdown"} and (media.is_text or body):
            text, charset = decode_text(body, media, final=not answer.truncated)
            if request.body_as == "markdown" and body:
                text = await self._markdown(text, media, target.url, started, request)
        names = self._usual_reply_headers
        if request.reply_headers is not None:
            names = _encoded_names(request.reply_headers)
        return FetchedPage(
            url=request.url,
            final_url=target.url,
            status=status,
            headers={
                name: answer.fields[field].decode("latin-1")
                for name, field in names
                if field in answer.fields
            },
            content_type=media.name,
            charset=charset,
            length=len(body),
            truncated=answer.truncated,
            elapsed=trio.current_time() - started,
            redirects=redirects,
            text=text,
            json=value,
        )

    async def _markdown(
        self, text: str, media: MediaType, url: str, started: float, request: FetchRequest
    ) -> str:
        with trio.CancelScope(deadline=started + self._check(request)):
            return await to_markdown(text, media, url)
        raise _out_of_time(url)


def _encoded_names(names: Sequence[str]) -> list[tuple[str, bytes]]:
    return [(name.lower(), name.lower().encode("latin-1", "replace")) for name in names]


def _media_of(fields: Fields) -> MediaType:
    return media_type(fields.get(b"content-type", b""))


def _location(answer: Answer) -> str | None:
    if answer.reply.status not in _REDIRECTS:
        return None
    location = answer.fields.get(b"location")
    # Servers send UTF-8 here where they should have escaped it.
    return location.decode("utf-8", "replace") if location else None


def _redirected(target: Target, location: str) -> Target:
    try:
        return parse_url(location, base=target.url)
    except InvalidRequest as exc:  # the caller's URL was a good one
        raise FetchError(
            f"{target.url} redirects to what is no URL: {exc.message}",
            code=Code.INVALID_URL,
            remediation="The server is broken; ask for where it should lead to directly.",
        ) from exc


def _out_of_time(url: str) -> FetchTimedOut:
    return FetchTimedOut(
        f"{url} was not fetched in the time it had.",
        code=Code.TIMEOUT,
        remediation="Try again later, allow more time, or fetch less of it with max_bytes.",
        phase=Phase.TOTAL,
    )


def _json_too_large(url: str, length: int) -> FetchError:
    return FetchError(
        f"The JSON at {url} is longer than {length} bytes, and half of it has no meaning.",
        code=Code.TOO_LARGE,
        remediation='Raise max_bytes, ask the API for less, or fetch it with body_as="text".',
    )
