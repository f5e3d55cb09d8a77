"""The id of a request that is too large to be parsed.

The fields of the outer object are read from the two ends of its bytes, up to the first value that
is an object or a list. Clients put the id in front of the params or behind them. Nothing between
the ends is looked at, so the cost does not depend on the length.
"""

from __future__ import annotations

import json
import re
from typing import Final

from mcp_types import RequestId

END_BYTES: Final = 1_024
"""Bytes that are read at each end."""

_SPACE = rb"[ \t\r]*+"
_TEXT = rb'"(?:[^"\\]|\\.)*+"'
_FIELD = rb"(%b)%b:%b(%b|-?[0-9][0-9.eE+-]*+|true|false|null)%b" % (
    _TEXT,
    _SPACE,
    _SPACE,
    _TEXT,
    _SPACE,
)
_OPENING: Final = re.compile(_SPACE + rb"\{" + _SPACE, re.DOTALL)
_NEXT: Final = re.compile(_FIELD + rb"[,}]" + _SPACE, re.DOTALL)
# In JSON, a quote behind a comma begins a text if a name and a colon follow it. So what matches
# here, right before the last brace, is outside of texts and of inner objects.
_LAST: Final = re.compile(rb"(?:," + _SPACE + _FIELD + rb")++\}" + _SPACE + rb"\Z", re.DOTALL)
_ONE: Final = re.compile(rb"," + _SPACE + _FIELD, re.DOTALL)
_INTEGER: Final = re.compile(rb"-?[0-9]{1,300}\Z")


def request_id_of(start: bytes, end: bytes = b"") -> RequestId | None:
    """Return the id of a request; None if its ends do not show it, or it is no request.

    Args:
        start: The JSON text of one message, or its start.
        end: The end of the text, if it is known. Only `END_BYTES` of each are looked at.
    """
    fields: dict[bytes, bytes] = {}
    found = _OPENING.match(start)
    while found and (found := _NEXT.match(start, found.end(), END_BYTES)):
        fields[found[1]] = found[2]
    if last := _LAST.search(end[-END_BYTES:]):
        fields.update(_ONE.findall(last[0]))
    value = fields.get(b'"id"', b"")
    # A response has an id too, which is one of ours.
    if b'"method"' not in fields or not (value.startswith(b'"') or _INTEGER.match(value)):
        return None
    try:
        return json.loads(value)
    except ValueError:  # the line is not JSON
        return None
