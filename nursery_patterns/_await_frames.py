"""Where a task waits, for people: the lines of their own code, not those of trio under it."""

from __future__ import annotations

from types import FrameType

import trio

_NOT_OURS = frozenset({"trio", "outcome"})


def frames_outside_trio(task: trio.lowlevel.Task) -> list[tuple[FrameType, int]]:
    """Return the frames that a task waits in, and the line in each, outermost first.

    Empty for a task that has ended, and for one that has no function but one of trio.
    """
    return [
        (frame, line)
        for frame, line in task.iter_await_frames()
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _NOT_OURS
    ]
