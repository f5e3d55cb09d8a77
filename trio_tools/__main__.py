"""`trio-tools` and `python -m trio_tools`: signals first, then the command line.

The imports of the command line take long enough to be interrupted, and an interrupted import is a
traceback. So this module imports nothing heavy, and it sets the signal handlers before the rest
is loaded.
"""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

_INTERRUPTED: Final = 130  # as in `commands`, which may not be loaded yet


def main() -> int:
    """Run the command line and return the exit status, as `cli.main` does.

    A server that receives a signal while it starts has no work to finish: Ctrl-C and SIGTERM end
    it at once with status 0. This holds until the server installs its own handlers for an orderly
    stop, and again once it has stopped. Every other command ends with status 130 on Ctrl-C.

    After a server has stopped, the process ends when the exit handlers have run.
    """
    _fill_standard_descriptors()
    serves = sys.argv[1:2] == ["serve"]
    if serves:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)
    try:
        return _serve() if serves else _command_line()()
    except KeyboardInterrupt:  # before the event loop runs; later the loop handles it
        return _INTERRUPTED


def _command_line() -> Callable[..., int]:
    from trio_tools.command_line.main import main as command_line  # noqa: PLC0415 - see above

    return command_line


def _serve() -> int:
    """Run the command line, and have the process end fast after a server has stopped.

    At its end Python takes all modules apart. This needs 0.3 s of CPU, or seconds on a busy
    machine, and no thread can limit that time.
    """
    stopped = False

    def leave() -> None:
        if stopped:
            from trio_tools.transports.shutdown import end_children  # noqa: PLC0415 - loaded by now

            end_children()
            os._exit(0)

    # The first one that is registered runs last; the imports register theirs.
    atexit.register(leave)
    status = _command_line()(ends_process=True)
    stopped = status == 0
    return status


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
