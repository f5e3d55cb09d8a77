"""CORS: headers that permit a page of another origin to send requests and read answers."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from starlette.types import Message, Send

Fields = list[tuple[bytes, bytes]]

_EXPOSED: Final = b"Mcp-Session-Id, WWW-Authenticate, Retry-After"
_METHODS: Final = b"GET, POST, DELETE, OPTIONS"
_REQUEST_FIELDS: Final = (
    b"Accept, Authorization, Content-Type, Last-Event-ID, Mcp-Method, Mcp-Name, "
    b"Mcp-Protocol-Version, Mcp-Session-Id"
)
_PREFLIGHT_SECONDS: Final = b"600"


def is_preflight(method: str, headers: dict[bytes, bytes]) -> bool:
    """Whether it is a browser's preflight request."""
    return (
        method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers
    )


def preflight_fields(headers: dict[bytes, bytes]) -> Fields:
    """Return the header fields of a preflight answer: those of MCP, and the requested ones.

    The request itself still needs its token.
    """
    asked = headers.get(b"access-control-request-headers", b"")
    return [
        *_origin_fields(headers[b"origin"]),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", b", ".join(filter(None, (_REQUEST_FIELDS, asked)))),
        (b"access-control-max-age", _PREFLIGHT_SECONDS),
    ]


def readable(send: Send, origin: bytes) -> Send:
    """Let a page of that origin read an answer."""

    def sent(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            fields = [*message["headers"], *_origin_fields(origin)]
            fields.append((b"access-control-expose-headers", _EXPOSED))
            message = {**message, "headers": fields}
        return send(message)

    return sent


def _origin_fields(origin: bytes) -> Fields:
    return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
