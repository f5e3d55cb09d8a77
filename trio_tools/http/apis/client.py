"""`ApiClient`: calls to one configured API, within its rate limit, with a protected secret.

The operator configures the API's name, its base URL and the environment variable of its secret. A
caller gives a method, a path and a query. The path cannot leave the allowed prefixes. The secret
is sent in one request header and removed from the reply.
"""

from __future__ import annotations

import json as jsonlib
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import trio

from nursery_patterns import Retry, TokenBucket, TokenBucketStatistics
from trio_tools.http.apis.paths import check_path
from trio_tools.http.apis.redaction import LEAST_SECRET_CHARS, Secret
from trio_tools.http.apis.types import ApiConfig, ApiReply, OwnPace, Pace, Waiting
from trio_tools.http.fetching.headers import header_lines
from trio_tools.http.fetching.hosts.host_throttle import HostLimits, Places
from trio_tools.http.fetching.hosts.throttling import (
    THROTTLED,
    ThrottledError,
    parse_retry_after,
    seconds_to_retry,
)
from trio_tools.http.fetching.text.content import decode_any_text, media_type, parse_json
from trio_tools.http.wire.address_policy import Guard
from trio_tools.http.wire.client import Answer, PooledClient, Share, unshared
from trio_tools.http.wire.codecs import accepted_encodings
from trio_tools.http.wire.connector import Resolver, create_ssl_context
from trio_tools.http.wire.errors import (
    Code,
    FetchError,
    FetchRefused,
    FetchTimedOut,
    InvalidRequest,
)
from trio_tools.http.wire.exchange import Timeouts, WireRequest
from trio_tools.http.wire.pool import PoolLimits
from trio_tools.http.wire.proxies import Proxies
from trio_tools.http.wire.urls import parse_url

_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_TOO_MANY = 429
_SHOWN_HEADERS = (b"content-type", b"etag", b"last-modified", b"link", b"retry-after")
_LIMIT_HEADERS = (b"x-ratelimit-limit", b"ratelimit-limit", b"x-rate-limit-limit")
_REMAINING_HEADERS = (b"x-ratelimit-remaining", b"ratelimit-remaining", b"x-rate-limit-remaining")


class ApiClient(PooledClient):
    """Calls one API: `async with ApiClient(config) as api: await api.call("GET", "/v1/items")`.

    Any number of tasks may call at the same time. A call waits for the end of a pause and for a
    slot of the API, then for a token of its bucket, and last for a token of `limiter`, each in
    order of arrival. So a waiting call holds no shared capacity that calls of other APIs could
    use. The rate token is taken last, when everything else is held. So tokens do not accumulate
    during a pause, a slow API or a full `limiter`, and cause no burst afterwards.

    Args:
        config: The API, and what is allowed.
        limiter: Capacity shared with other APIs; each request in flight holds a token of it.
        environ: The environment with the secret, read at each call, so that it can be rotated.
        ssl_context: Returns the TLS settings, called once; by default strict ones.
        resolver: Resolves names to addresses; by default with the operating system.
        share: Makes concurrent look-ups of the API's name share one; by default each task makes
            its own.
        pace: Determines when the next call may be sent; by default a bucket of this client.
        places: The limits of calls in flight, if several servers share them.

    Raises:
        InvalidRequest: The base URL is not a URL.
    """

    _is_trusted = True

    def __init__(
        self,
        config: ApiConfig,
        *,
        limiter: trio.CapacityLimiter | None = None,
        environ: Mapping[str, str] = os.environ,
        ssl_context: Callable[[], ssl.SSLContext] = create_ssl_context,
        resolver: Resolver | None = None,
        share: Share = unshared,
        pace: Pace | None = None,
        places: Places | None = None,
    ) -> None:
        self._config = config
        self._environ = environ
        self._base = parse_url(config.base_url)
        origin, most = self._base.origin, config.max_concurrent
        super().__init__(
            Guard(ports=frozenset({origin.port}), allow_hosts=frozenset({origin.host})),
            PoolLimits(max_connections=most, max_per_origin=most),
            timeouts=Timeouts(),
            ssl_context=ssl_context,
            resolver=resolver,
            proxies=(
                Proxies(config.proxy, resolves=config.proxy_resolves) if config.proxy else None
            ),
            share=share,
        )
        self._pace = pace or OwnPace(TokenBucket(config.rate_per_second, config.burst))
        # The first task in it waits until a token of the bucket is due, then takes both tokens.
        self._line = trio.StrictFIFOLock()
        # Number of calls that have not ended. After `retire`, the last one closes the
        # connections.
        self._calls = 0
        self._retired = False
        self._limiter = limiter or trio.CapacityLimiter(config.max_concurrent)
        self._slots = HostLimits(
            max_per_host=most,
            max_cooldown_seconds=config.max_cooldown_seconds,
            places=places,
        )
        retry = Retry(config.throttle_retries + 1, on=seconds_to_retry, budget=None)
        self._ask_with_retries = retry(self._ask_in_turn)

    def __repr__(self) -> str:
        return f"<ApiClient {self._config.name!r} at {self._base.url}>"

    def rate_limit(self) -> TokenBucketStatistics:
        """Return the state of the token bucket: available calls and number of waiting calls.

        Calls that wait for a slot count too: each of them needs a token next.
        """
        line = self._line.statistics()
        for_slots = sum(api.waiting for api in self._slots.snapshot().values())
        waiting = for_slots + line.locked + line.tasks_waiting
        return replace(self._pace.statistics(), waiting=waiting)

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | Sequence[str]] | None = None,
        json: Any = None,
        *,
        waiting: Waiting | None = None,
    ) -> ApiReply:
        """Call the API once, at its pace.

        Args:
            method: One of the allowed methods.
            path: Begins with "/" and with an allowed prefix; no query.
            query: Parameters; they are escaped here.
            json: Body, sent as JSON; None for no body.
            waiting: Measures how long the call waits, also if it fails.

        Raises:
            InvalidRequest: The query or the body cannot be sent.
            FetchRefused: `BLOCKED_METHOD`, `BLOCKED_PATH`; or the secret is missing.
            FetchTimedOut: The timeout expired.
            HostCoolingDown: The API requires a pause that is longer than the remaining time.
            FetchError: Any other failure of the API or the network.
        """
        started = trio.current_time()
        secret = self._secret()
        request = self._request(method, path, query, json, secret)
        self._calls += 1
        try:
            with trio.CancelScope(deadline=started + self._config.timeout_seconds):
                return await self._call(request, secret, started, waiting or Waiting())
        except FetchError as exc:
            if not (secret.is_in(exc.message) or secret.is_in(exc.remediation)):
                raise
            raise FetchError(
                f"{self._config.name} failed, in words that hold its secret.",
                code=Code(exc.error_code),
                phase=exc.phase,
            ) from None
        finally:
            self._calls -= 1
            self._close_if_unused()
        raise FetchTimedOut(
            f"{self._config.name} did not answer within {self._config.timeout_seconds:g} s.",
            code=Code.TIMEOUT,
            remediation="Call again later, or ask for less.",
        )

    def retire(self) -> None:
        """Close the connections when the last call has ended, or now without calls."""
        self._retired = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._retired and not self._calls:
            self.close()

    def _secret(self) -> Secret:
        name = self._config.auth_env
        if name is None:
            return Secret("")
        value = self._environ.get(name, "")
        if not value:
            raise FetchRefused(
                f"The secret of {self._config.name} is missing: the environment variable {name} is "
                "not set.",
                code=Code.MISSING_SECRET,
                remediation=f"Let the operator set {name} where this server runs.",
            )
        if len(value) < LEAST_SECRET_CHARS:
            raise FetchRefused(
                f"The secret of {self._config.name} is shorter than {LEAST_SECRET_CHARS} "
                "characters, so it could not be distinguished from other text in a reply.",
                code=Code.WEAK_SECRET,
                remediation=f"Let the operator set {name} to a longer one.",
            )
        return Secret(value, self._config.auth_prefix)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | Sequence[str]] | None,
        json: Any,
        secret: Secret,
    ) -> WireRequest:
        config, base = self._config, self._base
        if method not in config.allowed_methods:
            raise FetchRefused(
                f"{config.name} may not be called with {method}; allowed are "
                f"{', '.join(sorted(config.allowed_methods))}.",
                code=Code.BLOCKED_METHOD,
                remediation="Use an allowed method, or let the operator extend `allowed_methods`.",
            )
        target = check_path(path, config.allowed_path_prefixes, api=config.name)
        base_path = base.path.decode("ascii").partition("?")[0].rstrip("/")
        if query:
            target = f"{target}?{_query_text(query)}"
        headers = {
            "Host": base.host_header.decode("ascii"),
            "Accept": "application/json, */*;q=0.5",
            "Accept-Encoding": accepted_encodings(),
            "User-Agent": "trio-tools",
        }
        body = None
        if json is not None:
            body = _json_bytes(json)
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        elif method in {"POST", "PUT", "PATCH"}:
            headers["Content-Length"] = "0"
        if config.auth_env is not None:
            headers[config.auth_header] = config.auth_prefix + secret.reveal()
        line = f"{method} {base_path}{target} HTTP/1.1\r\n".encode("ascii")
        return WireRequest(base.origin, method, line + header_lines(headers), body)

    async def _call(
        self, request: WireRequest, secret: Secret, started: float, waiting: Waiting
    ) -> ApiReply:
        most, pause = self._config.max_reply_bytes, None
        try:
            answer = await self._ask_with_retries(request, most + secret.longest, waiting)
        except ThrottledError as throttled:
            answer, pause = throttled.answer, throttled.pause
        reply, fields, body, truncated = answer
        truncated = truncated or len(body) > most
        return ApiReply(
            status=reply.status,
            headers={
                field.decode(): secret.redact(fields[field].decode("latin-1"))
                for field in _SHOWN_HEADERS
                if field in fields
            },
            body=await _value(secret, body, fields, cut_at=most if truncated else None),
            truncated=truncated,
            waited_seconds=waiting.seconds,
            limit=_first_number(secret, fields, _LIMIT_HEADERS),
            remaining=_first_number(secret, fields, _REMAINING_HEADERS),
            retry_after_seconds=pause,
            elapsed=trio.current_time() - started,
        )

    async def _ask_in_turn(self, request: WireRequest, max_bytes: int, waiting: Waiting) -> Answer:
        """Send a request when the API accepts one.

        Raises:
            ThrottledError: The API answered 429 or 503.
        """
        name, slots = self._config.name, self._slots
        waiting.begin()
        while True:
            await slots.enter(name)
            try:
                async with AsyncExitStack() as held:
                    async with self._line:
                        await self._pace.ready(self._line.statistics().tasks_waiting)
                        await held.enter_async_context(self._limiter)
                        if slots.cooling_seconds(name):
                            continue  # a pause began while this call waited
                        # Not earlier, since a token counts from this moment.
                        await self._pace.take()
                    waiting.end()
                    sent = trio.current_time()
                    answer = await self._ask(request, lambda _reply, _fields: max_bytes)
                if answer.reply.status not in THROTTLED:
                    slots.answered_well(name)
                    return answer
                wanted = parse_retry_after(answer.fields.get(b"retry-after", b""))
                raise ThrottledError(
                    answer,
                    slots.refused(name, started=sent, retry_after=wanted),
                    repeatable=answer.reply.status == _TOO_MANY or request.method in _REPEATABLE,
                )
            finally:
                slots.leave(name)


def _query_text(query: Mapping[str, str | Sequence[str]]) -> str:
    try:
        return urlencode(query, doseq=True)
    except UnicodeEncodeError as exc:
        raise InvalidRequest(
            "The query cannot be sent: it contains a lone surrogate.",
            code=Code.INVALID_REQUEST,
            remediation="Give text that can be written as UTF-8.",
        ) from exc


def _json_bytes(value: Any) -> bytes:
    try:
        return jsonlib.dumps(value, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidRequest(
            f"The body cannot be sent as JSON: {exc}.",
            code=Code.INVALID_REQUEST,
            remediation="Give objects, lists, text, finite numbers, true, false or null.",
        ) from exc


async def _value(
    secret: Secret, body: bytes, fields: Mapping[bytes, bytes], *, cut_at: int | None
) -> Any:
    if not body:
        return None
    media = media_type(fields.get(b"content-type", b""))
    if cut_at is None and "json" in (media.name or "json"):
        try:
            return secret.redact_value(parse_json(body))
        except FetchError:
            pass  # an API with an error may answer with anything; its text is more useful
    text = (await decode_any_text(body, media, final=cut_at is None)).text
    if cut_at is None:
        return secret.redact(text)
    shown = (await decode_any_text(body[:cut_at], media, final=False)).text
    return secret.redact(text, cut_at=len(shown))


def _first_number(
    secret: Secret, fields: Mapping[bytes, bytes], names: Sequence[bytes]
) -> int | None:
    for name in names:
        value = fields.get(name, b"").strip()
        if value.isdigit() and not secret.is_in(value.decode("ascii")):
            return int(value[:18])
    return None
