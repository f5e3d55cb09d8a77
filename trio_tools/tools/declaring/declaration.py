"""The declaration of a tool, and what follows from it: schema, argument check, description.

A tool is an async function whose first parameter is the `Call`; its keyword parameters are the
tool's arguments, and its docstring is the description. Nothing is written twice.
"""

from __future__ import annotations

import copy
import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Annotated, Any, Final, Literal, cast

from mcp.types import ToolAnnotations
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model
from pydantic_core import from_json

from trio_tools.answers.errors import InvalidArgument, NotFound, ToolFailure, brief_repr
from trio_tools.live.limits import LiveLimits
from trio_tools.live.state import ServerState
from trio_tools.settings.computing import EXECUTIONS
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import REQUIRED, arguments_of, folded
from trio_tools.tools.declaring.schemas import (
    add_to_description,
    lean_schema,
    short_number,
    with_names,
)

MAX_DESCRIPTION_CHARS: Final = 1_024
"""Most characters of a description: OpenAI's API refuses a request with a longer one."""

_MAX_PROBLEMS = 10
_MAX_UNKNOWN = 5
_MAX_NAME_CHARS = 60
# Characters of a list or an object as JSON text that are parsed in one step of the event loop.
_MOST_JSON_CHARS = 4_000_000
_MOST_JSON_PARTS = 250_000


def check_count(argument: str, count: int, most: int) -> None:
    """Refuse a list that is empty or too long, by its length alone.

    Raises:
        InvalidArgument: `count` is not from 1 to `most`.
    """
    if not 1 <= count <= most:
        raise InvalidArgument(
            f"{argument} takes 1 to {most} items, got {count}: "
            + ("split them over several calls" if count else "give at least one"),
            data={"argument": argument, "minimum": 1, "maximum": most},
        )


def _always(_: ServerState) -> bool:
    return True


TaskUse = Literal["never", "optional", "required"]


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        fn: `async def name(call, *, arguments…) -> Answer`.
        title: Name for people.
        operation: The operation that it runs for one item, or for several; empty without one.
        execution: How it runs, for its description.
        annotations: Hints; correct ones, since clients run calls in parallel only with them.
        control: A control tool: it never waits in a queue and has no limits.
        by_operation: The operation that the caller names determines how many items run at once.
        limited: Whether its work holds tokens of the limit with its name; if not, only its calls
            are bounded.
        names: Returns the current allowed values of an argument.
        more: Returns further lines of the current description.
        task: Whether its calls may be tasks, for clients that declare the Tasks extension:
            `"optional"` for long calls, `"required"` for all calls; other clients are refused
            then.
        time_argument: The argument for the caller's timeout, if there is one.
        listed: Whether the tool is usable with the current settings. Otherwise it is not listed,
            and a call of it is refused.
        needs: The setting without which it is not listed.
        refusal: Makes that failure from its message and data.
    """

    fn: Callable[..., Awaitable[Answer]]
    title: str
    execution: str
    annotations: ToolAnnotations
    operation: str = ""
    control: bool = False
    by_operation: bool = False
    limited: bool = True
    names: Mapping[str, Callable[[ServerState], Sequence[str]]] = field(
        default_factory=dict[str, "Callable[[ServerState], Sequence[str]]"]
    )
    more: Callable[[ServerState], str] | None = None
    listed: Callable[[ServerState], bool] = _always
    needs: str = ""
    refusal: Callable[..., ToolFailure] = NotFound
    task: TaskUse = "never"
    time_argument: str = "timeout_seconds"

    @property
    def name(self) -> str:
        """The name on the wire."""
        return self.fn.__name__

    @cached_property
    def _model(self) -> type[BaseModel]:
        fields: dict[str, Any] = {
            name: (
                Annotated[kind, BeforeValidator(_no_truth_for_a_number)]
                if _takes_number(kind)
                else kind,
                ... if default is REQUIRED else default,
            )
            for name, (kind, default) in arguments_of(self.fn).items()
        }
        config = ConfigDict(extra="forbid", allow_inf_nan=False)
        return create_model(self.name, __config__=config, **fields)

    @cached_property
    def _schema(self) -> dict[str, Any]:
        return lean_schema(self._model.model_json_schema())

    def schema(self, limits: LiveLimits | None, state: ServerState | None = None) -> dict[str, Any]:
        """Return the JSON schema of the arguments, with the current caps and names."""
        schema = copy.deepcopy(self._schema)
        if state is not None:
            for argument, names_in in self.names.items():
                with_names(schema, argument, names_in(state))
            if state.settings.output_root is None:
                schema["properties"].pop("output_file", None)
            for argument in ("urls", "items"):
                most = state.settings.max_items
                add_to_description(schema, argument, f"At most {most} in a call.")
        if limits is None:
            return schema
        seconds, arguments = limits.declared.max_timeout_seconds, schema["properties"]
        caps = {self.time_argument: seconds, "item_timeout_seconds": seconds}
        if self.limited and not self.by_operation:
            caps["max_concurrent"] = max(1, limits.max_concurrency)
        for name, cap in caps.items():
            if name in arguments:
                arguments[name]["maximum"] = short_number(cap)
        return schema

    def description(self, limits: LiveLimits | None, state: ServerState | None = None) -> str:
        """Return the docstring, and the lines from the declaration and the current limits."""
        text, lines = inspect.getdoc(self.fn) or "", self._lines(limits, state)
        if state is not None and self.more is not None and (more := self.more(state)):
            room = MAX_DESCRIPTION_CHARS - len(text) - len(lines) - len("\n\n\n\n")
            text = f"{text}\n\n{_first_lines(more, room)}"
        return f"{text}\n\n{lines}"

    def _lines(self, limits: LiveLimits | None, state: ServerState | None) -> str:
        """Return the lines about execution, concurrency and time."""
        if limits is None:
            return f"Execution: {self.execution}\nConcurrency: never waits\nTimeout: none"
        declared = limits.declared
        parallel, on_request = self._parallel(limits)
        # Without an argument for it, a caller cannot request more time.
        longest = declared.max_timeout_seconds if self.timed else declared.timeout_seconds
        return (
            f"Execution: {self._execution_in(state)}\n"
            f"Concurrency: {parallel}, {declared.max_waiting} waiting{on_request}\n"
            f"Timeout: {declared.timeout_seconds:g} s by default, "
            f"{longest:g} s at most"
        )

    def _execution_in(self, state: ServerState | None) -> str:
        """Return how it runs with the current settings."""
        if state is None or not self.operation or self.operation not in state.operations:
            return self.execution
        operation = state.operations[self.operation]
        if operation.runs == "async" and operation.computes_in == "cluster":
            return f"{self.execution}; pages are extracted on the cluster"
        return EXECUTIONS["cluster"] if operation.on_cluster else self.execution

    @property
    def timed(self) -> bool:
        """Whether the caller may choose its timeout; then the tool observes it itself."""
        return self.time_argument in self._fields

    def _parallel(self, limits: LiveLimits) -> tuple[str, str]:
        """Return what runs concurrently by default, and what may run on request."""
        if self.by_operation:
            return "as the operation declares", ""
        if not self.limited:
            return f"up to {limits.declared.max_calls} in parallel", ""
        usual, most = limits.concurrency, limits.max_concurrency
        if "max_concurrent" not in self._fields:  # each call is one item, over all calls
            return f"up to {most} in parallel", ""
        on_request = f"; up to {most} in parallel on request" if most > usual else ""
        return f"up to {usual} in parallel", on_request

    def check(self, arguments: dict[str, Any], *, max_items: int) -> dict[str, Any]:
        """Return the arguments in the form that the function takes.

        Refusing wrong arguments is fast even if they are very long: lists are counted before
        their entries are checked, and only the first problems are reported.

        Args:
            arguments: By name, as JSON values.
            max_items: Limit of entries of a list.

        Raises:
            InvalidArgument: Some are unknown, missing or wrong; the message names the first ten.
        """
        given = self._given(arguments)
        for name, value in given.items():
            if isinstance(value, list) and self._takes_list(name) and value:
                check_count(name, len(cast("list[Any]", value)), max_items)
        unknown = len(arguments.keys() - self._model.model_fields.keys())
        problems = self._unknown(arguments, unknown)
        checked = None
        try:
            checked = self._model.model_validate(given)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            problems += [_problem(each) for each in found[:_MAX_PROBLEMS]]
            problems += _number_of_others(len(found) - _MAX_PROBLEMS, "problems")
        if problems or checked is None:
            raise InvalidArgument(
                f"{'; '.join(problems)}. Correct that and call {self.name} again.",
                data={"problems": problems, "arguments": list(self._fields)},
            )
        return {name: getattr(checked, name) for name in self._fields}

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> Answer:
        """Call the tool with arguments that `check` returned."""
        return await self.fn(call, **folded(self.fn, arguments))

    @cached_property
    def _fields(self) -> tuple[str, ...]:
        return tuple(self._model.model_fields)

    def _given(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the given arguments; some hosts send lists and objects as JSON text."""
        given = {name: arguments[name] for name in self._fields if name in arguments}
        fields = self._model.model_fields
        # An explicit null for an optional argument is the same as no argument.
        nulls = [name for name in given if given[name] is None and not fields[name].is_required()]
        for name in nulls:
            del given[name]
        for name, value in given.items():
            if not isinstance(value, str) or value[:1] not in ("[", "{"):
                continue
            if str not in _alternatives(self._model.model_fields[name].annotation):
                check_parts(name, value)
                with suppress(ValueError):  # otherwise the error shows it as text
                    given[name] = from_json(value)
        return given

    def _takes_list(self, name: str) -> bool:
        kinds = _alternatives(self._model.model_fields[name].annotation)
        return any(typing.get_origin(kind) is list for kind in kinds)

    def _unknown(self, arguments: Iterable[str], count: int) -> list[str]:
        """Report that `count` arguments do not belong to this tool; nothing if all do."""
        if not count:
            return []
        unknown = (name for name in arguments if name not in self._fields)
        names = [_name(name) for name in islice(unknown, _MAX_UNKNOWN)]
        names += _number_of_others(count - _MAX_UNKNOWN, "names")
        known = ", ".join(self._fields) or "none"
        what = "is no argument" if count == 1 else "are no arguments"
        return [f"{', '.join(names)} {what} of {self.name}, which takes {known}"]


def check_parts(name: str, text: str) -> None:
    """Refuse a list or object in JSON text that would take long to parse.

    Raises:
        InvalidArgument: It has too many characters or parts.
    """
    parts = text.count("{") + text.count("[") + text.count(",") + text.count('"') // 2
    if len(text) > _MOST_JSON_CHARS or parts > _MOST_JSON_PARTS:
        raise InvalidArgument(
            f"{name} is a JSON text of {len(text):,} characters and about {parts:,} parts; at most "
            f"{_MOST_JSON_CHARS:,} and {_MOST_JSON_PARTS:,} are read: send it as a list or an "
            "object, or in several calls"
        )


def _first_lines(text: str, room: int) -> str:
    """Return the lines that fit, and the number of the others."""
    if len(text) <= room:
        return text
    lines, taken = text.splitlines(), list[str]()
    room -= len("and 1000 more")
    while (room := room - len(lines[len(taken)]) - 1) >= 0:
        taken.append(lines[len(taken)])
    return "\n".join([*taken, f"and {len(lines) - len(taken)} more"])


def _problem(error: Any) -> str:
    name = _name(".".join(map(str, error["loc"])) or "arguments")
    if error["type"] == "missing":
        return f"{name} is missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}, got {brief_repr(error['input'])}"


def _name(name: str) -> str:
    """Return the caller's name, shortened if it is long."""
    return name if len(name) <= _MAX_NAME_CHARS else f"{name[: _MAX_NAME_CHARS - 1]}…"


def _number_of_others(count: int, what: str) -> list[str]:
    return [f"{count:,} more {what}"] if count > 0 else []


def _takes_number(hint: Any) -> bool:
    kinds = _alternatives(typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint)
    return bool({int, float} & set(kinds)) and bool not in kinds


def _no_truth_for_a_number(value: Any) -> Any:
    if isinstance(value, bool):  # which equals 0 or 1 in Python
        raise ValueError("is a number")  # noqa: TRY004 - pydantic wants it so
    return value


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)
