"""Values as the JSON of an answer, which JavaScript reads without loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from pydantic_core import from_json, to_json

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that a host keeps exactly if it reads numbers as doubles."""

# Maps digits to zeros, and what can stand before a number in JSON to commas. The digits of a
# fraction and of an operation id follow something else.
_SHAPE = bytes(
    ord("0") if byte in b"0123456789" else ord(",") if byte in b"[:," else ord(" ")
    for byte in range(256)
)
# 2**53 has 16 digits.
_LONG_NUMBER = b"0" * 16
_LONG_INTEGER = b"," + _LONG_NUMBER


def json_bytes(value: Any, *, fallback: Callable[[Any], Any] | None = None) -> bytes:
    """Return a value as JSON in UTF-8, as the answer will have it.

    Integers beyond `MAX_SAFE_INTEGER` become strings.

    Args:
        value: JSON values, and other types that pydantic serialises.
        fallback: Called with any other value; its return value is encoded instead.

    Raises:
        ValueError: JSON cannot express it.
    """
    text = to_json(value, inf_nan_mode="null", fallback=fallback)
    if not _may_have_long_integers(text):
        return text
    parsed = from_json(text)
    safe = _with_safe_integers(parsed)
    return text if safe is parsed else to_json(safe)


def safe_value(value: Any) -> Any:
    """Return JSON values with each integer beyond `MAX_SAFE_INTEGER` as a string.

    Raises:
        ValueError: The value cannot be expressed as JSON.
    """
    text = to_json(value, inf_nan_mode="null")
    if not _may_have_long_integers(text):
        return value
    return _with_safe_integers(from_json(text))


def _may_have_long_integers(text: bytes) -> bool:
    """Whether a JSON text may have an integer of 16 digits; False is certain."""
    shape = text.translate(_SHAPE, b"-")
    return _LONG_INTEGER in shape or shape.startswith(_LONG_NUMBER)


def _with_safe_integers(value: Any) -> Any:
    """Return the value itself if all its integers are safe, else a copy."""
    if isinstance(value, int):
        return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else str(value)
    if isinstance(value, list):
        entries = cast("list[Any]", value)
        copies = [_with_safe_integers(entry) for entry in entries]
        return copies if _differ(entries, copies) else entries
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        copy = {name: _with_safe_integers(entry) for name, entry in table.items()}
        return copy if _differ(list(table.values()), list(copy.values())) else table
    return value


def _differ(before: list[Any], after: list[Any]) -> bool:
    return any(one is not other for one, other in zip(before, after, strict=True))
