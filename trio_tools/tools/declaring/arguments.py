"""The arguments that several tools share: each has one meaning, one bound and one description.

A batch-like tool has most of them. It declares one parameter of the type `BatchOptions`, and each
field of that is an argument of the tool.

Many hosts send every argument of the schema, with nulls and empty texts for missing ones, and
some add keys of their own to each call. `as_meant` removes these.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import Field

TimeoutSeconds = Annotated[float | None, Field(ge=0.001, description="Time for the call.")]
BudgetSeconds = Annotated[float | None, Field(ge=0.001, description="Answer in that time.")]
OperationId = Annotated[
    str | None,
    Field(min_length=1, max_length=128, description="Alone: go on with that one."),
]
Retry = Annotated[Literal["failed"] | None, Field(description="Failed items again.")]

# The argument for which an empty text is a value, unless its alternative is given.
_EMPTY_TEXT: Final = "text"
_OTHER_SOURCE: Final = "path"

REQUIRED: Final = inspect.Parameter.empty
"""The default of an argument that has none."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """The options of a batch-like tool for its work and its answer.

    Attributes:
        max_concurrent: Limit of items in flight; None for the default.
        timeout_seconds: Budget of the call; None for the default.
        item_timeout_seconds: Timeout of one item; None for no bound.
        operation_id: Chosen by the caller to find the operation again; None for a new one.
        detail: The part of the outcomes in the answer.
        output_file: File for all outcomes; None for no file.
        background: Whether to answer at once and continue the work.
        background_timeout_seconds: Budget of the background work; None for the cap.
    """

    max_concurrent: Annotated[int | None, Field(gt=0, description="Items at once.")] = None
    timeout_seconds: BudgetSeconds = None
    item_timeout_seconds: Annotated[float | None, Field(gt=0, description="Time for one item.")] = (
        None
    )
    operation_id: OperationId = None
    detail: Annotated[
        Literal["full", "errors", "summary"], Field(description="What the answer shows.")
    ] = "full"
    output_file: Annotated[
        str | None,
        Field(max_length=1_000, description="Write all outcomes there: .jsonl or .csv."),
    ] = None
    background: Annotated[bool, Field(description="Answer at once.")] = False
    background_timeout_seconds: Annotated[
        float | None, Field(gt=0, description="Time in the background.")
    ] = None


USUAL: Final = BatchOptions()
"""The options of a call without any."""


class Argument(NamedTuple):
    """One argument of a tool: its annotation, and its default or `REQUIRED`."""

    annotation: Any
    default: Any


@cache
def arguments_of(fn: Callable[..., Awaitable[Any]]) -> Mapping[str, Argument]:
    """Return the arguments of a tool's function by name, with those of its `BatchOptions`."""
    found: dict[str, Argument] = {}
    for name, annotation, default in _parameters(fn):
        if annotation is BatchOptions:
            hints = typing.get_type_hints(BatchOptions, include_extras=True)
            found |= {
                each.name: Argument(hints[each.name], each.default) for each in fields(BatchOptions)
            }
        else:
            found[name] = Argument(annotation, default)
    return found


def folded(fn: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked arguments for the function: the options become one object."""
    given = dict(arguments)
    for name, annotation, _ in _parameters(fn):
        if annotation is BatchOptions:
            given[name] = BatchOptions(
                **{each.name: given.pop(each.name) for each in fields(BatchOptions)}
            )
    return given


def as_meant(
    arguments: dict[str, Any], fn: Callable[..., Awaitable[Any]], ignored: Collection[str]
) -> dict[str, Any]:
    """Return the arguments without keys that a host added, and without missing ones.

    Args:
        arguments: The arguments of the request.
        fn: The tool's function, whose arguments with a default are optional.
        ignored: Keys that hosts add; dropped if the tool has no such argument.
    """
    optional = {name: default is not REQUIRED for name, (_, default) in arguments_of(fn).items()}
    return {
        name: value
        for name, value in arguments.items()
        if not (
            (optional.get(name) and _is_absent(name, value, arguments))
            or (name in ignored and name not in optional)
        )
    }


def _is_absent(name: str, value: Any, arguments: dict[str, Any]) -> bool:
    empty = value == "" and (name != _EMPTY_TEXT or bool(arguments.get(_OTHER_SOURCE)))
    return value is None or empty


@cache
def _parameters(fn: Callable[..., Awaitable[Any]]) -> tuple[tuple[str, Any, Any], ...]:
    """Return name, annotation and default of each parameter, without the `Call`."""
    hints = typing.get_type_hints(fn, include_extras=True)
    _, *parameters = inspect.signature(fn).parameters.values()
    return tuple((p.name, hints[p.name], p.default) for p in parameters)
