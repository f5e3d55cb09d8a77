"""Cursors: signed positions that a client returns and cannot change."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from functools import cached_property
from typing import Any

from trio_tools.answers.errors import InvalidArgument

_MAC_BYTES = 12


class Cursors:
    """Encodes and decodes positions, with a secret that is kept with the state.

    Args:
        purpose: The purpose of the cursors. Cursors of another purpose are refused.
        secret: The secret, or a function that returns it at the first use; by default a new random
            one.
    """

    def __init__(
        self, purpose: str, secret: bytes | Callable[[], bytes | None] | None = None
    ) -> None:
        self._purpose = purpose
        self._secret = secret

    @cached_property
    def _key(self) -> bytes:
        given = self._secret() if callable(self._secret) else self._secret
        secret = given or secrets.token_bytes(32)
        return hashlib.sha256(self._purpose.encode() + secret).digest()

    def encode(self, position: dict[str, Any]) -> str:
        """Return a cursor for the position, a dict of JSON values."""
        body = json.dumps(position, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._mac(body) + body).decode().rstrip("=")

    def decode(self, cursor: str) -> dict[str, Any]:
        """Return the position of a cursor.

        Raises:
            InvalidArgument: It was not made with this secret, or was changed.
        """
        try:
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except ValueError:
            raw = b""
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body)):
            raise InvalidArgument(
                "cursor was not made by this server, or its state was lost since then: "
                "call again without cursor to start from the beginning.",
                error_code="INVALID_CURSOR",
            )
        return json.loads(body)

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:_MAC_BYTES]
