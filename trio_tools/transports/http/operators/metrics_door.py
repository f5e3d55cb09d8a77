"""Access to `/metrics`: as every client, with its own token, or on its own port.

http.metrics_token  opens `/metrics` and nothing else, and no other token opens it
http.metrics_port   serves `/metrics`, `/healthz` and `/readyz`; the clients' port has no /metrics
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from starlette.types import Receive, Scope, Send

from trio_tools.settings import HttpSettings
from trio_tools.transports.http.access.authentication import (
    LOOPBACK_NAMES,
    MIN_TOKEN_CHARS,
    Authenticator,
    Denied,
    bearer_token,
    check_permissions,
    is_loopback,
)

METRICS_PATH: Final = "/metrics"

_OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})

Answer = Callable[[Scope], Awaitable[tuple[HTTPStatus, bytes, str]]]


@dataclass(frozen=True, slots=True)
class MetricsAccess:
    """The rules of one server for `/metrics`. Made by `from_settings`.

    Attributes:
        digest: SHA-256 of its own token; None without one.
        has_port: Whether it is served only at its own port.
    """

    digest: bytes | None = None
    has_port: bool = False

    @classmethod
    def from_settings(cls, settings: HttpSettings, *, handed: bool = False) -> MetricsAccess:
        """Make the rules of the settings.

        Args:
            settings: The operator's settings.
            handed: Whether a supervisor has opened the port.

        Raises:
            ValueError: The token is too short or given twice, its file can be read by others, or
                other machines can reach the port without a token.
            OSError: The file cannot be read.
        """
        token = _token(settings)
        if (
            settings.metrics_port is not None
            and not is_loopback(settings.metrics_host)
            and not token
        ):
            raise ValueError(
                f"http.metrics_host {settings.metrics_host!r} can be reached from other machines: "
                "set http.metrics_token or http.metrics_token_file"
            )
        digest = hashlib.sha256(token.encode()).digest() if token else None
        return cls(digest, handed or settings.metrics_port is not None)

    def opens_on_port_of_clients(self, scope: Scope) -> bool:
        """Whether a request to the port may read them; False if the rules for clients apply.

        Raises:
            Denied: It must not read them.
        """
        if self.has_port:
            raise Denied(HTTPStatus.NOT_FOUND, "The metrics are served at http.metrics_port.")
        if self.digest is None:
            return False
        self.check_token(scope)
        return True

    def check_token(self, scope: Scope) -> None:
        """Refuse a request without the token.

        Raises:
            Denied: The token is missing or wrong.
        """
        offered = hashlib.sha256(bearer_token(scope["headers"]).encode("latin-1")).digest()
        if self.digest is None or not hmac.compare_digest(self.digest, offered):
            raise Denied(
                HTTPStatus.UNAUTHORIZED,
                "The token of http.metrics_token is needed: send Authorization: Bearer <token>.",
                {"www-authenticate": "Bearer"},
            )


class MetricsDoor:
    """The ASGI application of the port for metrics: `/metrics`, `/healthz` and `/readyz`.

    Args:
        settings: The operator's settings.
        answer: Answers an accepted request.

    Attributes:
        access: Checks requests; may be replaced at any time.
    """

    def __init__(self, settings: HttpSettings, access: MetricsAccess, answer: Answer) -> None:
        self.access = access
        self._answer = answer
        # Without a token, a web page must not read them through a name that resolves to loopback.
        self._names = Authenticator(
            hosts=LOOPBACK_NAMES | {host.lower() for host in settings.allowed_hosts},
            origins=frozenset(),
            loopback=True,
            max_header_bytes=settings.max_header_bytes,
            digests={},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI."""
        del receive
        more: list[tuple[bytes, bytes]] = []
        try:
            self._admit(scope)
            status, body, content_type = await self._answer(scope)
        except Denied as denied:
            status, body = denied.status, f"{denied.reason}\n".encode()
            content_type = "text/plain; charset=utf-8"
            more = [(name.encode(), value.encode()) for name, value in denied.headers.items()]
        headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        start = {"type": "http.response.start", "status": int(status), "headers": headers + more}
        await send(start)
        await send({"type": "http.response.body", "body": body})

    def _admit(self, scope: Scope) -> None:
        path = scope["path"]
        if path in _OPEN_PATHS:
            return
        if path != METRICS_PATH:
            raise Denied(HTTPStatus.NOT_FOUND, "There are /metrics, /healthz and /readyz here.")
        if self.access.digest is None:
            self._names.admit(scope["headers"])
        else:
            self.access.check_token(scope)


def _token(settings: HttpSettings) -> str | None:
    given, file = settings.metrics_token, settings.metrics_token_file
    if given is not None and file is not None:
        raise ValueError("http.metrics_token and http.metrics_token_file are set: leave one out")
    if file is not None:
        token, name = _only_line(file), f"http.metrics_token_file {str(file)!r}"
    elif given is not None:
        token, name = given.get_secret_value(), "http.metrics_token"
    else:
        return None
    if len(token) < MIN_TOKEN_CHARS:
        raise ValueError(f"{name} has {len(token)} characters: use at least {MIN_TOKEN_CHARS}")
    return token


def _only_line(file: Path) -> str:
    check_permissions(file, "http.metrics_token_file")
    return file.read_text(encoding="utf-8").strip()
