"""How a host uses the answers of a server with these settings, and advice about it.

Plain functions of settings. The table of hosts lists the form that each host forwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from trio_tools.command_line.hosts import HOSTS
from trio_tools.settings import Settings

_HOST_SECONDS: Final = 60.0
"""Seconds after which most hosts abandon a call."""

_CLAUDE_CODE_CHARS: Final = 50_000
_CLAUDE_CODE_MOST_CHARS: Final = 500_000
_CLAUDE_CODE_WARNS_CHARS: Final = 40_000


class Advice(NamedTuple):
    """One fact about a host.

    Attributes:
        level: A warning if the model of the host misses a part of the answer.
        message: What the host does.
        fix: What to do; empty for nothing.
    """

    level: Literal["ok", "warning"]
    message: str
    fix: str = ""


def advice_for(name: str, settings: Settings) -> Iterator[Advice]:
    """Yield how a host uses our answers, the most common fact first."""
    host, answers = HOSTS[name], settings.answers
    if host.reads == "text" and answers == "structured":
        yield Advice(
            "warning",
            "its model is shown the text alone, and answers is structured: it sees a summary and "
            "no results",
            "set answers to both or text",
        )
    elif host.reads == "structured" and answers == "both":
        yield Advice(
            "ok",
            f"its model is shown {host.forwards}; the text of each answer is sent for nothing",
            "nothing has to be done; answers = structured would send half",
        )
    elif host.reads == "text" and answers == "both":
        yield Advice(
            "ok",
            f"its model is shown {host.forwards}; the structured content is sent for nothing",
            "nothing has to be done; answers = text would send half",
        )
    else:
        yield Advice("ok", f"its model is shown {host.forwards}; answers = {answers} suits it")
    if name == "claude-code":
        yield from _sizes(settings.max_output_chars)
    yield from _times(settings)


def _sizes(chars: int) -> Iterator[Advice]:
    if chars > _CLAUDE_CODE_MOST_CHARS:
        yield Advice(
            "warning",
            f"answers above {_CLAUDE_CODE_MOST_CHARS:,} characters go to a file, of which its "
            f"model is shown the beginning; max_output_chars is {chars:,}",
            f"set max_output_chars to {_CLAUDE_CODE_CHARS:,} or less",
        )
    elif chars > _CLAUDE_CODE_WARNS_CHARS:
        yield Advice(
            "ok",
            f"max_output_chars is {chars:,}: it warns of answers above 10,000 tokens, and moves "
            "those above 25,000 to a file, unless MAX_MCP_OUTPUT_TOKENS is set",
            "export MAX_MCP_OUTPUT_TOKENS where it is started, or lower max_output_chars",
        )


def _times(settings: Settings) -> Iterator[Advice]:
    late = [
        f"limits.{tool}.timeout_seconds"
        for tool, limits in settings.limits.by_tool.items()
        if limits.timeout_seconds >= _HOST_SECONDS and "timeout_seconds" in limits.model_fields_set
    ]
    if late:
        yield Advice(
            "warning",
            f"hosts give up on a call after about {_HOST_SECONDS:g} s, and {', '.join(late)} "
            "is longer: nobody would receive the answer",
            f"lower it below {_HOST_SECONDS:g}, or let calls use background=true; a cut call can "
            "be read with get_operation",
        )
