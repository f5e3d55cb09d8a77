"""MCP over Streamable HTTP: many clients, both eras of the protocol.

access        the addresses, Hosts, Origins and tokens that may send a request
operators     requests of operators to a running server
oauth         access tokens of an authorization server
tls           a certificate, its key, and the password of the key
listening     ports, unix sockets, and sockets that a supervisor opened
http11        one connection: h11 and an ASGI application
workers       several processes that serve one address
connections   accepted up to a bound, fairly, closable at once
sessions      sessions of the older era, with a share for each client
dashboard     the page at /, and its data
bodies        the weight of the bodies of all requests, shared between clients
request_body  the body of a request: read up to a bound, and read again by the SDK
asgi_guard    checks of a request before the SDK receives it
metrics       the content of /metrics
house         the parts of one server, combined
serve         serve_http
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trio_tools.transports.http.listening.listeners import Address as Address
    from trio_tools.transports.http.serve import check_http as check_http
    from trio_tools.transports.http.serve import serve_http as serve_http

__all__ = ["Address", "check_http", "serve_http"]


def __getattr__(name: str) -> Any:
    # The parent of workers serves nothing, and must not load the code for it.
    if name in __all__:
        from trio_tools.transports.http import serve  # noqa: PLC0415

        return getattr(serve, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
