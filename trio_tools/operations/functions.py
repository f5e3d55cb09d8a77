"""The function of an operation: what it takes, read from its signature, and what it may not be."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, cast, get_args

Execution = Literal["async", "thread", "process", "cluster"]

KEY = "idempotency_key"
PROGRESS = "report_progress"
_WHERE = {"thread": "in a thread", "process": "in a process", "cluster": "on a cluster"}


def check_function(operation: str, fn: Any, runs: str) -> None:
    """Refuse a function that would fail with every item.

    Raises:
        TypeError: It is of another kind than `runs` says, or cannot be called with one item.
        ValueError: `runs` is none of the four.
    """
    if runs not in get_args(Execution):
        raise ValueError(
            f"operation {operation!r} runs={runs!r}: say 'async', 'thread', 'process' or 'cluster'"
        )
    if not callable(fn):
        raise TypeError(
            f"operation {operation!r} has {fn!r} for a function: pass the function itself, as in "
            "Operation(name='word_count', fn=word_count)"
        )
    if runs == "async" and not (_is_async(fn) or _is_async(unwrapped(fn))):
        raise TypeError(
            f"operation {operation!r} runs as async but its fn is a plain function: declare "
            "it with `async def`, or say runs='thread', runs='process' or runs='cluster'"
        )
    if runs != "async" and _is_async(fn):
        raise TypeError(
            f"operation {operation!r} runs {_WHERE[runs]} but its fn is an async function: leave "
            "out runs, or declare it with `def`"
        )
    if runs != "async" and takes(fn, PROGRESS):
        raise TypeError(
            f"operation {operation!r} runs {_WHERE[runs]} but its fn takes report_progress, which "
            "only an async function can call: leave out the parameter"
        )
    with suppress(ValueError):  # some functions in C have no signature
        _check_takes_one(operation, inspect.signature(fn))


def _check_takes_one(operation: str, signature: inspect.Signature) -> None:
    given = {name: None for name in (KEY, PROGRESS) if name in signature.parameters}
    try:
        signature.bind(None, **given)
    except TypeError as error:
        raise TypeError(
            f"operation {operation!r} has to take one item and nothing else, but its fn takes "
            f"{signature} ({error}): give it the rest with functools.partial"
        ) from None


def takes(fn: Any, name: str) -> bool:
    """Whether the function has a parameter of that name."""
    try:
        return name in inspect.signature(fn).parameters
    except ValueError:  # some functions in C have no signature
        return False


def _is_async(fn: Any) -> bool:
    return any(map(inspect.iscoroutinefunction, (fn, getattr(fn, "__call__", None))))  # noqa: B004


def unwrapped(fn: Any) -> Any:
    """Return the function below `functools.partial` and decorators."""
    while isinstance(fn, functools.partial):
        fn = cast("functools.partial[Any]", fn).func
    return inspect.unwrap(fn)


def first_line(fn: object) -> str:
    """Return the first line of its docstring, empty if it has none."""
    return (inspect.getdoc(fn) or "").partition("\n")[0]


def first_annotation(fn: Callable[..., Any]) -> Any:
    """Return the annotation of its first parameter, `Any` if there is none."""
    parameters = list(inspect.signature(fn, eval_str=True).parameters.values())
    if not parameters or parameters[0].annotation is inspect.Parameter.empty:
        return Any
    return parameters[0].annotation
