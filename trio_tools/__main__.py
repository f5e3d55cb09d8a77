"""`trio-tools` and `python -m trio_tools`: signals first, then the command line.

The imports of the command line take long enough to be interrupted, and an interrupted import is a
traceback. So this module imports nothing heavy, and it sets the signal handlers before the rest
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

    A server that receives a signal while it starts has no work to finish: Ctrl-C and SIGTERM end
    it at once with status 0. This holds until the server installs its own handlers for an orderly
    stop, and again once it has stopped. Every other command ends with status 130 on Ctrl-C.
    """
    _fill_standard_descriptors()
    if sys.argv[1:2] == ["serve"]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)
    try:
        from trio_tools.command_line.main import main as command_line  # noqa: PLC0415 - see above

        return command_line()
    except KeyboardInterrupt:  # before the event loop runs; later the loop handles it
        return _INTERRUPTED


def _fill_standard_descriptors() -> None:
    # If standard error were closed, the next opened file would get its descriptor, and receive
    # what is printed.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # it is the lowest free number, so the opened file gets it
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    # Not an exception: it would be raised inside some import, which may swallow it.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
