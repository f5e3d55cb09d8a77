"""MCP over Streamable HTTP: many clients, both eras of the protocol.

authentication   which address, which Host, which Origin, which token
operators        what operators ask for while it runs
oauth            access tokens of an authorization server
browsers         what a page of another origin may do and read
forwarded        the client behind a trusted proxy
tls              a certificate, its key, and the password of the key
listening        unix sockets, and sockets that a supervisor opened
listeners        the address that is bound; how workers share it
http11           one connection: h11 and an ASGI application
siblings         what the workers of one address do for each other
worker           what one of them has of its parent
workers          the parent, which owns them
connections      accepted up to a bound, fairly, closable at once
sessions         of the older era: each client has its share
dashboard        the page at /, and what it reads
asgi_guard       what a request must show before the SDK sees it
metrics          what /metrics says
house            the parts of one server, put together
serve            serve_http
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trio_tools.transports.http.listeners import Address as Address
    from trio_tools.transports.http.serve import check_http as check_http
    from trio_tools.transports.http.serve import serve_http as serve_http

__all__ = ["Address", "check_http", "serve_http"]


def __getattr__(name: str) -> Any:
    # The parent of workers serves nothing, and must not load what does.
    if name in __all__:
        from trio_tools.transports.http import serve  # noqa: PLC0415

        return getattr(serve, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
