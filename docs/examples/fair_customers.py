# Calls of several customers share two slots. Each gets its share, however many calls it makes.
from collections import Counter

import trio
from trio.testing import MockClock

from nursery_patterns import Limits

WEIGHTS = {"gold": 3, "silver": 1, "bulk": 1}
CALLS = {"gold": 30, "silver": 30, "bulk": 300}


async def main() -> None:
    limits = Limits({"reports": 2})
    served: list[str] = []

    async def call(customer: str) -> None:
        async with limits.slot("reports", key=customer, weight=WEIGHTS[customer]):
            served.append(customer)
            await trio.sleep(1)  # the work

    async with trio.open_nursery() as nursery:
        for customer, calls in CALLS.items():
            for _ in range(calls):
                nursery.start_soon(call, customer)

    print("of the first 50 calls:", dict(sorted(Counter(served[:50]).items())))


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
