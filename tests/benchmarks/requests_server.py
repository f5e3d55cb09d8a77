"""A server that tells the longest step of its event loop, in CPU time of the loop's thread.

Other processes of the machine do not change that time. The figure is a double at the start of the
file that the variable LONGEST_STEP names; who has read it writes zero.
"""

import mmap
import os
import pathlib
import struct
import sys
import time

import trio

from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports import serve_http

DOUBLE = struct.Struct("d")


class LongestStep(trio.abc.Instrument):
    """Writes the CPU seconds of the longest step so far."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._started = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._started = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took = time.thread_time() - self._started
        if took > DOUBLE.unpack_from(self._memory)[0]:
            DOUBLE.pack_into(self._memory, 0, took)


async def main() -> None:
    with pathlib.Path(os.environ["LONGEST_STEP"]).open("r+b") as file:  # noqa: ASYNC230 - before there is a loop
        memory = mmap.mmap(file.fileno(), DOUBLE.size)
    trio.lowlevel.add_instrument(LongestStep(memory))
    server = create_server(Settings())
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus) -> None:
            await serve_http(
                Settings(), server=server, handle_signals=True, task_status=task_status
            )

        address = await nursery.start(serve)
        print(address.port, flush=True)


if __name__ == "__main__":
    assert sys.argv[1] == "http"
    trio.run(main)
    os._exit(0)  # as `trio-tools serve` does
