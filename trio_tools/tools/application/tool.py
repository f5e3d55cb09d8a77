"""`tool`: an application's function as a tool, with the policy of the built-in ones.

Its call waits in a bounded queue, holds a token of a limit, has a deadline, and is answered in the
envelope and in both forms. Failures go through the one error table. The description states the
limits.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import trio
from mcp.types import ToolAnnotations

from nursery_patterns import current_request
from trio_tools.live.limits import LiveLimits
from trio_tools.settings import ToolLimits
from trio_tools.settings.computing import EXECUTIONS, run_at
from trio_tools.tools.application.answers import Render, answer_of
from trio_tools.tools.application.context import ToolContext
from trio_tools.tools.application.signature import (
    TIME,
    Parameters,
    Runs,
    check_kind,
    check_time_argument,
    checked_task,
    limits_of,
    parameter,
    parameters_of,
)
from trio_tools.tools.batches.progress import paced_progress
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import TimeoutSeconds
from trio_tools.tools.declaring.declaration import TaskUse, Tool

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class ApplicationTool(Tool):
    """A tool that an application made with `tool`.

    Attributes:
        usual_limits: The limits, unless the settings override them.
    """

    usual_limits: ToolLimits = field(default_factory=ToolLimits)
    limited: bool = False  # an argument `max_concurrent` belongs to the function

    def _parallel(self, limits: LiveLimits) -> tuple[str, str]:
        return f"up to {min(limits.max_concurrency, limits.declared.max_calls)} in parallel", ""


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
    time_argument: str | None = None,
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
        time_argument: Name of the parameter with which callers choose their timeout instead, if
            the function itself observes it, for example to return partial results. It receives a
            number of seconds since the call arrived; the server does not cancel such a call.
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
    check_kind(name, fn, runs)
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
    limits = limits_of(name, limit, max_waiting, timeout_seconds, max_timeout_seconds)
    parameters = parameters_of(name, fn, runs, time_argument)
    if time_argument is not None:
        check_time_argument(name, fn, time_argument, timeout_seconds)
    elif max_timeout_seconds is not None:
        parameters.arguments.append(parameter(TIME, TimeoutSeconds, None))
    run = _Function(fn, runs, parameters, time_argument, partial(answer_of, name, render)).tool_fn()
    run.__name__ = run.__qualname__ = name
    run.__doc__ = told
    run.__annotations__ = {each.name: each.annotation for each in parameters.arguments}
    first = inspect.Parameter("call", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    cast("Any", run).__signature__ = inspect.Signature([first, *parameters.arguments])
    return ApplicationTool(
        fn=run,
        title=title or name.replace("_", " ").capitalize(),
        execution=EXECUTIONS[runs],
        annotations=annotations or ToolAnnotations(read_only_hint=read_only),
        task=checked_task(name, task),
        time_argument=time_argument or TIME,
        usual_limits=limits,
    )


@dataclass(frozen=True)
class _Function:
    """The function of a tool, and the conversion of a call into a call of it.

    Attributes:
        fn: The application's function.
        runs: The place where it runs.
        parameters: Parameters of the function, and the argument that the server adds.
        kept_time: The argument whose timeout the function itself observes; None without one.
        answer: Makes an answer of its return value.
    """

    fn: Callable[..., Any]
    runs: Runs
    parameters: Parameters
    kept_time: str | None
    answer: Callable[[Call, Any], Answer]

    def tool_fn(self) -> Callable[..., Awaitable[Answer]]:
        """Return the function that `Tool` calls, whose attributes may be set."""

        async def run(call: Call, **arguments: Any) -> Answer:
            limit, seconds = self._time(call, arguments)
            with limit:
                async with call.slot():
                    if self.parameters.context is None:
                        return self.answer(call, await self._value(arguments))
                    async with paced_progress(call) as tell:
                        context = self._context(call, seconds, tell)
                        arguments[self.parameters.context] = context
                        return self.answer(call, await self._value(arguments))

        return run

    def _time(
        self, call: Call, arguments: dict[str, Any]
    ) -> tuple[AbstractContextManager[None], float]:
        """Return the scope that bounds the call here, if any, and its timeout in seconds."""
        if self.kept_time is not None:
            seconds = call.limits.seconds_for(arguments[self.kept_time], self.kept_time)
            arguments[self.kept_time] = seconds
            return nullcontext(), seconds
        if call.timed:
            seconds = call.limits.seconds_for(arguments.pop(TIME))
            return call.time_limit(seconds), seconds
        return nullcontext(), call.limits.seconds_for(None)

    def _context(
        self, call: Call, seconds: float, tell: Callable[[float, float | None, str], None]
    ) -> ToolContext:
        request = current_request()
        in_thread = self.runs == "thread"
        return ToolContext(
            client_id=call.client_id,
            request_id=request.request_id if request else "",
            timeout_seconds=seconds,
            _call=call,
            _tell=partial(trio.from_thread.run_sync, tell) if in_thread else tell,
            _keeps_time=self.kept_time is not None,
        )

    async def _value(self, arguments: dict[str, Any]) -> Any:
        if self.runs == "async":
            return await self.fn(**arguments)
        return await run_at(self.runs, partial(self.fn, **arguments))


def checked_tools(tools: Any, taken: frozenset[str]) -> tuple[ApplicationTool, ...]:
    """Return the tools of an application. An async function becomes a tool with the defaults.

    Args:
        tools: The argument of `create_server`.
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
            raise TypeError(f"{each!r} is not a tool: write create_server(tools=[tool(look_up)])")
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
