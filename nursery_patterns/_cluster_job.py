"""The code that runs on a node of a cluster: a pickled call with a pickled result.

It is sent to the nodes by value, so this package need not be installed there. It imports only the
standard library.
"""

from __future__ import annotations

import math
import pickle
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any

# Functions that this worker has unpickled, by their bytes: most tasks are calls of a few of them.
_functions: dict[bytes, Any] = {}
_MOST_FUNCTIONS = 16


def run_job(call: bytes, *shared: Any) -> bytes:
    """Run a call, and return its pickled result.

    Args:
        call: The pickled function, or None if it is the first of `shared`; name, arguments, places
            of `shared` among them, request and trace; most bytes of what is returned. Pickled.
        shared: What the engine transferred.

    Returns:
        `("value", value)`, `("error", exception, traceback)`, `("ended", reason)` or
        `("too large", message)`.
    """
    name, max_bytes = "the function", math.inf  # until they are read
    try:
        function, told, max_bytes = pickle.loads(call)  # noqa: S301 - from our own program
        name, args, places, request, trace = told
        if function is None:
            function, shared = shared[0], shared[1:]
        for place, value in zip(places, shared, strict=True):
            args[place] = value
        fn = _unpickled(function)
        with _request_context(request), _trace_context(trace):
            result = _pickled("value", fn(*args))
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        return _pickled("ended", f"{name} raised {error!r}")
    except Exception as error:  # noqa: BLE001 - it is raised where the call came from
        result = _failure(name, error)
    if len(result) > max_bytes:
        return _pickled(
            "too large",
            f"the result of {name} has {len(result):,} bytes and may have {max_bytes:,}: "
            "write it to storage and return its place",
        )
    return result


def _unpickled(function: bytes) -> Any:
    if function not in _functions:
        if len(_functions) >= _MOST_FUNCTIONS:
            _functions.clear()
        _functions[function] = pickle.loads(function)  # noqa: S301 - from our own program
    return _functions[function]


def _request_context(request: tuple[str, str, float, float] | None) -> Any:
    """Set the request context, if this node has the package."""
    if request is None:
        return nullcontext()
    try:
        from nursery_patterns._requests import remote_request_context  # noqa: PLC0415
    except ImportError:
        return nullcontext()
    return remote_request_context(*request, time.monotonic)


@contextmanager
def _trace_context(headers: dict[str, str]) -> Generator[None]:
    """Have spans that are made in the block belong to the caller's trace, if they can be made."""
    if not headers:
        yield
        return
    try:
        from opentelemetry import context, propagate  # noqa: PLC0415 - the caller has it
    except ImportError:
        yield
        return
    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)


def _failure(name: str, error: Exception) -> bytes:
    where = "".join(traceback.format_exception(error)).rstrip()
    try:
        result = _pickled("error", error, where)
        pickle.loads(result)  # noqa: S301 - what cannot be made again fails here, and not there
    except Exception:  # noqa: BLE001 - whatever a foreign __reduce__ or __init__ raises
        told = RuntimeError(f"{name} raised {type(error).__qualname__}: {error}")
        result = _pickled("error", told, where)
    return result


def _pickled(*parts: Any) -> bytes:
    return pickle.dumps(parts, protocol=pickle.HIGHEST_PROTOCOL)
