"""`trio-tools` and `python -m trio_tools`: signals first, then the command line.

The imports of the command line take long enough to be interrupted, and an interrupted import is a
traceback. So this module imports nothing heavy, and what a signal means is settled before the rest
is loaded.
"""

import os
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

_INTERRUPTED: Final = 130  # as in `commands`, which may not be loaded yet


def main() -> int:
    """Run the command line and return the exit status, as `cli.main` does.

    A server that is told to stop while it starts has promised nothing: Ctrl-C and SIGTERM end it
    at once with status 0. They do so until it takes the signals over to stop in order, and again
    once it has stopped. Every other command ends with status 130 on Ctrl-C.
    """
    _fill_standard_descriptors()
    if sys.argv[1:2] == ["serve"]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)
    try:
        from trio_tools.command_line.main import main as command_line  # noqa: PLC0415 - see above

        return command_line()
    except KeyboardInterrupt:  # before there is an event loop, which sees to it from then on
        return _INTERRUPTED


def _fill_standard_descriptors() -> None:
    # On one that is closed, the next file to be opened would get what is printed, also by children.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # it is the lowest that is free, so what is opened gets its number
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    # Not an exception: it would be raised in the middle of some import, which may swallow it.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
