"""A server whose resident memory is watched. Its operation returns pages of any size."""

import sys

import trio

from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports import serve_http

MEGABYTE = 10**6


async def page(item: list[int]) -> str:
    """Return a page: its number over and over, so many megabytes."""
    number, megabytes = item
    await trio.sleep(0.01)
    return f"{number:010}" * (megabytes * MEGABYTE // 10)


async def main() -> None:
    server = create_server(Settings(), operations=[page])
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus) -> None:
            await serve_http(Settings(), server=server, task_status=task_status)

        address = await nursery.start(serve)
        print(address.port, flush=True)


if __name__ == "__main__":
    assert sys.argv[1] == "http"
    trio.run(main)
