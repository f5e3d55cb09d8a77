"""`tool`: an application's function as a tool, with the policy of the built-in ones.

Its call waits in a bounded queue, holds a token of a limit, has a deadline, and is answered in the
envelope and in both forms. Failures go through the one error table. The description states the
limits.
"""

from __future__ import annotations

import inspect
import logging
import re
import typing
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

import trio
from mcp.types import ToolAnnotations

from nursery_patterns import current_request
from trio_tools.answers.errors import InvalidArgument, ToolFailure
from trio_tools.answers.json_values import from_json, json_bytes
from trio_tools.answers.texts import MARKERS_CHARS, Told, json_line, one_line
from trio_tools.settings import ToolLimits
from trio_tools.settings.computing import EXECUTIONS, run_at
from trio_tools.tools.batches.progress import paced_progress
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import TimeoutSeconds
from trio_tools.tools.declaring.declaration import TaskUse, Tool

Runs = Literal["async", "thread", "process", "cluster"]

Render = Callable[[Any], str]

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TIME = "timeout_seconds"


@dataclass(frozen=True, slots=True)
class ToolContext:
    """The call that an application's tool serves, and its progress.

    A parameter with this annotation gets one. It is not an argument of the tool.

    Attributes:
        client_id: The caller.
        request_id: Of this call, as in its envelope and in the log.
    """

    client_id: str
    request_id: str
    _call: Call
    _tell: Callable[[float, float | None, str], object]

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Report progress to the caller. It never waits, and works in tasks and in threads.

        At most 20 messages a second are sent, each with the latest values, and only if `done` has
        grown.
        """
        self._tell(done, total, message)

    @property
    def elapsed(self) -> float:
        """Seconds since the call arrived, including its time in the queue."""
        return self._call.waited


@dataclass(frozen=True)
class ApplicationTool(Tool):
    """A tool that an application made with `tool`.

    Attributes:
        usual_limits: The limits, unless the settings override them.
    """

    usual_limits: ToolLimits = ToolLimits()  # noqa: RUF009 - frozen in practice


def tool(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    runs: Runs = "async",
    limit: int = 10,
    max_waiting: int = 1_000,
    timeout_seconds: float = 30.0,
    max_timeout_seconds: float | None = None,
    render: Render | None = None,
    read_only: bool = False,
    annotations: ToolAnnotations | None = None,
    task: TaskUse = "never",
) -> ApplicationTool:
    """Make a tool of a function, for `create_server(tools=[...])`.

    The names, annotations and defaults of its parameters are the arguments. It must return JSON
    values: an object becomes `data`, anything else `data["result"]`. It may also return an
    `Answer`. A `ToolFailure` reaches the caller unchanged. The text of any other exception is only
    in the log.

    A cancel or the deadline ends an async function at its next checkpoint, and kills a worker
    process. A thread has half a second to end, so it should call
    `trio.from_thread.check_cancelled()`.

    Args:
        fn: Async for `runs="async"`, otherwise synchronous; for `"process"` it must be importable,
            for `"cluster"` it must be picklable by value. A parameter annotated `ToolContext` gets
            one, except in a process and on a cluster.
        name: For callers; by default the name of the function.
        title: For people; by default made from the name.
        description: For models; by default the docstring.
        runs: Where the function runs.
        limit: Most running calls. `limits.<name>` in the settings overrides this and the next three
            bounds.
        max_waiting: Most calls in the queue.
        timeout_seconds: Timeout of a call, counted from its arrival.
        max_timeout_seconds: If given, callers have an argument `timeout_seconds` with this maximum.
        render: Formats a result as text for a model. It gets the JSON value and returns one line,
            or a line followed by foreign text, which is put between markers. By default the text is
            the JSON on one line, also if rendering fails or its text does not fit into an answer.
        read_only: Whether the tool changes nothing. Clients run such tools in parallel.
        annotations: Hints for clients, instead of `read_only`.
        task: For clients that declare the Tasks extension: `"optional"` makes a task of a call
            that takes longer than 1.5 s, `"required"` of every call, and refuses other clients.

    Raises:
        TypeError: The function does not match `runs`, a parameter is not annotated or is
            positional-only, or `render` is not callable.
        ValueError: The name, the description or a bound is not valid.
    """
    name = str(name or getattr(fn, "__name__", ""))
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a tool cannot be named {name!r}: use letters, digits and _, at most 64, as in "
            "tool(fn, name='look_up')"
        )
    _check_kind(name, fn, runs)
    told = description or inspect.getdoc(fn)
    if not told:
        raise ValueError(
            f"tool {name!r} has no description, by which models choose it: give the function a "
            "docstring, or say tool(fn, description='…')"
        )
    if render is not None and not callable(render):  # pyright: ignore[reportUnnecessaryComparison]
        raise TypeError(
            f"tool {name!r} render={render!r}: give a function of the result that returns text, "
            "as in tool(fn, render=lambda value: value['title'])"
        )
    parameters, context = _parameters_of(name, fn, runs)
    if max_timeout_seconds is not None:
        parameters.append(_parameter(_TIME, TimeoutSeconds, None))
    answer = partial(_answer, name, render)
    run = _runner(fn, runs, context, answer, timed=max_timeout_seconds is not None)
    run.__name__ = run.__qualname__ = name
    run.__doc__ = told
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    first = inspect.Parameter("call", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    cast("Any", run).__signature__ = inspect.Signature([first, *parameters])
    return ApplicationTool(
        fn=run,
        title=title or name.replace("_", " ").capitalize(),
        execution=EXECUTIONS[runs],
        annotations=annotations or ToolAnnotations(read_only_hint=read_only),
        task=_checked_task(name, task),
        usual_limits=_limits(name, limit, max_waiting, timeout_seconds, max_timeout_seconds),
    )


def _checked_task(name: str, task: TaskUse) -> TaskUse:
    if task not in get_args(TaskUse):
        raise ValueError(f"tool {name!r} task={task!r}: say 'never', 'optional' or 'required'")
    return task


def _check_kind(name: str, fn: Any, runs: str) -> None:
    if runs not in get_args(Runs):
        raise ValueError(
            f"tool {name!r} runs={runs!r}: say 'async', 'thread', 'process' or 'cluster'"
        )
    is_async = any(map(inspect.iscoroutinefunction, (fn, getattr(fn, "func", None))))
    if is_async != (runs == "async"):
        kind = "an async function" if is_async else "a plain function"
        fix = "leave out runs" if is_async else "declare it with `async def`, or say runs='thread'"
        raise TypeError(f"tool {name!r} runs={runs!r}, but its fn is {kind}: {fix}")


def _limits(
    name: str, limit: int, max_waiting: int, seconds: float, most_seconds: float | None
) -> ToolLimits:
    most = seconds if most_seconds is None else most_seconds
    bounds = {"limit": limit, "timeout_seconds": seconds, "max_timeout_seconds": most}
    for argument, value in bounds.items():
        if not value > 0:  # so that NaN is refused, too
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


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _parameters_of(
    name: str, fn: Callable[..., Any], runs: str
) -> tuple[list[inspect.Parameter], str | None]:
    """Return the arguments of callers, and the parameter for the context."""
    hints = typing.get_type_hints(getattr(fn, "func", fn), include_extras=True)
    parameters: list[inspect.Parameter] = []
    context = None
    for each in inspect.signature(fn).parameters.values():
        hint = hints.get(each.name)
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise TypeError(
                f"tool {name!r}: parameter {each} cannot be given by name: give it a name and an "
                "annotation of its own"
            )
        if hint is ToolContext:
            if runs in {"process", "cluster"}:
                raise TypeError(
                    f"tool {name!r}: another process has no way to the caller: leave out "
                    f"{each.name}, or say runs='thread'"
                )
            context = each.name
            continue
        if hint is None or each.name.startswith("_"):
            raise TypeError(
                f"tool {name!r}: parameter {each.name!r} needs an annotation and no leading _, as "
                "in `async def look_up(word: str)`"
            )
        if each.name in (_TIME, "call"):
            raise ValueError(
                f"tool {name!r}: {each.name} is an argument of the server: rename it, or say "
                "tool(fn, max_timeout_seconds=300) to let callers choose their time"
            )
        parameters.append(_parameter(each.name, hint, each.default))
    return parameters, context


def _runner(
    fn: Callable[..., Any],
    runs: Runs,
    context: str | None,
    answer: Callable[[Call, Any], Answer],
    *,
    timed: bool,
) -> Callable[..., Awaitable[Answer]]:
    async def run(call: Call, **arguments: Any) -> Answer:
        in_time = call.time_limit(arguments.pop(_TIME)) if timed else nullcontext()
        with in_time:
            async with call.slot():
                if context is None:
                    return answer(call, await _value(fn, runs, arguments))
                async with paced_progress(call) as tell:
                    arguments[context] = _context(call, tell, runs)
                    return answer(call, await _value(fn, runs, arguments))

    return run


def _context(
    call: Call, tell: Callable[[float, float | None, str], None], runs: str
) -> ToolContext:
    request = current_request()
    where = partial(trio.from_thread.run_sync, tell) if runs == "thread" else tell
    return ToolContext(call.client_id, request.request_id if request else "", call, where)


async def _value(fn: Callable[..., Any], runs: Runs, arguments: dict[str, Any]) -> Any:
    if runs == "async":
        return await fn(**arguments)
    return await run_at(runs, partial(fn, **arguments))


def _answer(name: str, render: Render | None, call: Call, value: Any) -> Answer:
    """Return the function's result as an answer, which must fit into `max_output_chars`."""
    if isinstance(value, Answer):
        return value
    try:
        encoded = json_bytes(value)
    except ValueError as error:
        raise ToolFailure(
            f"Tool {name!r} returned what is no JSON value ({error}): its author must return "
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
    is_object = isinstance(value, dict)
    data = cast("dict[str, Any]", value) if is_object else {"result": value}
    told = None if render is None else _rendered(name, render, from_json(encoded), most)
    if told is None:
        told = Told("", value) if isinstance(value, str) and value else Told(json_line(value))
    return Answer(summary=f"{name} was done in {call.waited:.3g} s.", data=data, told=[told])


def _rendered(name: str, render: Render, value: Any, most_chars: int) -> Told | None:
    """Return the text of a result by its `render`; None if that cannot be shown."""
    try:
        line, _, body = render(value).partition("\n")
    except Exception as error:  # noqa: BLE001 - of the author of the tool
        _log.warning("tool %r cannot render a result: %r", name, error)
        return None
    told = Told(one_line(line), body)
    return told if len(told.line) + len(body) + MARKERS_CHARS <= most_chars else None


def checked_tools(tools: Any, taken: frozenset[str]) -> tuple[ApplicationTool, ...]:
    """Return the tools of an application. An async function becomes a tool with the defaults.

    Args:
        tools: As `create_server` was given them.
        taken: Names of the built-in tools.

    Raises:
        TypeError: It is not a list of tools.
        ValueError: A name is taken, or appears twice.
    """
    if not isinstance(tools, list | tuple):
        raise TypeError(
            f"tools must be a list of tools, got {tools!r}: write "
            "create_server(tools=[tool(look_up)])"
        )
    made: dict[str, ApplicationTool] = {}
    for each in cast("list[Any]", tools):
        if not (isinstance(each, ApplicationTool) or callable(each)):
            raise TypeError(f"{each!r} is no tool: write create_server(tools=[tool(look_up)])")
        one = each if isinstance(each, ApplicationTool) else tool(each)
        if one.name in taken:
            raise ValueError(
                f"a built-in tool is named {one.name!r}: choose another, as in "
                f"tool(fn, name='my_{one.name}')"
            )
        if one.name in made:
            raise ValueError(
                f"two tools are named {one.name!r}: rename one, as in tool(fn, name=…)"
            )
        made[one.name] = one
    return tuple(made.values())
