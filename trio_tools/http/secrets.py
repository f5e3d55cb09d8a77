"""A secret that shows itself only where it is asked to, and is cut out of what comes back."""

from __future__ import annotations

import json

_SHORTEST_REDACTED = 6
_REDACTED = b"[redacted]"


class Secret:
    """Text that is not shown by `repr`, `str` or formatting.

    Args:
        value: The text; empty for no secret.
    """

    __slots__ = ("_forms", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        # An API may echo all of "Bearer abc" or only the last word of it, as text or inside JSON.
        words = {value, *value.split()}
        forms = {form for word in words for form in (word, json.dumps(word)[1:-1])}
        self._forms = sorted(
            (form.encode() for form in forms if len(form) >= _SHORTEST_REDACTED),
            key=len,
            reverse=True,
        )

    def __repr__(self) -> str:
        return "<Secret>"

    def reveal(self) -> str:
        """Return the text, to be sent to where it belongs."""
        return self._value

    def redact(self, data: bytes, *, cut: bool = False) -> bytes:
        """Return `data` with every form of the secret replaced by "[redacted]".

        Args:
            data: What came back.
            cut: Whether it was cut at a cap, so that it may end inside the secret.
        """
        for form in self._forms:
            data = data.replace(form, _REDACTED)
        if cut:
            for form in self._forms:
                overlaps = (n for n in range(len(form) - 1, 0, -1) if data.endswith(form[:n]))
                overlap = next(overlaps, 0)
                if overlap:
                    data = data[:-overlap] + _REDACTED
        return data
