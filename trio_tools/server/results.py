"""An answer or a failure as MCP has it: the envelope for programs, a short text for models."""

from __future__ import annotations

from mcp.types import CallToolResult, TextContent

from trio_tools.answers.envelope import error_response, success_response
from trio_tools.answers.errors import ToolFailure
from trio_tools.tools.call import Answer


def succeeded(answer: Answer) -> CallToolResult:
    """Return the result of a call that did what it was asked for."""
    envelope = success_response(
        answer.data,
        warnings=answer.warnings,
        pagination=answer.pagination,
        rate_limit=answer.rate_limit,
    )
    text = "\n".join(filter(None, (answer.summary, *answer.warnings, answer.text)))
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=envelope
    )


def failed(failure: ToolFailure) -> CallToolResult:
    """Return the result of a call that failed, marked as an error."""
    envelope = error_response(
        failure.user_message,
        error_code=failure.error_code,
        error_type=failure.error_type,
        remediation=failure.remediation,
        data=failure.data,
        rate_limit=failure.rate_limit,
    )
    # Many clients show a model the text alone, so it says what to do as well.
    return CallToolResult(
        content=[TextContent(type="text", text=f"{failure.error_code}: {failure.user_message}")],
        structured_content=envelope,
        is_error=True,
    )
