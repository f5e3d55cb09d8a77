"""The stdio wire without I/O: bytes to lines, and each line to a message or a refusal.

The SDK drops invalid messages, and then their sender waits for ever. Here every line becomes a
message for the SDK, a `Refusal` that is sent as a reply, or a refusal without a reply (a broken
notification or response) that is only logged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, from_json

from trio_tools.transports.json_weight import TOO_MANY, weigh
from trio_tools.transports.stdio.request_ids import END_BYTES, request_id_of

MAX_LINE_BYTES: Final = 16 * 2**20
"""Longest accepted line, in bytes. Longer ones are skipped up to their end and refused."""

_MAX_SECOND_LOOK_BYTES: Final = 2**20
# Python parses no longer integers; an id has a few digits.
_MAX_ID_DIGITS: Final = 4_300

_REPLIES: Final = {"result", "error"}


class LineFramer:
    """Splits a stream of bytes into lines, visiting each byte once.

    Args:
        max_line_bytes: Longest line, in bytes, without its end. The framer holds at most this
            much plus one fed chunk.

    Attributes:
        skipped: The start of the last line that was too long.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        # The incomplete line. Empty while `_skipping`: the rest of a line that was too long.
        self._begun = bytearray()
        self._skipping = False
        self.skipped = b""

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Yield the lines that `data` completes, in order; None for one that was too long.

        Exhaust the iterator before feeding again.
        """
        *ends, rest = data.split(b"\n")
        for end in ends:
            if self._skipping:
                self._skipping = False
                continue
            self._begun += end
            yield self._take() if len(self._begun) <= self._max else self._drop()
        if self._skipping:
            return
        self._begun += rest
        if len(self._begun) > self._max:
            self._skipping = True
            yield self._drop()

    def close(self) -> Iterator[bytes | None]:
        """Yield the last line if the input ended without a newline after it."""
        if self._begun:
            yield self._take()

    def _take(self) -> bytes:
        line = bytes(self._begun)
        self._begun.clear()
        return line

    def _drop(self) -> None:
        self.skipped = bytes(self._begun[:END_BYTES])
        self._begun = bytearray()  # a new one: clear() may keep the memory


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a line was refused.

    Attributes:
        code: JSON-RPC error code.
        reason: One sentence, without content of the line.
        request_id: Id of the request, if it could be read.
        reply_owed: False for notifications and responses, which JSON-RPC never answers.
    """

    code: int
    reason: str
    request_id: RequestId | None = None
    reply_owed: bool = True

    def reply(self) -> JSONRPCError:
        """Return the error message for the wire."""
        error = ErrorData(code=self.code, message=self.reason)
        return JSONRPCError(jsonrpc="2.0", id=self.request_id, error=error)


def too_long(start: bytes) -> Refusal:
    """Refuse a line that was skipped, of which only the start is known."""
    reason = f"The message is longer than {MAX_LINE_BYTES} bytes: send it in parts."
    return Refusal(INVALID_REQUEST, reason, request_id_of(start))


async def decode(line: bytes) -> JSONRPCMessage | Refusal | None:
    """Parse one line as a JSON-RPC message. Checkpoints only while a long one is weighed.

    Args:
        line: The line without its newline.

    Returns:
        The message; or its refusal; or None for a blank line.
    """
    if not line or line.isspace():
        return None
    if await weigh(line) is None:
        return Refusal(INVALID_REQUEST, TOO_MANY, request_id_of(line, line))
    try:
        content: Any = from_json(line, allow_inf_nan=False)
    except ValueError as error:
        return _unreadable(line, f"The line is not JSON in UTF-8: {error}.")
    if not isinstance(content, dict):
        kind = "a batch" if isinstance(content, list) else "not a JSON object"
        return Refusal(INVALID_REQUEST, f"The line is {kind}: send one JSON-RPC object per line.")
    fields = cast("dict[str, Any]", content)
    if "method" in fields:
        return _call(fields)
    no_message = Refusal(INVALID_REQUEST, "The object has no method: it is not a JSON-RPC message.")
    return _reply(fields) if _REPLIES & fields.keys() else no_message


def encode(message: JSONRPCMessage) -> bytes:
    """Write one message as a line of UTF-8 with its newline.

    Text that UTF-8 cannot encode (a lone surrogate, as from an odd file name) is sent as a JSON
    escape.
    """
    try:
        text = message.model_dump_json(by_alias=True, exclude_unset=True)
    except PydanticSerializationError:
        text = json.dumps(message.model_dump(mode="python", by_alias=True, exclude_unset=True))
    return text.encode() + b"\n"


def _call(fields: dict[str, Any]) -> JSONRPCRequest | JSONRPCNotification | Refusal:
    """Parse an object with a method: a request if it has an id, else a notification."""
    expects_reply = "id" in fields
    request_id = fields.get("id")
    if expects_reply and (isinstance(request_id, bool) or not isinstance(request_id, int | str)):
        return Refusal(INVALID_REQUEST, "The request's id must be a string or an integer.")

    def refuse(code: int, reason: str) -> Refusal:
        return Refusal(code, reason, request_id, reply_owed=expects_reply)

    if fields.get("jsonrpc") != "2.0":
        return refuse(INVALID_REQUEST, 'The message must carry "jsonrpc": "2.0".')
    if not isinstance(fields["method"], str):
        return refuse(INVALID_REQUEST, "The method must be a string.")
    params = fields.get("params")
    if params is not None and not isinstance(params, dict):
        return refuse(INVALID_PARAMS, "The params must be a JSON object: MCP names its parameters.")
    # Only sent fields are set: the SDK omits unset ones from its own messages.
    known = {name: fields[name] for name in ("jsonrpc", "id", "method", "params") if name in fields}
    return JSONRPCRequest(**known) if expects_reply else JSONRPCNotification(**known)


def _unreadable(line: bytes, reason: str) -> Refusal:
    """Refuse a line, with the id of its request if a more tolerant parser can find it.

    Python's parser accepts a lone surrogate, NaN and every number; the caller waits for an answer
    in any case.
    """
    fields: Any = None
    if len(line) <= _MAX_SECOND_LOOK_BYTES:
        with suppress(ValueError, RecursionError):
            fields = json.loads(line, parse_int=_short_integer)
    if not isinstance(fields, dict) or "method" not in fields:
        return Refusal(PARSE_ERROR, reason)
    found = _call(cast("dict[str, Any]", fields))
    if isinstance(found, Refusal):
        return found
    request_id = found.id if isinstance(found, JSONRPCRequest) else None
    return Refusal(PARSE_ERROR, reason, request_id, reply_owed=request_id is not None)


def _short_integer(digits: str) -> int | None:
    """Parse an integer that can be an id; one of thousands of digits cannot."""
    return int(digits) if len(digits) <= _MAX_ID_DIGITS else None


def _reply(fields: dict[str, Any]) -> JSONRPCResponse | JSONRPCError | Refusal:
    """Parse the client's answer to a request of ours."""
    try:
        if "error" in fields:
            return JSONRPCError.model_validate(fields)
        return JSONRPCResponse.model_validate(fields)
    except ValidationError:
        reason = "The object is neither a valid JSON-RPC response nor a request."
        return Refusal(INVALID_REQUEST, reason, reply_owed=False)
