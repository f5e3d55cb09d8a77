"""The envelope: the one structure of every answer.

It has `success`, `data`, `error` and `meta`, and is published as each tool's output schema. So a
program that can read one answer can read them all. The schema is brief, because a list of tools
repeats it for each tool. On failure, `error` is a sentence that says what to do, and `data` has
`error_code`, `error_type` and `remediation`. `meta` has `version`, `request_id`, `warnings`,
`pagination`,
`rate_limit` and `telemetry`.
"""

from __future__ import annotations

from typing import Any, Final

from nursery_patterns import current_request
from trio_tools.answers.errors import ErrorType

RESPONSE_VERSION: Final = "response-v2"

ENVELOPE_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "title": RESPONSE_VERSION,
    "required": ["success", "data", "error", "meta"],
    "properties": {
        "success": {"type": "boolean"},
        "data": {"type": "object"},
    },
}


def success_response(
    data: dict[str, Any],
    *,
    warnings: list[str] | None = None,
    pagination: dict[str, Any] | None = None,
    rate_limit: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Wrap the result of a call.

    Args:
        data: The result, as JSON values.
        warnings: Sentences that the caller should read although the call succeeded.
        pagination: `cursor` for the next page, `page_size`, `total`.
        rate_limit: `limit`, `remaining`, `retry_after_seconds`, `waited_seconds`.
    """
    meta = _meta(warnings=warnings, pagination=pagination, rate_limit=rate_limit)
    return {"success": True, "data": data, "error": None, "meta": meta}


def error_response(
    message: str,
    *,
    error_code: str = "INTERNAL",
    error_type: ErrorType | str = ErrorType.INTERNAL,
    remediation: str = "",
    data: dict[str, Any] | None = None,
    warnings: list[str] | None = None,
    rate_limit: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Wrap a failure.

    Args:
        message: One sentence that says what is wrong and what to do.
        error_code: Upper-case name for programs.
        error_type: One of `ErrorType`.
        remediation: What to do, as an instruction; the message by default.
        data: Further fields, such as bounds, names or partial results.
        warnings: Further sentences.
        rate_limit: As for `success_response`.
    """
    failure = {
        "error_code": error_code,
        "error_type": str(error_type),
        "remediation": remediation or message,
    }
    meta = _meta(warnings=warnings, rate_limit=rate_limit)
    return {"success": False, "data": {**failure, **(data or {})}, "error": message, "meta": meta}


def lean_envelope(envelope: dict[str, Any]) -> dict[str, Any]:
    """Return an envelope without the fields that are null, empty, or of use to programs alone.

    `success` and `data` are always there; `error` is there on failure; `meta` has `warnings`,
    `pagination` and `rate_limit`, as far as there are any.
    """
    error = {"error": envelope["error"]} if envelope["error"] else {}
    told = ("warnings", "pagination", "rate_limit")
    meta = {name: value for name in told if (value := envelope["meta"][name])}
    lean = {"success": envelope["success"], "data": envelope["data"], **error}
    return {**lean, "meta": meta} if meta else lean


def envelope_schema(*, lean: bool) -> dict[str, Any]:
    """Return the output schema of every tool; of lean answers it requires less."""
    return {**ENVELOPE_SCHEMA, "required": ["success", "data"]} if lean else ENVELOPE_SCHEMA


def _meta(
    *,
    warnings: list[str] | None,
    pagination: dict[str, Any] | None = None,
    rate_limit: dict[str, Any] | None = None,
) -> dict[str, Any]:
    request = current_request()
    return {
        "version": RESPONSE_VERSION,
        "request_id": request.request_id if request else None,
        "warnings": warnings or [],
        "pagination": pagination,
        "rate_limit": rate_limit,
        "telemetry": {"elapsed_seconds": round(request.elapsed, 3) if request else 0.0},
    }
