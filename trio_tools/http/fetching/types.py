"""Configuration, request and result of a fetch: values without behaviour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from trio_tools.http.wire.address_policy import Guard
from trio_tools.http.wire.proxies import Proxies
from trio_tools.settings.groups.fetch import FetchSettings

BodyAs = Literal["text", "json", "markdown", "none"]


class FetchConfig(FetchSettings):
    """The configuration of a `Fetcher`: the operator's settings, and bounds that no operator sets.

    A request can lower every bound, and never raise one. `FetchSettings` describes its fields.

    Attributes:
        keepalive_seconds: How long an idle connection is kept.
        timeout_seconds: Timeout of one URL, including all redirects and pauses.
        max_head_bytes: Limit of bytes of status line and header fields of one reply.
        throttle_retries: Number of retries after a 429 or 503.
        max_cooldown_seconds: Longest pause that a Retry-After can impose.
        allow_headers: Request headers (lower case) that a caller may set.
        reply_headers: Reply headers (lower case) that a page shows unless others are requested.

    Raises:
        ValueError: A field is out of its bounds, a network is not in CIDR notation, or the proxy is
            no URL.
    """

    keepalive_seconds: PositiveFloat = 30.0
    timeout_seconds: PositiveFloat = 30.0
    max_head_bytes: PositiveInt = 65_536
    throttle_retries: NonNegativeInt = 2
    max_cooldown_seconds: NonNegativeFloat = 60.0
    allow_headers: frozenset[str] = frozenset(
        {"accept", "accept-language", "cache-control", "if-modified-since", "if-none-match"}
        | {"range", "referer", "user-agent"}
    )
    reply_headers: tuple[str, ...] = (
        "content-type",
        "content-length",
        "content-language",
        "last-modified",
        "etag",
        "location",
        "retry-after",
    )

    def proxies(self) -> Proxies | None:
        """Return the proxies that these settings name."""
        if self.proxy is None:
            return None
        return Proxies(self.proxy.get_secret_value(), resolves=self.proxy_resolves)

    def guard(self) -> Guard:
        """Return the guard that these settings describe."""
        return Guard(
            schemes=self.schemes,
            ports=self.ports,
            allow_private=self.allow_private,
            allow_hosts=frozenset(host.lower() for host in self.allow_hosts),
            allow_networks=tuple(ip_network(text) for text in self.allow_networks),
            section="fetch.",
        )


class FetchRequest(NamedTuple):
    """One URL and the requested form of its content.

    Attributes:
        url: Absolute, http or https.
        method: GET or HEAD.
        headers: Request headers; each must be in `FetchConfig.allow_headers`.
        body_as: "text", "json", "markdown" (the main text of a page), or "none" to read no body.
        max_bytes: Limit of bytes of body (decoded) that are downloaded; None for the configured
            cap, and for 2 MB for Markdown.
        usual_bytes: Used instead of a `max_bytes` of None for a body that is plain text. More of
            a text would not be read, but a PDF must be complete.
        max_chars: Limit of returned characters of the text; None for all.
        offset: First character of the text, such as the `next_offset` of an earlier page. It is
            taken from the kept text, without another request.
        timeout_seconds: Timeout of the whole request; None for the configured bound.
        reply_headers: Names (lower case) of the reply headers to show; None for the default ones.
        obey_robots: Whether robots.txt is obeyed even if `FetchConfig.robots` does not require
            it.
        with_links: Whether the links of the page are requested, for "markdown".
        within: Returns whether a redirect to a URL is followed; otherwise the redirect itself is
            the page. None follows all.
        gunzip: Whether a body that is a gzip file, such as `sitemap.xml.gz`, is read as the XML
            in it. The limit of downloaded bytes applies to the unpacked XML too.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = MappingProxyType({})
    body_as: BodyAs = "text"
    max_bytes: int | None = None
    usual_bytes: int | None = None
    max_chars: int | None = None
    offset: int = 0
    timeout_seconds: float | None = None
    reply_headers: tuple[str, ...] | None = None
    obey_robots: bool = False
    with_links: bool = False
    within: Callable[[str], bool] | None = None
    gunzip: bool = False


class FetchedPage(NamedTuple):
    """The result of one URL. Any status is a page: 404 is an answer, not a failure.

    Attributes:
        url: As requested.
        final_url: After redirects.
        status: Status code.
        headers: The chosen reply headers, names in lower case, repeated ones joined by ", ".
        content_type: Without parameters, lower case; empty if the reply had none.
        charset: The charset with which `text` was decoded; None if nothing was decoded.
        length: Number of bytes of body that were read, after decoding.
        truncated: Whether the body has more bytes than were read.
        elapsed: Seconds, including all redirects and pauses.
        redirects: Number of redirects that were followed.
        text: For "text" and "markdown", and for "json" if an error page was not JSON.
        json: For "json".
        charset_declared: Whether the server or the page declares `charset`; otherwise it is
            UTF-8, or was detected. None if nothing was decoded.
        text_chars: Characters of the whole text, if only a part was requested.
        next_offset: Where the text continues; None if `text` contains its end.
        title: As declared by the page; for "markdown" and PDF.
        canonical_url: As declared by the page; for "markdown".
        language: As declared by the page; for "markdown".
        pages: Pages of a PDF.
        note: The reason why there is no text.
        warnings: Warnings about the text.
        from_cache: Whether it came from the cache.
        links: The targets of the page's links, absolute and each once, if they were requested.
    """

    url: str
    final_url: str
    status: int
    headers: dict[str, str]
    content_type: str
    charset: str | None
    length: int
    truncated: bool
    elapsed: float
    redirects: int = 0
    text: str | None = None
    json: Any = None
    charset_declared: bool | None = None
    text_chars: int | None = None
    next_offset: int | None = None
    title: str | None = None
    canonical_url: str | None = None
    language: str | None = None
    pages: int | None = None
    note: str | None = None
    warnings: tuple[str, ...] = ()
    from_cache: bool = False
    links: tuple[str, ...] = ()
