"""The return value of an application's function, as the answer of its tool."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

from trio_tools.answers.errors import InvalidArgument, ToolFailure
from trio_tools.answers.json_values import from_json, json_bytes
from trio_tools.answers.texts import MARKERS_CHARS, Told, json_line, one_line
from trio_tools.tools.call import Answer, Call

Render = Callable[[Any], str]

_log = logging.getLogger(__name__)


def answer_of(name: str, render: Render | None, call: Call, value: Any) -> Answer:
    """Return a function's return value as an answer.

    Raises:
        ToolFailure: It is not a JSON value.
        InvalidArgument: It does not fit into `max_output_chars`.
    """
    made = isinstance(value, Answer)
    try:
        encoded = json_bytes(value.data if made else value)
    except ValueError as error:
        raise ToolFailure(
            f"Tool {name!r} returned a value that is not JSON ({error}): its author must return "
            "text, numbers, lists and objects.",
            error_code="NOT_JSON",
        ) from None
    most = call.state.settings.max_output_chars
    if len(encoded) > most:
        raise InvalidArgument(
            f"the result of {name} has {len(encoded):,} characters, and an answer at most "
            f"{most:,}: ask for less",
            error_code="RESULT_TOO_LARGE",
            data={"maximum": most},
        )
    if made:
        return value
    is_object = isinstance(value, dict)
    data = cast("dict[str, Any]", value) if is_object else {"result": value}
    told = None if render is None else _rendered(name, render, from_json(encoded), most)
    if told is None:
        told = Told("", value) if isinstance(value, str) and value else Told(json_line(value))
    return Answer(summary=f"{name} was done in {call.waited:.3g} s.", data=data, told=[told])


def _rendered(name: str, render: Render, value: Any, most_chars: int) -> Told | None:
    """Return the text of a result from its `render`; None if that fails."""
    try:
        line, _, body = render(value).partition("\n")
    except Exception as error:  # noqa: BLE001 - of the author of the tool
        _log.warning("tool %r cannot render a result: %r", name, error)
        return None
    told = Told(one_line(line), body)
    return told if len(told.line) + len(body) + MARKERS_CHARS <= most_chars else None
