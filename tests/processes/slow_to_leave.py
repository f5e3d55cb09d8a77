"""`trio-tools serve` in a process with an exit handler, and a thread that nobody can end."""

import atexit
import sys
import threading

from trio_tools.__main__ import main


def on_import(event, details):
    """Register the exit handler from within the command, as an imported library does."""
    if event == "import" and details[0] == "trio_tools.command_line.main":
        atexit.register(print, "handled", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.addaudithook(on_import)
    if sys.argv[1] == "thread":
        threading.Thread(target=threading.Event().wait).start()
    sys.argv[1:] = ["serve"]
    sys.exit(main())
