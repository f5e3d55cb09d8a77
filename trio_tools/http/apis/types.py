"""What an API may be called with, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from nursery_patterns import TokenBucket, TokenBucketStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """One API that may be called.

    Attributes:
        name: By which it is called.
        base_url: What every path is put behind. Its host is trusted wherever it is.
        auth_env: Environment variable with the secret; None without one.
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
    """When the next call may be sent. For one task at a time."""

    async def ready(self, waiting: int = 0) -> None:
        """Wait until it may be, without taking anything; so many more want to call."""
        ...

    async def take(self) -> None:
        """Take what one call takes; at once after `ready`."""
        ...

    def statistics(self) -> TokenBucketStatistics:
        """The state of the rate limit."""
        ...


class OwnPace:
    """The pace of a token bucket that no other server shares.

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
    """How long one call has waited so far; the caller may keep it, to know when the call failed."""

    _total: float = 0.0
    _since: float | None = None

    @property
    def seconds(self) -> float:
        """Spent waiting for the rate limit, a free slot, or the end of a pause."""
        begun = 0.0 if self._since is None else trio.current_time() - self._since
        return self._total + begun

    def begin(self) -> None:
        """From now on the call waits."""
        self._since = trio.current_time()

    def end(self) -> None:
        """It waits no more."""
        self._total, self._since = self.seconds, None


@dataclass(frozen=True, slots=True)
class ApiReply:
    """What came of a call. Any status is a reply: 404 is an answer, not a failure.

    Attributes:
        status: Status code; redirects are not followed.
        headers: Content-Type, ETag, Last-Modified, StdioConnection and Retry-After, where present.
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
