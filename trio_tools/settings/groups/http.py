"""The group `http`: how the Streamable HTTP transport is served."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SecretStr

from trio_tools.settings.groups.oauth import OAuthSettings
from trio_tools.settings.groups.section import Section, checked_network

OWN_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics", "/dashboard", "/reload"})
"""Paths that the HTTP server handles itself, with any `http.path`."""

_HTTP_PATH: Final = re.compile(r"/[^\x00-\x20\x7f\\?#%{}]*")


def _file_mode(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError('it is not a file mode: write three octal digits, as in "660"')
    return text


def _http_path(text: str) -> str:
    if not _HTTP_PATH.fullmatch(text):
        raise ValueError(
            "it must begin with a slash and be a plain path such as /mcp, without spaces, "
            "escapes, braces or a query"
        )
    if text in OWN_PATHS:
        raise ValueError(f"{text} is a path of the server's own: use another one, such as /mcp")
    return text


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
    trusted_proxies: tuple[Annotated[str, AfterValidator(checked_network)], ...] = Field(
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
