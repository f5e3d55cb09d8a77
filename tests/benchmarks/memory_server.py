"""A server whose resident memory is watched. Its operation returns pages of any size."""

import trio

from tests.benchmarks._serving import serve

MEGABYTE = 10**6


async def page(item: list[int]) -> str:
    """Return a page: its number over and over, so many megabytes."""
    number, megabytes = item
    await trio.sleep(0.01)
    return f"{number:010}" * (megabytes * MEGABYTE // 10)


if __name__ == "__main__":
    serve(page)
