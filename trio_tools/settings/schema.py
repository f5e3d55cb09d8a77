"""The sections of the settings, each a table of values that checks itself.

Mistakes that would otherwise show with the first call are refused here: a name that can never
match, an invalid address. A message states the problem without the value, because it may be a
secret that was given to the wrong name. The error has the name of the setting.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from trio_tools.settings.database_urls import check_database_url
from trio_tools.settings.oauth import OAuthSettings

OWN_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics", "/dashboard", "/reload"})
"""Paths that the HTTP server handles itself, with any `http.path`."""

_BASE_URL: Final = re.compile(
    r"https?://[^\x00-\x20\x7f\\/?#@]+(/[^\x00-\x20\x7f\\?#]*)?", re.IGNORECASE
)
_PROXY_URL: Final = re.compile(
    r"http://([^\s/@]*@)?(\[[0-9A-Fa-f:.]+\]|[^\s/@:\[\]]+)(:[0-9]{1,5})?/?", re.IGNORECASE
)
_METHOD: Final = re.compile(r"[A-Z]+")
_HTTP_PATH: Final = re.compile(r"/[^\x00-\x20\x7f\\?#%{}]*")


_CLUSTER_ADDRESS: Final = re.compile(
    r"local|auto|(ray://)?(\[[0-9A-Fa-f:.]+\]|[\w.-]+):[0-9]{1,5}", re.IGNORECASE
)


class Section(BaseModel):
    """A part of the settings. An unknown name in it is an error."""

    # Times and caps are shown in schemas, and JSON has no infinity. Messages name the setting and
    # not the value, which may be a secret that was given to the wrong name.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


def _file_mode(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError('it is not a file mode: write three octal digits, as in "660"')
    return text


def _network(text: str) -> str:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("it is not a network: write one like 10.0.0.0/8, or an address") from None
    try:
        ip_network(text)
    except ValueError:
        raise ValueError(
            f"it has bits set behind its prefix: write {network}, or an address alone"
        ) from None
    return text


def _base_url(text: str) -> str:
    if not (_BASE_URL.fullmatch(text) and _names_a_host(text)):
        raise ValueError(
            "it must be an absolute URL such as https://example.org/v1, with http or https and a "
            "host, and without credentials (use auth_env), query or fragment"
        )
    return text


def _names_a_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port, or a part of an IPv6 address
        return False


def _cluster_address(text: str) -> str:
    if not _CLUSTER_ADDRESS.fullmatch(text):
        raise ValueError(
            "it is not an address of a cluster: write local, auto, ray://HOST:10001 or HOST:6379"
        )
    return text


def _method(text: str) -> str:
    method = text.upper()
    if not _METHOD.fullmatch(method):
        raise ValueError("it is not an HTTP method: write one like GET or POST")
    return method


def _path_prefix(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("it must begin with a slash, as every path does: write one like /v1")
    return text


def _database_url(url: SecretStr) -> SecretStr:
    check_database_url(url.get_secret_value())
    return url


# The text after an @ in a password would be parsed as the host, and shown in errors.
_STATE_URL: Final = re.compile(
    r"sqlite:///(?!:memory:$).+"
    r"|postgres(ql)?(\+\w+)?://([^:/]*(:[^@]*)?@)?(\[[^/?]+\]|[^@/:?]+)?(:\d+)?([/?].*)?",
    re.DOTALL,
)


def _state_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if text not in {"sqlite", "memory"} and not _STATE_URL.fullmatch(text):
        raise ValueError(
            "it must be `sqlite`, `memory`, a file as in sqlite:////srv/state.db, or a database as "
            "in postgresql://user:password@host:5432/database, with %40 for an @ and %3A for a : "
            "in user or password"
        )
    return url


def _http_path(text: str) -> str:
    if not _HTTP_PATH.fullmatch(text):
        raise ValueError(
            "it must begin with a slash and be a plain path such as /mcp, without spaces, "
            "escapes, braces or a query"
        )
    if text in OWN_PATHS:
        raise ValueError(f"{text} is a path of the server's own: use another one, such as /mcp")
    return text


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
    allow_networks: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
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


class ApiSettings(Section):
    """One HTTP API that `call_external_api` may call by name."""

    description: str = Field(default="", description="Purpose of the API, for models.")
    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        description="URL under which its paths are, with the scheme."
    )
    auth_env: str | None = Field(
        default=None,
        description="Environment variable that contains the secret. No caller sees it.",
    )
    auth_header: str = Field(
        default="authorization", description="Header in which the secret is sent."
    )
    auth_scheme: str = Field(
        default="Bearer", description="Scheme before the secret; may be empty."
    )
    rate_per_second: PositiveFloat = Field(
        default=5.0, description="Average limit of requests per second."
    )
    burst: PositiveInt = Field(
        default=5, description="Requests that may start at once after a pause."
    )
    max_concurrent: PositiveInt = Field(default=3, description="Limit of requests in flight.")
    allowed_methods: frozenset[Annotated[str, AfterValidator(_method)]] = Field(
        default=frozenset({"GET"}), description="Allowed HTTP methods."
    )
    allowed_path_prefixes: tuple[Annotated[str, AfterValidator(_path_prefix)], ...] = Field(
        default=("/",), description="Prefixes of the allowed paths."
    )


class DatabaseSettings(Section):
    """One database that `query_database` may read by name."""

    url: Annotated[SecretStr, AfterValidator(_database_url)] = Field(
        description="URL: sqlite:////data/app.db, duckdb:////data/app.duckdb, "
        "duckdb:////data/folder (Parquet and CSV files under a file root) or "
        "postgresql://user:password@host/database. It may contain a password.",
        repr=False,
    )
    optional: bool = Field(
        default=False, description="Whether the server starts when the database is unavailable."
    )


class DatasetSettings(Section):
    """One dataset that `process_large_dataset` may read by name: a path, or a table."""

    path: str | None = Field(default=None, description="File or folder under the file roots.")
    kind: (
        Literal["json_lines", "json", "csv", "lines", "parquet", "arrow", "excel", "folder"] | None
    ) = Field(default=None, description="Format of the path; by default its name decides.")
    encoding: str | None = Field(
        default=None, description="Encoding of the text; by default it is detected, usually UTF-8."
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="Delimiter of a CSV file; by default it is detected.",
    )
    database: str | None = Field(
        default=None, description="Name of the database that contains the table."
    )
    table: str | None = Field(
        default=None, description="Table or view, optionally with its schema: `schema.table`."
    )
    key: str | None = Field(
        default=None, description="Column that orders the rows. Its values must be unique."
    )

    @model_validator(mode="after")
    def _is_a_path_or_a_table(self) -> Self:
        given = (self.database, self.table, self.key)
        if (self.path is None) == (None in given) or (self.path is not None and any(given)):
            raise ValueError("a dataset has either a path, or database, table and key")
        return self


class StateSettings(Section):
    """Where operations are stored, so that they survive a restart."""

    url: Annotated[SecretStr, AfterValidator(_state_url)] = Field(
        default=SecretStr("sqlite"),
        description="`sqlite` for a file in the user's state folder, `memory` to store nothing on "
        "disk, or a URL: sqlite:///PATH, postgresql://USER:PASSWORD@HOST/DATABASE.",
        repr=False,
        validate_default=False,
    )
    max_bytes: PositiveInt = Field(
        default=4 * 2**30,
        description="Limit of bytes of stored operations. The oldest are evicted.",
    )
    resume: bool = Field(
        default=True,
        description="Whether the server resumes interrupted background operations at its start.",
    )


class ClusterSettings(Section):
    """The cluster of the operations whose `runs` is `cluster`."""

    address: Annotated[str, AfterValidator(_cluster_address)] = Field(
        default="local",
        description="`local` starts Ray on this machine when an item first needs it. `auto` "
        "connects to a Ray that runs on this machine, `ray://HOST:10001` or `HOST:6379`"
        " to another one.",
    )


class OperationSettings(Section):
    """Settings of one operation."""

    runs: Literal["thread", "process", "cluster"] = Field(
        description="Where the operation runs: in a thread, in a worker process, or on the cluster."
    )


class HttpSettings(Section):
    """How the Streamable HTTP transport is served."""

    host: str = Field(
        default="127.0.0.1",
        description="Address to bind. An address other than loopback requires tokens.",
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to bind; 0 selects a free one."
    )
    socket: Path | None = Field(
        default=None,
        description="Unix socket to listen on, instead of host and port. A stale socket is "
        "replaced.",
    )
    socket_mode: Annotated[str, AfterValidator(_file_mode)] = Field(
        default="600",
        description="Permissions of the socket, in octal. By default only its owner can connect.",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of /metrics, instead of `port`; 0 selects a free one.",
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        description="Address of metrics_port. An address other than loopback requires a metrics "
        "token.",
    )
    metrics_token: SecretStr | None = Field(
        default=None,
        description="Bearer token for /metrics. It opens nothing else, and no other token opens "
        "/metrics.",
        repr=False,
    )
    metrics_token_file: Path | None = Field(
        default=None, description="File with the metrics token as its only line."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=128,
        description="Number of worker processes. Limits of external services are divided between "
        "them.",
    )
    path: Annotated[str, AfterValidator(_http_path)] = Field(
        default="/mcp", description="Path of MCP."
    )
    insecure: bool = Field(
        default=False, description="Allow addresses other than loopback without tokens."
    )
    tokens: dict[str, SecretStr] = Field(
        default_factory=dict[str, SecretStr],
        description="Bearer tokens by client name.",
        repr=False,
    )
    token_file: Path | None = Field(default=None, description="File of lines `client-name token`.")
    oauth: OAuthSettings = Field(default_factory=lambda: OAuthSettings.model_validate({}))
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Further values of the `Host` header that are accepted."
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(), description="Origins whose web pages may call the server (CORS)."
    )
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        default=(),
        description="Proxies (addresses, CIDR) whose X-Forwarded-For or Forwarded header is "
        "trusted.",
    )
    max_body_bytes: PositiveInt = Field(
        default=4 * 2**20, description="Limit of bytes of a request body."
    )
    max_header_bytes: PositiveInt = Field(
        default=32_768, description="Limit of bytes of the request headers."
    )
    max_sessions: PositiveInt = Field(
        default=1_000,
        description="Limit of sessions (protocol versions before 2026). At the limit, a session of "
        "the client with the most sessions ends.",
    )
    dashboard: bool = Field(default=True, description="Whether the dashboard is served at /.")
    max_connections: PositiveInt = Field(default=1_000, description="Limit of open connections.")
    max_connections_per_peer: PositiveInt = Field(
        default=500,
        description="Limit of connections from one address that have not sent a valid token.",
    )
    max_calls_per_client: PositiveInt = Field(
        default=50, description="Limit of calls in flight for one client."
    )
    calls_per_second_per_client: PositiveFloat = Field(
        default=100.0, description="Limit of calls per second for one client."
    )
    tls_cert_file: Path | None = Field(default=None, description="Certificate chain (PEM).")
    tls_key_file: Path | None = Field(
        default=None, description="Private key (PEM); by default it is in the certificate file."
    )
    tls_key_password: SecretStr | None = Field(
        default=None, description="Password of the private key, if it has one.", repr=False
    )
    tls_key_password_file: Path | None = Field(
        default=None, description="File with that password as its only line."
    )
