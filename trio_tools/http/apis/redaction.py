"""A secret that is shown only on request, and that is removed from replies.

An API may echo the secret in many forms: escaped for JSON, HTML or a URL, once or several times,
encoded in Base64, in capitals, wrapped into lines, the user and the password separately. So the
text is also searched with all escapes undone, and not only as it is written.
"""

from __future__ import annotations

import base64
import binascii
import html
import itertools
import re
from collections.abc import Iterator
from functools import cached_property
from html.entities import codepoint2name
from typing import Any, cast
from urllib.parse import unquote

LEAST_SECRET_CHARS = 8
"""Shorter secrets cannot be distinguished from other text in a reply."""

_REDACTED = "[redacted]"
_LEAST_PART_CHARS = 6
_LONGEST_ESCAPE = 12  # bytes; enough for any form of a character that `_forms` knows
_MAX_UNDONE = 4
_UNICODE_ESCAPE = re.compile(r"\\+u([0-9a-fA-F]{4})|\\+x([0-9a-fA-F]{2})")
_LINE_ESCAPE = re.compile(r"\\+[nrt]")
_NO_MEANING = str.maketrans("", "", "\\+ \t\r\n\v\f\xa0\u2028\u2029")


class Secret:
    """A text that `repr`, `str` and formatting do not show.

    Args:
        value: The text; empty for no secret.
        prefix: Text before it in the header, such as "Bearer ".

    Attributes:
        longest: The most bytes of its escaped forms.
    """

    def __init__(self, value: str, prefix: str = "") -> None:
        self._value = value
        self.longest = _LONGEST_ESCAPE * len(value)
        self._parts = sorted(_parts(value, prefix), key=len, reverse=True) if value else []
        self._meanings = {meaning for part in self._parts if (meaning := _meaning(part))}

    def __repr__(self) -> str:
        return "<Secret>"

    def reveal(self) -> str:
        """Return the text, for sending it to its receiver."""
        return self._value

    def is_in(self, text: str) -> bool:
        """Whether the secret, or a revealing part of it, is in a text in any known form."""
        if not self._meanings:
            return False
        meaning = _meaning(text)
        return any(part in meaning for part in self._meanings)

    def redact(self, text: str, *, cut_at: int | None = None) -> str:
        """Return `text` with the secret replaced by "[redacted]".

        If it is in a form that cannot be replaced, nothing of the text is shown.

        Args:
            text: The received text.
            cut_at: Number of characters to show; None for all. Pass a longer text, so that a
            secret across this limit is recognised too.
        """
        if not self.is_in(text):
            return text if cut_at is None else text[:cut_at]
        if cut_at is not None:
            across = (
                found.end()
                for found in self._pattern.finditer(text)
                if found.end() > cut_at > found.start()
            )
            text = text[: next(across, cut_at)]
        text = self._pattern.sub(_REDACTED, text)
        return _REDACTED if self.is_in(text) else text

    def redact_value(self, value: Any) -> Any:
        """Return a JSON value with the secret replaced in all texts and names."""
        if not self._meanings:
            return value
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, list):
            return [self.redact_value(item) for item in cast("list[Any]", value)]
        if isinstance(value, dict):
            items = cast("dict[str, Any]", value).items()
            return {self.redact(name): self.redact_value(item) for name, item in items}
        if isinstance(value, int | float) and self.is_in(str(value)):
            return _REDACTED
        return value

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Matches each part in the forms that can be replaced. Only needed if there is one."""
        return re.compile("|".join(map(_pattern_of, self._parts)))


def _parts(value: str, prefix: str) -> Iterator[str]:
    """Yield the secret, its words, what it decodes to, and what it encodes to."""
    for whole in (value, *_decoded(value)):
        for word in {whole, *whole.split(), *whole.split(":")}:
            if len(word) >= _LEAST_PART_CHARS:
                yield word
                yield from _misread(word)
        yield from _in_base64(whole)
    yield from _in_base64(prefix + value)


def _decoded(value: str) -> Iterator[str]:
    """Yield the user and password in Basic credentials."""
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        return
    if text.isprintable() and ":" in text:
        yield text


def _misread(word: str) -> Iterator[str]:
    """Return a non-ASCII word as decoded with the wrong charset."""
    if not word.isascii():
        yield word.encode("latin-1", "replace").decode("utf-8", "replace")
        yield word.encode("utf-8", "replace").decode("latin-1")
        yield word.encode("utf-8", "replace").decode("cp1252", "replace")


def _in_base64(text: str) -> Iterator[str]:
    """Yield a text's Base64 at each offset in a group, without parts that neighbours affect."""
    datas = {text.encode("utf-8", "replace"), text.encode("latin-1", "replace")}
    for offset, data in itertools.product(range(3), datas):
        encoded = base64.b64encode(b"\0" * offset + data).decode()
        core = encoded[-(-offset * 8 // 6) : (offset + len(data)) * 8 // 6]
        if len(core) >= _LEAST_PART_CHARS:
            yield core
            yield core.replace("+", "-").replace("/", "_")


def _meaning(text: str) -> str:
    """Return a text with escapes undone, without white space, in lower case."""
    for _ in range(_MAX_UNDONE):
        before = text
        if "\\" in text:
            text = _UNICODE_ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)), text)
            text = _LINE_ESCAPE.sub("", text)
        if "&" in text:
            text = html.unescape(text)
        if "%" in text:
            text = unquote(text)
        if text == before:
            break
    return text.translate(_NO_MEANING).casefold()


def _pattern_of(part: str) -> str:
    """Return a pattern for a part of the secret, escaped in any way, possibly wrapped into lines.

    Each text has only one way to match it. With two ways, matching a text that is nearly the
    secret would take exponential time.
    """
    words = [r"\s*+".join(map(_forms, word)) for word in part.split()]
    return r"(?:\s|\+|%20)*+".join(words)


def _forms(char: str) -> str:
    """Return a pattern for a character as it is, and as JSON, HTML or a URL may escape it."""
    if char == "\\":
        return r"\\++"
    code = ord(char)
    quoted = "".join(f"%(?:25)*{byte:02x}" for byte in char.encode("utf-8", "replace"))
    forms = [
        rf"\\*+(?:{re.escape(char)}|u{code:04x})",
        rf"&(?:amp;)*#0*{code};",
        rf"&(?:amp;)*#x0*{code:x};",
        quoted,
    ]
    if code in codepoint2name:
        forms.append(rf"&(?:amp;)*{codepoint2name[code]};")
    return f"(?i:{'|'.join(forms)})"
