"""A secret that shows itself only where it is asked to, and is cut out of what comes back."""

from __future__ import annotations

import re
from html.entities import codepoint2name

_SHORTEST_REDACTED = 6
_REDACTED = b"[redacted]"
_LONGEST_ESCAPE = 8  # bytes, enough for any that `_forms` knows


class Secret:
    """Text that is not shown by `repr`, `str` or formatting.

    Args:
        value: The text; empty for no secret.

    Attributes:
        longest: Most bytes that it takes where it is escaped.
    """

    __slots__ = ("_pattern", "_value", "longest")

    def __init__(self, value: str) -> None:
        self._value = value
        self.longest = _LONGEST_ESCAPE * len(value)
        # An API may echo all of "Bearer abc" or only the last word of it.
        words = {word for word in (value, *value.split()) if len(word) >= _SHORTEST_REDACTED}
        forms = (b"".join(map(_forms, word)) for word in sorted(words, key=len, reverse=True))
        self._pattern = re.compile(b"|".join(forms) or rb"(?!)")  # without a word: never

    def __repr__(self) -> str:
        return "<Secret>"

    def reveal(self) -> str:
        """Return the text, to be sent to where it belongs."""
        return self._value

    def redact(self, data: bytes, *, cut_at: int | None = None) -> bytes:
        """Return `data` with the secret replaced by "[redacted]", also where it is escaped.

        Args:
            data: What came back.
            cut_at: How many bytes of it are to be shown; None for all. Give `longest` bytes more,
                so that a secret that lies across the cut is recognised too.
        """
        if cut_at is not None:
            across = (
                found.end()
                for found in self._pattern.finditer(data)
                if found.end() > cut_at > found.start()
            )
            data = data[: next(across, cut_at)]
        return self._pattern.sub(_REDACTED, data)


def _forms(char: str) -> bytes:
    """Return a pattern for a character as it is, and as JSON, HTML or a URL may escape it.

    It has each form once: with two ways to match a character, a text that is nearly the secret
    takes a time that doubles with each.
    """
    if char.isascii() and char.isalnum():
        return char.encode()  # nobody escapes these
    code, utf8 = ord(char), char.encode(errors="replace")
    quoted = "".join(f"%{byte:02x}" for byte in utf8)
    forms = [rf"(?i:\\u{code:04x}|&#0?{code};|&#x0?{code:x};|{quoted})"]
    if code in codepoint2name:
        forms.append(f"&{codepoint2name[code]};")
    return rb"(?:\\?%b|%b)" % (re.escape(utf8), "|".join(forms).encode())
