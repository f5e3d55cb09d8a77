"""Rewrites the head of a reply whose errors are harmless.

Servers send control bytes in cookies, spaces in names, folded lines and lines without a name, and
browsers and curl accept them. Such fields are repaired or dropped here. Fields that determine the
end of the body are never guessed: differing lengths, chunks with a length, and unknown transfer
codings are errors. The connection of a repaired reply is closed after it, so later bytes are
never read as another reply, even if a proxy before the server parsed the head differently.
"""

from __future__ import annotations

import re

from trio_tools.http.wire.codecs import KNOWN_ENCODINGS

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_BLANK_LINES = re.compile(rb"(?:\r?\n)*")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_CONTROLS = bytes(range(9)) + bytes(range(10, 32)) + b"\x7f"
_TO_SPACES = bytes.maketrans(_CONTROLS, b" " * len(_CONTROLS))
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_MAX_LENGTH_DIGITS = 18


class BrokenHead(ValueError):  # noqa: N818 - said as it is
    """An error in the head affects its meaning; the message has the reason."""


def head_end(raw: bytes) -> int:
    """Return the end of the first head in `raw`; 0 if it is incomplete."""
    blank = _BLANK_LINES.match(raw)
    found = _HEAD_END.search(raw, blank.end() if blank else 0)
    return found.end() if found else 0


def repaired_head(raw: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return an equivalent head that every parser reads in the same way.

    Args:
        raw: A status line and fields, with the empty line that ends them.

    Returns:
        The head, and the transfer codings besides chunks, in the order in which they were applied.

    Raises:
        BrokenHead: It cannot be repaired.
    """
    status_line, *lines = (line.rstrip(b"\r") for line in raw.lstrip(b"\r\n").split(b"\n"))
    if b"\0" in status_line:
        raise BrokenHead("there is a NUL in the status line")
    fields = _fields(lines)
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
    framing, undone = _framing(lengths, codings)
    kept = [b"%b: %b" % field for field in fields if field[0].lower() not in _FRAMING]
    return b"\r\n".join([status_line, *kept, *framing, b"", b""]), undone


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    fields: list[tuple[bytes, list[bytes]]] = []
    continued: list[bytes] = []
    for line in lines:
        if line[:1] in {b" ", b"\t"}:  # folded (RFC 9112, 5.2)
            continued.append(line)
            continue
        name, colon, value = line.partition(b":")
        name, continued = name.strip(b" \t"), [value]
        if name.lower() in _FRAMING and len(value.translate(None, _CONTROLS)) != len(value):
            raise BrokenHead(f"there are control bytes in its {name.decode()}")
        if colon and _TOKEN.match(name):
            fields.append((name, continued))
    return [
        (name, b" ".join(part.translate(_TO_SPACES).strip() for part in parts).strip())
        for name, parts in fields
    ]


def _framing(lengths: list[bytes], codings: list[bytes]) -> tuple[list[bytes], tuple[str, ...]]:
    """Return the fields that determine the end of the body, and the codings that remain."""
    numbers = {number.strip() for value in lengths for number in value.split(b",")}
    if len(numbers) > 1:
        raise BrokenHead("its Content-Length fields differ")
    for number in numbers:
        if not number.isdigit() or len(number) > _MAX_LENGTH_DIGITS:
            raise BrokenHead("its Content-Length is not a number of bytes")
    members = [
        member.partition(b";")[0].strip().lower().decode("latin-1")
        for value in codings
        for member in value.split(b",")
    ]
    members = [member for member in members if member not in {"", "identity"}]
    chunked = members[-1:] == ["chunked"]
    undone = tuple(members[:-1] if chunked else members)
    for member in undone:
        if member not in KNOWN_ENCODINGS:
            raise BrokenHead(f"the transfer coding {member[:40]!r} cannot be undone there")
    if chunked and numbers:
        raise BrokenHead("it has chunks and a Content-Length")
    framing = [b"Content-Length: " + number for number in numbers]
    return framing + [b"Transfer-Encoding: chunked"] * chunked, undone
