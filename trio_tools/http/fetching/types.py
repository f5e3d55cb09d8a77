"""What a fetch may do, what is asked of it, and what comes back: values, no behaviour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from trio_tools.http.wire.address_policy import Guard
from trio_tools.http.wire.proxies import Proxies

BodyAs = Literal["text", "json", "markdown", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """What a `Fetcher` may do. Every bound here is a cap that a request can lower, never raise.

    Attributes:
        schemes: See `Guard`.
        ports: See `Guard`.
        allow_private: See `Guard`.
        allow_hosts: See `Guard`.
        allow_networks: Networks in CIDR notation, such as "10.1.0.0/16"; see `Guard`.
        max_connections: Most sockets at any time.
        max_connections_per_host: Most requests to one host at a time; adapts downwards.
        keepalive_seconds: How long an idle connection is kept.
        connect_timeout_seconds: For one connection, from the name to the end of TLS.
        timeout_seconds: For one URL, with all redirects and pauses.
        max_head_bytes: Status line and header fields of one reply.
        max_body_bytes: Body of one reply, also after its content encoding is undone.
        max_redirects: Most redirects followed for one URL.
        throttle_retries: How often a URL is asked again after a 429 or 503.
        max_cooldown_seconds: Longest pause that a Retry-After can impose.
        user_agent: Sent with every request.
        allow_headers: Request headers (lower case) that a caller may set.
        reply_headers: Reply headers (lower case) that a page shows unless others are requested.
        proxy: URL of a proxy for every request, or "environment" for what HTTPS_PROXY, HTTP_PROXY,
            ALL_PROXY and NO_PROXY say; None for none.
        proxy_resolves: Whether the proxy resolves names, so that they cannot be judged here.
        robots: "obey" to ask only for what a site's robots.txt allows.
        cache_seconds: How long the reply to a GET is used again without asking; 0 for no cache.
        hedge_after_seconds: Seconds after which a request that has no reply is sent a second time,
            for one request in ten at most; None for never.
    """

    schemes: frozenset[str] = frozenset({"http", "https"})
    ports: frozenset[int] | None = frozenset({80, 443, 8080, 8443})
    allow_private: bool = False
    allow_hosts: frozenset[str] = frozenset()
    allow_networks: tuple[str, ...] = ()
    max_connections: int = 100
    max_connections_per_host: int = 10
    keepalive_seconds: float = 30.0
    connect_timeout_seconds: float = 10.0
    timeout_seconds: float = 30.0
    max_head_bytes: int = 65_536
    max_body_bytes: int = 5_000_000
    max_redirects: int = 5
    throttle_retries: int = 2
    max_cooldown_seconds: float = 60.0
    user_agent: str = "trio-tools"
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

    proxy: str | None = field(default=None, repr=False)
    proxy_resolves: bool = False
    robots: Literal["ignore", "obey"] = "ignore"
    cache_seconds: float = 0.0
    hedge_after_seconds: float | None = None

    def proxies(self) -> Proxies | None:
        """Return the proxies that these settings name.

        Raises:
            ValueError: `proxy` is no URL of a proxy.
        """
        return Proxies(self.proxy, resolves=self.proxy_resolves) if self.proxy else None

    def guard(self) -> Guard:
        """Return the guard that these settings describe.

        Raises:
            ValueError: A network is not in CIDR notation.
        """
        return Guard(
            schemes=self.schemes,
            ports=self.ports,
            allow_private=self.allow_private,
            allow_hosts=frozenset(host.lower() for host in self.allow_hosts),
            allow_networks=tuple(ip_network(text) for text in self.allow_networks),
            section="fetch.",
        )


class FetchRequest(NamedTuple):
    """One URL and what is wanted of it.

    Attributes:
        url: Absolute, http or https.
        method: GET or HEAD.
        headers: Request headers; each must be in `FetchConfig.allow_headers`.
        body_as: "text", "json", "markdown" (the main text of a page), or "none" to read no body.
        max_bytes: Most bytes of body (decoded) that are downloaded; None for the configured cap,
            and for 2 MB if the body is wanted as Markdown.
        usual_bytes: As `max_bytes`, where that is None, of a body that is text as it is, since more
            of a text than is read is of no use, and half of a PDF is none.
        max_chars: Most characters of the text that are given; None for all.
        offset: The character of the text to begin with, such as the `next_offset` of a page before:
            it is given from what was kept then, without another request.
        timeout_seconds: For all of it; None for the configured bound.
        reply_headers: Names (lower case) of the reply headers to show; None for the usual ones.
        obey_robots: Whether robots.txt is obeyed though `FetchConfig.robots` does not say so.
        with_links: Whether the links of the page are wanted, for "markdown".
        within: Whether a redirect to a URL is followed; one that is not is the page. None for all.
        gunzip: Whether a body that is a gzip file, such as `sitemap.xml.gz`, is read as the XML in
            it, of at most as many bytes as are downloaded of a body.
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
    """What came of one URL. Any status is a page: 404 is an answer, not a failure.

    Attributes:
        url: As requested.
        final_url: After redirects.
        status: Status code.
        headers: The chosen reply headers, names in lower case, repeated ones joined by ", ".
        content_type: Without parameters, lower case; empty if the reply had none.
        charset: What `text` was decoded with; None where nothing was.
        length: Bytes of body read, content encoding undone.
        truncated: Whether the body has more bytes than were read.
        elapsed: Seconds, with all redirects and pauses.
        redirects: How many were followed.
        text: For "text" and "markdown", and for "json" where an error page was none.
        json: For "json".
        charset_declared: Whether the server or the page names `charset`; otherwise it is UTF-8, or
            was detected. None where nothing was decoded.
        text_chars: Characters of all of the text, where only a part was requested.
        next_offset: Where the text goes on, None if `text` has its end.
        title: As the page declares it; for "markdown" and PDF.
        canonical_url: As the page declares it; for "markdown".
        language: As the page declares it; for "markdown".
        pages: Pages of a PDF.
        note: The reason why there is no text.
        warnings: What is to be known about the text.
        from_cache: Whether it was not fetched now.
        links: Where the page links to, absolute and each once, if that was requested.
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
