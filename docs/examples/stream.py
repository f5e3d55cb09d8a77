# An endless source, three in flight, outcomes as they complete. Leaving the block ends the work.
import itertools

import trio

from nursery_patterns import stream_batch

ENOUGH = 8


async def process(reading: int) -> int:
    await trio.sleep(0.02 * (reading % 3))
    return reading * reading


async def main() -> None:
    async with stream_batch(process, itertools.count(), limit=3) as outcomes:
        async for outcome in outcomes:
            print(f"{outcome.item} -> {outcome.value}")
            if outcome.index >= ENOUGH:
                break
    print("left: nothing runs any more")


trio.run(main)
