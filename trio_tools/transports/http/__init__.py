"""MCP over Streamable HTTP: many clients, both eras of the protocol.

authentication   which address, which Host, which Origin, which token
token_reload     tokens, read again without dropping anybody
browsers         what a page of another origin may do and read
forwarded        the client behind a trusted proxy
tls              a certificate, its key, and the password of the key
http11           one connection: h11 and an ASGI application
connections      accepted up to a bound, fairly, closable at once
sessions         of the older era: each client has its share
dashboard        the page at /, and what it reads
asgi_guard       what a request must show before the SDK sees it
metrics          what /metrics says
serve            serve_http
"""

from __future__ import annotations

from trio_tools.transports.http.serve import Address, check_http, serve_http

__all__ = ["Address", "check_http", "serve_http"]
