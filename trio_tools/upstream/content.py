"""The result of an upstream's tool: the value of an item, or the reason for its failure."""

from __future__ import annotations

from typing import Any, Final, cast

from trio_tools.answers.errors import UpstreamFailed

_MAX_REASON_CHARS: Final = 1_500


def value_of(raw: dict[str, Any]) -> Any:
    """Return the value of a result of `tools/call`, as JSON values.

    It is the structured content, or else the text. If there are images, audio or resources, it is
    an object with that value as `value` and the blocks as `content`.

    Raises:
        UpstreamFailed: The tool reports a failure.
    """
    blocks = cast("list[dict[str, Any]]", raw.get("content") or [])
    text = "\n".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")
    if raw.get("isError"):
        raise UpstreamFailed(
            _cut(text) or "the tool failed, and does not say why", error_code="TOOL_ERROR"
        )
    structured = raw.get("structuredContent")
    value = text if structured is None else structured
    others = [block for block in blocks if block.get("type") != "text"]
    return {"value": value, "content": others} if others else value


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_REASON_CHARS else f"{text[:_MAX_REASON_CHARS]}…"
