"""Replies that are reused, by the rules of RFC 9111 for a private cache.

A reply is fresh for `cache_seconds`, or for its own lifetime if that is shorter. Then it is
requested again with its validators, and reused if the server answers that it is unchanged.
Replies are not stored if they depend on the requester or must not be stored: `no-store`, `Vary:
*`, cookies, credentials.
"""

from __future__ import annotations

import email.utils
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from trio_tools.http.wire.client import Answer, Fields

_MAX_BYTES = 32_000_000
_ENTRY_BYTES = 1000  # approximate size of an entry beside its body
_STORED = frozenset({200, 203, 301, 308, 404, 410})
_PERSONAL = re.compile(r"auth|cookie|token|key|secret|session")
_CONDITIONS = frozenset(
    {"if-none-match", "if-modified-since", "if-match", "if-range", "if-unmodified-since", "range"}
)
_MAX_AGE = re.compile(rb"(?:^|,)\s*max-age\s*=\s*\"?(\d{1,9})")

Key = tuple[str, bytes, tuple[str, int | None, int | None]]
"""URL, header lines, and the requested form of the body."""


@dataclass(slots=True)
class _Entry:
    answer: Answer
    fresh_until: float
    size: int = field(default=0)


class ReplyCache:
    """Replies by request; above 32 MB, the least recently used are dropped.

    Args:
        seconds: How long a reply is fresh at most; 0 disables the cache.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # bytes == the sum of the sizes <= _MAX_BYTES
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._bytes = 0

    def takes(self, method: str, headers: Mapping[str, str]) -> bool:
        """Whether the reply to such a request may be stored."""
        return (
            self._seconds > 0
            and method == "GET"
            and not any(
                _PERSONAL.search(name.lower()) or name.lower() in _CONDITIONS for name in headers
            )
        )

    def fresh(self, key: Key) -> Answer | None:
        """Return a fresh reply, which may be reused without a request."""
        entry = self._entries.get(key)
        if entry is None or entry.fresh_until <= trio.current_time():
            return None
        self._entries.move_to_end(key)
        return entry.answer

    def conditions(self, key: Key) -> bytes:
        """Return the header lines that check whether a stored reply is unchanged."""
        entry = self._entries.get(key)
        if entry is None:
            return b""
        fields = entry.answer.fields
        lines = b""
        if b"etag" in fields:
            lines += b"if-none-match: %b\r\n" % fields[b"etag"]
        if b"last-modified" in fields:
            lines += b"if-modified-since: %b\r\n" % fields[b"last-modified"]
        return lines

    def same(self, key: Key, answer: Answer) -> Answer | None:
        """Process a 304 and return the stored reply that it confirms, which is fresh again."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        fields = {
            **entry.answer.fields,
            **{k: v for k, v in answer.fields.items() if k in _RENEWED},
        }
        entry.answer = entry.answer._replace(fields=fields)
        entry.fresh_until = trio.current_time() + self._freshness(fields)
        self._entries.move_to_end(key)
        return entry.answer

    def store(self, key: Key, answer: Answer) -> None:
        """Store a reply if that is allowed."""
        self._forget(key)
        fields = answer.fields
        control = fields.get(b"cache-control", b"").lower()
        if (
            answer.reply.status not in _STORED
            or b"no-store" in control
            or b"set-cookie" in fields
            or b"*" in fields.get(b"vary", b"")
        ):
            return
        seconds = self._freshness(fields)
        if not seconds and not {b"etag", b"last-modified"} & set(fields):
            return
        size = len(answer.body) + _ENTRY_BYTES + sum(map(len, fields.values()))
        if size > _MAX_BYTES // 4:
            return
        self._entries[key] = _Entry(answer, trio.current_time() + seconds, size)
        self._bytes += size
        while self._bytes > _MAX_BYTES:
            self._forget(next(iter(self._entries)))

    def _freshness(self, fields: Fields) -> float:
        """Return for how many seconds a reply may be reused without a request."""
        control = fields.get(b"cache-control", b"").lower()
        if b"no-cache" in control:
            return 0.0
        age = fields.get(b"age", b"0").strip()
        spent = float(age[:9]) if age.isdigit() else 0.0
        told = _MAX_AGE.search(control)
        if told:
            return max(0.0, min(self._seconds, float(told[1]) - spent))
        if b"expires" in fields:
            return max(0.0, min(self._seconds, _until(fields) - spent))
        return self._seconds

    def _forget(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size


_RENEWED = frozenset({b"cache-control", b"expires", b"date", b"age", b"etag", b"last-modified"})


def _until(fields: Fields) -> float:
    """Return the seconds from Date to Expires; 0 if Expires is not a date, such as "0"."""
    try:
        ends = email.utils.parsedate_to_datetime(fields[b"expires"].decode("latin-1"))
        begins = email.utils.parsedate_to_datetime(fields[b"date"].decode("latin-1"))
        return (ends - begins).total_seconds()
    except (ValueError, TypeError, OverflowError, KeyError, IndexError):
        return 0.0
