"""`ThrottledClient`: requests that wait for a slot of their host, with retries after pauses."""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from nursery_patterns import HedgePolicy, HedgeStatistics, Retry, hedged
from trio_tools.http.fetching.hosts.host import HostState
from trio_tools.http.fetching.hosts.host_throttle import HostLimits, Places
from trio_tools.http.fetching.hosts.throttling import (
    THROTTLED,
    ThrottledError,
    parse_retry_after,
    seconds_to_retry,
)
from trio_tools.http.fetching.redirects import location_of
from trio_tools.http.fetching.text.content import media_of
from trio_tools.http.fetching.types import FetchConfig, FetchRequest
from trio_tools.http.wire.client import Answer, Fields, PooledClient, Share
from trio_tools.http.wire.connector import Resolver
from trio_tools.http.wire.errors import FetchTimedOut
from trio_tools.http.wire.exchange import Timeouts, WireRequest
from trio_tools.http.wire.pool import PoolLimits
from trio_tools.http.wire.response_parser import Reply
from trio_tools.http.wire.urls import Target

_MARKDOWN_BYTES = 2_000_000
_HEDGES_PER_REQUEST = 0.1

Wanted = Callable[[Reply, Fields], int]


class ThrottledClient(PooledClient):
    """Base of `Fetcher`: requests to one host within its limit.

    A request takes a slot of its host and is sent, and its reply adapts the limit of the host. It
    follows no redirects and makes no page of a reply. The arguments are those of `Fetcher`.
    """

    def __init__(
        self,
        config: FetchConfig,
        *,
        ssl_context: Callable[[], ssl.SSLContext],
        resolver: Resolver | None,
        share: Share,
        places: Places | None,
    ) -> None:
        self._config = config
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
            proxies=config.proxies(),
            share=share,
        )
        self._hosts = HostLimits(
            max_per_host=config.max_connections_per_host,
            max_cooldown_seconds=config.max_cooldown_seconds,
            places=places,
        )
        # The pauses of the hosts bound the retries: each retry waits for the end of a pause.
        retry = Retry(config.throttle_retries + 1, on=seconds_to_retry, budget=None)
        self._ask_with_retries = retry(self._ask_unless_refused)
        late = config.hedge_after_seconds
        self._hedging = None if late is None else HedgePolicy(late, budget=_HEDGES_PER_REQUEST)

    def hosts(self) -> dict[str, HostState]:
        """Return the hosts in use, or with a lowered limit or a pause, by name."""
        return self._hosts.snapshot()

    @property
    def hedging(self) -> HedgeStatistics | None:
        """Counts of hedging requests; None if `hedge_after_seconds` is not set."""
        return None if self._hedging is None else self._hedging.statistics()

    async def _ask_until_heard(
        self, request: FetchRequest, target: Target, lines: bytes, deadline: float
    ) -> Answer:
        """Send a request, and retry it after the pause of a 429 or 503, if there is time for it.

        Called within a cancel scope of that `deadline`.
        """
        try:
            return await self._ask_in_turn(request, target, lines, deadline)
        except ThrottledError as throttled:
            refused = throttled
        try:  # rare, so only now is there anything that retries
            return await self._ask_with_retries(iter((refused,)), request, target, lines, deadline)
        except ThrottledError as throttled:
            return throttled.answer

    async def _ask_unless_refused(
        self,
        refused: Iterator[ThrottledError],
        request: FetchRequest,
        target: Target,
        lines: bytes,
        deadline: float,
    ) -> Answer:
        """Ask, but take what was refused already for the first attempts."""
        for error in refused:
            raise error
        return await self._ask_in_turn(request, target, lines, deadline)

    async def _ask_once(self, request: FetchRequest, target: Target, lines: bytes) -> Answer:
        try:
            return await self._ask_in_turn(request, target, lines, math.inf)
        except ThrottledError as throttled:
            return throttled.answer

    def _ask_in_turn(
        self, request: FetchRequest, target: Target, lines: bytes, deadline: float
    ) -> Awaitable[Answer]:
        """Send a request when the host has a free slot and no pause.

        Raises:
            ThrottledError: The host answered 429 or 503.
        """
        head = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (
            request.method.encode("ascii"),
            target.path,
            target.host_header,
            lines,
        )
        wire_request = WireRequest(target.origin, request.method, head)
        wanted = partial(self._wanted_bytes, request)
        if self._hedging is None:
            return self._ask_host(wire_request, wanted, deadline)
        return self._ask_host_hedged(wire_request, wanted, deadline, self._hedging)

    async def _ask_host_hedged(
        self, request: WireRequest, wanted: Wanted, deadline: float, policy: HedgePolicy
    ) -> Answer:
        """Send a request, and a second one if the reply is late. The delay starts with a slot."""
        hosts, host = self._hosts, request.origin.host
        is_first = iter((True,))

        async def ask() -> Answer:
            has_slot = next(is_first, False)
            return await self._ask_host(request, wanted, deadline, has_slot=has_slot)

        await hosts.enter(host)
        try:
            return await hedged(ask, delay=policy)
        finally:
            hosts.leave(host)

    async def _ask_host(
        self, request: WireRequest, wanted: Wanted, deadline: float, *, has_slot: bool = False
    ) -> Answer:
        """Send a request to a host, with one of its slots, and record the reply.

        Args:
            request: What is sent.
            wanted: As for `_ask`.
            deadline: Of the whole request. Without a reply by then, the host is too slow.
            has_slot: Whether the caller took the slot, and releases it.
        """
        hosts, host = self._hosts, request.origin.host
        if not (has_slot or hosts.enter_at_once(host)):
            await hosts.enter(host)
        started = self._now()
        answer = None
        try:
            answer = await self._ask(request, wanted)
            if answer.reply.status not in THROTTLED:
                hosts.answered_well(host)
                return answer
            seconds = parse_retry_after(answer.fields.get(b"retry-after", b""))
            raise ThrottledError(answer, hosts.refused(host, started=started, retry_after=seconds))
        except FetchTimedOut:
            hosts.timed_out(host, started=started)
            raise
        finally:
            if answer is None and self._now() >= deadline:
                hosts.timed_out(host, started=started)
            if not has_slot:
                hosts.leave(host)

    def _wanted_bytes(self, request: FetchRequest, reply: Reply, fields: Fields) -> int:
        if request.body_as == "none" or location_of(reply) is not None:
            return 0
        most, media = self._config.max_body_bytes, media_of(fields)
        if not (media.is_text or media.is_pdf or request.body_as == "json" or request.gunzip):
            return 0
        if request.max_bytes is not None:
            return request.max_bytes
        if media.is_pdf or (media.is_unsaid and ".pdf" in request.url.lower()):
            return most  # a part of it cannot be parsed
        usual = _MARKDOWN_BYTES if request.body_as == "markdown" else request.usual_bytes
        return most if usual is None else min(usual, most)
