"""What a JSON text weighs once it is parsed, told from its bytes before anything is.

Four megabytes of `{}` are a hundred megabytes of Python objects. The text is only counted, at some
gigabytes a second; what has too many parts is never parsed.
"""

from __future__ import annotations

import re
from typing import Final

MAX_CONTAINERS: Final = 100_000
"""Most objects and lists of one message."""

MAX_TEXTS: Final = 250_000
"""Most texts of one message, names of fields included."""

MAX_VALUES: Final = 1_000_000
"""Most values of one message."""

TOO_MANY: Final = (
    f"The message has more than {MAX_CONTAINERS} objects and lists, {MAX_TEXTS} texts or "
    f"{MAX_VALUES} values: send it in parts."
)

# What CPython takes for an empty one, and for its place in another one.
_CONTAINER_BYTES: Final = 72
_TEXT_BYTES: Final = 57
_VALUE_BYTES: Final = 32

_TEXT: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def parsed_weight(text: bytes) -> int | None:
    """Return about how many bytes the objects of a JSON text take beside its own length.

    Args:
        text: The text; it need not be JSON.

    Returns:
        The weight, in bytes; None for a text that has too many parts.
    """
    # A quote within a text is escaped, but for one behind an escaped backslash: nearly so.
    texts = (text.count(b'"') - text.count(b'\\"')) // 2
    if texts > MAX_TEXTS:
        return None
    containers, values = _parts(text)
    if containers > MAX_CONTAINERS or values > MAX_VALUES:
        # Brackets and commas in texts are no parts.
        containers, values = _parts(_TEXT.sub(b"", text))
        if containers > MAX_CONTAINERS or values > MAX_VALUES:
            return None
    return containers * _CONTAINER_BYTES + texts * _TEXT_BYTES + values * _VALUE_BYTES


def _parts(text: bytes) -> tuple[int, int]:
    return text.count(b"{") + text.count(b"["), text.count(b",")
