"""Replies from bytes, without I/O: httptools parses the syntax, the table below has the protocol.

A reply goes through the states of `State`. `_NEXT` has every transition but one: `_recover` ends
a reply whose surplus bytes cannot be parsed. An event without an entry is a protocol violation of
the peer and raises `FetchError`. The counters bound the memory that a peer can make us use.

A head that httptools refuses is rewritten by `head_repair` if its errors are harmless, and then
parsed by the same rules. Such a connection is not reused.
"""

from __future__ import annotations

from enum import IntEnum

import httptools

from trio_tools.http.wire.errors import Code, FetchError
from trio_tools.http.wire.head_repair import BrokenHead, head_end, repaired_head

Header = tuple[bytes, bytes]


class State(IntEnum):
    """The state of the reply. Later states compare greater."""

    WAITING = 0
    """Nothing of the final reply was received, at most interim (1xx) replies."""
    HEAD = 1
    """The status line has begun; header fields follow."""
    INTERIM = 2
    """The header fields of a 1xx reply are complete."""
    BODY = 3
    """The header fields are complete; the body follows."""
    DONE = 4
    """The reply is complete and nothing follows it."""
    SURPLUS = 5
    """The reply is complete and unrequested bytes follow it."""


class Event(IntEnum):
    """An event from httptools, or the end of the connection."""

    BEGIN = 0
    INTERIM_HEAD = 1
    FINAL_HEAD = 2
    ONLY_HEAD = 3
    """The end of the header fields of a reply without a body, such as the reply to HEAD."""
    DATA = 4
    END = 5
    LAST_BYTE = 6
    """The connection ended, and with it a body that has no other end."""


# The members as module globals: until Python 3.12 each look-up of `State.BODY` is a Python call,
# and a reply makes some twenty of them.
_WAITING, _HEAD, _INTERIM, _BODY, _DONE, _SURPLUS = State
_BEGIN, _INTERIM_HEAD, _FINAL_HEAD, _ONLY_HEAD, _DATA, _END, _LAST_BYTE = Event

_NEXT: dict[State, dict[Event, State]] = {
    _WAITING: {_BEGIN: _HEAD},
    _HEAD: {
        _INTERIM_HEAD: _INTERIM,
        _FINAL_HEAD: _BODY,
        _ONLY_HEAD: _DONE,
    },
    _INTERIM: {_END: _WAITING},
    _BODY: {_DATA: _BODY, _END: _DONE, _LAST_BYTE: _DONE},
    _DONE: {_BEGIN: _SURPLUS, _DATA: _SURPLUS, _END: _DONE},
    _SURPLUS: {
        _BEGIN: _SURPLUS,
        _INTERIM_HEAD: _SURPLUS,
        _FINAL_HEAD: _SURPLUS,
        _ONLY_HEAD: _SURPLUS,
        _DATA: _SURPLUS,
        _END: _SURPLUS,
    },
}

# Framing (chunk sizes, extensions, trailers) may use this many bytes per byte of body, beside the
# limit of header bytes. One-byte chunks, the worst case of a well-behaved peer, use 5.
_FRAMING_PER_BODY_BYTE = 16
_TE_LENGTH = len(b"transfer-encoding")


class Reply:
    """The received parts of one reply. The parser fills it; the reader takes its body.

    Attributes:
        status: Status code; 0 until the header fields are complete.
        reason: Reason phrase, possibly empty.
        version: HTTP version, such as "1.1".
        headers: Fields in order, names as sent.
        parts: Pieces of body that were not taken yet, without framing, still encoded.
        body_bytes: Number of bytes of body so far, taken or not.
        transfer_codings: Codings beside chunks, in the order in which they were applied.
    """

    __slots__ = (
        "body_bytes",
        "headers",
        "parts",
        "reason",
        "status",
        "transfer_codings",
        "version",
    )

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        self.version = ""
        self.headers: list[Header] = []
        self.parts: list[bytes] = []
        self.body_bytes = 0
        self.transfer_codings: tuple[str, ...] = ()

    def take(self) -> bytes:
        """Return the body received since the last call; b"" if there is none."""
        parts = self.parts
        if len(parts) == 1:
            return parts.pop()
        data = b"".join(parts)
        parts.clear()
        return data


class ReplyParser:
    """Parses the replies of one connection, one after the other.

    Call `expect` before each request. Then `feed` the received bytes, b"" for the end of the
    connection, until `state` has the required value.

    Args:
        max_head_bytes: Limit of bytes of status lines and header fields, including interim
            replies.

    Attributes:
        state: State of the current reply.
        begun: Whether a byte of it was received.
    """

    __slots__ = (
        "_framing_bytes",
        "_head_only",
        "_http",
        "_keep_alive",
        "_max_head_bytes",
        "_raw",
        "_repairs",
        "_reply",
        "begun",
        "state",
    )

    def __init__(self, max_head_bytes: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._http = _new_parser(self)
        self._head_only = False
        self._repairs = False
        # The received bytes until the head is complete: httptools does not return them.
        self._raw: list[bytes] = []
        self.expect(head_only=False)

    def expect(self, *, head_only: bool) -> Reply:
        """Prepare for the next reply and return the object that it will fill.

        Args:
            head_only: It is the reply to a HEAD request, which has no body.
        """
        if self._head_only or self._repairs:
            # llhttp still expects the body that this reply did not have
            self._http = _new_parser(self)
            self._repairs = False
        self._raw.clear()
        self._head_only = head_only
        self._keep_alive = False
        self._framing_bytes = 0
        self._reply = Reply()
        self.begun = False
        self.state = _WAITING
        return self._reply

    @property
    def reusable(self) -> bool:
        """Whether the reply is complete and the connection may carry another request."""
        return self._keep_alive and self.state is _DONE and not self._repairs

    def feed(self, data: bytes) -> None:
        """Parse received bytes; b"" for the end of the connection.

        Raises:
            FetchError: `PROTOCOL_ERROR` or `TOO_LARGE`; the connection cannot be used any more.
        """
        if not data:
            self._feed_end()
            return
        self.begun = True
        before = self._reply.body_bytes
        if self.state < _BODY:
            self._raw.append(data)
        try:
            if self._repairs and self.state < _BODY:
                self._feed_repaired()
            else:
                self._http.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            raise _violation("it switched to another protocol without a request") from exc
        except httptools.HttpParserError as exc:
            self._recover(exc)
        if self.state >= _BODY:
            self._raw.clear()
        self._framing_bytes += len(data) - (self._reply.body_bytes - before)
        if self._framing_bytes > self._max_head_bytes:
            self._check_sizes()

    def _recover(self, exc: httptools.HttpParserError) -> None:
        """Start the reply again with a repaired head, if the error is in the head."""
        if self.state >= _DONE:
            self.state = _SURPLUS
            return
        if self.state is _BODY or self._repairs:
            raise _violation(str(exc)) from exc
        self._repairs = True
        try:
            self._feed_repaired()
        except httptools.HttpParserError as again:
            if self.state < _DONE:
                raise _violation(str(again)) from again
            self.state = _SURPLUS

    def _feed_repaired(self) -> None:
        """Parse the reply from its beginning, with each complete head repaired.

        Raises:
            FetchError: A head cannot be repaired.
            httptools.HttpParserError: The repaired head is invalid too.
        """
        raw = b"".join(self._raw)
        self._raw[:] = [raw]
        while self.state < _BODY and (end := head_end(raw)):
            self._http = _new_parser(self)
            self.state = _WAITING
            self._reply.headers.clear()
            self._reply.reason = b""
            try:
                head, self._reply.transfer_codings = repaired_head(raw[:end])
            except BrokenHead as exc:
                raise _violation(str(exc)) from exc
            self._http.feed_data(head)
            raw = raw[end:]
            self._raw[:] = [raw]
        if raw and self.state >= _BODY:
            self._http.feed_data(raw)

    def _feed_end(self) -> None:
        if self.state is _BODY and _lasts_until_the_end(self._reply.headers):
            self.state = _NEXT[_BODY][_LAST_BYTE]
        elif self.state is _BODY:
            raise _violation(
                f"the connection ended after {self._reply.body_bytes} bytes of the body"
            )
        elif self.begun:
            raise _violation("the connection ended before the header fields did")

    def _check_sizes(self) -> None:
        # The exact count is made only here, where it is rare: the piece that ended the head may
        # have contained other bytes too.
        head = len(self._reply.reason)
        head += sum(len(name) + len(value) + 4 for name, value in self._reply.headers)
        if self.state < _BODY or head > self._max_head_bytes:
            raise _head_too_large(self._max_head_bytes)
        allowed = 2 * self._max_head_bytes + _FRAMING_PER_BODY_BYTE * self._reply.body_bytes
        if self.state is _BODY and self._framing_bytes > allowed:
            raise _violation("it sends framing (chunk extensions, trailers) instead of a body")

    # Called by httptools, under these names.

    def on_message_begin(self) -> None:
        """A reply begins."""
        self.state = _NEXT[self.state][_BEGIN]

    def on_status(self, reason: bytes) -> None:
        """A piece of the reason phrase."""
        if self.state is _HEAD:
            self._reply.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field, of the head or of a trailer."""
        if self.state is _HEAD:  # otherwise a trailer, which is ignored
            if len(name) == _TE_LENGTH and value != b"chunked" and not self._repairs:
                self._check_codings(name, value)
            self._reply.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The empty line after the fields."""
        status = self._http.get_status_code()
        if status < 200:  # noqa: PLR2004 - 1xx, by its name
            self.state = _NEXT[self.state][_INTERIM_HEAD]
            if self.state is _INTERIM:
                self._reply.headers.clear()
                self._reply.reason = b""
        elif self._head_only and self.state is _HEAD:
            self._set_status(status)
            self._keep_alive = self._http.should_keep_alive()
            self.state = _NEXT[self.state][_ONLY_HEAD]
        else:
            self.state = _NEXT[self.state][_FINAL_HEAD]
            if self.state is _BODY:
                self._set_status(status)

    def on_body(self, data: bytes) -> None:
        """A piece of body."""
        self.state = _NEXT[self.state][_DATA]
        if self.state is _BODY:
            self._reply.parts.append(data)
            self._reply.body_bytes += len(data)

    def on_message_complete(self) -> None:
        """The end of a reply that has a framed end."""
        if self.state is _BODY:
            self._keep_alive = self._http.should_keep_alive()
        self.state = _NEXT[self.state][_END]

    def _check_codings(self, name: bytes, value: bytes) -> None:
        """Leave codings that httptools does not know to the repair."""
        if name.lower() == b"transfer-encoding" and value.strip(b" \t").lower() != b"chunked":
            raise BrokenHead("a transfer coding besides chunks")

    def _set_status(self, status: int) -> None:
        self._reply.status = status
        self._reply.version = self._http.get_http_version()


def _new_parser(protocol: ReplyParser) -> httptools.HttpResponseParser:
    parser = httptools.HttpResponseParser(protocol)
    # Both are common and cannot move the border between two replies.
    parser.set_dangerous_leniencies(
        lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser


def _lasts_until_the_end(headers: list[Header]) -> bool:
    """Whether only the end of the connection ends a reply's body (RFC 9112, 6.3)."""
    has_length, encoding = False, b""
    for name, value in headers:
        lower = name.lower()
        has_length = has_length or lower == b"content-length"
        if lower == b"transfer-encoding":
            encoding = value.lower()  # the last one was applied last
    return not encoding.endswith(b"chunked") if encoding else not has_length


def _violation(reason: str) -> FetchError:
    return FetchError(
        f"The reply is not valid HTTP/1.1: {reason}.",
        code=Code.PROTOCOL_ERROR,
        remediation="The server or something before it is broken; trying again may help.",
    )


def _head_too_large(max_head_bytes: int) -> FetchError:
    return FetchError(
        f"The header fields of the reply are longer than {max_head_bytes} bytes.",
        code=Code.TOO_LARGE,
        remediation="Let the operator raise `max_head_bytes` if this server must be read.",
    )
