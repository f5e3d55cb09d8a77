"""An answer or a failure in MCP's form: the envelope for programs, a text for models.

Hosts show their model one of the two, so each is complete.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, NamedTuple, cast

from mcp.types import CallToolResult, ContentBlock, ResourceLink, TextContent

from trio_tools.answers.envelope import error_response, lean_envelope, success_response
from trio_tools.answers.errors import ToolFailure
from trio_tools.answers.json_values import safe_value
from trio_tools.answers.texts import Told, json_line, one_line, write_text
from trio_tools.tools.batches.pagination import OPERATION_MIME
from trio_tools.tools.call import Answer

# Longer lists are compared separately from the message.
_MAX_TEXTS: Final = 100


class Forms(NamedTuple):
    """The form of answers; the attributes are settings.

    Attributes:
        answers: `"text"` omits the structured content, `"structured"` omits the text except the
            summary and the warnings.
        envelope: `"lean"` omits fields with default values.
    """

    answers: Literal["both", "text", "structured"] = "both"
    envelope: Literal["full", "lean"] = "full"


_USUAL = Forms()


def succeeded(answer: Answer, forms: Forms = _USUAL) -> CallToolResult:
    """Return the result of a successful call.

    Args:
        answer: The answer of the tool.
        forms: The form of the answer.
    """
    is_lean = forms.envelope == "lean"
    is_plain = is_lean and answer.lean_data is not None
    envelope = success_response(
        safe_value(answer.lean_data if is_plain else answer.data),
        warnings=answer.warnings,
        pagination=answer.pagination,
        rate_limit=answer.rate_limit,
    )
    if is_lean:
        envelope = lean_envelope(envelope)
    if forms.answers == "structured":
        text = "\n".join((answer.summary, *answer.warnings))
        return _result(text, envelope, answer.link)
    told = answer.told
    if told is None:
        told = [Told(json_line(answer.data))] if answer.data else []
    summary, closing = ("", "") if is_plain else (answer.summary, _closing(answer))
    text = write_text(summary, warnings=answer.warnings, told=told, closing=closing)
    return _result(text, None if forms.answers == "text" else envelope, answer.link)


def failed(failure: ToolFailure, forms: Forms = _USUAL) -> CallToolResult:
    """Return the result of a call that failed, marked as an error."""
    data = safe_value(failure.data)
    envelope = error_response(
        failure.user_message,
        error_code=failure.error_code,
        error_type=failure.error_type,
        remediation=failure.advice,
        data=data,
        rate_limit=failure.rate_limit,
    )
    if forms.envelope == "lean":
        envelope = lean_envelope(envelope)
    line = f"{failure.error_code}: {one_line(failure.user_message)}"
    lines = [line]
    if forms.answers != "structured":
        further = {name: value for name, value in data.items() if not _is_in(line, value)}
        lines += [json_line(further)] if further else []
        lines += [f"rate_limit {json_line(failure.rate_limit)}"] if failure.rate_limit else []
    result = _result("\n".join(lines), None if forms.answers == "text" else envelope)
    return result.model_copy(update={"is_error": True})


def _is_in(line: str, value: Any) -> bool:
    """Whether a line contains a text, or each of some texts, as separate words."""
    texts: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not 0 < len(texts) <= _MAX_TEXTS:
        return False
    return all(
        isinstance(text, str)
        and text
        and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", line) is not None
        for text in texts
    )


def _closing(answer: Answer) -> str:
    """Return the end of a text: the tool's closing words, and fields that only `meta` has."""
    parts = [answer.text]
    if answer.rate_limit:
        parts.append(f"rate_limit {json_line(answer.rate_limit)}")
    pages = answer.pagination
    if pages and not _is_told(pages, answer):
        parts.append(f"pagination {json_line(pages)}")
    return "\n".join(filter(None, parts))


def _is_told(pages: dict[str, Any], answer: Answer) -> bool:
    cursor = pages.get("cursor")
    return cursor is None or any(str(cursor) in text for text in (answer.text, *answer.warnings))


def _result(text: str, envelope: dict[str, Any] | None, link: str = "") -> CallToolResult:
    content: list[ContentBlock] = [TextContent(type="text", text=text)]
    if link:
        content.append(
            ResourceLink(type="resource_link", name="outcomes", uri=link, mime_type=OPERATION_MIME)
        )
    return CallToolResult(content=content, structured_content=envelope)
