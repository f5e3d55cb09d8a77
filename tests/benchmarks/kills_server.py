"""A server to be killed. Its operation writes down, beside the state, each item that it did."""

import os

import trio

from tests.benchmarks._serving import serve


async def mark(item: int) -> int:
    """Write the item down, and return it."""
    await trio.sleep(nap)
    os.write(marks, b"%d\n" % item)
    return item


if __name__ == "__main__":
    marks = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nap = float(os.environ["NAP"])
    serve(mark)
