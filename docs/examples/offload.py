# A blocking call in a thread, a computation in a process, and a cancel that stops it.
import math
import time
import zlib
from pathlib import Path

import trio

from nursery_patterns import run_in_process, run_in_thread


def blocking_call(path: str) -> int:
    time.sleep(0.1)  # a driver that blocks
    return Path(path).stat().st_size


def never_ends() -> None:
    while True:
        math.sqrt(2)


async def main() -> None:
    print("thread: ", await run_in_thread(blocking_call, __file__), "bytes")
    print("process:", await run_in_process(zlib.crc32, b"nursery"))
    with trio.move_on_after(0.2) as scope:
        await run_in_process(never_ends)
    print(f"stopped {(trio.current_time() - scope.deadline) * 1000:.0f} ms after its deadline")


if __name__ == "__main__":  # worker processes import this module, too
    trio.run(main)
