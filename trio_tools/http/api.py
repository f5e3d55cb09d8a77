"""`ApiClient`: calls to one configured API, at its pace, with a secret that nobody sees.

The operator names the API, its base URL and the environment variable that holds its secret; a
caller gives a method, a path and a query. The path cannot lead out of the allowed prefixes, the
secret goes into one request header and is cut out of whatever comes back.
"""

from __future__ import annotations

import json as jsonlib
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import trio

from nursery_patterns import TokenBucket, TokenBucketStatistics
from trio_tools.http.api_paths import check_path
from trio_tools.http.connect import Connector, Resolver, create_ssl_context, make_system_resolver
from trio_tools.http.content import decode_text, media_type, parse_json
from trio_tools.http.decoding import accepted_encodings
from trio_tools.http.exchange import Exchange, Timeouts, WireRequest
from trio_tools.http.failures import Code, FetchError, FetchRefused, FetchTimedOut, InvalidRequest
from trio_tools.http.guard import Guard
from trio_tools.http.headers import header_lines
from trio_tools.http.hosts import HostLimits, parse_retry_after
from trio_tools.http.parser import Reply
from trio_tools.http.pool import Pool, PoolLimits
from trio_tools.http.replies import header_fields, read_body
from trio_tools.http.secrets import Secret
from trio_tools.http.urls import parse_url

_SAFE_TO_REPEAT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_SHOWN_HEADERS = (b"content-type", b"etag", b"last-modified", b"link", b"retry-after")
_LIMIT_HEADERS = (b"x-ratelimit-limit", b"ratelimit-limit", b"x-rate-limit-limit")
_REMAINING_HEADERS = (b"x-ratelimit-remaining", b"ratelimit-remaining", b"x-rate-limit-remaining")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """One API that may be called.

    Attributes:
        name: By which it is called.
        base_url: What every path is put behind. Its host is trusted wherever it is.
        auth_env: Environment variable with the secret; None if there is none.
        auth_header: Request header that the secret goes into.
        auth_prefix: Stands before the secret there, such as "Bearer ".
        rate_per_second: Calls per second over time.
        burst: Most calls at once after a pause.
        max_concurrent: Most calls in flight; adapts downwards when the API refuses.
        allowed_methods: Upper case.
        allowed_path_prefixes: "/v1" allows "/v1" and "/v1/...", not "/v10".
        timeout_seconds: For one call with all its waiting.
        max_reply_bytes: Most bytes of a reply's body, content encoding undone.
        throttle_retries: How often a call is repeated after a 429 (or 503, where that is safe).
        max_cooldown_seconds: Longest pause that a Retry-After can impose.
    """

    name: str
    base_url: str
    auth_env: str | None = None
    auth_header: str = "Authorization"
    auth_prefix: str = ""
    rate_per_second: float = 5.0
    burst: int = 5
    max_concurrent: int = 3
    allowed_methods: frozenset[str] = frozenset({"GET"})
    allowed_path_prefixes: tuple[str, ...] = ("/",)
    timeout_seconds: float = 30.0
    max_reply_bytes: int = 1_000_000
    throttle_retries: int = 2
    max_cooldown_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class ApiReply:
    """What came of a call. Any status is a reply: 404 is an answer, not a failure.

    Attributes:
        status: Status code; redirects are not followed.
        headers: Content-Type, ETag, Last-Modified, Link and Retry-After, where present.
        body: The value if the body is JSON, otherwise its text; None if it is empty.
        truncated: Whether the body was longer than `max_reply_bytes`; then it comes as text.
        waited_seconds: Spent waiting for the rate limit, a free slot, or the end of a pause.
        limit: Calls per window, as the API told; None if it did not.
        remaining: Calls left in this window, as the API told; None if it did not.
        retry_after_seconds: When to call again; None if the API did not refuse.
        elapsed: Seconds, with all waiting.
    """

    status: int
    headers: dict[str, str]
    body: Any
    truncated: bool
    waited_seconds: float
    limit: int | None
    remaining: int | None
    retry_after_seconds: float | None
    elapsed: float


class ApiClient:
    """Calls one API: `async with ApiClient(config) as api: await api.call("GET", "/v1/items")`.

    Any number of tasks may call at the same time: they wait for the token bucket first and for a
    free slot then, each first come first served.

    Args:
        config: Which API, and what may be done with it.
        environ: Where the secret is looked up, at each call, so that it can be rotated.
        ssl_context: Gives the TLS settings, called once; by default strict ones.
        resolver: How names become addresses; by default the operating system's way.

    Raises:
        InvalidRequest: The base URL is none.
    """

    def __init__(
        self,
        config: ApiConfig,
        *,
        environ: Mapping[str, str] = os.environ,
        ssl_context: Callable[[], ssl.SSLContext] = create_ssl_context,
        resolver: Resolver | None = None,
    ) -> None:
        self._config = config
        self._environ = environ
        self._ssl_context = ssl_context
        self._resolver = resolver
        self._base = parse_url(config.base_url)
        self._bucket = TokenBucket(config.rate_per_second, config.burst)
        self._slots = HostLimits(
            max_per_host=config.max_concurrent, max_cooldown_seconds=config.max_cooldown_seconds
        )
        self._pool: Pool | None = None

    def __repr__(self) -> str:
        return f"<ApiClient {self._config.name!r} at {self._base.url}>"

    async def __aenter__(self) -> Self:
        """Get ready; nothing is connected to yet."""
        origin = self._base.origin
        guard = Guard(ports=frozenset({origin.port}), allow_hosts=frozenset({origin.host}))
        resolver = self._resolver or make_system_resolver()
        self._pool = Pool(
            Connector(guard, resolver, self._ssl_context, max_head_bytes=65_536),
            PoolLimits(
                max_connections=self._config.max_concurrent,
                max_per_origin=self._config.max_concurrent,
            ),
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close every connection, at once."""
        if self._pool is not None:
            self._pool.close()

    def rate_limit(self) -> TokenBucketStatistics:
        """Return the state of the token bucket: calls left at once, and how many wait."""
        return self._bucket.statistics()

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | Sequence[str]] | None = None,
        json: Any = None,
    ) -> ApiReply:
        """Call the API once, at its pace.

        Args:
            method: One of the allowed methods.
            path: Begins with "/" and with an allowed prefix; no query.
            query: Parameters, escaped here.
            json: Body, sent as JSON; None for no body.

        Raises:
            InvalidRequest: The path or the body is not what can be sent.
            FetchRefused: `BLOCKED_METHOD`, `BLOCKED_PATH`; or the secret is missing.
            FetchTimedOut: Time was up.
            HostCoolingDown: The API wants a longer pause than there is time for.
            FetchError: Any other failure at the other end.
        """
        started = trio.current_time()
        secret = self._secret()
        request = self._request(method, path, query, json, secret)
        with trio.CancelScope(deadline=started + self._config.timeout_seconds):
            return await self._call(request, secret, started)
        raise FetchTimedOut(
            f"{self._config.name} did not answer within {self._config.timeout_seconds:g} s.",
            code=Code.TIMEOUT,
            remediation="Call again later, or ask for less.",
        )

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
        return Secret(value)

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
            target = f"{target}?{urlencode(query, doseq=True)}"
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

    async def _call(self, request: WireRequest, secret: Secret, started: float) -> ApiReply:
        name, waited, retries = self._config.name, 0.0, self._config.throttle_retries
        while True:
            since = trio.current_time()
            await self._bucket.acquire()
            await self._slots.enter(name)
            sent = trio.current_time()
            waited += sent - since
            try:
                reply, fields, body, truncated = await self._exchange(request)
                pause = None
                if reply.status in {429, 503}:
                    wanted = parse_retry_after(fields.get(b"retry-after", b""))
                    pause = self._slots.refused(name, started=sent, retry_after=wanted)
                else:
                    self._slots.answered_well(name)
            finally:
                self._slots.leave(name)
            again = retries and (reply.status == 429 or request.method in _SAFE_TO_REPEAT)  # noqa: PLR2004
            over = trio.current_time() + (pause or 0) >= trio.current_effective_deadline()
            if pause is None or not again or over:
                break
            retries -= 1
        return ApiReply(
            status=reply.status,
            headers={
                field.decode(): secret.redact(fields[field]).decode("latin-1")
                for field in _SHOWN_HEADERS
                if field in fields
            },
            body=_value(secret.redact(body, cut=truncated), fields, truncated=truncated),
            truncated=truncated,
            waited_seconds=waited,
            limit=_first_number(fields, _LIMIT_HEADERS),
            remaining=_first_number(fields, _REMAINING_HEADERS),
            retry_after_seconds=pause,
            elapsed=trio.current_time() - started,
        )

    async def _exchange(
        self, request: WireRequest
    ) -> tuple[Reply, dict[bytes, bytes], bytes, bool]:
        if self._pool is None:
            raise RuntimeError("an ApiClient is used inside its block: async with ApiClient(...)")
        exchange = Exchange(self._pool, request, Timeouts())
        try:
            await exchange.start()
            fields = header_fields(exchange.reply.headers)
            body, truncated = await read_body(exchange, fields, self._config.max_reply_bytes)
        finally:
            exchange.close()
        return exchange.reply, fields, body, truncated


def _json_bytes(value: Any) -> bytes:
    try:
        return jsonlib.dumps(value, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidRequest(
            f"The body cannot be sent as JSON: {exc}.",
            code=Code.INVALID_REQUEST,
            remediation="Give objects, lists, text, finite numbers, true, false or null.",
        ) from exc


def _value(body: bytes, fields: Mapping[bytes, bytes], *, truncated: bool) -> Any:
    if not body:
        return None
    media = media_type(fields.get(b"content-type", b""))
    if not truncated and "json" in (media.name or "json"):
        try:
            return parse_json(body)
        except FetchError:
            pass  # an API in trouble answers with anything; the text then tells more
    return decode_text(body, media, final=not truncated)[0]


def _first_number(fields: Mapping[bytes, bytes], names: Sequence[bytes]) -> int | None:
    for name in names:
        value = fields.get(name, b"").strip()
        if value.isdigit():
            return int(value[:18])
    return None
