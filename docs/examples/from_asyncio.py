# A tool that was a semaphore, gather, wait_for and handlers of CancelledError, on trio.
from typing import Any

import trio
from trio.testing import MockClock

from nursery_patterns import Batch

kept: dict[str, Batch[str, str]] = {}


async def fetch(url: str) -> str:
    await trio.sleep(60 if url == "/hangs" else 1)
    if url == "/broken":
        raise ConnectionError("no such page")
    return f"text of {url}"


async def fetch_all(urls: list[str], seconds: float, operation_id: str) -> dict[str, Any]:
    if operation_id not in kept:
        kept[operation_id] = Batch(fetch, urls, limit=10, item_timeout=5)
    batch = kept[operation_id]
    with trio.move_on_after(seconds):
        await batch.run()
    report = batch.report()
    return {
        "results": {o.item: o.value for o in report.outcomes if o.succeeded},
        "errors": {o.item: repr(o.error) for o in report.outcomes if o.error},
        "missing": report.unfinished(),
        "complete": report.complete,
    }


async def main() -> None:
    urls = [*(f"/{number}" for number in range(40)), "/broken", "/hangs"]

    with trio.move_on_after(1.5):  # the client hangs up
        await fetch_all(urls, seconds=30, operation_id="a")
    print("cancelled:", kept["a"].report().counts)

    answer = await fetch_all(urls, seconds=2, operation_id="a")
    print("in time:  ", f"{len(answer['missing'])} missing, complete: {answer['complete']}")

    answer = await fetch_all(urls, seconds=30, operation_id="a")
    print("at last:  ", f"{answer['errors']}, complete: {answer['complete']}")


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
