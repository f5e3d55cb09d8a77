"""What runs on a node of a cluster: a pickled call, whose result comes back pickled.

It is sent to the nodes by value, so it needs nothing of this package there, and only the standard
library here.
"""

from __future__ import annotations

import pickle
import time
import traceback
from contextlib import nullcontext
from typing import Any


def run_job(job: bytes, max_result_bytes: int, *shared: Any) -> bytes:
    """Run a call, and return `("value", value)` or `("error", exception, traceback)`, pickled."""
    name = "the function"
    try:
        name, fn, args, places, request = pickle.loads(job)  # noqa: S301 - from our own program
        for place, value in zip(places, shared, strict=True):
            args[place] = value
        with _request_context(request):
            result = _pickled("value", fn(*args))
        _check_size(name, len(result), max_result_bytes)
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        return _pickled("ended", f"{name} raised {error!r}")
    except Exception as error:  # noqa: BLE001 - it is raised where the call came from
        return _failure(name, error)
    return result


def _check_size(name: str, size: int, most: int) -> None:
    if size > most:
        raise ValueError(
            f"the result of {name} has {size:,} bytes and may have {most:,}: write it to storage "
            "and return its place"
        )


def _request_context(request: tuple[str, str, float] | None) -> Any:
    """Have `current_request` tell who asked, where this node has the package."""
    try:
        from nursery_patterns._requests import remote_request_context  # noqa: PLC0415
    except ImportError:
        return nullcontext()
    if request is None:
        return nullcontext()
    request_id, client_id, elapsed = request
    return remote_request_context(request_id, client_id, elapsed, time.monotonic)


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
