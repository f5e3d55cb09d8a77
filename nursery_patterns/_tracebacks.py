"""Keep the lines of a traceback, and release its frames.

A traceback refers to the frame of each function on its way, and a frame refers to all local
variables. So an outcome with an error would keep the item's buffers, and through the engine's frame
itself: a cycle that only the garbage collector frees.

`traceback.clear_frames` is not enough: it does not clear closures. Before Python 3.13 it also
closes a coroutine that still waits, if an error of that coroutine is shared. So the frames are
replaced by empty ones with the same file, line and function name.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import lru_cache
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import cast

# The modules whose frames stand between the engine and the function of an item.
_AROUND_ITEMS = frozenset(
    f"nursery_patterns.{name}" for name in ("_engine", "_item_calls", "_plan", "_retry")
)


def release_frames(error: BaseException) -> None:
    """Replace the traceback of an error, and of all errors in it, by one without local variables.

    This includes the errors of a group, causes and contexts. The engine's frames around the item's
    function are skipped.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        exc = pending.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        if exc.__traceback__ is not None:
            exc.__traceback__ = _lines_of(exc.__traceback__)
        pending += (exc.__cause__, exc.__context__)
        if isinstance(exc, BaseExceptionGroup):
            pending += cast("tuple[BaseException, ...]", exc.exceptions)


def _lines_of(tb: TracebackType) -> TracebackType | None:
    entries: list[tuple[CodeType, str, int]] = []  # outermost first
    entry: TracebackType | None = tb
    while entry is not None:
        frame = entry.tb_frame
        module = str(frame.f_globals.get("__name__"))
        if entries or module not in _AROUND_ITEMS:
            entries.append((frame.f_code, module, entry.tb_lineno))
        entry = entry.tb_next
    lines: TracebackType | None = None
    for code, module, line in reversed(entries):
        lines = TracebackType(
            lines, _stand_in(code.co_filename, code.co_name, code.co_qualname, module), -1, line
        )
    return lines


@lru_cache(maxsize=1_024)
def _stand_in(filename: str, name: str, qualname: str, module: str) -> FrameType:
    """Return an ended frame with the given file, line and function name."""
    likeness = _nothing.__code__.replace(co_filename=filename, co_name=name, co_qualname=qualname)
    generator = FunctionType(likeness, {"__name__": module})()
    frame = generator.gi_frame  # of a generator, because its frame keeps no caller
    generator.close()
    return frame


def _nothing() -> Generator[None]:
    yield
