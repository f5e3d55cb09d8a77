"""One of several servers that share a state: its operation `note` writes down what it does."""

import os
import sys
from functools import partial

import trio

from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports import serve_http

EFFECTS = os.open(os.environ["EFFECTS"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)


async def note(number: int) -> int:
    """Write down that an item starts, and rest a little, or longer below 0."""
    os.write(EFFECTS, b"%d\n" % number)
    await trio.sleep(0.2 if number < 0 else 0.005)
    return number


async def main() -> None:
    """Serve until told to stop, and print the port."""
    server = create_server(Settings(), operations=[note])
    async with trio.open_nursery() as nursery:
        serve = partial(serve_http, server=server, handle_signals=True)
        address = await nursery.start(serve)
        sys.stdout.write(f"{address.port}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
