"""The head of a request with fields that a user chose, and the framing of its body. No I/O.

The fields determine the end of the body, so the body must match them: an extra byte would be
parsed as the next request on the connection, and a missing one leaves the peer waiting. It
refuses what h11 refuses under stock httpx. A Content-Length beside `Transfer-Encoding: chunked`,
which h11 sends, is omitted (RFC 9112, 6.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from trio_tools.http.wire.errors import Code, FetchError

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_TARGET = re.compile(rb"[\x21-\x7e]+\Z")
_WRONG_IN_VALUE = b"\0\r\n\v\f"
_MAX_LENGTH_DIGITS = 20

LAST_CHUNK = b"0\r\n\r\n"
"""The end of a chunked body."""


class Head(NamedTuple):
    """The head of a request, and its framing.

    Attributes:
        data: Request line and fields with the empty line that ends them.
        length: Bytes of the body; None if it is chunked.
        last: Whether the connection must be closed after this request.
    """

    data: bytes
    length: int | None
    last: bool


def request_head(method: str, target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> Head:
    """Return the head of a request.

    Args:
        method: Upper case.
        target: Path and query.
        fields: Names and values, in order. Host is moved to the front, framing fields to the end.

    Raises:
        FetchError: `INVALID_REQUEST`: HTTP does not allow something in it, or fields contradict
            each other.
    """
    verb = _verb_of(method)
    if not _TARGET.match(target):
        raise _malformed(f"the path {target!r}")
    lines = [b"%b %b HTTP/1.1" % (verb, target)]
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    decisive = {b"host": hosts, b"content-length": lengths, b"transfer-encoding": codings}
    last = False
    for name, value in fields:
        lower = _lower(name)
        if value.translate(None, _WRONG_IN_VALUE).strip() != value:
            raise _malformed(f"the value of the header {name!r}")
        if lower in decisive:
            decisive[lower].append(value)
        else:
            lines.append(b"%b: %b" % (name, value))
            last = last or (lower == b"connection" and _asks_to_close(value))
    if len(hosts) != 1:
        raise _refused(f"it needs one Host header and has {len(hosts)}")
    lines.insert(1, b"Host: %b" % hosts[0])
    length = _length(lengths, codings) if lengths or codings else 0
    if length is None:
        lines.append(b"Transfer-Encoding: chunked")
    elif lengths:
        lines.append(b"Content-Length: %d" % length)
    return Head(b"\r\n".join(lines) + b"\r\n\r\n", length, last)


def whole_body(body: bytes, length: int | None) -> bytes | None:
    """Return a body in the form that is sent after its head; None if there is nothing to send.

    Raises:
        FetchError: `INVALID_REQUEST`: it is not `length` bytes long.
    """
    if length is None:
        return chunk(body) + LAST_CHUNK if body else LAST_CHUNK
    if len(body) != length:
        raise wrong_length(len(body), length)
    return body or None


def chunk(piece: bytes) -> bytes:
    """Return a non-empty piece of body as a chunk."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def wrong_length(size: int, length: int) -> FetchError:
    """Return the error for a body of `size` bytes, so far or in total, that declared `length`."""
    return _refused(
        f"its body comes to {size} bytes, and its Content-Length is {length}",
        "Declare the length that the body has, or none: a body that is given piece by piece is "
        "then sent in chunks.",
    )


# A client sends the same few methods and names repeatedly.


@lru_cache(maxsize=32)
def _verb_of(method: str) -> bytes:
    verb = method.encode("ascii", "replace")
    if not _TOKEN.match(verb):
        raise _malformed(f"the method {method!r}")
    return verb


@lru_cache(maxsize=256)
def _lower(name: bytes) -> bytes:
    if not _TOKEN.match(name):
        raise _malformed(f"the header name {name!r}")
    return name.lower()


def _asks_to_close(value: bytes) -> bool:
    lower = value.lower()
    return b"close" in lower and b"close" in _members(lower)


def _length(lengths: list[bytes], codings: list[bytes]) -> int | None:
    """Return the length in the values of these fields; None for chunks."""
    numbers = {number for value in lengths for number in _members(value)}
    if len(numbers) > 1:
        raise _refused("its Content-Length headers contradict each other")
    for number in numbers:
        if not number.isdigit() or len(number) > _MAX_LENGTH_DIGITS:
            raise _refused(f"its Content-Length is {number!r}, which is not a number of bytes")
    if not codings:
        return int(numbers.pop())
    if [coding.lower() for coding in codings] != [b"chunked"]:
        raise _refused("the only Transfer-Encoding that can be sent is `chunked`, once")
    return None


def _members(value: bytes) -> set[bytes]:
    return {member.strip() for member in value.split(b",")}


def _malformed(what: str) -> FetchError:
    return _refused(f"{what} contains characters that HTTP does not allow")


def _refused(why: str, remediation: str = "Correct the request.") -> FetchError:
    return FetchError(
        f"The request cannot be sent: {why}.",
        code=Code.INVALID_REQUEST,
        remediation=remediation,
    )
