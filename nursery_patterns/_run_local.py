"""Values of which each trio run has its own, made when they are first used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

_T = TypeVar("_T")


def run_local(variable: trio.lowlevel.RunVar[_T], make: Callable[[], _T]) -> _T:
    """Return the value that the variable has in this trio run; make it if it has none yet."""
    try:
        return variable.get()
    except LookupError:
        value = make()
        variable.set(value)
        return value
