"""The tools of an upstream, and which of them may be used, with the reason for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Final

import trio
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from mcp_types import Tool
from referencing import Registry
from referencing.exceptions import Unresolvable

from trio_tools.answers.errors import Forbidden, NotFound, brief_repr, use_one_of

MAX_TOOLS: Final = 200
"""Limit of usable tools of one upstream; the setting `tools` chooses them."""
_NAME: Final = re.compile(r"[A-Za-z0-9_./-]{1,128}")
_MAX_DESCRIPTION_CHARS: Final = 1_000
_MAX_PROBLEMS: Final = 3


@dataclass(frozen=True)
class UpstreamTool:
    """One tool of an upstream.

    Attributes:
        name: The upstream's name of the tool.
        title: Title for people, or empty.
        description: Description for models.
        input_schema: JSON schema of its arguments.
        read_only: Whether the upstream declares that it changes nothing.
        repeatable: Whether it may be called again when the effect of a first call is unknown.
        allowed: Whether it may be used.
        why: The reason why it may or may not be used.
        listed: The tool in the form that the upstream lists.
    """

    name: str
    title: str
    description: str
    input_schema: dict[str, Any] = field(repr=False)
    read_only: bool
    repeatable: bool
    allowed: bool
    why: str
    listed: Tool = field(repr=False)

    @cached_property
    def _validator(self) -> Validator:
        return _validator_of(self.input_schema)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Check arguments against the schema.

        Raises:
            ValueError: They do not match; the message says where.
        """
        validator = self._validator
        try:
            if validator.is_valid(arguments):
                return
            found = [
                error
                for error, _ in zip(
                    validator.iter_errors(arguments), range(_MAX_PROBLEMS), strict=False
                )
            ]
        except (Unresolvable, RecursionError) as error:
            raise ValueError(f"its schema cannot be followed: {error}") from None
        problems = (f"{_place(error.absolute_path)}{error.message[:200]}" for error in found)
        raise ValueError("; ".join(problems))


def _place(path: Sequence[str | int]) -> str:
    return f"{'.'.join(map(str, path))}: " if path else ""


def _checked(schema: dict[str, Any]) -> Validator:
    validator_for(schema).check_schema(schema)
    return _validator_of(schema)


def _validator_of(schema: dict[str, Any]) -> Validator:
    # An empty registry: the default one would fetch the URL of a `$ref`.
    return validator_for(schema)(schema, registry=Registry())


class Catalog(Mapping[str, UpstreamTool]):
    """The tools of one upstream by name, allowed or not. Made by `make_catalog`.

    Attributes:
        left_out: By name, why a listed tool is not in the catalog.
    """

    def __init__(self, tools: Mapping[str, UpstreamTool], left_out: Mapping[str, str]) -> None:
        self.left_out = left_out
        self._by_name = tools
        self._allowed = {name: tool for name, tool in tools.items() if tool.allowed}

    def __getitem__(self, name: str) -> UpstreamTool:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def usable(self, name: str, upstream: str) -> UpstreamTool:
        """Return a tool that may be used.

        Args:
            name: The upstream's name of the tool.
            upstream: Name of the upstream, for messages.

        Raises:
            NotFound: The tool does not exist, or is left out.
            Forbidden: The settings do not allow it.
        """
        found = self._by_name.get(name)
        if found is not None and found.allowed:
            return found
        if found is not None:
            raise Forbidden(
                f"{upstream}.{name} may not be used: {found.why} (upstreams.{upstream}.tools)",
                error_code="TOOL_NOT_ALLOWED",
            )
        fix = f"{upstream} has no tool {brief_repr(name)}: {use_one_of(self.allowed)}"
        if name in self.left_out:
            fix = f"{upstream}.{name} is left out of its tools: {self.left_out[name]}"
        raise NotFound(fix, error_code="UNKNOWN_TOOL")

    @property
    def allowed(self) -> Mapping[str, UpstreamTool]:
        """The allowed tools by name."""
        return self._allowed


async def make_catalog(
    listed: Sequence[Tool],
    chosen: tuple[str, ...] | None,
    left_out: Mapping[str, str],
    before: Catalog | None,
) -> Catalog:
    """Check the listed tools, one in each step: a schema takes milliseconds.

    Args:
        listed: The tools that the upstream lists.
        chosen: The setting `tools`.
        left_out: By name, why some are already excluded.
        before: The previous catalog; unchanged tools are not checked again.
    """
    tools: dict[str, UpstreamTool] = {}
    reasons = dict(left_out)
    allowed = 0
    for tool in listed:
        known = before.get(tool.name) if before is not None else None
        if known is None or known.listed != tool:
            await trio.lowlevel.checkpoint()
        reason = "it is listed twice" if tool.name in tools else _reason_against(tool, known)
        if reason is not None:
            reasons[tool.name[:128]] = reason
            continue
        found = _tool(tool, chosen)
        allowed += found.allowed
        if found.allowed and allowed > MAX_TOOLS:
            reasons[tool.name] = (
                f"more than {MAX_TOOLS} of its tools may be used: choose with the setting tools"
            )
            continue
        tools[tool.name] = found
    return Catalog(tools, reasons)


def _reason_against(tool: Tool, known: UpstreamTool | None) -> str | None:
    if known is not None and known.listed == tool:
        return None
    if not _NAME.fullmatch(tool.name):
        return "its name is not of letters, digits, _, -, . and /, at most 128"
    try:
        _checked(tool.input_schema)
    except SchemaError as error:
        return f"its inputSchema is not a JSON schema: {error.message[:200]}"
    except (Unresolvable, RecursionError, TypeError, ValueError) as error:
        return f"its inputSchema cannot be followed: {error}"
    return None


def _tool(tool: Tool, chosen: tuple[str, ...] | None) -> UpstreamTool:
    hints = tool.annotations
    read_only = hints is not None and hints.read_only_hint is True
    # By the protocol, both hints are only meaningful for a tool that is not read-only.
    repeatable = read_only or (hints is not None and hints.idempotent_hint is True)
    allowed, why = _judged(tool.name, chosen, read_only=read_only)
    return UpstreamTool(
        name=tool.name,
        title=tool.title or "",
        description=(tool.description or tool.title or tool.name)[:_MAX_DESCRIPTION_CHARS],
        input_schema=tool.input_schema,
        read_only=read_only,
        repeatable=repeatable,
        allowed=allowed,
        why=why,
        listed=tool,
    )


def _judged(name: str, chosen: tuple[str, ...] | None, *, read_only: bool) -> tuple[bool, str]:
    if chosen is None:
        if read_only:
            return True, "its server declares it to be read-only"
        return False, "its server does not declare it to be read-only: name it in tools"
    for pattern in chosen:
        if fnmatchcase(name, pattern):
            return True, f"tools has {pattern!r}"
    return False, "tools does not name it"
