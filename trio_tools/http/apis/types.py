"""Configuration, requests and replies of an API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from nursery_patterns import TokenBucket, TokenBucketStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """The configuration of one API.

    Attributes:
        name: Its name for callers.
        base_url: Prefix of every URL. Its host is trusted with any address.
        auth_env: Environment variable with the secret; None without one.
        auth_header: Request header that the secret goes into.
        auth_prefix: Text before the secret in the header, such as "Bearer ".
        rate_per_second: Calls per second over time.
        burst: Limit of calls at once after a pause.
        max_concurrent: Limit of calls in flight; it is lowered while the API throttles.
        allowed_methods: Upper case.
        allowed_path_prefixes: "/v1" allows "/v1" and "/v1/...", not "/v10".
        timeout_seconds: Timeout of one call, including all waiting.
        max_reply_bytes: Limit of bytes of a reply's body after decoding.
        throttle_retries: Number of retries after a 429 (or a 503, where that is safe).
        max_cooldown_seconds: Longest pause that a Retry-After can impose.
        proxy: URL of a proxy, or "environment"; None for none. See `FetchConfig`.
        proxy_resolves: Whether the proxy resolves the name of the API.
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
    max_reply_bytes: int = 500_000
    throttle_retries: int = 2
    max_cooldown_seconds: float = 60.0
    proxy: str | None = field(default=None, repr=False)
    proxy_resolves: bool = False


class Pace(Protocol):
    """Determines when the next call may be sent. For one task at a time."""

    async def ready(self, waiting: int = 0) -> None:
        """Wait until a call may be sent, without taking anything; `waiting` calls follow."""
        ...

    async def take(self) -> None:
        """Take the capacity of one call, at once after `ready`."""
        ...

    def statistics(self) -> TokenBucketStatistics:
        """The state of the rate limit."""
        ...


class OwnPace:
    """A rate limit that no other server shares.

    Args:
        bucket: The bucket.
    """

    def __init__(self, bucket: TokenBucket) -> None:
        self._bucket = bucket

    async def ready(self, waiting: int = 0) -> None:
        """Wait until a token is due. See `Pace`."""
        del waiting
        bucket = self._bucket.statistics()
        await trio.sleep((1 - min(bucket.tokens, 1)) / bucket.rate)

    async def take(self) -> None:
        """Take a token. See `Pace`."""
        await self._bucket.acquire()

    def statistics(self) -> TokenBucketStatistics:
        """The state of the bucket."""
        return self._bucket.statistics()


@dataclass(slots=True)
class Waiting:
    """The time that one call has waited so far; readable by the caller also after a failure."""

    _total: float = 0.0
    _since: float | None = None

    @property
    def seconds(self) -> float:
        """Spent waiting for the rate limit, a free slot, or the end of a pause."""
        begun = 0.0 if self._since is None else trio.current_time() - self._since
        return self._total + begun

    def begin(self) -> None:
        """Start measuring a wait."""
        self._since = trio.current_time()

    def end(self) -> None:
        """Stop measuring a wait."""
        self._total, self._since = self.seconds, None


@dataclass(frozen=True, slots=True)
class ApiReply:
    """The reply to a call. Any status is a reply: 404 is an answer, not a failure.

    Attributes:
        status: Status code; redirects are not followed.
        headers: Content-Type, ETag, Last-Modified, StdioConnection and Retry-After, where present.
        body: The value if the body is JSON, otherwise its text; None if it is empty.
        truncated: Whether the body was longer than `max_reply_bytes`; then it is returned as
            text.
        waited_seconds: Spent waiting for the rate limit, a free slot, or the end of a pause.
        limit: Calls per window, as reported by the API; None if it is not reported.
        remaining: Calls left in this window, as reported by the API; None if it is not reported.
        retry_after_seconds: Seconds until the next call; None if the API did not throttle.
        elapsed: Seconds, including all waiting.
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
