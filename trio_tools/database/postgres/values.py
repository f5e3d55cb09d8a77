"""Values of PostgreSQL as JSON values, converted from PostgreSQL's text form.

Integers, floats, booleans, JSON and arrays become the corresponding JSON values if nothing is
lost; bytes become base64. All other types keep the text that psql shows: `1 mon`, `infinity`,
`24:00:00`, `0044-03-15 BC`, `12.50`, `NaN`, `(1,"a b")`, `[1,5)`.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

Converter = Callable[[str], Any]

_MAX_DEPTH = 50
_BOOL, _BYTEA, _INT8, _INT2, _INT4, _OID, _JSON, _FLOAT4, _FLOAT8, _JSONB = (
    16, 17, 20, 21, 23, 26, 114, 700, 701, 3802,
)  # fmt: skip
_BOX = 603  # the one type whose arrays are delimited by semicolons

# Tokens of an array: a quoted element, an unquoted one, or a mark.
_ELEMENT = re.compile(
    r'"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<mark>[{}])|(?P<bare>[^{},"]++)', re.DOTALL
)
_BOX_ELEMENT = re.compile(r"(?P<quoted>\0)|(?P<mark>[{}])|(?P<bare>[^{};]++)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class _LossyError(ValueError):
    """JSON's parser would lose a part of the text."""


def converter_of(oid: int) -> Converter:
    """Return the function from text to a JSON value, for a type that is not an array."""
    return _CONVERTERS.get(oid, str)


def array_converter(element_oid: int) -> Converter:
    """Return the function that makes nested lists of the text of an array."""
    pattern = _BOX_ELEMENT if element_oid == _BOX else _ELEMENT
    convert = converter_of(element_oid)
    return lambda text: _array(text, convert, pattern)


def _array(text: str, convert: Converter, pattern: re.Pattern[str]) -> list[Any]:
    # Unusual bounds are written before it, as in [0:1]={1,2}.
    start = text.find("=") + 1 if text.startswith("[") else 0
    outer: list[Any] = []
    stack = [outer]
    for token in pattern.finditer(text, start):
        if token["mark"] == "{":
            inner: list[Any] = []
            stack[-1].append(inner)
            stack.append(inner)
        elif token["mark"]:
            stack.pop()
        elif token["quoted"] is not None:
            stack[-1].append(convert(_ESCAPED.sub(r"\1", token["quoted"])))
        else:
            bare = token["bare"]
            stack[-1].append(None if bare == "NULL" else convert(bare))
    return outer[0]


def _bool(text: str) -> bool:
    return text == "t"


def _float(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _bytes(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text.removeprefix("\\x"))).decode()


def _json(text: str) -> Any:
    """Return the value; the text if a parser would lose digits or keys, or cannot parse it."""
    try:
        value = json.loads(text, parse_float=_decimal, object_pairs_hook=_object)
        if "\\u" in text:  # an escape can be a lone surrogate, which is not text
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return text
    return text if _is_deep(value) else value


def _decimal(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value) or Decimal(digits) != Decimal(repr(value)):
        raise _LossyError(digits)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _LossyError("a key comes twice")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, list | dict)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


_CONVERTERS: dict[int, Converter] = {
    _BOOL: _bool,
    _BYTEA: _bytes,
    **dict.fromkeys((_INT2, _INT4, _INT8, _OID), int),
    **dict.fromkeys((_FLOAT4, _FLOAT8), _float),
    **dict.fromkeys((_JSON, _JSONB), _json),
}
