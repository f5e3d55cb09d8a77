"""The fields of a reply by name, and its body up to a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trio_tools.http.wire.codecs import content_encodings
from trio_tools.http.wire.content_encoding import BodyDecoder
from trio_tools.http.wire.exchange import Exchange
from trio_tools.http.wire.response_parser import Header, Reply

# A body that grows by being encoded is broken or hostile; the limit plus this much is read.
_ENCODED_SLACK_BYTES = 65_536


async def read_body(
    exchange: Exchange, fields: Mapping[bytes, bytes], max_bytes: int
) -> tuple[bytes, bool]:
    """Return at most `max_bytes` of the decoded body, and whether there is more of it.

    Reading stops at the limit. Close the exchange afterwards; that closes the connection if there
    was more.

    Args:
        exchange: Started; none of its body was read yet.
        fields: The fields of its reply, from `header_fields`.
        max_bytes: The limit; 0 reads nothing.

    Raises:
        FetchError: What `Exchange.read` raises, or `INVALID_ENCODING`.
    """
    reply = exchange.reply
    if not max_bytes:
        # The bytes that came with the head show whether there is a body at all.
        return b"", not exchange.finished or reply.body_bytes > 0
    codings = body_codings(reply, fields)
    if exchange.finished and not codings:  # small replies arrive with the head
        body = reply.take()
        return body[:max_bytes], len(body) > max_bytes
    decoder: BodyDecoder | None = None
    pieces: list[bytes] = []
    length, full = 0, False
    while not full and (piece := await exchange.read()):
        if codings:
            # Made late: a reply without a body may have any coding.
            decoder = decoder or BodyDecoder(codings, max_bytes + 1)
            piece = decoder.decode(piece)
            full = decoder.full or reply.body_bytes > max_bytes + _ENCODED_SLACK_BYTES
        pieces.append(piece)
        length += len(piece)
        full = full or length > max_bytes
    if decoder is not None and not full:
        # If the connection ends the body, only this detects a truncated one.
        pieces += decoder.finish()
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return body[:max_bytes], full or len(body) > max_bytes


def body_codings(reply: Reply, fields: Mapping[bytes, bytes]) -> list[str]:
    """Return the codings of the body, in the order in which they were applied."""
    value = fields.get(b"content-encoding")
    encodings = content_encodings(value) if value else []
    return [*encodings, *reply.transfer_codings] if reply.transfer_codings else encodings


def header_fields(headers: Sequence[Header]) -> dict[bytes, bytes]:
    """Return the fields by lower-case name, repeated ones joined by ", "."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        lower = name.lower()
        fields[lower] = fields[lower] + b", " + value if lower in fields else value
    return fields
