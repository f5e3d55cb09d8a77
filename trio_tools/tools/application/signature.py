"""The parameters and the bounds of a function that becomes a tool."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from trio_tools.settings import ToolLimits
from trio_tools.tools.application.context import ToolContext
from trio_tools.tools.declaring.declaration import TaskUse

Runs = Literal["async", "thread", "process", "cluster"]

TIME: Final = "timeout_seconds"
"""The callers' argument for their timeout, unless the function has its own."""


def checked_task(name: str, task: TaskUse) -> TaskUse:
    """Return `task`.

    Raises:
        ValueError: It is not one of the allowed values.
    """
    if task not in get_args(TaskUse):
        raise ValueError(f"tool {name!r} task={task!r}: say 'never', 'optional' or 'required'")
    return task


def check_kind(name: str, fn: Any, runs: str) -> None:
    """Refuse a function that does not match the place where it is declared to run.

    Raises:
        TypeError: It is async where it must be synchronous, or the other way round.
        ValueError: The place does not exist.
    """
    if runs not in get_args(Runs):
        raise ValueError(
            f"tool {name!r} runs={runs!r}: say 'async', 'thread', 'process' or 'cluster'"
        )
    is_async = any(map(inspect.iscoroutinefunction, (fn, getattr(fn, "func", None))))
    if is_async != (runs == "async"):
        kind = "an async function" if is_async else "a plain function"
        fix = "leave out runs" if is_async else "declare it with `async def`, or say runs='thread'"
        raise TypeError(f"tool {name!r} runs={runs!r}, but its fn is {kind}: {fix}")


def limits_of(
    name: str, limit: int, max_waiting: int, seconds: float, most_seconds: float | None
) -> ToolLimits:
    """Return the limits of a tool.

    Raises:
        ValueError: One is out of its bounds.
    """
    most = seconds if most_seconds is None else most_seconds
    bounds = {"limit": limit, "timeout_seconds": seconds, "max_timeout_seconds": most}
    for argument, value in bounds.items():
        if not value > 0:  # also refuses NaN
            raise ValueError(f"tool {name!r}: {argument} must be above 0, got {value!r}")
    if seconds > most:
        raise ValueError(
            f"tool {name!r}: timeout_seconds is {seconds:g}, above max_timeout_seconds "
            f"({most:g}): lower it"
        )
    return ToolLimits(
        concurrency=limit,
        max_concurrency=limit,
        max_calls=limit,
        max_waiting=max_waiting,
        timeout_seconds=seconds,
        max_timeout_seconds=most,
    )


def parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    """Return a parameter as an argument for callers."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


@dataclass(frozen=True)
class Parameters:
    """The parameters of a function that becomes a tool.

    Attributes:
        arguments: The arguments for callers.
        context: Name of the parameter that receives a `ToolContext`; None without one.
    """

    arguments: list[inspect.Parameter]
    context: str | None


def parameters_of(
    name: str, fn: Callable[..., Any], runs: str, time_argument: str | None
) -> Parameters:
    """Return the parameters of a function.

    Raises:
        TypeError: A parameter has no annotation, cannot be passed by name, or is not available in
            that place.
        ValueError: A parameter has a reserved name, or `time_argument` is not a parameter.
    """
    hints = typing.get_type_hints(getattr(fn, "func", fn), include_extras=True)
    found = Parameters([], None)
    for each in inspect.signature(fn).parameters.values():
        hint = hints.get(each.name)
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise TypeError(
                f"tool {name!r}: parameter {each} cannot be given by name: give it a name and an "
                "annotation of its own"
            )
        if hint is ToolContext:
            _check_has_context(name, each.name, runs)
            found = replace(found, context=each.name)
            continue
        if hint is None or each.name.startswith("_"):
            raise TypeError(
                f"tool {name!r}: parameter {each.name!r} needs an annotation and no leading _, as "
                "in `async def look_up(word: str)`"
            )
        if each.name == "call" or (each.name == TIME and time_argument != TIME):
            raise ValueError(
                f"tool {name!r}: {each.name} is an argument of the server: rename it, or say "
                "tool(fn, max_timeout_seconds=300) to let callers choose their time, or "
                f"tool(fn, time_argument={TIME!r}) if the function itself keeps to it"
            )
        default = each.default
        if each.name == time_argument and default is not each.empty:
            default = None  # the timeout in the settings, which the description contains
        found.arguments.append(parameter(each.name, hint, default))
    return found


def check_time_argument(
    name: str, fn: Callable[..., Any], time_argument: str, seconds: float
) -> None:
    """Refuse a time argument that the function does not have, or that has another default.

    Raises:
        ValueError: The message says what to write.
    """
    parameters = inspect.signature(fn).parameters
    if time_argument not in parameters:
        raise ValueError(
            f"tool {name!r}: time_argument={time_argument!r} names no parameter of the function; "
            f"there are: {', '.join(parameters) or 'none'}"
        )
    default = parameters[time_argument].default
    if isinstance(default, int | float) and default != seconds:
        raise ValueError(
            f"tool {name!r}: {time_argument} is {default:g} by default, and timeout_seconds is "
            f"{seconds:g}: say tool(fn, timeout_seconds={default:g})"
        )


def _check_has_context(name: str, parameter_name: str, runs: str) -> None:
    if runs in {"process", "cluster"}:
        raise TypeError(
            f"tool {name!r}: another process has no way to the caller: leave out "
            f"{parameter_name}, or say runs='thread'"
        )
