# Two concurrent requests: every log record names its request, also from threads.
import logging
import sys
import time

import trio

from nursery_patterns import (
    RequestLogFilter,
    current_request,
    request_context,
    run_batch,
    run_in_thread,
)

log = logging.getLogger("app")


async def look_up(name: str) -> None:
    await trio.sleep(0.1)
    log.info("looked up %s", name)


def store() -> str:
    time.sleep(0.1)
    log.info("stored, in a thread")
    request = current_request()
    return request.client_id if request else "nobody"


async def serve(request_id: str, client_id: str) -> None:
    with request_context(request_id, client_id):
        await run_batch(look_up, ["a", "b"], limit=2)
        stored_for = await run_in_thread(store)
        log.info("stored for %s", stored_for)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, "r1", "ann")
        nursery.start_soon(serve, "r2", "bob")
    log.info("nobody asked for this line")


if __name__ == "__main__":
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(RequestLogFilter())
    handler.setFormatter(
        logging.Formatter("%(request_id)s %(client_id)s %(elapsed).1f s: %(message)s")
    )
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    trio.run(main)
