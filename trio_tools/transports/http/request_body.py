"""The body of a request: read whole up to a bound and within a time, and read again by the SDK."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import trio
from starlette.types import Message, Receive, Scope

from trio_tools.transports.http.access.authentication import Denied

BODY_SECONDS: Final = 30.0
"""Seconds that a client may take to send the body of a request."""


def check_length(scope: Scope, longest: int) -> None:
    """Refuse a body whose declared length is too long, without waiting for it."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > longest:
            raise _too_long(longest)


def _too_long(longest: int) -> Denied:
    return Denied(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is longer than {longest} bytes.")


async def read_body(receive: Receive, count: Callable[[int], None], longest: int) -> bytes | None:
    """Return the whole body, or None if the client disconnected before its end."""
    body = bytearray()
    with trio.move_on_after(BODY_SECONDS):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece = message.get("body", b"")
            count(len(piece))
            body += piece
            if len(body) > longest:
                raise _too_long(longest)
            if not message.get("more_body"):
                return bytes(body).removeprefix(codecs.BOM_UTF8)
    raise Denied(
        HTTPStatus.REQUEST_TIMEOUT, f"The body took longer than {BODY_SECONDS:g} s to come."
    )


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that yields the body that was read, and then later messages.

    The end is a message of its own: its reader keeps the last message while the request is served.
    """
    pending: list[Message] = [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.request", "body": body, "more_body": True},
    ]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
