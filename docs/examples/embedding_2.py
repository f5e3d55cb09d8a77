# Embedding, step two: one round over all beds, two at a time, where a failure is an outcome.
import trio
from embedding_1 import BEDS, read_sensor

from nursery_patterns import run_batch


async def look_round(latest: dict[str, float], beds: list[str]) -> None:
    report = await run_batch(read_sensor, beds, limit=2, item_timeout=1)
    for outcome in report.outcomes:
        if outcome.succeeded:
            latest[outcome.item] = outcome.value
        else:
            print(f"{outcome.item}: {outcome.error}")


async def main() -> None:
    latest: dict[str, float] = {}
    await look_round(latest, [*BEDS, "attic"])
    print(sorted(latest.items()))


if __name__ == "__main__":
    trio.run(main)
