"""MCP over standard input and output: one client, one line per message.

descriptors     standard input and output, claimed for the server only
request_ids     the id of a request that is too large to be parsed        no I/O
jsonrpc_lines   bytes to lines to messages                                no I/O
connection      between two byte streams and the SDK
serve           serve_stdio
"""

from __future__ import annotations

from trio_tools.transports.stdio.serve import serve_stdio, serve_streams

__all__ = ["serve_stdio", "serve_streams"]
