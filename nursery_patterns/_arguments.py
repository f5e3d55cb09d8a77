"""Argument checks. Each message has the given value, the allowed values and a corrected call.

They run when an object is made, so a wrong call fails at once and at the wrong line, and not later
inside a task.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any

import trio


def check_async_function(fn: object, *, call: str, item: bool = True) -> None:
    """Refuse anything but an async function of one item.

    Args:
        fn: What the caller passed.
        item: Whether it is called with one item.
        call: How the call looks with `{fn}` for the function, to show the corrected program.

    Raises:
        TypeError: `fn` is a coroutine object, a plain function, or not callable at all.
    """
    if inspect.iscoroutine(fn):
        name = fn.__qualname__
        fn.close()  # or Python warns about a coroutine that was never awaited
        raise TypeError(
            f"expected an async function, got the coroutine object {name}(...): pass the function "
            f"itself and let each item be its argument, as in {call.format(fn=name)}"
        )
    if not callable(fn):
        raise TypeError(
            f"expected an async function, got {fn!r}: write {call.format(fn='fn')} "
            "with `async def fn(item): ...`"
        )
    if not _is_async_callable(fn):
        if _is_kind(inspect.isasyncgenfunction, fn):
            name = name_of(fn)
            raise TypeError(
                f"expected an async function, got the async generator function {name}, which has a "
                "`yield`: let it return its results, as in `return [...]`; or iterate it in "
                f"`async def collect(item): return [part async for part in {name}(item)]`"
            )
        name = getattr(fn, "__name__", type(fn).__name__)
        if name == "<lambda>":
            raise TypeError(
                "expected an async function, got a lambda, which does not show whether it is "
                f"async: write {call.format(fn='fn')} with `async def fn(item): ...`, or use "
                "functools.partial(async_function, ...)"
            )
        raise TypeError(
            f"expected an async function, got the plain function {name}: declare it with "
            f"`async def {name}(item): ...`, or run it in a thread with "
            f"{call.format(fn=f'functools.partial(run_in_thread, {name})')}"
        )
    if item:
        _check_takes_one_item(fn, call)


def _check_takes_one_item(fn: Callable[..., object], call: str) -> None:
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # its signature is not available
        return
    try:
        signature.bind(object())
    except TypeError as error:
        name = name_of(fn)
        raise TypeError(
            f"{name}{signature} cannot be called with one item ({error}): write "
            f"`async def {name}(item): ...`, or bind the other arguments, as in "
            f"{call.format(fn=f'functools.partial({name}, other)')}"
        ) from None


def _is_async_callable(fn: Any) -> bool:
    return _is_kind(inspect.iscoroutinefunction, fn)


def _is_kind(is_kind: Callable[[Any], bool], fn: Any) -> bool:
    """Apply a function of `inspect` to the function that is called in the end."""
    while isinstance(fn, functools.partial):
        fn = fn.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return any(
        is_kind(candidate)
        for candidate in (fn, inspect.unwrap(fn), getattr(fn, "__call__", None))  # noqa: B004
    )


def check_in_trio(call: str) -> None:
    """Refuse a call outside of a trio run.

    Raises:
        RuntimeError: It says how to start one.
    """
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError(
            f"{call} needs a trio run, and this task is not in one: start the program with "
            "trio.run(main), or with anyio.run(main, backend='trio'). In an asyncio program run it "
            "in a trio run of its own: trio.lowlevel.start_guest_run(...), or trio.run in a thread"
        )


def check_items(items: object, *, call: str) -> None:
    """Refuse an object that neither `for` nor `async for` can iterate over.

    Raises:
        TypeError: `items` is not iterable, with the corrected call.
    """
    # A sequence of the old protocol, with only `__getitem__`, is known to `iter` alone.
    if not isinstance(items, Iterable | AsyncIterable) and not hasattr(type(items), "__getitem__"):
        raise TypeError(
            f"items must be an iterable or an async iterable, got {items!r}: "
            f"write {call} to run one item"
        )


def check_count(name: str, value: object, *, call: str, minimum: int = 1) -> int:
    """Return `value` if it is a whole number of at least `minimum`.

    Raises:
        TypeError: `value` is not an int, or is a bool.
        ValueError: `value` is below `minimum`.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}: write {call}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}: write {call}")
    return value


def check_seconds(name: str, value: object, *, call: str, zero: bool = False) -> float:
    """Return `value` as seconds if it is a number above 0 (or 0 where `zero` allows it).

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is NaN, negative, or 0 where 0 is not allowed.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}: write {call}")
    if value > sys.float_info.max:
        return math.inf  # also a whole number that is too large to be made a float
    if math.isnan(value) or value < 0 or (value == 0 and not zero):
        bound = "at least 0" if zero else "above 0"
        raise ValueError(f"{name} must be {bound} seconds, got {value}: write {call}")
    return float(value)


def check_rate(name: str, value: object, *, call: str) -> float:
    """Return `value` as a rate per second if it is a finite number above 0.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is NaN, infinite, negative or 0.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number per second, got {value!r}: write {call}")
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name} must be above 0 per second and finite, got {value}: write {call}")
    return float(value)


def check_number(
    name: str, value: object, *, call: str, minimum: float = -math.inf, positive: bool = False
) -> float:
    """Return `value` if it is a finite number, of at least `minimum`, above 0 where `positive`.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is NaN or infinite, or out of its bounds.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}: write {call}")
    finite = -sys.float_info.max <= value <= sys.float_info.max
    if not finite or value < minimum or (positive and value <= 0):
        at_least = "" if minimum == -math.inf else f"at least {minimum:g} and "
        bound = "above 0 and " if positive else at_least
        raise ValueError(f"{name} must be {bound}finite, got {value}: write {call}")
    return float(value)


def check_share(name: str, value: object, *, call: str) -> float:
    """Return `value` as a share if it is a number above 0 and at most 1.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is NaN, or out of these bounds.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a share from 0 to 1, got {value!r}: write {call}")
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, got {value}: write {call}")
    return float(value)


def check_instance(name: str, value: object, kind: type, *, call: str) -> None:
    """Refuse a `value` that is not a `kind`.

    Raises:
        TypeError: With the corrected call.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {value!r}: write {call}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a `value` that is not one of the named `choices`.

    Raises:
        ValueError: It names them.
    """
    if value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def check_plain_function(fn: object, caller: str) -> None:
    """Refuse a function that cannot be called in a thread or a process.

    Raises:
        TypeError: `fn` is not a function, or is async; with the corrected call of `caller`.
    """
    if not callable(fn):
        raise TypeError(
            f"expected a function, got {fn!r}: pass the function itself and then its arguments, "
            f"as in await {caller}(fn, argument)"
        )
    if inspect.iscoroutinefunction(fn):
        raise TypeError(
            f"expected a plain function, got the async function {name_of(fn)}: await it directly, "
            "since it does not block the event loop"
        )


def check_limiter(limiter: object, *, call: str) -> None:
    """Refuse a `limiter` that is neither None nor a `trio.CapacityLimiter`.

    Raises:
        TypeError: With the corrected call.
    """
    if limiter is not None:
        check_instance("limiter", limiter, trio.CapacityLimiter, call=call)


def name_of(fn: object) -> str:
    """Return the name of a function, or of an object that one made, for a message."""
    return getattr(fn, "__qualname__", type(fn).__qualname__)
