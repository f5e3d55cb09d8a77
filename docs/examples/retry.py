# Temporary failures are retried, and other items run during the back-off.
import random

import trio

from nursery_patterns import Retry, run_batch


class Busy(Exception):  # noqa: N818
    def __init__(self, retry_after: float) -> None:
        super().__init__(f"come back in {retry_after} s")
        self.retry_after = retry_after


async def fetch(item: int) -> int:
    await trio.sleep(0.01)
    if random.random() < 0.2:
        raise ConnectionResetError
    if random.random() < 0.1:
        raise Busy(retry_after=0.05)
    return item


def wait(error: Exception) -> float | None:
    return error.retry_after if isinstance(error, Busy) else None  # None: the usual back-off


async def main() -> None:
    policy = Retry(attempts=5, initial=0.02, on=wait, budget=0.5)
    report = await run_batch(fetch, range(100), limit=10, item_timeout=5, retry=policy)
    calls = sum(outcome.attempts for outcome in report.outcomes)
    print(f"{report.counts.succeeded} of 100 succeeded, in {calls} calls")


trio.run(main)
