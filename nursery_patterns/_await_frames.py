"""Where a task waits: the lines of user code, without those of trio."""

from __future__ import annotations

from types import FrameType

import trio

_NOT_OURS = frozenset({"trio", "outcome"})


def frames_outside_trio(task: trio.lowlevel.Task) -> list[tuple[FrameType, int]]:
    """Return the frames in which a task waits, with the line of each, outermost first.

    Empty for a task that has ended, and for a task that only runs functions of trio.
    """
    return [
        (frame, line)
        for frame, line in task.iter_await_frames()
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _NOT_OURS
    ]
