"""Values that each trio run makes for itself at their first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

_T = TypeVar("_T")


def run_local(variable: trio.lowlevel.RunVar[_T], make: Callable[[], _T]) -> _T:
    """Return the value of the variable in this trio run; make it if there is none."""
    try:
        return variable.get()
    except LookupError:
        value = make()
        variable.set(value)
        return value
