"""What a tool declares, and what follows from it: schema, argument check, description.

A tool is an async function whose first parameter is the `Call`; its keyword parameters are the
tool's arguments, and its docstring is the description. Nothing is written twice.
"""

from __future__ import annotations

import copy
import inspect
import json
import types
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mcp.types import ToolAnnotations
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from trio_tools.errors import InvalidArgument
from trio_tools.state import LiveLimits
from trio_tools.tools.call import Answer

_MAX_SHOWN = 80


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        fn: `async def name(call, *, arguments…) -> Answer`.
        title: Name for people.
        execution: How it runs, as its description says.
        annotations: Hints; true ones, since clients run calls in parallel only with them.
        control: A tool that steers the others: it waits in no line and has no limits.
        by_operation: How many items run at once is up to the operation that the caller names.
        limited: Whether its work holds places in the limit of its name; if not, only its calls are
            bounded.
    """

    fn: Callable[..., Awaitable[Answer]]
    title: str
    execution: str
    annotations: ToolAnnotations
    control: bool = False
    by_operation: bool = False
    limited: bool = True

    @property
    def name(self) -> str:
        """The name on the wire."""
        return self.fn.__name__

    @cached_property
    def _model(self) -> type[BaseModel]:
        hints = typing.get_type_hints(self.fn, include_extras=True)
        _, *parameters = inspect.signature(self.fn).parameters.values()
        fields: dict[str, Any] = {
            p.name: (hints[p.name], ... if p.default is inspect.Parameter.empty else p.default)
            for p in parameters
        }
        config = ConfigDict(extra="forbid", allow_inf_nan=False)
        return create_model(self.name, __config__=config, **fields)

    @cached_property
    def _schema(self) -> dict[str, Any]:
        return {"properties": {}, **self._model.model_json_schema()}

    def schema(self, limits: LiveLimits | None) -> dict[str, Any]:
        """Return the JSON schema of the arguments, with the caps that hold now."""
        schema = copy.deepcopy(self._schema)
        if limits is None:
            return schema
        seconds = limits.declared.max_timeout_seconds
        caps = {"timeout_seconds": seconds, "item_timeout_seconds": seconds}
        if self.limited and not self.by_operation:
            caps["max_concurrent"] = max(1, limits.max_concurrency)
        for name, cap in caps.items():
            for option in schema["properties"].get(name, {}).get("anyOf", ()):
                if option.get("type") in {"integer", "number"}:
                    option["maximum"] = cap
        return schema

    def description(self, limits: LiveLimits | None) -> str:
        """Return the docstring, and the lines that the declaration and the live limits give."""
        text = inspect.getdoc(self.fn) or ""
        if limits is None:
            return (
                f"{text}\n\nExecution: {self.execution}\n"
                "Concurrency: never waits in line\nTimeout: none, it answers at once"
            )
        declared = limits.declared
        parallel, on_request = self._parallel(limits)
        # Without an argument for it, nobody can ask for more time.
        longest = declared.max_timeout_seconds if self.timed else declared.timeout_seconds
        return (
            f"{text}\n\nExecution: {self.execution}\n"
            f"Concurrency: {parallel}, {declared.max_waiting} waiting{on_request}\n"
            f"Timeout: {declared.timeout_seconds:g} s by default, "
            f"{longest:g} s at most"
        )

    @property
    def timed(self) -> bool:
        """Whether the caller may say how long it takes; then the tool keeps to it itself."""
        return "timeout_seconds" in self._fields

    def _parallel(self, limits: LiveLimits) -> tuple[str, str]:
        """Say what runs at once, and what may on request."""
        if self.by_operation:
            return "as the operation declares", ""
        if not self.limited:
            return f"up to {limits.declared.max_calls} in parallel", ""
        usual, most = limits.concurrency, limits.max_concurrency
        if "max_concurrent" not in self._fields:  # each call is one item, over all calls
            return f"up to {most} in parallel", ""
        on_request = f"; up to {most} in parallel on request" if most > usual else ""
        return f"up to {usual} in parallel", on_request

    def check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments as the function takes them.

        Raises:
            InvalidArgument: Some are unknown, missing or wrong; the message names them all.
        """
        try:
            checked = self._model.model_validate(self._parsed(arguments))
        except ValidationError as error:
            problems = [self._problem(e) for e in error.errors(include_url=False)]
            raise InvalidArgument(
                f"{'; '.join(problems)}. Correct that and call {self.name} again.",
                data={"problems": problems, "arguments": list(self._fields)},
            ) from None
        return {name: getattr(checked, name) for name in self._fields}

    @cached_property
    def _fields(self) -> tuple[str, ...]:
        return tuple(self._model.model_fields)

    def _parsed(self, arguments: dict[str, Any]) -> dict[str, Any]:
        # Some hosts send lists and objects as JSON inside of a string.
        parsed = dict(arguments)
        for name, value in arguments.items():
            if isinstance(value, str) and name in self._fields and value[:1] in ("[", "{"):
                if str in _alternatives(self._model.model_fields[name].annotation):
                    continue
                try:
                    parsed[name] = json.loads(value)
                except ValueError:
                    continue
        return parsed

    def _problem(self, error: Any) -> str:
        name = ".".join(map(str, error["loc"])) or "arguments"
        if error["type"] == "extra_forbidden":
            known = ", ".join(self._fields) or "none"
            return f"{name} is no argument of {self.name}, which takes {known}"
        if error["type"] == "missing":
            return f"{name} is missing"
        shown = repr(error["input"])
        if len(shown) > _MAX_SHOWN:
            shown = f"{shown[:_MAX_SHOWN]}…"
        message = error["msg"].removeprefix("Value error, ")
        return f"{name}: {message[:1].lower()}{message[1:]}, got {shown}"


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)
