"""The sections of the settings, each a table of values that knows when one of them is wrong.

What would show only with the first call is refused here instead: a name that can never match, an
address that is none. Messages say what is wrong without showing it, as it may be a secret that was
given to the wrong name; where it stands is in the error.
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
"""What the HTTP server answers itself, whatever `http.path` is."""

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
    """A part of the settings; an unknown name in it is an error, not a surprise."""

    # Times and caps are shown in schemas, and JSON has no infinity. What is wrong is named, not
    # shown: it may be a secret that was given to the wrong name.
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
            "it is no address of a cluster: write local, auto, ray://HOST:10001 or HOST:6379"
        )
    return text


def _method(text: str) -> str:
    method = text.upper()
    if not _METHOD.fullmatch(method):
        raise ValueError("it is no HTTP method: write one like GET or POST")
    return method


def _path_prefix(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("it must begin with a slash, as every path does: write one like /v1")
    return text


def _database_url(url: SecretStr) -> SecretStr:
    check_database_url(url.get_secret_value())
    return url


# What follows an @ in a password would be taken for the host, and told in errors.
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
        raise ValueError(
            f"it is {text}, which the server answers itself: take another one, such as /mcp"
        )
    return text


def _proxy(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if text != "environment" and not _PROXY_URL.fullmatch(text):
        raise ValueError(
            "it must be `environment`, or the URL of an HTTP proxy such as "
            "http://proxy.example:3128 or http://user:password@proxy.example:3128"
        )
    return url


class FetchSettings(Section):
    """What `fetch_urls` may reach."""

    schemes: frozenset[str] = Field(
        default=frozenset({"http", "https"}), description="URL schemes it may use."
    )
    ports: frozenset[int] | None = Field(
        default=frozenset({80, 443, 8080, 8443}),
        description="Ports it may connect to; null for any.",
    )
    allow_private: bool = Field(
        default=False, description="Whether private and local addresses may be reached."
    )
    allow_hosts: frozenset[str] = Field(
        default=frozenset(), description="Host names that may be reached whatever their address."
    )
    allow_networks: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        default=(), description="Networks (CIDR) that may be reached though they are private."
    )
    max_connections: PositiveInt = Field(default=100, description="Sockets open at once.")
    max_connections_per_host: PositiveInt = Field(
        default=10, description="Requests to one host at once."
    )
    connect_timeout_seconds: PositiveFloat = Field(
        default=10.0, description="Time for one connection."
    )
    max_body_bytes: PositiveInt = Field(default=5_000_000, description="Most bytes of one body.")
    max_redirects: NonNegativeInt = Field(default=5, description="Redirects followed per URL.")
    user_agent: str = Field(default="trio-tools", description="Sent with every request.")
    proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = Field(
        default=None,
        description="Proxy for every request, APIs too: http://host:port, or `environment` for "
        "what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.",
        repr=False,
    )
    proxy_resolves: bool = Field(
        default=False,
        description="Whether the proxy resolves names; their addresses cannot be judged here then.",
    )
    robots: Literal["ignore", "obey"] = Field(
        default="ignore", description="Whether a site's robots.txt is obeyed."
    )
    crawl: bool = Field(
        default=False, description="Whether `crawl_site` and the operation `crawl` are offered."
    )
    crawl_robots: Literal["ignore", "obey"] = Field(
        default="obey", description="Whether crawls obey a site's robots.txt."
    )
    cache_seconds: NonNegativeFloat = Field(
        default=0.0, description="How long a reply is used again without asking; 0 for no cache."
    )
    hedge_after_seconds: PositiveFloat | None = Field(
        default=None,
        description="Seconds without a whole reply after which a request is sent a second time, "
        "of which the first reply is used; for one request in ten at most. null for never.",
    )


class ApiSettings(Section):
    """One HTTP API that `call_external_api` may call by name."""

    description: str = Field(default="", description="What it is for, as models are told.")
    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        description="Where its paths start, with the scheme."
    )
    auth_env: str | None = Field(
        default=None,
        description="Environment variable that holds the secret; never shown to a caller.",
    )
    auth_header: str = Field(default="authorization", description="Header that carries the secret.")
    auth_scheme: str = Field(
        default="Bearer", description="Word in front of the secret; may be empty."
    )
    rate_per_second: PositiveFloat = Field(
        default=5.0, description="Requests per second over time."
    )
    burst: PositiveInt = Field(default=5, description="Requests that may come at once.")
    max_concurrent: PositiveInt = Field(default=3, description="Requests in flight at once.")
    allowed_methods: frozenset[Annotated[str, AfterValidator(_method)]] = Field(
        default=frozenset({"GET"}), description="HTTP methods."
    )
    allowed_path_prefixes: tuple[Annotated[str, AfterValidator(_path_prefix)], ...] = Field(
        default=("/",), description="Paths that may be called."
    )


class DatabaseSettings(Section):
    """One database that `query_database` may read by name."""

    url: Annotated[SecretStr, AfterValidator(_database_url)] = Field(
        description="URL, such as sqlite:////data/app.db, duckdb:////data/app.duckdb, "
        "duckdb:////data/folder (of Parquet and CSV, under a file root) or "
        "postgresql://user:password@host/database; it may hold a password.",
        repr=False,
    )
    optional: bool = Field(
        default=False, description="Whether the server starts without it: it may come later."
    )


class DatasetSettings(Section):
    """One dataset that `process_large_dataset` may read by name: a path, or a table."""

    path: str | None = Field(default=None, description="File or folder under the file roots.")
    kind: (
        Literal["json_lines", "json", "csv", "lines", "parquet", "arrow", "excel", "folder"] | None
    ) = Field(default=None, description="What the path is; by default told by its name.")
    encoding: str | None = Field(
        default=None, description="Encoding of its text; by default found, mostly UTF-8."
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="What is between the fields of a CSV file; by default found.",
    )
    database: str | None = Field(default=None, description="Name of a database, for a table in it.")
    table: str | None = Field(default=None, description="Table or view, `schema.table` if need be.")
    key: str | None = Field(
        default=None, description="Column that orders the rows of the table, different in each."
    )

    @model_validator(mode="after")
    def _is_a_path_or_a_table(self) -> Self:
        given = (self.database, self.table, self.key)
        if (self.path is None) == (None in given) or (self.path is not None and any(given)):
            raise ValueError("a dataset has either a path, or database, table and key")
        return self


class StateSettings(Section):
    """Where operations are stored, so that they outlive the process."""

    url: Annotated[SecretStr, AfterValidator(_state_url)] = Field(
        default=SecretStr("sqlite"),
        description="`sqlite` for a file in the user's state folder, `memory` for none, or a URL: "
        "sqlite:///PATH, postgresql://USER:PASSWORD@HOST/DATABASE.",
        repr=False,
        validate_default=False,
    )
    max_bytes: PositiveInt = Field(
        default=4 * 2**30, description="Most bytes of stored operations; the oldest make room."
    )
    resume: bool = Field(
        default=True, description="Whether a start takes up background operations that are parked."
    )


class ClusterSettings(Section):
    """The cluster on which operations compute whose `runs` is `cluster`."""

    address: Annotated[str, AfterValidator(_cluster_address)] = Field(
        default="local",
        description="`local` starts Ray on this machine with the first item that needs it, `auto` "
        "is a Ray that runs here, `ray://HOST:10001` or `HOST:6379` one elsewhere.",
    )


class OperationSettings(Section):
    """What differs for one operation."""

    runs: Literal["thread", "process", "cluster"] = Field(
        description="Where it computes: in a thread, in a worker process, or on the cluster."
    )


class HttpSettings(Section):
    """How the Streamable HTTP transport is served."""

    host: str = Field(
        default="127.0.0.1", description="Address to bind. Others than loopback need tokens."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to bind; 0 picks a free one.")
    socket: Path | None = Field(
        default=None,
        description="Unix socket to listen on, in the place of host and port; one that no process "
        "serves any more is replaced.",
    )
    socket_mode: Annotated[str, AfterValidator(_file_mode)] = Field(
        default="600", description="Its permissions, as chmod takes them; by default its owner's."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port at which /metrics is served in the place of `port`; 0 picks a free one.",
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        description="Address of metrics_port. Others than loopback need a token of the metrics.",
    )
    metrics_token: SecretStr | None = Field(
        default=None,
        description="Bearer token that alone opens /metrics, and nothing else.",
        repr=False,
    )
    metrics_token_file: Path | None = Field(
        default=None, description="File that holds that token in its only line."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=128,
        description="Processes of `trio-tools serve` that serve the address; limits of what is "
        "outside are divided between them.",
    )
    path: Annotated[str, AfterValidator(_http_path)] = Field(
        default="/mcp", description="Where MCP is served."
    )
    insecure: bool = Field(
        default=False, description="Serve other addresses than loopback without tokens."
    )
    tokens: dict[str, SecretStr] = Field(
        default_factory=dict[str, SecretStr],
        description="Bearer tokens by client name.",
        repr=False,
    )
    token_file: Path | None = Field(default=None, description="File of lines `client-name token`.")
    oauth: OAuthSettings = Field(default_factory=lambda: OAuthSettings.model_validate({}))
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Host headers accepted besides the own."
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(), description="Origins whose pages may call and read the answers."
    )
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        default=(),
        description="Proxies (addresses, CIDR) whose X-Forwarded-For or Forwarded is taken.",
    )
    max_body_bytes: PositiveInt = Field(
        default=4 * 2**20, description="Most bytes of one request body."
    )
    max_header_bytes: PositiveInt = Field(
        default=32_768, description="Most bytes of the request headers."
    )
    max_sessions: PositiveInt = Field(
        default=1_000,
        description="Sessions of the older protocol at once; the client with most makes room.",
    )
    dashboard: bool = Field(
        default=True, description="Serve a page at / that shows what goes on, and its data."
    )
    max_connections: PositiveInt = Field(default=1_000, description="Connections open at once.")
    max_connections_per_peer: PositiveInt = Field(
        default=500, description="Connections of one address that have shown no token."
    )
    max_calls_per_client: PositiveInt = Field(
        default=50, description="Calls of one client in flight."
    )
    calls_per_second_per_client: PositiveFloat = Field(
        default=100.0, description="Calls over time."
    )
    tls_cert_file: Path | None = Field(default=None, description="Certificate chain (PEM).")
    tls_key_file: Path | None = Field(
        default=None, description="Private key (PEM); by default in the file of the certificate."
    )
    tls_key_password: SecretStr | None = Field(
        default=None, description="Password of the private key, if it has one.", repr=False
    )
    tls_key_password_file: Path | None = Field(
        default=None, description="File that holds that password in its only line."
    )
