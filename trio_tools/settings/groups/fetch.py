"""The group `fetch`: which URLs may be fetched, and how."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
)

from trio_tools.settings.groups.section import Section, checked_network

_PROXY_URL: Final = re.compile(
    r"http://([^\s/@]*@)?(\[[0-9A-Fa-f:.]+\]|[^\s/@:\[\]]+)(:[0-9]{1,5})?/?", re.IGNORECASE
)


def checked_proxy(url: SecretStr) -> SecretStr:
    """Return the setting if it is a proxy's URL or `environment`, else raise ValueError."""
    text = url.get_secret_value()
    if text != "environment" and not _PROXY_URL.fullmatch(text):
        raise ValueError(
            "it must be `environment`, or the URL of an HTTP proxy such as "
            "http://proxy.example:3128 or http://user:password@proxy.example:3128"
        )
    return url


class FetchSettings(Section):
    """Which URLs may be fetched, and how."""

    schemes: frozenset[str] = Field(
        default=frozenset({"http", "https"}), description="Allowed URL schemes."
    )
    ports: frozenset[int] | None = Field(
        default=frozenset({80, 443, 8080, 8443}),
        description="Allowed ports; null allows any.",
    )
    allow_private: bool = Field(
        default=False, description="Whether connections to private and local addresses are allowed."
    )
    allow_hosts: frozenset[str] = Field(
        default=frozenset(), description="Host names that are allowed with any address."
    )
    allow_networks: tuple[Annotated[str, AfterValidator(checked_network)], ...] = Field(
        default=(), description="Private networks (CIDR) that are allowed."
    )
    max_connections: PositiveInt = Field(default=100, description="Limit of open connections.")
    max_connections_per_host: PositiveInt = Field(
        default=10, description="Limit of concurrent requests to one host."
    )
    connect_timeout_seconds: PositiveFloat = Field(
        default=10.0, description="Timeout for opening a connection."
    )
    max_body_bytes: PositiveInt = Field(
        default=5_000_000, description="Limit of bytes of one response body."
    )
    max_redirects: NonNegativeInt = Field(default=5, description="Limit of redirects for one URL.")
    user_agent: str = Field(
        default="trio-tools", description="`User-Agent` header of every request."
    )
    proxy: Annotated[SecretStr, AfterValidator(checked_proxy)] | None = Field(
        default=None,
        description="Proxy for every request, also to APIs: http://host:port, or `environment` to "
        "use HTTPS_PROXY, HTTP_PROXY and NO_PROXY.",
        repr=False,
    )
    proxy_resolves: bool = Field(
        default=False,
        description="Whether the proxy resolves host names. Then this server cannot check their "
        "addresses.",
    )
    robots: Literal["ignore", "obey"] = Field(
        default="ignore", description="Whether fetches obey a site's robots.txt."
    )
    crawl: bool = Field(
        default=False, description="Whether `crawl_site` and the operation `crawl` are available."
    )
    crawl_robots: Literal["ignore", "obey"] = Field(
        default="obey", description="Whether crawls obey a site's robots.txt."
    )
    cache_seconds: NonNegativeFloat = Field(
        default=0.0,
        description="How long a response is reused without a new request; 0 disables the cache.",
    )
    hedge_after_seconds: PositiveFloat | None = Field(
        default=None,
        description="A request without a complete response after this time is sent a second time, "
        "and the first response is used. At most one request in ten is repeated. null "
        "disables it.",
    )
